"""What the tests share: the scripts, as processes or called, small data, and `pytest --long`."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import hypothesis
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils import convert_tags, create_maps  # noqa: E402

# A fenced block of Markdown, with its language and text
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)

hypothesis.settings.register_profile('short', max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.register_profile('long', max_examples=2000, deadline=None)


def pytest_addoption(parser):
    parser.addoption('--long', action='store_true', help='longer rounds of the same tests')


def pytest_configure(config):
    hypothesis.settings.load_profile('long' if config.getoption('--long') else 'short')
    # Small models gain nothing from more threads, which wait for one another on a busy machine
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'


@pytest.fixture
def rounds(request):
    """How many times a test with random numbers repeats itself."""
    return 200 if request.config.getoption('--long') else 10


def run_script(script, *arguments, stdin='', timeout=240, **environment):
    """Run one of the project's scripts as a process, as a user would."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)], input=stdin, text=True,
        encoding='utf-8', capture_output=True, timeout=timeout,
        env={**os.environ, **environment})


def call(main, *arguments, stdin=b''):
    """Call a script's main in this process, which takes no second to begin: what it prints."""
    output, precision = io.StringIO(), torch.get_float32_matmul_precision()
    with redirect_stdout(output), patch('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin))):
        try:
            assert main([str(argument) for argument in arguments]) is None
        finally:
            torch.set_float32_matmul_precision(precision)
    return output.getvalue()


def write_conll(path, sentences):
    """Write [(words, tags), ...] in CoNLL-2003's columns, the tags in columns 1 and 3."""
    rows = ['\n'.join(f'{word} {tag} - {tag}' for word, tag in zip(words, tags))
            for words, tags in sentences]
    path.write_text('\n\n'.join(rows) + '\n', encoding='utf-8')
    return path


def data_files(folder):
    """The arguments that make data.txt of a folder all three files."""
    data = folder / 'data.txt'
    return ('--train_file', data, '--val_file', data, '--test_file', data)


# Sizes that train in a second
SMALL = ('--char_emb_dim', 5, '--char_rnn_dim', 8, '--word_emb_dim', 6, '--word_rnn_dim', 8,
         '--min_word_freq', 1, '--min_char_freq', 1, '--dropout', 0, '--device', 'cpu')

PEOPLE = [
    (['Dunston', 'checks', 'in'], ['B-PER', 'O', 'O']),
    (['Amara', 'Okafor', 'flew', 'to', 'Oslo', '.'], ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O']),
    (['Rain', '.'], ['O', 'O']),
    (['Oslo'], ['B-LOC']),
    (['Dunston', 'and', 'Amara', 'saw', 'Oslo', '.'], ['B-PER', 'O', 'B-PER', 'O', 'B-LOC', 'O']),
]


def make_run(*arguments, maps=None, sentences=PEOPLE, **changes):
    """What train.main makes before the first epoch, the loader and the run, of small sentences.

    Changes are arguments that the command line would not take.
    """
    import train
    args, _ = train.parse_arguments([str(argument) for argument in (*SMALL, *arguments)])
    vars(args).update(changes)
    torch.manual_seed(args.seed)
    words, tags = zip(*sentences)
    tags = [convert_tags(row, args.tag_scheme) for row in tags]
    maps = maps or dict(zip(('word_map', 'char_map', 'tag_map'), create_maps(words, tags, 1, 1)))
    loader = train.make_loader(words, tags, maps, args, training=True)
    return loader, train.Run(args, maps, None, loader.dataset)


BEST = 'BEST_checkpoint_lm_lstm_crf.pth.tar'
LATEST = 'checkpoint_lm_lstm_crf.pth.tar'


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A folder with data.txt, a model that has learned it by heart, and what training printed."""
    import train
    folder = tmp_path_factory.mktemp('trained')
    write_conll(folder / 'data.txt', PEOPLE)
    output = call(train.main, *SMALL, *data_files(folder), '--epochs', 50, '--lr', 0.1,
                  '--patience', 50, '--ema', 0, '--output_dir', folder)
    (folder / 'stdout.txt').write_text(output)
    return folder


def variant(path, folder, threshold=None, **arguments):
    """A copy of a checkpoint, as if it had another threshold or, like its task, other arguments."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['arguments'].update(arguments)
    torch.save({**checkpoint, 'threshold': threshold}, folder / 'variant.pth.tar')
    return folder / 'variant.pth.tar'
