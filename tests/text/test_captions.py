"""Captions come out as they were written, or a line is named."""

import csv
import json

import pytest

from vdm_jax.errors import DataError
from vdm_jax.text.captions import Caption, read

# Commas, quotes, line separators inside, other scripts, a tab.
TEXTS = ['a dog, running', 'she said "hi"', 'Zoë 跑步 ☃', 'a\u2028b', 'c\td']
PAIRS = [Caption(f'clips/{i}.mp4', text) for i, text in enumerate(TEXTS)]


def test_csv_gives_back_what_was_written(tmp_path):
  path = tmp_path / 'a.csv'
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, ['id', 'caption', 'video'])
    writer.writeheader()
    rows = [*PAIRS, Caption('x', 'two\nlines')]
    for i, pair in enumerate(rows):
      writer.writerow({'id': i, 'caption': pair.text, 'video': pair.video})
  assert read(path) == rows


@pytest.mark.parametrize('ascii_only', [True, False])
def test_json_lines_give_back_what_was_written(tmp_path, ascii_only):
  path = tmp_path / 'a.jsonl'
  rows = [
    json.dumps(
      {'video': p.video, 'caption': p.text, 'fps': 8}, ensure_ascii=ascii_only
    )
    for p in PAIRS
  ]
  path.write_text('\n'.join(rows) + '\n\n', encoding='utf-8')
  assert read(path) == PAIRS


def test_lines_of_text_in_order_and_stripped(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\xef\xbb\xbf a dog \r\nb\r\na dog\n\n\n')
  assert read(path) == [Caption('', t) for t in ('a dog', 'b', 'a dog')]


def test_text_files_beside_videos(tmp_path):
  (tmp_path / 'deep').mkdir()
  for name in ('b.mp4', 'deep/a.avi', 'c.v2.mp4'):
    (tmp_path / name).touch()
  (tmp_path / 'b.txt').write_text('a\ndog\n')
  (tmp_path / 'c.v2.txt').write_text('a bird')
  with pytest.raises(DataError, match=r'1 in .*deep/a\.avi'):
    read(tmp_path)
  (tmp_path / 'deep/a.txt').write_text('a cat')
  (tmp_path / 'other.txt').write_text('belongs to no video')
  assert read(tmp_path) == [
    Caption('b.mp4', 'a dog'),
    Caption('c.v2.mp4', 'a bird'),
    Caption('deep/a.avi', 'a cat'),
  ]
  (tmp_path / 'deep/a.txt').write_text(' \n')
  with pytest.raises(DataError, match=r'empty.*a\.txt'):
    read(tmp_path)


GOOD = '{"video": "a", "caption": "b"}\n'
BAD = {
  'no column.csv': ('video,text\na,b\n', 'missing.*caption.*video, text'),
  'nothing.csv': ('', 'line 1: video, caption; there are: none'),
  'short.csv': ('video,caption\na\n', 'number of columns.*line 2'),
  'long.csv': ('video,caption\na,b,c\n', 'line 2.*commas in double quotes'),
  'open.csv': ('video,caption\na,"b\n', 'CSV.*line'),
  'empty.csv': ('video,caption\na,b\nc, \n', 'empty.*line 3'),
  'headed.csv': ('video,caption\n', 'no captions'),
  'broken.jsonl': (GOOD + '{"video"\n', 'no JSON.*line 2'),
  'list.jsonl': (GOOD + '["a", "b"]\n', 'line 2: video, caption'),
  'column.jsonl': (GOOD + '{"video": "a"}\n', 'line 2: caption'),
  'number.jsonl': ('{"video": 3, "caption": "b"}', 'a video is no text.*3'),
  'null.jsonl': ('{"video": "a", "caption": null}', 'a caption is no text'),
  'half.jsonl': ('{"video": "a", "caption": "\\ud800"}', 'half a character'),
  'empty.jsonl': (GOOD + '{"video": "a", "caption": ""}', 'empty.*line 2'),
  'gap.txt': ('a\n\nb\n', 'empty.*line 2'),
  'blank.txt': (' \n\n', 'no captions'),
  'what.xml': ('<a>', r'unknown kind.*\.txt, \.csv, \.jsonl'),
}


@pytest.mark.parametrize('name', BAD)
def test_mistakes_are_named_with_their_line(tmp_path, name):
  text, match = BAD[name]
  (tmp_path / name).write_text(text)
  with pytest.raises(DataError, match=match) as caught:
    read(tmp_path / name)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['a.txt', 'a.csv', 'a.jsonl'])
def test_other_encodings_are_refused_with_the_line(tmp_path, name):
  (tmp_path / name).write_bytes('x\nZoë\n'.encode('latin-1'))
  with pytest.raises(DataError, match=r'not UTF-8.*line 2'):
    read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(DataError, match='no such file'):
    read(tmp_path / 'a.csv')
