"""The page in a real browser: every video plays, and nothing complains."""

import shutil
import time

import numpy as np
import pytest

from vdm_jax.media import gallery

selenium = pytest.importorskip('selenium.webdriver', exc_type=ImportError)
CHROME = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
needs_chrome = pytest.mark.skipif(
  not (CHROME and DRIVER), reason='no Chromium with its driver on this machine'
)
# Of a video, which plays in sight alone: its error, its size, where it is.
VIDEO = """
const v = document.querySelectorAll('video')[arguments[0]];
v.scrollIntoView();
return {error: v.error && v.error.message, width: v.videoWidth,
  time: v.currentTime, paused: v.paused};
"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  options = selenium.ChromeOptions()
  options.binary_location = CHROME
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  profile = tmp_path_factory.mktemp('profile')
  for argument in (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    f'--user-data-dir={profile}',
  ):
    options.add_argument(argument)
  service = selenium.ChromeService(executable_path=DRIVER)
  driver = selenium.Chrome(options=options, service=service)
  yield driver
  driver.quit()


def page(folder):
  """A gallery of two sets, one of them of a training step, with a curve."""
  videos = np.random.default_rng(0).integers(0, 255, (3, 8, 16, 16, 3))
  items = [{'index': i} for i in range(3)]
  for name, step in (('final', None), ('step_0000010', 10)):
    gallery.write_samples(
      folder, name, videos.astype(np.uint8), 8, items, {}, step=step
    )
  curve = {'loss': [(1, 1.0), (2, 0.5), (3, 0.25)]}
  return gallery.rebuild(folder, title='A page', facts={}, curve=curve)


def playing(browser, seconds=20.0):
  """Each of the videos once it moves, or as it is when the time is over."""
  found = []
  for i in range(len(browser.find_elements('css selector', 'video'))):
    end = time.monotonic() + seconds
    while True:
      video = browser.execute_script(VIDEO, i)
      if video['time'] or video['error'] or time.monotonic() > end:
        break
      time.sleep(0.05)
    found.append(video)
  return found


def complaints(browser):
  return [row['message'] for row in browser.get_log('browser')]


@needs_chrome
def test_every_video_plays_and_nothing_complains(browser, tmp_path):
  browser.get(page(tmp_path).as_uri())
  videos = playing(browser)
  assert len(videos) == 3 + 1  # the samples, and the grid of the step
  for video in videos:
    assert video['error'] is None
    assert video['width'] >= 16
    assert video['time'] > 0 and not video['paused']
  assert complaints(browser) == []
  # A click stops a video, and another one starts it.
  first = browser.find_element('css selector', 'video')
  first.click()
  assert browser.execute_script(VIDEO, 0)['paused']
  first.click()
  assert not browser.execute_script(VIDEO, 0)['paused']


@needs_chrome
def test_what_does_not_play_is_seen(browser, tmp_path):
  text = page(tmp_path).read_text()
  at = text.index('base64,') + len('base64,')
  (tmp_path / 'bad.html').write_text(text[:at] + 'AAAA' * 9 + text[at + 36 :])
  browser.get((tmp_path / 'bad.html').as_uri())
  assert any(v['error'] for v in playing(browser))
