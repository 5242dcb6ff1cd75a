"""Still images: what the eye would see, and hostile files left out."""

import io
import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vdm_jax.data import images, packed, pipeline, shapes
from vdm_jax.data.source import Source, checked
from vdm_jax.errors import ConfigError, DataError


def picture(height=12, width=16, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def save(path, array, mode=None, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(path, **options)
  return path


@pytest.fixture
def tree(tmp_path):
  root = tmp_path / 'images'
  for i, name in enumerate(['cat/a.png', 'cat/deep/b.PNG', 'dog/c.bmp']):
    save(root / name, picture(seed=i))
  save(root / 'dog/d.jpeg', picture(64, 64), quality=95)
  save(root / 'outside.webp', picture(seed=4), lossless=True)
  save(root / '.hidden/e.png', picture())
  (root / 'cat/notes.txt').write_text('not looked at')
  return root


def clip(source, name, seed=0):
  index = source.files.index(name)
  return checked(source, index, np.random.default_rng(seed))


def test_what_is_found_is_what_was_saved(tree):
  source = images.Images(tree, size=12)
  assert isinstance(source, Source)
  assert source.files == [
    'cat/a.png',
    'cat/deep/b.PNG',
    'dog/c.bmp',
    'dog/d.jpeg',
    'outside.webp',
  ]
  assert source.problems == [] and source.classes == ()
  for i, name in ((0, 'cat/a.png'), (1, 'cat/deep/b.PNG'), (2, 'dog/c.bmp')):
    found = clip(source, name)
    assert (found['label'], found['id']) == (0, name)
    np.testing.assert_array_equal(
      found['video'], picture(seed=i)[None, :, 2:14]
    )
  np.testing.assert_array_equal(
    images.read(tree / 'outside.webp'), picture(seed=4)
  )
  assert images.Images(tree, size=8, resize='squash').clip(
    0, np.random.default_rng(0)
  )['video'].shape == (1, 8, 8, 3)


def turned(array, orientation):
  """EXIF's table, read aloud: what a viewer does to the stored pixels."""
  return {
    1: array,
    2: array[:, ::-1],
    3: array[::-1, ::-1],
    4: array[::-1],
    5: array.transpose(1, 0, 2),
    6: array.transpose(1, 0, 2)[:, ::-1],
    7: array.transpose(1, 0, 2)[::-1, ::-1],
    8: array.transpose(1, 0, 2)[::-1],
  }[orientation]


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_carried_out(tmp_path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = save(tmp_path / 'a.png', picture(), exif=exif)
  np.testing.assert_array_equal(
    images.read(path), turned(picture(), orientation)
  )


def test_what_is_transparent_lies_on_black(tmp_path):
  rgba = np.dstack([picture(), np.full((12, 16), 255, np.uint8)])
  rgba[:6, :, 3] = 0
  rgba[6, :, 3] = 128
  found = images.read(save(tmp_path / 'a.png', rgba))
  assert not found[:6].any()
  np.testing.assert_allclose(found[6], picture()[6] * (128 / 255), atol=1)
  np.testing.assert_array_equal(found[7:], picture()[7:])
  gray = images.read(save(tmp_path / 'b.png', rgba, mode='LA'))
  assert not gray[:6].any() and gray[7:].any()
  path = save(tmp_path / 'c.png', rgba[..., 0], transparency=int(rgba[0, 0, 0]))
  clear = rgba[..., 0] == rgba[0, 0, 0]
  expected = np.where(clear, 0, rgba[..., 0])
  np.testing.assert_array_equal(images.read(path)[..., 1], expected)


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'CMYK'])
def test_other_kinds_of_pixels(tmp_path, mode):
  name = 'a.jpg' if mode == 'CMYK' else 'a.png'
  flat = np.full((16, 16, 3), 255, np.uint8)
  flat[:, 8:] = 0
  found = images.read(save(tmp_path / name, flat, mode=mode))
  tolerance = 3 if mode == 'CMYK' else 0
  assert np.abs(found.astype(int) - flat).max() <= tolerance


def test_deep_gray_keeps_its_range(tmp_path):
  deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
  found = images.read(save(tmp_path / 'a.png', deep))
  np.testing.assert_array_equal(found[..., 0].ravel(), np.arange(256))


def test_a_large_jpeg_is_read_small_but_not_too_small(tmp_path):
  x, y = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 400))
  smooth = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
  path = save(tmp_path / 'a.jpg', smooth, quality=95)
  assert images.read(path).shape == (400, 640, 3)
  assert images.read(path, size=40).shape == (50, 80, 3)
  source = images.Images(tmp_path, size=40)
  found = clip(source, 'a.jpg')['video'][0].astype(float)
  expected = smooth[:, 120:520].reshape(40, 10, 40, 10, 3).mean(axis=(1, 3))
  assert np.abs(found - expected).max() < 6


