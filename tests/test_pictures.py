"""The pictures are those that img/draw.py draws from the code as it is."""

import importlib.util
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

from conftest import PEOPLE, ROOT, SMALL, run_script, write_conll


def test_pictures_are_up_to_date(tmp_path):
    result = subprocess.run([sys.executable, ROOT / 'img' / 'draw.py', '--folder', tmp_path],
                            capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in (ROOT / 'img').glob('*.svg'))
    for name in drawn:
        assert (tmp_path / name).read_bytes() == (ROOT / 'img' / name).read_bytes(), name


def test_each_picture_is_shown_and_small():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    shown = re.findall(r'!\[[^\]]{15,}\]\(img/(\w+)\.svg\)', readme)
    pictures = {path.stem: path for path in (ROOT / 'img').glob('*.svg')}
    assert sorted(shown) == sorted(pictures)
    for path in pictures.values():
        assert path.stat().st_size < 100_000
        # Text is text, so that it can be read aloud and searched
        assert len(list(ElementTree.parse(path).iter('{http://www.w3.org/2000/svg}text'))) > 3


def test_recording_a_checkpoint(tmp_path, monkeypatch):
    """--record writes what the pictures need, from any checkpoint."""
    file = write_conll(tmp_path / 'people.txt', PEOPLE)
    result = run_script('train.py', *SMALL, '--train_file', file, '--val_file', file,
                        '--epochs', 2, '--output_dir', tmp_path)
    assert result.returncode == 0, result.stderr
    specification = importlib.util.spec_from_file_location('draw', ROOT / 'img' / 'draw.py')
    draw = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(draw)
    monkeypatch.setattr(draw, 'HERE', tmp_path)
    draw.record(tmp_path / 'checkpoint_lm_lstm_crf.pth.tar')
    written = json.loads((tmp_path / 'run.json').read_text())
    assert [row['epoch'] for row in written['log']] == [0, 1]
    assert len(written['transition']) == len(written['tags']) == 2 + 9
    draw.draw(tmp_path)
    assert (tmp_path / 'marginals.svg').exists()
