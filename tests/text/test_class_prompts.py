"""A prompt for every class of UCF-101, in the order of its classes."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

from vdm_jax.text import class_prompts


def grams(text):
  text = re.sub('[^a-z]', '', text.lower())
  return {text[i : i + 3] for i in range(len(text) - 2)}


def shared(class_name, prompt):
  """How much of the name of a class is in a prompt."""
  name = grams(class_name)
  return len(name & grams(prompt)) / len(name)


def test_there_are_as_many_as_classes():
  prompts = class_prompts.prompts()
  assert len(prompts) == len(set(prompts)) == 101
  assert all(text == text.strip() and text for text in prompts)


def test_each_stands_where_its_class_does():
  spec = importlib.util.find_spec('tensorflow_datasets')  # imports nothing
  if spec is None:
    pytest.skip('the names of the classes come with tensorflow_datasets')
  path = pathlib.Path(spec.origin).parent / 'video/ucf101_labels.txt'
  classes = path.read_text().split()
  assert classes == sorted(classes, key=str.lower) and len(classes) == 101
  table = np.array(
    [[shared(c, p) for p in class_prompts.prompts()] for c in classes]
  )
  # In some classes no word is the prompt's (Rowing: 'several people …').
  assert (table.argmax(axis=1) == np.arange(101)).sum() > 90
  # One prompt too many or too few would move the others away.
  for shift in (-1, 1):
    assert (table.diagonal() > np.roll(table, shift, 1).diagonal()).sum() > 90
