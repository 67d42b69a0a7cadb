"""The pictures show what img/draw.py draws from the code as it is."""

import importlib.util
import json
import re
import shutil
from xml.etree import ElementTree

import pytest
from conftest import (
    BEST, LATEST, PEOPLE, ROOT, SMALL, call, data_files, run_script, write_conll)

import inference
import train
from utils import InputError, load_checkpoint, save_checkpoint

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
    ('>previous tag<', '>next tag<'),       # a text
    ('>-5<', '>-2<'),                       # a number
    ('#dbe9f8', '#dbe9f9'),                 # a color
    ('M 88 146 ', 'M 89 146 '),             # a place
])
def test_a_picture_that_shows_something_else_is_noticed(before, after, tmp_path):
    text = (ROOT / 'img' / 'scores.svg').read_text(encoding='utf-8')
    assert before in text
    (tmp_path / 'scores.svg').write_text(text.replace(before, after), encoding='utf-8')
    with pytest.raises(AssertionError):
        assert_same_picture(ROOT / 'img' / 'scores.svg', tmp_path / 'scores.svg')


def test_each_picture_is_shown_and_small():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    named = re.findall(r'!\[[^\]]{15,}\]\(img/(\w+\.\w+)\)', readme)
    pictures = sorted((ROOT / 'img').glob('*.[sp][vn]g'))
    assert sorted(named) == [path.name for path in pictures]
    for path in pictures:
        assert path.stat().st_size < 100_000
    for path in (ROOT / 'img').glob('*.svg'):
        # Text is text, so that it can be read aloud and searched
        texts, _, _ = shown(path)
        assert len(texts) > 3


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run's folder, to draw into."""
    return shutil.copytree(trained, tmp_path / 'run')


def drawn(folder):
    """The texts of the pictures in a folder, by their names."""
    return {path.stem: shown(path)[0] for path in folder.glob('*.svg')}


def test_recording_a_run(run, tmp_path, monkeypatch):
    """--record writes what the pictures need, from any run."""
    monkeypatch.setattr(draw, 'HERE', tmp_path)
    draw.main(['--record', str(run)])
    written = json.loads((tmp_path / 'run.json').read_text())
    assert [row['epoch'] for row in written['log']] == list(range(50))
    assert len(written['transition']) == len(written['tags']) == 2 + 9
    # Every word of it has probabilities, nearly all of which are shown
    assert len(written['ambiguous']['marginals']) == len(draw.AMBIGUOUS)
    assert all(sum(row) > 0.8 for row in written['ambiguous']['marginals'])
    monkeypatch.setattr(draw, 'PICTURES', {'task': draw.task, 'marginals': draw.marginals})
    draw.main(['--folder', str(tmp_path)])
    names = {'task', 'marginals', 'learning', 'transitions', 'thresholds', 'calibration'}
    assert drawn(tmp_path).keys() == names
    # The run itself gives the very same pictures
    draw.main(['--run', str(run)])
    for path in run.glob('*.svg'):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_pictures_of_a_run(run):
    output = call(draw.main, '--run', run)
    names = ['learning', 'transitions', 'thresholds', 'calibration']
    assert output.splitlines() == [str(run / f'{name}.svg') for name in names]
    texts = drawn(run)
    assert texts.keys() == set(names)
    best, latest = (load_checkpoint(run / name, 'cpu') for name in (BEST, LATEST))
    assert best['scores']['epoch'] + 1 < latest['epoch'] == len(draw.read_run(run)['log'])
    assert texts['learning'].count(f'best epoch: {best["scores"]["epoch"]}') == 2
    assert {'losses', 'validation scores', 'epoch', 'entity F1'} <= set(texts['learning'])
    assert f"the run's threshold: {best['threshold']:.2f}" in texts['thresholds']
    assert {'threshold', 'precision', 'recall', 'F1'} <= set(texts['thresholds'])
    assert {'B-PER', '0'} <= set(texts['transitions'])
    numbers = [str(number) for number, _, _ in draw.read_run(run)['calibration'] if number]
    assert numbers and numbers == [text for text in texts['calibration'] if text.isdigit()]


