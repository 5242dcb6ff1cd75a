import numpy as np

from vdm_jax.metrics import clusters


def test_clusters_are_numbered_as_they_come():
  found = clusters.of(np.array([70, 70, 3, 70, 9, 3]))
  np.testing.assert_array_equal(found, [0, 0, 1, 0, 2, 1])
  assert clusters.count(found) == 3 and clusters.count(found[:0]) == 0


def test_rows_of_a_video_each_are_their_own_clusters():
  names = np.random.default_rng(0).permutation(100)
  np.testing.assert_array_equal(clusters.of(names), np.arange(100))
  np.testing.assert_array_equal(clusters.given(None, 100), np.arange(100))
  order = np.random.default_rng(1).permutation(100)[:30]
  found = clusters.rows_of(np.arange(100), order)
  np.testing.assert_array_equal(found, order)


def test_chosen_clusters_come_whole_and_in_order():
  names = np.array([0, 1, 0, 2, 1, 0])
  found = clusters.rows_of(names, np.array([2, 0]))
  np.testing.assert_array_equal(found, [3, 0, 2, 5])
  halves = [clusters.rows_of(names, np.array(c)) for c in ([1], [2, 0])]
  assert sorted(np.concatenate(halves)) == list(range(6))
