"""What is checked before a run begins."""

import pytest

from tests import tiny
from vdm_jax import build, checks, errors
from vdm_jax import config as config_lib


def test_every_source_says_what_it_reads():
  assert set(build.READ) == set(build.SOURCES)
  known = config_lib.default().data
  assert all(name in known for names in build.READ.values() for name in names)


@pytest.mark.parametrize(
  'source, setting, value',
  [
    ('shapes', 'path', '/my/videos'),
    ('shapes', 'resize', 'squash'),
    ('shapes', 'processes', 2),
    ('folder', 'list', 'list.csv'),
    ('folder', 'videos', '/my/videos'),
    ('kinetics600', 'classes', True),
    ('ucf101', 'short', 'loop'),
  ],
)
def test_a_setting_that_the_source_does_not_read_is_refused(
  source, setting, value
):
  changes = {'data__source': source, f'data__{setting}': value}
  with pytest.raises(errors.ConfigError) as found:
    checks.settings(tiny.config(**changes))
  message = str(found.value)
  assert f'config.data.{setting} is {value!r}' in message
  assert source in message and len(message) < 300
  readers = [s for s in build.READ if setting in build.READ[s]]
  for other in readers:
    checks.settings(tiny.config(**changes | {'data__source': other}))


def test_images_are_squashed_whatever_the_videos_are():
  images = {'data__images': 2, 'data__image_path': '/my/pictures'}
  checks.settings(tiny.config(data__resize='squash', **images))
  with pytest.raises(errors.ConfigError, match='images is 0'):
    checks.settings(tiny.config(**images | {'data__images': 0}))
