"""The protocols say everything, and nothing that contradicts itself."""

import dataclasses

import pytest

from vdm_jax.errors import ConfigError
from vdm_jax.metrics import features, protocols
from vdm_jax.text import class_prompts

PROTOCOLS = protocols.PROTOCOLS
# Who says it, before the first colon.
SAYS = ('Ho22', 'Ge23', 'ours', 'TATS', 'FitVid', 'Unterthiner', 'Kynkäänniemi')
# The numbers of samples and real clips that the papers name.
NUMBERS = {
  'ucf101_vdm': (10_000, [13_320]),
  'ucf101_pyoco': (10_000, [2048]),
  'ucf101_zeroshot': (2048, [2048]),
  'bair_1_15': (100 * 256, [256]),
  'kinetics600_5_11': (50_000, [50_000]),
  'msrvtt': (59_794, [59_794]),
  'text_vdm': (4096, [4096, 4096]),
}


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
  return PROTOCOLS[request.param]


def test_every_choice_says_where_it_is_from(protocol):
  names = {m.name for m in protocol.measures}
  assert set(protocol.whence) == {*protocols.CHOICES, *names}
  for text in protocol.whence.values():
    assert any(name in text for name in SAYS), text


def test_numbers_of_the_papers():
  for name, (samples, clips) in NUMBERS.items():
    found = PROTOCOLS[name]
    assert found.samples == samples
    assert [r.clips for r in found.references] == clips


def test_networks_can_see_what_is_scored(protocol):
  names = [m.name for m in protocol.measures]
  assert len(set(names)) == len(names) and names
  for m in protocol.measures:
    assert m.statistic in protocols.STATISTICS
    assert m.feature.view in protocols.VIEWS
    if m.feature.network == 'shapes':  # ours, and trained by the user
      continue
    entry = features.NETWORKS[m.feature.network]
    assert m.feature.output in entry.outputs
    assert set(dict(m.feature.settings)) <= set(entry.settings)
    assert (m.feature.view == 'video') == (entry.kind == 'video')
    if entry.kind == 'video':
      scored = protocol.frames - protocol.known
      assert entry.least_frames <= scored <= (entry.most_frames or scored)


def test_counts_fit_together(protocol):
  assert protocol.conditions in protocols.CONDITIONS
  assert all(protocol.wanted(m) <= protocol.samples for m in protocol.measures)
  if protocol.known:
    (reference,) = protocol.references
    assert protocol.samples % reference.clips == 0  # of each as many
    assert 0 < protocol.known < protocol.frames
  for m in protocol.measures:
    assert protocol.wanted(m) >= m.splits * m.repeats
    # Splits of sorted samples would be classes, and frames are no samples.
    assert m.splits == 1 or m.shuffle is not None
    assert m.statistic == 'frechet' or m.feature.view != 'frames'


def test_classes_have_equally_many_samples_of_prompts():
  zeroshot = PROTOCOLS['ucf101_zeroshot']
  (score,) = [m for m in zeroshot.measures if m.weighted]
  assert zeroshot.wanted(score) == 20 * len(class_prompts.prompts())


def test_a_protocol_can_be_asked_for_in_part():
  some = protocols.protocol('shapes', ('judge',))
  assert some.judge and not some.measures
  some = protocols.protocol('text_vdm', ('is_avg', 'fvd'))
  assert [m.name for m in some.measures] == ['fvd', 'is_avg']
  assert not some.judge
  assert protocols.protocol('text_vdm') is PROTOCOLS['text_vdm']
  with pytest.raises(ConfigError, match='its measures are shapes_fd, judge'):
    protocols.protocol('shapes', ('fvd',))
  with pytest.raises(ConfigError, match='ucf101_vdm'):
    protocols.protocol('ucf')


def test_protocols_cannot_be_changed(protocol):
  with pytest.raises(dataclasses.FrozenInstanceError):
    protocol.samples = 1
  assert len({m for m in protocol.measures}) == len(protocol.measures)
