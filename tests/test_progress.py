"""Progress with a clock of our own: every number in the line is known."""

import io

import pytest

from vdm_jax.progress import Progress, Speed, duration, number


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now

  def after(self, seconds):
    self.now += seconds


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def out():
  return io.StringIO()


def test_a_steady_loop_is_exact(clock, out):
  progress = Progress(1200, clips_per_step=16, stream=out, clock=clock)
  clock.after(60.0)  # compiles
  progress.update(1, {'loss': 1.0})
  for step in range(2, 341):
    clock.after(0.5)
    progress.update(step, {'loss': 0.07123})
  assert progress.line() == (
    'step 340/1200 | loss 0.0712 | 2 steps/s | 32 clips/s'
    ' | 3m50s gone, 7m10s left'
  )


def test_the_first_step_does_not_count(clock, out):
  progress = Progress(10, stream=out, clock=clock)
  clock.after(500.0)
  progress.update(1)
  assert progress.line() == 'step 1/10 | 8m20s gone'
  clock.after(2.0)
  progress.update(2)
  assert progress.line() == 'step 2/10 | 0.5 steps/s | 8m22s gone, 16s left'


@pytest.mark.parametrize('half_life', [1.0, 30.0, 1e6])
def test_speed_is_the_weighted_quotient(half_life):
  times = [0.0, 9.0, 10.0, 10.0, 14.0, 14.5]
  steps = [5, 6, 8, 9, 12, 13]
  speed = Speed(steps[0], times[0], half_life)
  for step, now in zip(steps[1:], times[1:], strict=True):
    speed.reached(step, now)
  seconds = count = 0.0
  for i in range(2, 6):
    weight = 2 ** ((times[i] - times[-1]) / half_life)
    seconds += weight * (times[i] - times[i - 1])
    count += weight * (steps[i] - steps[i - 1])
  assert speed.steps_per_second() == pytest.approx(count / seconds)
  assert speed.seconds_left(20, times[-1]) == pytest.approx(7 * seconds / count)


def test_speed_follows_a_change():
  speed = Speed(0, 0.0)
  for step in range(1, 102):
    speed.reached(step, float(step))
  assert speed.steps_per_second() == pytest.approx(1)
  for step in range(1, 1201):
    speed.reached(101 + step, 101 + step / 4)
  assert speed.steps_per_second() == pytest.approx(4, rel=0.01)


def test_steps_dispatched_ahead_do_not_disturb_the_speed(clock, out):
  # Ten steps are dispatched at once; the metrics of the tenth take 10 s.
  progress = Progress(2000, stream=out, clock=clock)
  every_step = Speed(0, clock())
  for step in range(1, 1001):
    synced = step == 1 or step % 10 == 0
    clock.after(10.0 if step % 10 == 0 else 0.0)
    progress.update(step, {'loss': 1.0} if synced else None)
    every_step.reached(step, clock())
  assert ' | 1 steps/s | 16m40s gone, 16m40s left' in progress.line()
  assert every_step.steps_per_second() < 0.9


def test_the_time_left_runs_down_between_metrics(clock, out):
  progress = Progress(100, stream=out, clock=clock)
  for step in range(1, 51):
    clock.after(1.0)
    progress.update(step, {'loss': 1.0} if step <= 40 else None)
  assert progress.line().endswith('| 1 steps/s | 50s gone, 50s left')
  clock.after(100.0)
  progress.update(51)
  assert progress.line().endswith('| 2m30s gone, 0s left')


def test_pauses_are_in_the_time_left_but_not_in_the_speed(clock, out):
  progress = Progress(101, stream=out, clock=clock)
  clock.after(7.0)
  progress.update(1)
  for step in range(2, 52):
    if step % 10 == 0:
      with progress.pause():
        clock.after(20.0)
    clock.after(1.0)
    progress.update(step)
  # 50 steps took 50 s and 5 pauses of 20 s; 50 more will take the same.
  assert progress.line() == ('step 51/101 | 1 steps/s | 2m37s gone, 2m30s left')