def png(width, height):
  """The head of a PNG that claims a size, and no pixels."""
  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  parts = [b'\x89PNG\r\n\x1a\n']
  for kind, data in ((b'IHDR', head), (b'IDAT', zlib.compress(b''))):
    check = zlib.crc32(kind + data)
    parts += [
      struct.pack('>I', len(data)),
      kind,
      data,
      struct.pack('>I', check),
    ]
  return b''.join(parts)


def test_files_that_mean_harm_are_left_out(tree, recwarn):
  whole = (tree / 'cat/a.png').read_bytes()
  other = io.BytesIO()
  Image.fromarray(picture()).save(other, 'TIFF')
  bad = {
    'bomb.png': (png(60000, 60000), 'too many pixels'),
    'large.png': (png(9500, 9500), 'too many pixels'),
    'edge.png': (png(8193, 8192), 'too many pixels'),
    'empty.jpg': (b'', 'no BMP, JPEG, PNG or WebP'),
    'text.jpg': (b'not an image', 'no BMP, JPEG, PNG or WebP'),
    'other.png': (other.getvalue(), 'no BMP, JPEG, PNG or WebP'),
    'script.png': (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'no BMP, JPEG, PNG or WebP'),
    'cut.png': (whole[: len(whole) // 2], ''),
    'flipped.png': (whole[:60] + b'\0\0' + whole[62:], ''),
  }
  for name, (content, _) in bad.items():
    (tree / name).write_bytes(content)
  (tree / 'gone.png').symlink_to(tree / 'nowhere')
  source = images.Images(tree, size=8)
  problems = dict(source.problems)
  assert set(problems) == {*bad, 'gone.png'}
  for name, (_, reason) in bad.items():
    assert problems[name] and problems[name].startswith(reason)
    assert '\n' not in problems[name] and str(tree) not in problems[name]
  assert problems['gone.png'] == 'No such file or directory'
  assert len(source) == 5
  assert not [w for w in recwarn if 'Bomb' in w.category.__name__]


def test_damage_to_the_pixels_is_named_when_read(tree):
  path = tree / 'dog/d.jpeg'
  path.write_bytes(path.read_bytes()[:-400])
  source = images.Images(tree, size=8)
  with pytest.raises(DataError, match=r'd\.jpeg: .*truncated.*; remove'):
    clip(source, 'dog/d.jpeg')
  path.unlink()
  with pytest.raises(DataError, match=r'd\.jpeg: No such file'):
    clip(source, 'dog/d.jpeg')


def test_classes_by_folder_or_list(tree):
  source = images.Images(tree, size=8, classes=True)
  assert source.classes == ('cat', 'dog')
  assert source.problems == [('outside.webp', 'in no class folder')]
  assert clip(source, 'dog/c.bmp')['label'] == 1
  labels = {'cat/a.png': 'x', 'dog/c.bmp': 'a', 'gone.png': 'z'}
  source = images.Images(tree, size=8, labels=labels)
  assert source.classes == ('a', 'x', 'z')
  assert source.files == ['cat/a.png', 'dog/c.bmp']
  assert ('dog/d.jpeg', 'not in the list') in source.problems
  assert clip(source, 'cat/a.png')['label'] == 1


def test_captions(tree):
  (tree / 'cat/a.txt').write_text('a cat\nasleep\n')
  (tree / 'dog/d.txt').write_text('a dog')
  captions = images.captions_beside(tree)
  assert captions == {'cat/a.png': ['a cat asleep'], 'dog/d.jpeg': ['a dog']}
  source = images.Images(tree, size=8, captions=captions)
  assert source.files == list(captions)
  assert clip(source, 'cat/a.png')['caption'] == 'a cat asleep'
  assert source.words == ('a', 'asleep', 'cat', 'dog')
  assert source.captions(2) == ['a cat asleep', 'a dog']
  assert ('dog/c.bmp', 'no caption') in source.problems
  plain = images.Images(tree, size=8)
  assert not hasattr(plain, 'captions') and not hasattr(plain, 'words')


def test_the_signature_is_that_of_the_images(tree, tmp_path):
  signature = images.Images(tree, size=8).signature()
  assert json.loads(json.dumps(signature)) == signature
  shutil.copytree(tree, tmp_path / 'elsewhere')
  again = images.Images(tmp_path / 'elsewhere', size=8)
  assert again.signature() == signature
  captions = {'cat/a.png': ['one']}
  seen = [
    images.Images(tree, size=8, **change).signature()
    for change in (
      {},
      {'resize': 'squash'},
      {'classes': True},
      {'labels': {'cat/a.png': 'x'}},
      {'labels': {'cat/a.png': 'y'}},
      {'captions': captions},
      {'captions': {'cat/a.png': ['two']}},
    )
  ]
  seen.append(images.Images(tree, size=9).signature())
  save(tree / 'cat/a.png', picture(12, 18))
  seen.append(images.Images(tree, size=8).signature())
  assert len({json.dumps(s) for s in seen}) == len(seen)


def test_folders_that_cannot_be_used(tmp_path, tree, capsys):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'useless').mkdir()
  (tmp_path / 'useless/a.png').write_bytes(b'x')
  for name, match in (
    ('missing', 'no such folder'),
    ('empty', r'no images.*\.jpeg'),
    ('useless', r'no usable image.*a\.png: no BMP'),
  ):
    with pytest.raises(DataError, match=match) as caught:
      images.Images(tmp_path / name, size=8)
    assert '\n' not in str(caught.value) and name in str(caught.value)
  with pytest.raises(ConfigError, match='size'):
    images.Images(tree, size=0)
  with pytest.raises(ConfigError, match='resize'):
    images.Images(tree, size=8, resize='x')
  capsys.readouterr()
  images.Images(tree, size=13)
  assert '4 images are smaller than 13' in capsys.readouterr().err


def test_links_in_circles_and_folders_that_may_not_be_listed(tree, monkeypatch):
  (tree / 'cat/circle').symlink_to(tree)
  real = os.scandir

  def scandir(path):
    if Path(path).name == 'deep':
      raise PermissionError(13, 'Permission denied', path)
    return real(path)

  monkeypatch.setattr(os, 'scandir', scandir)
  source = images.Images(tree, size=8)
  assert source.problems == [('cat/deep', 'Permission denied')]
  assert len(source) == 4


def test_images_are_packed_behind_videos_without_a_class(tree):
  videos = shapes.Shapes(frames=2, size=8, length=5)
  source = packed.Packed(videos, images.Images(tree, size=8), 3)
  source = pickle.loads(pickle.dumps(source))
  batch = next(pipeline.batches(source, batch_size=3, seed=0))
  assert batch['video'].shape == (3, 5, 8, 8, 3)
  assert (batch['label'][:, 1:] == -1).all()
  assert (batch['label'][:, 0] >= 0).all()
