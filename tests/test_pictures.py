"""The pictures show what img/draw.py draws from the code as it is."""

import importlib.util
import json
import re
from xml.etree import ElementTree

import pytest
from conftest import PEOPLE, ROOT, SMALL, write_conll

import train

specification = importlib.util.spec_from_file_location('draw', ROOT / 'img' / 'draw.py')
draw = importlib.util.module_from_spec(specification)
specification.loader.exec_module(draw)

SVG = '{http://www.w3.org/2000/svg}'


def shown(path):
    """What a picture shows, in order: its texts, the colors of its shapes, and their corners."""
    picture = ElementTree.parse(path)
    shapes = list(picture.iter(f'{SVG}path'))
    texts = [''.join(text.itertext()) for text in picture.iter(f'{SVG}text')]
    colors = [re.findall('#[0-9a-f]{6}', shape.get('style', '')) for shape in shapes]
    corners = [float(number) for shape in shapes
               for number in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', shape.get('d'))]
    return texts, colors, corners


def assert_same_picture(path, other):
    texts, colors, corners = shown(path)
    other_texts, other_colors, other_corners = shown(other)
    assert texts == other_texts, path
    assert colors == other_colors, path
    # In points; other versions of matplotlib may round otherwise
    assert corners == pytest.approx(other_corners, abs=0.1), path


def test_pictures_are_up_to_date(tmp_path):
    draw.main(['--folder', str(tmp_path)])
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in (ROOT / 'img').glob('*.svg'))
    for name in drawn:
        assert_same_picture(ROOT / 'img' / name, tmp_path / name)


@pytest.mark.parametrize('before, after', [
    ('>emission scores of one word<', '>the scores of one word<'),  # a text
    ('>-0.07<', '>-0.08<'),                                         # a number
    ('#dbe9f8', '#dbe9f9'),                                         # a color
    ('M 86 104 ', 'M 87 104 '),                                     # a place
])
def test_a_picture_that_shows_something_else_is_noticed(before, after, tmp_path):
    text = (ROOT / 'img' / 'scores.svg').read_text(encoding='utf-8')
    assert before in text
    (tmp_path / 'scores.svg').write_text(text.replace(before, after), encoding='utf-8')
    with pytest.raises(AssertionError):
        assert_same_picture(ROOT / 'img' / 'scores.svg', tmp_path / 'scores.svg')


def test_each_picture_is_shown_and_small():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    named = re.findall(r'!\[[^\]]{15,}\]\(img/(\w+)\.svg\)', readme)
    pictures = {path.stem: path for path in (ROOT / 'img').glob('*.svg')}
    assert sorted(named) == sorted(pictures)
    for path in pictures.values():
        assert path.stat().st_size < 100_000
        # Text is text, so that it can be read aloud and searched
        texts, _, _ = shown(path)
        assert len(texts) > 3


def test_recording_a_checkpoint(tmp_path, monkeypatch):
    """--record writes what the pictures need, from any checkpoint."""
    file = str(write_conll(tmp_path / 'people.txt', PEOPLE))
    train.main([*map(str, SMALL), '--train_file', file, '--val_file', file, '--epochs', '2',
                '--output_dir', str(tmp_path)])
    monkeypatch.setattr(draw, 'HERE', tmp_path)
    draw.main(['--record', str(tmp_path / train.CHECKPOINT)])
    written = json.loads((tmp_path / 'run.json').read_text())
    assert [row['epoch'] for row in written['log']] == [0, 1]
    assert len(written['transition']) == len(written['tags']) == 2 + 9
    # Every word of it has probabilities, nearly all of which are shown
    assert len(written['ambiguous']['marginals']) == len(draw.AMBIGUOUS)
    assert all(sum(row) > 0.8 for row in written['ambiguous']['marginals'])
    of_a_model = (draw.task, draw.learning, draw.transitions, draw.marginals)
    monkeypatch.setattr(draw, 'PICTURES', of_a_model)
    draw.draw(tmp_path)
    assert all((tmp_path / f'{picture.__name__}.svg').exists() for picture in of_a_model)