def test_a_resumed_loop_counts_its_own_steps(clock, out):
  progress = Progress(1000, start=900, stream=out, clock=clock)
  for step in range(901, 951):
    clock.after(2.0)
    progress.update(step)
  assert progress.line() == (
    'step 950/1000 | 0.5 steps/s | 1m40s gone, 1m40s left'
  )


def test_lines_come_at_intervals_and_for_first_and_last(clock, out):
  with Progress(100, every=10, stream=out, clock=clock) as progress:
    for step in range(1, 101):
      clock.after(1.0)
      progress.update(step)
  lines = out.getvalue().splitlines()
  shown = [int(line.split()[1].split('/')[0]) for line in lines]
  assert shown == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
  assert '\r' not in out.getvalue()
  assert lines[-1].endswith('| 1m40s gone')


def test_leaving_early_shows_the_last_step_once(clock, out):
  with Progress(100, stream=out, clock=clock) as progress:
    progress.update(1)
    progress.update(2)
  assert [s.split(' |')[0] for s in out.getvalue().splitlines()] == [
    'step 1/100',
    'step 2/100',
  ]


def test_a_terminal_has_one_line(clock, monkeypatch):
  monkeypatch.setenv('COLUMNS', '20')
  terminal = Terminal()
  with Progress(3, stream=terminal, clock=clock) as progress:
    for step in range(1, 4):
      clock.after(1.0)
      progress.update(step)
  text = terminal.getvalue()
  assert text.count('\n') == 1 and text.endswith('\n')
  drawn = text[:-1].split('\r')[1:]
  assert len(drawn) == 3
  assert all(len(line.removesuffix('\x1b[K')) <= 19 for line in drawn)


def test_a_terminal_is_not_redrawn_too_often(clock):
  terminal = Terminal()
  progress = Progress(1001, stream=terminal, clock=clock)
  for step in range(1, 1001):
    clock.after(1 / 128)
    progress.update(step)
  assert terminal.getvalue().count('\r') == 1 + 999 // 13


def test_metrics_are_read_only_when_shown(clock, out):
  class Waiting:
    asked = 0

    def __float__(self):
      self.asked += 1
      return 2.0

  loss = Waiting()
  progress = Progress(100, stream=out, clock=clock)
  progress.update(1, {'loss': loss})
  for step in range(2, 50):
    progress.update(step)
  assert loss.asked == 1
  clock.after(10.0)
  progress.update(50)
  assert loss.asked == 2 and 'step 50/100 | loss 2 |' in out.getvalue()


def test_notes_stand_above(clock, out):
  progress = Progress(9, stream=out, clock=clock)
  progress.update(1)
  progress.note('saved')
  assert out.getvalue() == 'step 1/9 | 0s gone\nsaved\n'
  terminal = Terminal()
  progress = Progress(9, stream=terminal, clock=clock)
  progress.update(1)
  progress.note('saved')
  line = '\rstep 1/9 | 0s gone\x1b[K'
  assert terminal.getvalue() == f'{line}\r\x1b[Ksaved\n{line}'


def test_quiet_is_quiet(clock, out):
  with Progress(2, stream=out, quiet=True, clock=clock) as progress:
    progress.update(1, {'loss': 1.0})
    progress.note('saved')
    progress.update(2)
  assert out.getvalue() == ''


def test_sampling_names_its_unit(clock, out):
  progress = Progress(
    256, name='sampling', unit='clips', stream=out, clock=clock
  )
  for done in (32, 64, 128):
    clock.after(8.0)
    progress.update(done)
  assert progress.line().startswith('sampling 128/256 | ')
  assert ' clips/s | 24s gone' in progress.line()


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0s'),
    (59.4, '59s'),
    (59.6, '1m00s'),
    (242, '4m02s'),
    (3599.7, '1h00m'),
    (86399, '23h59m'),
    (90000 + 3600 * 3, '1d04h'),
  ],
)
def test_duration(seconds, text):
  assert duration(seconds) == text


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.071234, '0.0712'),
    (22.71, '22.7'),
    (999.4, '999'),
    (12345.6, '12346'),
    (1e-7, '1e-07'),
    (float('nan'), 'nan'),
  ],
)
def test_number(value, text):
  assert number(value) == text