def test_a_run_has_the_numbers_that_evaluate_prints(run):
    output = call(inference.main, run / BEST, run / 'data.txt', '--evaluate', '--device', 'cpu')
    written = draw.read_run(run)
    rows = ['{:9.2f}  {:9.4f}  {:6.4f}  {:6.4f}'.format(*row) for row in written['thresholds']]
    rows += ['{:10}  {:.4f}  {:5}'.format(*row) for row in written['calibration']]
    assert len(rows) == 19 + 10
    for row in rows:
        assert row in output
        output = output[output.index(row):]


def test_ranges_of_probability():
    judged = [(1.0, True, True, ''), (0.95, False, True, ''), (0.9, True, False, ''),
              (0.3, True, False, ''), (0.05, False, False, '')]
    empty = (0, 0, 0)
    assert inference.score_ranges(judged) == [
        (1, 0.05, 0), empty, empty, (1, 0.3, 1), *[empty] * 5, (3, pytest.approx(0.95), 2)]


def test_a_run_that_was_cut_off(run):
    """Without a threshold nothing is marked."""
    best = load_checkpoint(run / BEST, 'cpu')
    del best['threshold']
    save_checkpoint(run / BEST, best)
    draw.main(['--run', str(run)])
    assert len(drawn(run)) == 4
    assert not any('the run' in text for text in drawn(run)['thresholds'])


def test_a_run_of_parts_of_speech(tmp_path):
    """It has neither thresholds nor candidates; nor need it have language models and a CRF."""
    write_conll(tmp_path / 'data.txt', PEOPLE)
    call(train.main, *SMALL, *data_files(tmp_path), '--task', 'pos', '--epochs', 1,
         '--no-language_models', '--no-crf', '--output_dir', tmp_path)
    output = call(draw.main, '--run', tmp_path)
    assert output.startswith('only entities have thresholds')
    texts = drawn(tmp_path)
    assert texts.keys() == {'learning', 'transitions'}
    assert 'accuracy' in texts['learning'] and 'both LMs, training' not in texts['learning']


def test_a_run_on_the_sample_that_was_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(train, 'train', lambda *_: (0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    call(train.main, *SMALL, '--epochs', 1, '--output_dir', 'run')
    (tmp_path / 'run').rename(tmp_path / 'moved')
    call(draw.main, '--run', 'moved')
    assert len(drawn(tmp_path / 'moved')) == 4


@pytest.mark.parametrize('name', ['T$_{0$', '$', '$x$', '\\$', 'T$_0$'])
def test_a_tag_is_no_formula(tmp_path, name):
    write_conll(tmp_path / 'data.txt', [(['Dunston', 'checks'], [name, 'VBZ'])] * 2)
    call(train.main, *SMALL, *data_files(tmp_path), '--task', 'pos', '--epochs', 1,
         '--output_dir', tmp_path)
    call(draw.main, '--run', tmp_path)
    assert drawn(tmp_path)['transitions'].count(name) == 2


def test_no_run(run):
    result = run_script('img/draw.py', '--run', run.parent)
    assert result.returncode == 1 and result.stdout == ''
    assert re.fullmatch(r'error: .*BEST_.*: cannot be read: .*\n', result.stderr)
    for log, problem in (('', 'expected .* epochs or more, found 0'),
                         ('epoch,lm_loss\n0', 'cannot be read'), (None, 'cannot be read')):
        (run / train.LOG).unlink()
        if log is not None:
            (run / train.LOG).write_text(log)
        with pytest.raises(InputError, match=problem):
            draw.main(['--run', str(run)])
    assert drawn(run) == {}
    with pytest.raises(InputError, match='^expected the name of a folder, found none$'):
        draw.main(['--run', ''])
