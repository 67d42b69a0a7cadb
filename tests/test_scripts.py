"""train.py and inference.py with real files, as a user runs them."""

import csv
import errno
import fcntl
import functools
import itertools
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime

import pytest
import torch
from conftest import (BEST, LATEST, PEOPLE, ROOT, SMALL, call, data_files, make_run, run_script,
                      write_conll)

import dynamic_rnn
import inference
import train
from inference import load_tagger
from utils import InputError, load_checkpoint

LOG = 'training_log.csv'


@pytest.fixture
def people(tmp_path):
    """Arguments to train on a data.txt in tmp_path, into tmp_path."""
    write_conll(tmp_path / 'data.txt', PEOPLE)
    return (*SMALL, *data_files(tmp_path), '--output_dir', tmp_path)


def start(*command, **options):
    """Start a process in the scripts' folder, which Ctrl-C ends."""
    # A shell lets what runs in its background ignore Ctrl-C, and all that this starts
    options.setdefault('preexec_fn', lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen([str(x) for x in (sys.executable, *command)], cwd=ROOT, text=True,
                            **options)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


def read_log(folder):
    with open(folder / LOG, newline='') as file:
        return list(csv.DictReader(file))


def assert_same(one, other):
    """Compare checkpoints or their parts bit for bit, except how long the epochs took."""
    if isinstance(one, torch.Tensor):
        assert one.is_sparse == other.is_sparse
        assert torch.equal(one.to_dense(), other.to_dense())
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one.keys() - {'seconds', 'arguments'}:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for items in zip(one, other):
            assert_same(*items)
    else:
        assert one == other


# --- What training does ---


def test_training_prints_scores_and_sentences(trained):
    output = (trained / 'stdout.txt').read_text()
    assert 'epoch 0: LM loss' in output
    assert ('macro F1 1.0000 (not averaged 1.0000), entity F1 1.0000, accuracy 1.0000 (best so '
            'far); lr') in output
    assert '\nPER     1.0000  1.0000  1.0000        4\n' in output
    assert '[PER Dunston] checks in\n[PER Amara Okafor] flew to [LOC Oslo] .\n' in output


def test_log(trained):
    rows = read_log(trained)
    assert [int(row['epoch']) for row in rows] == list(range(50))
    assert set(rows[0]) == {'epoch', 'lm_loss', 'viterbi_loss', 'val_viterbi_loss', 'macro_f1',
                            'entity_f1', 'accuracy', 'plain_score', 'lr', 'seconds'}
    assert float(rows[3]['lr']) == pytest.approx(0.1 / (1 + 0.05 * 3))
    assert float(rows[-1]['lm_loss']) < float(rows[0]['lm_loss'])


def test_checkpoint_loads_safely_and_knows_its_maps(trained):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    assert set(checkpoint) == {'format', 'model', 'maps', 'arguments', 'scores', 'threshold'}
    latest = torch.load(trained / LATEST, weights_only=True)
    assert set(latest) == {
        'format', 'model', 'plain', 'updates', 'optimizer', 'maps', 'epoch',
        'best_score', 'epochs_since_improvement', 'log', 'arguments'}
    assert checkpoint['maps']['word_map'].split('\n')[0] == '<pad>'
    tagger = load_tagger(trained / BEST)
    assert set(tagger.maps['tag_map']) == {
        '<start>', '<end>', 'O', *(f'{p}-{t}' for p in 'BIES' for t in ('PER', 'LOC'))}
    words = [[], ['Amara', 'Okafor', 'flew', 'to', 'Oslo', '.'], ['\u5317', '\U0001f600']]
    assert [tagged['tags'] for tagged in tagger.tag(words)][:2] == [
        [], ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O']]


def test_pos_from_the_second_column(tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Dunston', 'checks', 'in'], ['NNP', 'VBZ', 'RB'])] * 3)
    output = call(train.main, *SMALL, *data_files(tmp_path), '--output_dir', tmp_path,
                  '--task', 'pos', '--epochs', 30, '--lr', 0.1, '--criterion', 'accuracy')
    assert '\nNNP     1.0000  1.0000  1.0000        3\n' in output
    assert 'entity' not in output
    assert output.endswith('Dunston/NNP checks/VBZ in/RB\nDunston/NNP checks/VBZ in/RB\n')
    # There is no threshold for them, not even one of None
    assert 'threshold' not in torch.load(tmp_path / BEST, weights_only=True)


def test_one_seed_gives_one_model_on_any_terminal(people, tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Gdańsk'], ['B-LOC']), *PEOPLE])
    options = (*people, '--epochs', 2, '--dropout', 0.5, '--output_dir')
    call(train.main, *options, tmp_path / 'a')
    # Sets of str have another order there
    result = run_script('train.py', *options, tmp_path / 'b', PYTHONHASHSEED='1',
                        PYTHONIOENCODING='ascii')
    assert result.returncode == 0 and 'Gdańsk' in result.stdout, result.stderr
    call(train.main, *options, tmp_path / 'c', '--seed', 1)
    a, b, c = (torch.load(tmp_path / run / LATEST, weights_only=True) for run in 'abc')
    assert_same(a, b)
    assert not torch.equal(a['model']['crf.emission.weight'], c['model']['crf.emission.weight'])


def test_the_smallest_corpus(people, tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Oslo'], ['B-LOC'])])
    assert 'all tags: accuracy' in call(train.main, *people, '--epochs', 1)


def test_embeddings_expand_the_vocabulary(people, tmp_path):
    vectors = tmp_path / 'vectors.txt'
    vectors.write_text('oslo 1 2 3\nbergen 1 2 3\nBergen 4 5 6\n')
    at = people.index('--word_emb_dim')
    options = (*people[:at], *people[at + 2:], '--emb_file', vectors)
    output = call(train.main, *options, '--epochs', 1)
    assert f'{vectors} has vectors for 1 of the 12 words of the corpus and for 1 other' in output
    tagger = load_tagger(tmp_path / BEST)
    index = tagger.maps['word_map']['bergen']
    assert tagger.model.word_embeds.weight[index].tolist() == [1, 2, 3]
    weights = load_checkpoint(tmp_path / LATEST, 'cpu')['model']
    assert len(weights['forw_lm_out.weight']) == index
    assert 'Bergen' not in tagger.maps['word_map']
    call(train.main, *options, '--epochs', 1, '--no-caseless', '--output_dir', tmp_path / 'cased')
    assert 'Bergen' in load_tagger(tmp_path / 'cased' / BEST).maps['word_map']
    assert_one_line(train.main, [*options, '--word_emb_dim', 100],
                    '--word_emb_dim: expected 3, found 100')


def test_early_stopping(people, tmp_path):
    output = call(train.main, *people, '--lr', 0, '--patience', 3)
    assert 'epoch 3:' in output and 'epoch 4:' not in output
    assert 'no better score for 3 epochs' in output
    output = call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', 9)
    assert 'epoch 4:' not in output and 'no better score for 3 epochs' in output


def test_a_loss_that_is_no_number_stops_training(people, tmp_path, monkeypatch):
    call(train.main, *people, '--epochs', 1)
    before = (tmp_path / LATEST).read_bytes()
    monkeypatch.setattr(train, 'train', lambda *_: (0.0, math.nan))
    assert_one_line(train.main, ['--checkpoint', tmp_path / LATEST, '--epochs', 9],
                    'epoch 1: the loss is not finite; try a smaller --lr')
    assert (tmp_path / LATEST).read_bytes() == before


def test_train_and_validate_from_python(trained):
    checkpoint = load_checkpoint(trained / LATEST, 'cpu')
    loader, run = make_run('--batch_size', 2, maps=checkpoint['maps'])
    losses = [train.train(loader, run) for _ in range(5)]
    assert losses[-1][0] < losses[0][0] and losses[-1][1] < losses[0][1]
    loss, scores = train.validate(loader, run.model, run)
    assert math.isfinite(loss) and set(scores) == {'accuracy', 'macro_f1', 'entity_f1'}
    # The model of the checkpoint has the scores that its log says
    run.model.load_state_dict(checkpoint['model'])
    loss, scores = train.validate(loader, run.model, run)
    row = checkpoint['log'][-1]
    assert loss == pytest.approx(row['val_viterbi_loss'], rel=1e-4)
    assert scores == {name: row[name] for name in scores}


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('command', ['train.py --help', 'dynamic_rnn.py'])
def test_what_a_script_prints_onto_a_full_disk_is_missed_in_one_line(command, unbuffered):
    result = subprocess.run(f'"{sys.executable}" {command} > /dev/full', shell=True, cwd=ROOT,
                            capture_output=True, text=True, timeout=120,
                            env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
    assert result.stderr == 'error: standard output: No space left on device\n'
    assert result.returncode == 1


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_an_error_of_our_own_is_not_blamed_on_standard_output(unbuffered):
    code = ('def main(_):\n    print("begun")\n    raise OSError(5, "ours")\n'
            'import utils; utils.run_main(main)')
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                            env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
    assert result.stderr.startswith('Traceback') and result.returncode == 1
    assert result.stderr.endswith('OSError: [Errno 5] ours\n') and result.stdout == 'begun\n'
    assert 'error: ' not in result.stderr


# A standard error during whose writing torchrun's signal comes
WHILE_IT_WRITES = '''
import os, signal, sys, utils

class Interrupted:
    def write(self, text):
        os.kill(os.getpid(), signal.SIGTERM)
        return sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()

def main(_):
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stderr = Interrupted()
    raise RuntimeError('Connection closed by peer')

utils.run_main(main)
'''


def test_a_signal_does_not_swallow_what_went_wrong():
    result = subprocess.run([sys.executable, '-c', WHILE_IT_WRITES], cwd=ROOT, capture_output=True,
                            text=True, env={**os.environ, 'TORCHELASTIC_RUN_ID': '1'})
    assert result.stderr == 'error: several processes failed: Connection closed by peer\n'
    assert result.returncode == 1


def test_dynamic_rnn(capsys):
    dynamic_rnn.main([])
    output = capsys.readouterr().out
    assert 'tensor([5, 4, 9, 2, 6, 1, 7, 8, 3, 1])' in output
    assert 'tensor([3, 3, 2, 1, 1])' in output


# --- What training says of its files ---


@pytest.fixture
def untouched(monkeypatch):
    """No epoch is trained."""
    monkeypatch.setattr(train, 'train_epochs', lambda *_: None)


def said(*arguments):
    """The lines that training prints before its first epoch would begin."""
    return call(train.main, *SMALL, *arguments).splitlines()


def test_the_column_and_what_it_holds_are_said(untouched, tmp_path):
    data = write_conll(tmp_path / 'data.txt', PEOPLE)
    first, *_ = said(*data_files(tmp_path), '--output_dir', tmp_path)
    assert first.startswith(str(data)) and re.search(r'column -1\b.*: PER 4,? LOC 3$', first)
    first, *_ = said(*data_files(tmp_path), '--output_dir', tmp_path, '--task', 'pos',
                     '--tag_column', 3)
    assert re.search(r'column 3\b.*: O 10,? B-PER 4,? B-LOC 3,? I-PER 1$', first)


def test_sentences_that_are_in_the_training_file_too_are_counted(untouched, tmp_path):
    files = [write_conll(tmp_path / f'{name}.txt', sentences) for name, sentences in (
        ('train', PEOPLE), ('val', [PEOPLE[0], PEOPLE[0], (['Rain'], ['B-LOC'])]),
        ('test', [(['Rain'], ['O'])]))]
    options = sum(zip(('--train_file', '--val_file', '--test_file'), files), ())
    (note,) = [line for line in said(*options, '--output_dir', tmp_path) if ' 2 of 3 sent' in line]
    assert str(files[1]) in note and f'in {files[0]}, too' in note


@pytest.mark.parametrize('sentence, share, examples', [
    (['Brandt,', 'Oslo', '(and)', 'Rain.'], '75%', 'Brandt,, (and), Rain.'),
    (['\u5317\u4eac\u5e02'], '100%', '\u5317\u4eac\u5e02'),
    (['Oslo'] * 48 + ["l'Oslo,", '.'], '2%', "l'Oslo,")])
def test_words_that_raw_text_would_not_have_are_warned_of(
        untouched, tmp_path, sentence, share, examples):
    write_conll(tmp_path / 'data.txt', [(sentence, ['B-LOC'] * len(sentence))] * 3)
    options = (*data_files(tmp_path), '--output_dir', tmp_path)
    (warning,) = [line for line in said(*options) if 'warning' in line]
    assert warning.startswith('warning: ') and f' {share} ' in warning
    assert examples in warning and '--tokenizer' in warning
    assert not any('warning' in line for line in said(*options, '--tokenizer', 'spaces'))


def test_of_the_sample_and_of_few_words_nothing_is_warned(untouched, tmp_path):
    assert not any('warning' in line for line in said('--output_dir', tmp_path))
    write_conll(tmp_path / 'data.txt', [(['Oslo'] * 99 + ['(a)'], ['B-LOC'] * 100)])
    assert not any('warning' in line for line in said(
        *data_files(tmp_path), '--output_dir', tmp_path))


def test_a_model_splits_text_as_it_was_told_in_training(people, tmp_path):
    call(train.main, *people, '--epochs', 1, '--tokenizer', 'fine')
    options = (tmp_path / BEST, '--output_format', 'conll', '--text', "l'Oslo AHU-G1")
    words = [row.split(' ')[0] for row in call(inference.main, *options).split('\n')[:-2]]
    assert words == "l ' Oslo AHU - G 1".split()
    words = [row.split(' ')[0]
             for row in call(inference.main, *options, '--tokenized').split('\n')[:-2]]
    assert words == "l'Oslo AHU-G1".split()
    assert_one_line(train.main, ['--checkpoint', tmp_path / LATEST, '--tokenizer', 'words'],
                    '--tokenizer: expected fine, as before, found words')
    call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', 2)
    assert load_tagger(tmp_path / LATEST).tokenizer == 'fine'


def test_a_frequent_word_has_the_vector_of_its_lower_case(people, tmp_path):
    (tmp_path / 'vectors.txt').write_text('oslo 1 2 3 4 5 6\n')
    call(train.main, *people, '--epochs', 1, '--lr', 0, '--no-caseless', '--emb_file',
         tmp_path / 'vectors.txt')
    tagger = load_tagger(tmp_path / LATEST)
    index = tagger.maps['word_map']['Oslo']
    assert tagger.model.word_embeds.weight[index].tolist() == [1, 2, 3, 4, 5, 6]


# --- What the arguments change ---


def train_in(folder, *arguments):
    """Train in a folder: the latest checkpoint."""
    call(train.main, *arguments, '--output_dir', folder)
    return torch.load(folder / LATEST, weights_only=True)


@pytest.mark.parametrize('argument, name', [
    (('--lr', 0), 'crf.emission.weight'), (('--grad_clip', 0), 'crf.emission.weight'),
    (('--lm_weight', 0), 'forw_lm_out.weight'), (('--no-crf',), 'crf.transition'),
    (('--no-fine_tune_word_embeddings',), 'word_embeds.weight')])
def test_what_is_not_to_be_learned_stays_as_it_began(people, tmp_path, argument, name):
    runs = {'began': ('--lr', 0), 'stayed': argument, 'learned': ()}
    weights = {run: train_in(tmp_path / run, *people, '--epochs', 1, *options)['model'][name]
               for run, options in runs.items()}
    assert torch.equal(weights['stayed'], weights['began'])
    assert not torch.equal(weights['learned'], weights['began'])


def test_transitions_begin_at_0(people, tmp_path):
    model = train_in(tmp_path, *people, '--epochs', 1, '--lr', 0)['model']
    assert not model['crf.transition'].any()


def test_no_gradient_is_larger_than_grad_clip(people, tmp_path):
    options = (*people, '--epochs', 1, '--batch_size', 99, '--momentum', 0, '--grad_clip', 1e-3)
    began, ended = (train_in(tmp_path / str(lr), *options, '--lr', lr)['model'] for lr in (0, 1))
    change = max((ended[name] - began[name]).abs().max().item() for name in began)
    assert change == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize('decay', [0.999, 0.4])
def test_the_average_of_weights_is_the_moving_one(decay):
    model = make_run()[1].model
    average = train.Average(model, decay, trained_words=3)
    expected, generator = None, torch.Generator().manual_seed(0)
    for n in range(30):
        with torch.no_grad():
            for weight in (model.crf.emission.weight, model.word_embeds.weight[:3]):
                weight.add_(torch.randn(weight.shape, generator=generator))
        average.update(model)
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        share = 1 - min(decay, (1 + n) / (10 + n)) if n > 0 else 1
        expected = {name: share * weight + (1 - share) * (expected or weights)[name]
                    for name, weight in weights.items()}
    for name, weight in average.model.named_parameters():
        assert torch.allclose(weight, expected[name], atol=1e-6)
    assert torch.equal(average.model.word_embeds.weight[3:], model.word_embeds.weight[3:])


def test_the_averaged_weights_are_used_and_training_continues_from_the_others(people, tmp_path):
    # Okafor is too rare for the map of words, but has a vector
    (tmp_path / 'vectors.txt').write_text('lagos 5 4 3 2 1 0\nokafor 0 1 2 3 4 5\n')
    options = (*people, '--emb_file', tmp_path / 'vectors.txt', '--epochs', 3, '--lr', 0.1,
               '--min_word_freq', 2)
    train_in(tmp_path / 'average', *options)
    train_in(tmp_path / 'none', *options, '--ema', 0)
    with_average, without = (load_checkpoint(tmp_path / name / LATEST, 'cpu')
                             for name in ('average', 'none'))
    # Averaging changes nothing of what is learned
    for name, weight in without['plain'].items():
        assert torch.equal(weight, with_average['plain'][name])
        assert torch.equal(weight, without['model'][name][:len(weight)])
        assert not torch.equal(weight, with_average['model'][name][:len(weight)])
    # Vectors of words that the training file lacks come last, are not saved twice, and stay
    words = list(with_average['maps']['word_map'])
    assert words[-2:] == ['okafor', 'lagos']
    assert len(with_average['plain']['word_embeds.weight']) == len(words) - 1
    assert with_average['model']['word_embeds.weight'][-1].tolist() == [5, 4, 3, 2, 1, 0]
    model = load_tagger(tmp_path / 'average' / LATEST).model
    assert torch.equal(model.crf.transition, with_average['model']['crf.transition'])
    # What the log says of both is true
    loader, run = make_run(maps=with_average['maps'])
    for part, column in (('model', 'macro_f1'), ('plain', 'plain_score')):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight[:len(with_average[part][name])] = with_average[part][name]
        _, scores = train.validate(loader, model, run)
        assert scores['macro_f1'] == with_average['log'][-1][column]


@pytest.mark.parametrize('ema, models', [(0, 1), (0.998, 2)])
def test_each_epoch_validates_each_kind_of_weights_once(people, monkeypatch, ema, models):
    def watch(loader, model, run):
        validated.append(model is run.model)
        return validate(loader, model, run)

    validated, validate = [], train.validate
    monkeypatch.setattr(train, 'validate', watch)
    call(train.main, *people, '--epochs', 3, '--ema', ema)
    # The average comes first, the weights themselves last
    assert validated == [False, True][-models:] * 3


def test_words_that_another_training_file_lacks_stay_among_those_that_change(people, tmp_path):
    (tmp_path / 'vectors.txt').write_text('okafor 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    options = ('--emb_file', tmp_path / 'vectors.txt', '--min_word_freq', 2, '--lr', 0.1)
    before = train_in(tmp_path, *people, *options, '--epochs', 1)
    other = write_conll(tmp_path / 'other.txt', PEOPLE[3:4])
    after = train_in(tmp_path, '--checkpoint', tmp_path / LATEST, '--train_file', other,
                     '--epochs', 2)
    # Okafor comes last of those that the first file has; its momentum goes on
    rows = [state['plain']['word_embeds.weight'] for state in (before, after)]
    assert len(rows[0]) == len(rows[1]) and not torch.equal(rows[0][-1], rows[1][-1])


# Two epochs with each of these learn something else
ARGUMENTS = ['--min_word_freq 2', '--min_char_freq 2', '--no-caseless', '--no-expand_vocab',
             '--tag_scheme iob2', '--char_emb_dim 6', '--word_emb_dim 4', '--char_rnn_dim 9',
             '--word_rnn_dim 10', '--char_rnn_layers 2', '--word_rnn_layers 2',
             '--highway_layers 2', '--dropout 0.1', '--no-fine_tune_word_embeddings',
             '--no-language_models', '--no-language_models --no-characters', '--no-crf',
             '--epochs 3', '--batch_size 2', '--lr 0.02', '--lr_decay 0.5', '--momentum 0.5',
             '--grad_clip 0.01', '--lm_weight 0.5', '--seed 1', '--task pos --tag_column 1',
             '--word_column 1', '--tag_column 2', '--ema 0.1']


def test_the_arguments_of_these_tests_are_all_that_there_are():
    args, _ = train.parse_arguments([])
    others = {'train_file', 'val_file', 'test_file', 'emb_file', 'patience', 'criterion',
              'checkpoint', 'output_dir', 'device', 'tokenizer'}
    tested = {word.removeprefix('--').removeprefix('no-')
              for arguments in ARGUMENTS for word in arguments.split() if word[:2] == '--'}
    assert tested | others == set(vars(args)) and not tested & others


@pytest.fixture(scope='module')
def usual(tmp_path_factory):
    """Arguments whose run depends on each of ARGUMENTS, and the model that they make."""
    folder = tmp_path_factory.mktemp('usual')
    sentences = ['\n'.join(f'{word} {word}y {"O" if tag == "O" else "B-X"} {tag}'
                           for word, tag in zip(words, tags)) for words, tags in PEOPLE]
    (folder / 'data.txt').write_text('\n\n'.join(sentences))
    (folder / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    arguments = (*SMALL, *data_files(folder), '--epochs', 2, '--dropout', 0.5)
    arguments += ('--tag_column', 3)
    model = train_in(folder / 'run', *arguments, '--emb_file', folder / 'vectors.txt')['model']
    return folder, arguments, model


@pytest.mark.parametrize('argument', ARGUMENTS)
def test_no_argument_is_ignored(usual, tmp_path, argument):
    folder, arguments, model = usual
    if argument != '--word_emb_dim 4':
        arguments += ('--emb_file', folder / 'vectors.txt')
    other = train_in(tmp_path, *arguments, *argument.split())['model']
    assert model.keys() != other.keys() or not all(
        model[name].shape == other[name].shape and torch.equal(model[name], other[name])
        for name in model)


@pytest.mark.parametrize('arguments, words, chars', [
    ((), {'oslo', 'rain'}, set('OosloRain ')),
    (('--no-caseless',), {'Oslo', 'oslo', 'Rain'}, set('OosloRain ')),
    (('--min_word_freq', 2), {'oslo'}, set('OosloRain ')),
    (('--min_char_freq', 2), {'oslo', 'rain'}, set('oslo '))])
def test_the_vocabulary_is_that_of_the_training_file(people, tmp_path, arguments, words, chars):
    write_conll(tmp_path / 'data.txt', [(['Oslo', 'oslo', 'Rain'], ['B-LOC', 'B-LOC', 'O'])])
    other = write_conll(tmp_path / 'other.txt', [(['Xu', 'Yew'], ['B-PER', 'B-ORG'])])
    call(train.main, *people, '--epochs', 1, '--val_file', other, '--test_file', other, *arguments)
    maps = load_checkpoint(tmp_path / BEST, 'cpu')['maps']
    special = {'<pad>', '<end>', '<unk>'}
    assert set(maps['word_map']) == words | special
    assert set(maps['char_map']) == chars | special
    # The tags are part of the task: those of all files
    assert {'B-LOC', 'B-PER', 'B-ORG'} <= set(maps['tag_map'])


def test_each_epoch_has_an_order_of_its_own(people, tmp_path, monkeypatch):
    def watch(loader, *_):
        orders.append([batch.wmaps.tolist() for batch in loader])
        return 0, 0

    monkeypatch.setattr(train, 'train', watch)
    write_conll(tmp_path / 'data.txt', PEOPLE * 4)
    orders = []
    for seed in (0, 1):
        call(train.main, *people, '--epochs', 2, '--batch_size', 2, '--seed', seed)
    assert all(orders.count(order) == 1 for order in orders)


def test_each_epoch_drops_out_something_else(people, tmp_path):
    # Sentences of different lengths have one order
    write_conll(tmp_path / 'data.txt', PEOPLE[1:4])
    call(train.main, *people, '--epochs', 3, '--lr', 0, '--dropout', 0.5)
    assert len({row['viterbi_loss'] for row in read_log(tmp_path)}) == 3


def test_the_learning_rate_decays(people, tmp_path):
    # From the second epoch on there is next to none
    options = (*people, '--momentum', 0, '--lr_decay', 1e9)
    one, three = (train_in(tmp_path / str(n), *options, '--epochs', n)['model'] for n in (1, 3))
    assert all(torch.allclose(one[name], three[name], atol=1e-6) for name in one)


# Scores of three epochs; each criterion likes another one
SCORES = {'macro_f1': (0.3, 0.1, 0.2), 'entity_f1': (0.2, 0.3, 0.1), 'accuracy': (0.1, 0.2, 0.3)}


@pytest.mark.parametrize('criterion, epoch', [('macro_f1', 1), ('entity_f1', 2), ('accuracy', 3)])
def test_the_criterion_says_which_epoch_is_the_best_and_tested_one(
        people, tmp_path, monkeypatch, criterion, epoch):
    results = [(1.0, dict(zip(SCORES, scores))) for scores in zip(*SCORES.values())
               for _ in ('averaged', 'not averaged')]
    monkeypatch.setattr(train, 'validate', lambda *_: results.pop(0))
    output = call(train.main, *people, '--criterion', criterion, '--epochs', 3, '--lr', 1,
                  '--batch_size', 1)
    assert load_checkpoint(tmp_path / BEST, 'cpu')['scores']['epoch'] == epoch - 1
    assert load_checkpoint(tmp_path / BEST, 'cpu')['scores'][criterion] == 0.3
    tested = {}
    for name in (BEST, LATEST):
        scores = call(inference.main, tmp_path / name, '--evaluate', tmp_path / 'data.txt')
        tested[name] = scores.split(':\n', 1)[1].split('\n\n')[0]
    assert 'precision' in tested[BEST] and tested[BEST] in output
    assert epoch == 3 or tested[LATEST] not in output


def test_as_good_is_not_better(people, tmp_path):
    call(train.main, *people, '--lr', 0, '--epochs', 3)
    assert load_checkpoint(tmp_path / BEST, 'cpu')['scores']['epoch'] == 0


def test_patience_begins_anew_with_each_better_score(people, tmp_path, monkeypatch):
    # Of each epoch, the score of the averaged weights and that of the others
    scores = iter([0.1, 0, 0, 0.5, 0.2, 0.5, 0, 0, 0.15, 0, 0.3, 0])
    monkeypatch.setattr(train, 'validate', lambda *_: (1.0, {'macro_f1': next(scores)}))
    call(train.main, *people, '--patience', 2)
    assert len(read_log(tmp_path)) == 5


def val_losses(people, folder, sentences, *arguments):
    """The validation losses of two epochs that learn nothing."""
    file = write_conll(folder / 'val.txt', sentences)
    call(train.main, *people, '--lr', 0, '--epochs', 2, '--val_file', file, *arguments)
    losses = [float(row['val_viterbi_loss']) for row in read_log(folder)]
    for name in (BEST, LATEST, LOG):
        (folder / name).unlink()
    return losses


def test_the_validation_loss_is_a_mean_over_sentences(people, tmp_path):
    # The long sentence is in a batch of its own
    short, long = PEOPLE[3], PEOPLE[4]
    (a, _), (b, _), (both, _) = (val_losses(people, tmp_path, sentences)
                                 for sentences in ([short], [long], [short] * 32 + [long]))
    assert a != pytest.approx(b, rel=0.1) and both == pytest.approx((32 * a + b) / 33, rel=1e-3)


def test_losses_of_an_epoch_do_not_depend_on_its_batches(people, tmp_path):
    rows = []
    for size in (1, 2, 99):
        call(train.main, *people, '--epochs', 1, '--lr', 0, '--batch_size', size,
             '--output_dir', tmp_path / str(size))
        rows += read_log(tmp_path / str(size))
    for name in ('viterbi_loss', 'lm_loss'):
        losses = [float(row[name]) for row in rows]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.parametrize('scheme', ['iobes', 'iob2'])
def test_validation_scores_are_those_of_tagging(people, tmp_path, scheme):
    # A model that has learned nothing prefers sequences that are not legal
    arguments = (*people, '--epochs', 1, '--lr', 0, '--tag_scheme', scheme)
    output, (row,) = call(train.main, *arguments), read_log(tmp_path)
    accuracy, macro_f1 = float(row['accuracy']), float(row['macro_f1'])
    assert f'all tags: accuracy {accuracy:.4f}, macro F1 {macro_f1:.4f}\n' in output


def test_tagging_knows_the_columns_of_training(people, tmp_path):
    rows = ''.join(f'x\t{tag}\t{word}\ty\n' for words, tags in PEOPLE
                   for word, tag in zip(words, tags))
    (tmp_path / 'data.txt').write_text(rows)
    call(train.main, *people, '--epochs', 1, '--word_column', 2, '--tag_column', -3)
    output = call(inference.main, tmp_path / BEST, '--evaluate', tmp_path / 'data.txt',
                  '--output_format', 'conll')
    words_and_gold = [row.split()[:2] for row in output.splitlines() if row]
    assert words_and_gold == [row.split('\t')[2:0:-1] for row in rows.splitlines()]


def test_there_is_no_dropout_in_validation(people, tmp_path):
    without, _ = val_losses(people, tmp_path, PEOPLE)
    assert val_losses(people, tmp_path, PEOPLE, '--dropout', 0.9) == pytest.approx([without] * 2)


# --- Runs that continue, and runs beside one another ---


@pytest.mark.parametrize('vectors', [
    (), ('--emb_file',), ('--no-fine_tune_word_embeddings', '--emb_file')])
def test_resuming_goes_on(people, tmp_path, vectors):
    (tmp_path / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    options = (*people, '--dropout', 0.5, *vectors)
    options += (tmp_path / 'vectors.txt',) if vectors else ()
    call(train.main, *options, '--epochs', 4, '--output_dir', whole)
    call(train.main, *options, '--epochs', 2, '--output_dir', parts)
    call(train.main, '--checkpoint', parts / LATEST, '--epochs', 4)
    assert_same(*(torch.load(run / LATEST, weights_only=True) for run in (whole, parts)))
    assert len(read_log(parts)) == 4
    assert_one_line(train.main, ['--checkpoint', parts / LATEST, '--char_rnn_dim', 9],
                    '--char_rnn_dim: expected 8, as before, found 9')


def age(folder, name, then):
    """Make one file of a run as old as `then`, the others a minute older: the run's time stamp."""
    for other in (BEST, LATEST, LOG):
        os.utime(folder / other, (then.timestamp() - 60 * (other != name),) * 2)
    return f'{then:%Y%m%d-%H%M%S}'


def test_earlier_runs_are_kept(people, tmp_path):
    names, kept = (BEST, LATEST, LOG), {}
    for name, then in [(LATEST, datetime(2020, 2, 29, 23, 59, 58)), (LOG, datetime(2021, 1, 2))]:
        call(train.main, *people, '--epochs', 1)
        stamp = age(tmp_path, name, then)
        kept.update({f'{name}.{stamp}': (tmp_path / name).read_bytes() for name in names})
        output = call(train.main, *people, '--epochs', 1)
        assert f'{tmp_path / BEST} is kept as {tmp_path / BEST}.{stamp}\n' in output
        # The run that has just ended is not among the earlier ones
        for name in names:
            (tmp_path / name).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {'data.txt', *kept}
    call(train.main, *people, '--epochs', 1)
    age(tmp_path, LOG, datetime(2021, 1, 2))
    # Of the same second as an earlier one
    more = [(tmp_path / name).read_bytes() for name in names]
    call(train.main, *people, '--epochs', 1)
    files = contents(tmp_path)
    assert len(files) == 1 + len(kept) + 2 * len(names) and kept.items() <= files.items()
    assert all(data in files.values() for data in more)


def test_going_on_elsewhere_keeps_the_other_runs_apart(people, tmp_path):
    call(train.main, *people, '--epochs', 1)
    earlier = tmp_path / f'{LATEST}.{age(tmp_path, LATEST, datetime(2020, 1, 1))}'
    call(train.main, *people, '--epochs', 1, '--task', 'pos')
    of_pos = {name: (tmp_path / name).read_bytes() for name in (BEST, LATEST, LOG)}
    stamp = age(tmp_path, LATEST, datetime(2021, 1, 1))
    for folder in (tmp_path, tmp_path / 'elsewhere'):
        output = call(train.main, '--checkpoint', earlier, '--epochs', 2, '--output_dir', folder)
        assert f'tagged by {folder / BEST}' in output
        assert load_checkpoint(folder / BEST, 'cpu')['scores']['epoch'] == 1
    assert of_pos == {name: (tmp_path / f'{name}.{stamp}').read_bytes() for name in of_pos}
    age(tmp_path, LATEST, datetime(2022, 1, 1))
    before = contents(tmp_path)
    assert_one_line(train.main, ['--checkpoint', earlier], 'expected more than the 1 that are done')
    assert contents(tmp_path) == before


def test_the_best_checkpoint_is_none_to_continue_from(people, tmp_path):
    call(train.main, *people, '--epochs', 1)
    before = contents(tmp_path)
    assert_one_line(train.main, ['--checkpoint', tmp_path / BEST], f'expected {LATEST}')
    assert contents(tmp_path) == before


def test_the_advice_how_to_continue_names_a_file_that_is_there(people, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    old, new = tmp_path / "the old run's", tmp_path / 'new'
    call(train.main, *people, '--epochs', 1, '--output_dir', old)
    monkeypatch.setattr(train, 'train_epochs', interrupted)
    output = call(train.main, *people, '--output_dir', new)
    assert 'stopped in epoch 0; there is no checkpoint yet\n' in output
    assert output.endswith(f'nothing to score: there is no {new / BEST}\n')
    for folder in (new, old):
        output = call(train.main, '--checkpoint', old / LATEST, '--output_dir', folder,
                      '--epochs', 2)
        command = re.search('stopped in epoch 1; to continue: (.*)\n', output)[1]
        # As a shell understands it
        *words, path = subprocess.run(['sh', '-c', f'printf "%s\\n" {command}'],
                                      capture_output=True, text=True).stdout.splitlines()
        assert words == ['python', 'train.py', '--checkpoint'] and os.path.exists(path)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize('resumed', [False, True])
def test_a_second_run_in_a_folder_is_refused(people, tmp_path, resumed):
    call(train.main, *people, '--epochs', 1)
    before = contents(tmp_path)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    arguments = ['--checkpoint', tmp_path / LATEST, '--epochs', 2] if resumed else people
    assert_one_line(train.main, arguments,
                    f'--output_dir {tmp_path}: expected no other run in it, found one')
    assert contents(tmp_path) == before
    os.close(handle)
    call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', 2)


@pytest.mark.parametrize('error', [KeyboardInterrupt, InputError])
def test_the_lock_is_gone_with_a_run_that_was_cut_off(people, tmp_path, monkeypatch, error):
    def cut_off(*_):
        raise error

    with monkeypatch.context() as patched, suppress(InputError):
        patched.setattr(train, 'train', cut_off)
        call(train.main, *people)
    assert 'all tags' in call(train.main, *people, '--epochs', 1)


def test_where_there_are_no_locks_there_is_no_error(people, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    assert 'all tags' in call(train.main, *people, '--epochs', 1)


def test_output_that_would_block_is_not_another_run(people, monkeypatch):
    def would_block(*_):
        raise BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')

    monkeypatch.setattr(train, 'train_epochs', would_block)
    with pytest.raises((InputError, OSError)) as error:
        call(train.main, *people)
    assert 'other run' not in str(error.value)


ANEW = 'the best score and the patience start anew\n'


@pytest.mark.parametrize('how', ['other file', 'other folder', "another run's folder",
                                 'best is gone'])
def test_the_best_score_and_the_patience_start_anew(people, tmp_path, how):
    run, kept = tmp_path / 'run', tmp_path / 'kept'
    # Its score can't be better, and its patience is at an end
    call(train.main, *people, '--epochs', 40, '--lr', 0.1, '--output_dir', run)
    call(train.main, '--checkpoint', run / LATEST, '--epochs', 99, '--patience', 5, '--lr', 0)
    best = (run / BEST).read_bytes()
    done = load_checkpoint(run / LATEST, 'cpu')['epoch']
    arguments = ['--checkpoint', run / LATEST, '--epochs', 99, '--patience', 2, '--lr', 0]
    folder = tmp_path / 'new' if 'folder' in how else run
    if how == "another run's folder":
        call(train.main, *people, '--epochs', 1, '--output_dir', folder)
    if how == 'other file':
        arguments += ['--val_file', write_conll(tmp_path / 'other.txt', PEOPLE)]
    if how == 'best is gone':
        (run / BEST).rename(kept)
    output = call(train.main, *arguments, '--output_dir', folder)
    assert output.count(ANEW) == 1
    assert [int(row['epoch']) for row in read_log(folder)][done:] == [done, done + 1, done + 2]
    assert load_checkpoint(folder / BEST, 'cpu')['scores']['epoch'] == done
    assert f'tagged by {folder / BEST}:\n' in output
    # The earlier best one is still there, and if it was in the way it has another name
    names = [path for path in (*run.glob(f'{BEST}*'), kept) if path.exists()]
    assert [path.read_bytes() for path in names].count(best) == 1
    if how == 'other file':
        assert f'{run / BEST} is kept as {run / BEST}.' in output


@pytest.mark.parametrize('spelling', ['.', 'run/..', 'link'])
def test_the_same_file_and_folder_by_another_name_start_nothing_anew(people, tmp_path, spelling):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path)
    call(train.main, *people, '--lr', 0, '--patience', 2)
    folder = tmp_path / spelling
    output = call(train.main, '--checkpoint', folder / LATEST, '--val_file',
                  f'{folder}/./data.txt', '--output_dir', tmp_path)
    assert ANEW not in output and 'is kept as' not in output
    assert 'no better score for 2 epochs' in output and 'all tags' in output


@pytest.mark.parametrize('changed', [{}, {'--output_dir': 'elsewhere'}, {'--val_file': 'val.txt'}])
def test_with_nothing_left_no_other_best_checkpoint_is_scored_or_written(
        people, tmp_path, changed):
    """It would be taken for that of this run, and given this run's threshold."""
    call(train.main, *people, '--epochs', 1)
    (tmp_path / 'val.txt').write_text((tmp_path / 'data.txt').read_text())
    (tmp_path / 'elsewhere').mkdir()
    best = tmp_path / BEST
    (best.unlink if not changed else lambda: None)()
    (tmp_path / 'elsewhere' / BEST).write_bytes(b'of another run')
    arguments = [part for name, value in changed.items() for part in (name, tmp_path / value)]
    before = best.read_bytes() if changed else None
    assert_one_line(train.main, ['--checkpoint', tmp_path / LATEST, *arguments],
                    'expected more than the 1 that are done')
    assert (best.read_bytes() if best.exists() else None) == before
    assert (tmp_path / 'elsewhere' / BEST).read_bytes() == b'of another run'


def test_nothing_left_to_train_changes_no_file_but_the_threshold(people, tmp_path):
    call(train.main, *people, '--epochs', 2)
    before, best = contents(tmp_path), load_checkpoint(tmp_path / BEST, 'cpu')
    for epochs in (2, 1):
        output = call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', epochs)
        assert 'all tags' in output and '2 epochs are done already' in output
        after = contents(tmp_path)
        assert after.keys() == before.keys()
        assert [name for name in before if after[name] != before[name]] in ([], [BEST])
        assert_same(load_checkpoint(tmp_path / BEST, 'cpu'), best)


def test_three_runs_of_one_second_keep_all_files(people, tmp_path):
    then, all_files = datetime(2021, 1, 2), []
    for _ in range(3):
        call(train.main, *people, '--epochs', 1)
        age(tmp_path, LOG, then)
        all_files += [(tmp_path / name).read_bytes() for name in (BEST, LATEST, LOG)]
    call(train.main, *people, '--epochs', 1)
    kept = list(contents(tmp_path).values())
    assert len(kept) == 1 + 4 * 3 and all(data in kept for data in all_files)
    assert len({path.name for path in tmp_path.glob(f'{LATEST}.2021*')}) == 3


def test_a_folder_that_was_moved_goes_on_with_its_best_score(tmp_path, monkeypatch):
    """With the sample's files, which are found from anywhere, and with paths that are relative."""
    def known(*_):
        return 1.0, {'macro_f1': 0.5, 'entity_f1': 0.5, 'accuracy': 0.5}

    monkeypatch.setattr(train, 'train', lambda *_: (0.0, 0.0))
    monkeypatch.setattr(train, 'validate', known)
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / 'first')
    call(train.main, *SMALL, '--epochs', 1, '--output_dir', 'run')
    arguments = load_checkpoint('run/' + LATEST, 'cpu')['arguments']
    assert [arguments[f'{name}_file'] for name in ('train', 'val', 'test')] == [None] * 3
    monkeypatch.chdir(tmp_path / 'second')
    (tmp_path / 'first' / 'run').rename(tmp_path / 'second' / 'moved')
    output = call(train.main, '--checkpoint', f'moved/{LATEST}', '--epochs', 3)
    assert ANEW not in output and 'is kept as' not in output
    assert load_checkpoint(f'moved/{LATEST}', 'cpu')['best_score'] == 0.5
    assert load_checkpoint(f'moved/{BEST}', 'cpu')['scores']['epoch'] == 0
    assert {path.name for path in (tmp_path / 'second' / 'moved').iterdir()} == {LATEST, BEST, LOG}


@pytest.mark.parametrize('processes', [None, 2])
def test_the_advice_names_the_command_that_began(people, tmp_path, monkeypatch, capsys, processes):
    _, run = make_run('--output_dir', tmp_path)
    (tmp_path / LATEST).write_bytes(b'')
    monkeypatch.setattr(train.dist, 'is_initialized', lambda: processes is not None)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    train.say_how_to_continue(run)
    command = 'torchrun --nproc_per_node=2' if processes else 'python'
    assert capsys.readouterr().out == (f'stopped in epoch 0; to continue: {command} train.py '
                                       f'--checkpoint {tmp_path / LATEST}\n')


@pytest.mark.parametrize('during', [1, 2])
def test_ctrl_c_in_the_middle_of_a_checkpoint_leaves_no_half(people, tmp_path, monkeypatch, during):
    def interrupted_save(checkpoint, file):
        calls.append(file)
        if len(calls) != during:
            return save(checkpoint, file)
        file.write(b'half')
        raise KeyboardInterrupt

    call(train.main, *people, '--epochs', 1, '--lr', 0)
    before, calls, save = contents(tmp_path), [], torch.save
    monkeypatch.setattr(torch, 'save', interrupted_save)
    output = call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', 5, '--lr', 0.5)
    assert f'to continue: python train.py --checkpoint {tmp_path / LATEST}\n' in output
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after[LATEST] == before[LATEST] or during == 2
    for name in (LATEST, BEST):
        assert load_checkpoint(tmp_path / name, 'cpu')


def test_ctrl_c_ends_training_and_says_how_to_continue(people, tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE * 20)
    process = start('train.py', *people, '--patience', 200, stdout=subprocess.PIPE)
    wait_for(tmp_path / LATEST, process)
    # While it runs, its folder is its own
    process.send_signal(signal.SIGSTOP)
    before = contents(tmp_path)
    assert_one_line(train.main, people, 'expected no other run in it, found one')
    assert contents(tmp_path) == before
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and 'all tags: accuracy' in output
    advice = f'; to continue: python train.py --checkpoint {tmp_path / LATEST}\n'
    stopped = re.search(r'stopped in epoch (\d+)' + re.escape(advice), output)
    assert stopped, output
    epoch = int(stopped[1])
    # It may have come while that epoch was being saved
    assert load_checkpoint(tmp_path / LATEST, 'cpu')['epoch'] in (epoch - 1, epoch)
    assert not list(tmp_path.glob('*.tmp'))


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(people, tmp_path, request):
    rounds = 30 if request.config.getoption('--long') else 2
    write_conll(tmp_path / 'data.txt', PEOPLE * 8)
    (tmp_path / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    options = (*people, '--dropout', 0.5, '--emb_file', tmp_path / 'vectors.txt', '--epochs', 12,
               '--patience', 12)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    call(train.main, *options, '--output_dir', whole)
    generator = random.Random(0)
    for _ in range(rounds):
        resume = ('--checkpoint', parts / LATEST) if (parts / LATEST).exists() else options
        process = start('train.py', *resume, '--output_dir', parts, stdout=subprocess.PIPE)
        # Training begins after this line
        while 'parameters to train' not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        process.communicate()
    resume = ('--checkpoint', parts / LATEST) if (parts / LATEST).exists() else options
    call(train.main, *resume, '--output_dir', parts)
    for name in (LATEST, BEST):
        assert_same(*(torch.load(run / name, weights_only=True) for run in (whole, parts)))
    logs = [[{**row, 'seconds': 0} for row in read_log(run)] for run in (whole, parts)]
    assert logs[0] == logs[1] and len(logs[0]) == 12


# --- Several processes ---

TORCHRUN = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'train.py')


def test_two_processes_take_the_same_steps_as_one(people, tmp_path):
    # In batches of ten all sentences have as many words, since the losses of the language models
    # are means over words: halves of a batch then count as much as one another
    generator, names = random.Random(0), ['Amara', 'Oslo', 'Rain', 'flew', 'to', 'in', '.']
    write_conll(tmp_path / 'data.txt', [
        (generator.choices(names, k=length), generator.choices(['O', 'B-PER', 'B-LOC'], k=length))
        for length in (3, 5) for _ in range(20)])
    (tmp_path / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    options = (*people, '--epochs', 3, '--lr', 0.1, '--emb_file', tmp_path / 'vectors.txt')
    one, two = tmp_path / 'one', tmp_path / 'two'
    call(train.main, *options, '--batch_size', 10, '--output_dir', one)
    process = start(*TORCHRUN, *options, '--batch_size', 5, '--output_dir', two,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count('epoch 2: LM loss') == 1 and output.count('all tags') == 1
    first, second = (torch.load(run / LATEST, weights_only=True) for run in (one, two))
    for name, weights in first['model'].items():
        assert torch.allclose(weights, second['model'][name], atol=1e-5), name
    # Of the vectors, both train only the rows of the words in a batch
    for state in (first, second):
        momenta = [one['momentum_buffer'].is_sparse for one in state['optimizer'].values()]
        assert momenta == [False] * (len(momenta) - 1) + [True]
    # The losses that an epoch prints are those of the first process's share
    for row, other in zip(read_log(one), read_log(two), strict=True):
        for name in ('val_viterbi_loss', 'macro_f1', 'entity_f1', 'accuracy'):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4)


def test_processes_part_before_the_first_one_scores(people, tmp_path):
    """However long that takes, the others do not wait for it, and nobody for them."""
    code = ('import os, time, train, torch.distributed as dist\n'
            'finish = train.finish\n'
            'def slow(*arguments):\n'
            '    assert not dist.is_initialized() and int(os.environ["RANK"]) == 0\n'
            f'    ended = {str(tmp_path / "ended")!r}\n'
            '    while not os.path.exists(ended):\n'
            '        time.sleep(0.05)\n'
            '    finish(*arguments)\n'
            'train.finish = slow\n'
            'import sys, utils\n'
            'utils.run_main(train.main)\n'
            'if int(os.environ["RANK"]) == 1:\n'
            f'    open({str(tmp_path / "ended")!r}, "w").close()\n')
    script = tmp_path / 'script.py'
    script.write_text(code)
    process = start(*TORCHRUN[:-1], script, *people, '--epochs', 1, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.count('all tags') == 1


SHORT = ['SIGTERM torchrun', 'SIGKILL second']
LONG = [f'{sent} {to}' for sent in ('SIGINT', 'SIGTERM', 'SIGKILL')
        for to in ('torchrun', 'first', 'second', 'all')]
# Nobody can answer for a torchrun that was killed itself
LONG = [how for how in LONG if how not in (*SHORT, 'SIGKILL torchrun', 'SIGKILL all')]


def pytest_generate_tests(metafunc):
    if 'how_it_ends' in metafunc.fixturenames:
        long = metafunc.config.getoption('--long')
        metafunc.parametrize('how_it_ends', [*SHORT, *LONG] if long else SHORT)


def test_whatever_ends_one_process_ends_all(people, tmp_path, how_it_ends):
    # One batch has a sentence for each process, the other has one for both
    write_conll(tmp_path / 'data.txt', PEOPLE[:3])
    process = start(*TORCHRUN, *people, '--patience', 200, '--batch_size', 1,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(tmp_path / LATEST, process)
    children = subprocess.check_output(['pgrep', '-P', str(process.pid)], text=True).split()
    sent, to = how_it_ends.split()
    # A terminal sends SIGINT to all
    for pid in {'torchrun': [process.pid], 'first': children[:1], 'second': children[1:],
                'all': [*children, process.pid]}[to]:
        os.kill(int(pid), getattr(signal, sent))
    errors = process.communicate(timeout=20)[1]
    assert process.returncode != 0
    assert not [pid for pid in children if os.path.exists(f'/proc/{pid}')]
    assert_lines_of_ours(errors)
    assert load_checkpoint(tmp_path / LATEST, 'cpu')
    assert not list(tmp_path.glob('*.tmp'))


def assert_lines_of_ours(errors):
    """A line for each process at most and no traceback, before that of torchrun."""
    ours = re.findall('^(?:error: |interrupted).*$', errors, re.MULTILINE)
    assert 1 <= len(ours) <= 2 and 'train.py", line' not in errors, errors
    assert errors.index(ours[0]) < errors.rfind('Traceback (most recent call last)')


def test_a_full_disk_ends_all_processes(people, tmp_path, request):
    if not request.config.getoption('--long'):
        pytest.skip('takes 5 s')
    call(train.main, *people, '--epochs', 1)
    size = (tmp_path / LATEST).stat().st_size // 2
    process = start(*TORCHRUN, '--checkpoint', tmp_path / LATEST, '--epochs', 200, '--patience',
                    200, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size,) * 2))
    errors = process.communicate(timeout=40)[1]
    assert process.returncode != 0 and 'cannot be written' in errors
    assert_lines_of_ours(errors)
    assert not list(tmp_path.glob('*.tmp'))


# --- The threshold that training finds ---

VAL = [(['Okafor', 'saw', 'Oslo', '.'], ['B-PER', 'O', 'B-LOC', 'O']),
       (['Amara', 'Dunston', 'flew'], ['B-PER', 'I-PER', 'O']),
       (['Dunston', 'to', 'Amara'], ['O', 'O', 'B-PER']), (['Rain', 'Oslo'], ['O', 'B-LOC'])]
TEST = [(['Oslo', 'saw', 'Amara', 'Okafor'], ['B-LOC', 'O', 'B-PER', 'I-PER']),
        (['Dunston', 'flew', 'in'], ['B-PER', 'O', 'O']), (['Rain', 'Okafor'], ['O', 'B-PER'])]
LINE = (r'\n--threshold best is (0\.\d\d): precision (0\.\d{4}), recall (0\.\d{4}), '
        r"F1 (0\.\d{4}) instead of Viterbi's (0\.\d{4})\n\Z")


def by_threshold(checkpoint, file):
    """What --evaluate says of a file: Viterbi's F1; precision, recall and F1 by threshold."""
    output = call(inference.main, checkpoint, '--evaluate', file)
    table = re.findall(r'(?m)^ +(0\.\d\d) +(0\.\d{4}) +(0\.\d{4}) +(0\.\d{4})', output)
    viterbi = re.search(r'(?m)^all +\S+ +\S+ +(\S+)', output)[1]
    return viterbi, {threshold: figures for threshold, *figures in table}


def assert_threshold(output, folder, val, test):
    """The last line is right, and its threshold is in the best checkpoint: the threshold."""
    assert output.count('--threshold') == 1
    threshold, *figures, instead_of = re.search(LINE, output).groups()
    viterbi, table = by_threshold(folder / BEST, test)
    assert (figures, instead_of) == (table[threshold], viterbi)
    _, table = by_threshold(folder / BEST, val)
    half = max(float(f1) for _, _, f1 in table.values()) / 2
    assert abs(max(half, 0.05) - float(threshold)) < 0.0251
    assert load_checkpoint(folder / BEST, 'cpu')['threshold'] == float(threshold)
    assert 'threshold' not in load_checkpoint(folder / LATEST, 'cpu')
    return float(threshold)


@pytest.fixture
def divided(tmp_path):
    """Arguments to train with three files that differ, and the two that are scored."""
    train_file, val, test = (
        write_conll(tmp_path / f'{name}.txt', sentences)
        for name, sentences in (('train', PEOPLE), ('val', VAL), ('test', TEST)))
    return (*SMALL, '--lr', 0.1, '--patience', 40, '--output_dir', tmp_path, '--train_file',
            train_file, '--val_file', val, '--test_file', test), val, test


@pytest.mark.parametrize('epochs', [10, 20, 30])
def test_the_threshold_is_half_of_the_best_f1_in_validation(divided, tmp_path, epochs):
    arguments, val, test = divided
    output = call(train.main, *arguments, '--epochs', epochs)
    assert 0.05 < assert_threshold(output, tmp_path, val, test) < 0.5


def test_no_threshold_is_below_0_05(divided, tmp_path):
    arguments, val, test = divided
    # An entity that nobody finds who has learned nothing
    write_conll(val, [(['Rain'] * 9, ['B-LOC'] + ['I-LOC'] * 8)])
    output = call(train.main, *arguments, '--epochs', 1, '--lr', 0)
    assert assert_threshold(output, tmp_path, val, test) == 0.05


def test_without_a_test_file_the_validation_file_is_scored(divided, tmp_path):
    (*arguments, _, _), val, _ = divided
    output = call(train.main, *arguments, '--epochs', 20)
    assert f'{val}, tagged by {tmp_path / BEST}:\n' in output
    assert_threshold(output, tmp_path, val, val)


def test_the_threshold_after_ctrl_c_and_when_training_continues(divided, tmp_path, monkeypatch):
    def interrupted(loader, run):
        if run.history['epoch'] == 12:
            raise KeyboardInterrupt
        return train_one_epoch(loader, run)

    (arguments, *files), train_one_epoch = divided, train.train
    with monkeypatch.context() as patched:
        patched.setattr(train, 'train', interrupted)
        output = call(train.main, *arguments, '--epochs', 40)
    assert 'stopped in epoch 12; to continue' in output
    assert_threshold(output, tmp_path, *files)
    for epochs in (40, 42):
        output = call(train.main, '--checkpoint', tmp_path / LATEST, '--epochs', epochs)
        assert f'epoch {epochs - 1}:' in output and ANEW not in output
        assert_threshold(output, tmp_path, *files)


# --- Files and pipes that fail ---


def test_a_closed_pipe_ends_it_quietly(people):
    process = start('train.py', *people, '--epochs', 1, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == '' and process.wait() == 1


def test_a_full_disk_ends_with_one_line_and_leaves_the_checkpoint_whole(people, tmp_path):
    call(train.main, *people, '--epochs', 1)
    before = (tmp_path / LATEST).read_bytes()
    # No file may become larger than half a checkpoint
    process = start('train.py', '--checkpoint', tmp_path / LATEST, '--epochs', 2,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                          (len(before) // 2,) * 2))
    errors = process.communicate()[1]
    assert process.returncode == 1 and errors.count('\n') == 1, errors
    assert 'cannot be written' in errors
    assert (tmp_path / LATEST).read_bytes() == before
    assert not list(tmp_path.glob('*.tmp'))


def test_a_damaged_checkpoint_is_refused_or_right(trained, tmp_path):
    data, right = (trained / BEST).read_bytes(), load_checkpoint(trained / BEST, 'cpu')
    path, generator = tmp_path / 'damaged.pth.tar', random.Random(0)
    cut = [data[:size] for size in range(0, len(data), 1000)]
    flipped = []
    for _ in range(100):
        position = generator.randrange(len(data))
        flipped.append(data[:position] + bytes([data[position] ^ 255]) + data[position + 1:])
    refused = 0
    for content in cut + flipped:
        path.write_bytes(content)
        try:
            assert_same(load_checkpoint(path, 'cpu'), right)
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and '\n' not in str(error)
    # Some bytes only fill up
    assert refused > len(cut) + 50


def altered(path, folder, *keys, value=None):
    """A copy of a checkpoint without what the keys lead to, or with a value in its place."""
    checkpoint = torch.load(path, weights_only=True)
    part = checkpoint
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    if value is not None:
        part[keys[-1]] = value
    torch.save(checkpoint, folder / LATEST)
    return folder / LATEST


@pytest.mark.parametrize('keys', [
    ('format',), ('model',), ('maps',), ('arguments',), ('maps', 'tag_map'), ('maps', 'word_map'),
    ('maps', 'char_map'), ('model', 'crf.transition'), ('arguments', 'task')])
def test_a_checkpoint_that_lacks_a_part_is_refused_in_tagging(trained, tmp_path, keys):
    path = altered(trained / LATEST, tmp_path, *keys)
    assert_one_line(inference.main, [path, '--text', 'Oslo'], f'{path}: ')


@pytest.mark.parametrize('keys', [
    ('format',), ('model',), ('plain',), ('updates',), ('optimizer',), ('maps',), ('arguments',),
    ('epoch',), ('best_score',), ('epochs_since_improvement',), ('log',), ('maps', 'tag_map'),
    ('maps', 'word_map'), ('maps', 'char_map'), ('arguments', 'word_emb_dim'),
    ('arguments', 'task'), ('model', 'crf.transition'), ('plain', 'crf.transition')])
def test_a_checkpoint_that_lacks_a_part_is_refused_in_training(trained, tmp_path, keys):
    path = altered(trained / LATEST, tmp_path, *keys)
    before = contents(tmp_path)
    assert_one_line(train.main, ['--checkpoint', path, '--epochs', 51], f'{path}: ')
    assert contents(tmp_path) == before


@pytest.mark.parametrize('keys, value', [
    (('model', 'crf.transition'), torch.zeros(3, 3)),
    (('arguments', 'word_rnn_dim'), 10),
    # The model has fewer tags
    (('maps', 'tag_map'), '\n'.join(['<start>', 'O', 'X', *(
        f'{prefix}-{name}' for prefix in 'BIES' for name in ('PER', 'LOC')), '<end>']))])
def test_a_checkpoint_of_another_shape_is_refused(trained, tmp_path, keys, value):
    path = altered(trained / LATEST, tmp_path, *keys, value=value)
    assert_one_line(inference.main, [path, '--text', 'Oslo'], f'{path}: ')
    assert_one_line(train.main, ['--checkpoint', path, '--epochs', 51], f'{path}: ')


def by_hand(path, folder, change):
    """A copy of a checkpoint that somebody has changed by hand."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / LATEST)
    return folder / LATEST


def without(name, spelling):
    """Takes a name out of a map, and another one in."""
    def change(checkpoint):
        names = checkpoint['maps'][name].split('\n')
        names[names.index(spelling)] = 'other'
        checkpoint['maps'][name] = '\n'.join(names)
    return change


def with_weight(name, value):
    def change(checkpoint):
        checkpoint['model'][name].view(-1)[-1] = value
    return change


def with_argument(name, value=None):
    def change(checkpoint):
        del checkpoint['arguments'][name]
        if value is not None:
            checkpoint['arguments'][name] = value
    return change


CHANGES = {
    **{f'{spelling!r} in {name}': without(name, spelling) for name, spelling in (
        *itertools.product(('word_map', 'char_map'), ('<pad>', '<end>', '<unk>')),
        ('char_map', ' '), ('tag_map', '<start>'), ('tag_map', '<end>'))},
    'a fourth map': lambda checkpoint: checkpoint['maps'].update(other='<pad>\na'),
    **{f'{value} in {name}': with_weight(name, value)
       for name in ('crf.emission.bias', 'word_embeds.weight') for value in (math.nan, math.inf)},
    **{f'no {name}': with_argument(name) for name in (
        'dropout', 'tag_scheme', 'tokenizer', 'word_rnn_dim', 'task', 'crf')},
    **{f'{name} of {value}': with_argument(name, value) for name, value in (
        ('word_rnn_dim', 10**9), ('char_rnn_dim', 10**9), ('word_emb_dim', 10**9))},
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_checkpoint_made_by_hand_is_refused_at_once(trained, tmp_path, change):
    path, began = by_hand(trained / LATEST, tmp_path, CHANGES[change]), time.process_time()
    state = torch.get_rng_state()
    assert_one_line(inference.main, [path, '--text', 'Oslo'], f'{path}: ')
    before = contents(tmp_path)
    if '10' not in change:
        assert_one_line(train.main, ['--checkpoint', path, '--epochs', 51], '')
    assert contents(tmp_path) == before
    assert time.process_time() - began < 5 and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('error', [KeyError, TypeError])
@pytest.mark.parametrize('part', [inference.Tagger, inference.LM_LSTM_CRF, train.Run])
def test_a_mistake_in_the_code_is_not_blamed_on_the_checkpoint(
        trained, tmp_path, monkeypatch, part, error):
    @functools.wraps(part.__init__)
    def mistaken(*_, **__):
        raise error('ours')

    monkeypatch.setattr(part, '__init__', mistaken)
    if part != train.Run:
        with pytest.raises(error, match='ours'):
            load_tagger(trained / BEST)
    if part != inference.Tagger:
        with pytest.raises(error, match='ours'):
            call(train.main, '--checkpoint', trained / LATEST, '--output_dir', tmp_path)


# --- Bad input: one line, no traceback, and a status that is not 0 ---


def assert_one_line(main, arguments, message):
    with pytest.raises(InputError) as error:
        call(main, *arguments)
    assert '\n' not in str(error.value) and message in str(error.value)


GOOD = 'a X - B-PER\n'


@pytest.mark.parametrize('text, arguments, message', [
    (None, [], 'data.txt: cannot be read: No such file or directory'),
    (GOOD + '\nb O\n', [],
     "data.txt, line 3: expected 4 columns, as in the first row, found 'b O'"),
    (GOOD, ['--tag_column', -4], 'expected tags and words in different columns, not both in -4'),
    ('a NNP\nb VBZ\n', [], 'data.txt, line 1: expected an entity tag (IOB1, IOB2, IOBES, BILOU, '
                           "BMES or BMEWO) in column -1 instead of 'NNP', found 'a NNP'"),
    ('a X - O\nb X - O\n', [], '--train_file: expected entities, found only O (see --tag_column)'),
    (GOOD, ['--task', 'pos', '--tag_column', 2], "expected tags in column 2, found only '-'"),
    (GOOD, ['--task', 'chunks'], "argument --task: invalid choice: 'chunks'"),
    (GOOD, ['--emb_file', 'none.txt'], 'none.txt: cannot be read'),
    (GOOD, ['--lr', 'fast'], "--lr: invalid float from 0 to 1000000000 value: 'fast'"),
    (GOOD, ['--lr', 'nan'], "argument --lr: invalid float from 0 to 1000000000 value: 'nan'"),
    (GOOD, ['--batch_size', '0'], 'argument --batch_size: invalid int from 1'),
    (GOOD, ['--seed', '9' * 19], 'argument --seed: invalid int from 0'),
    (GOOD, ['--device', 'cpu:0'], "argument --device: invalid choice: 'cpu:0'"),
    (GOOD, ['--no-characters'], '--no-characters: expected --no-language_models too'),
    (GOOD, ['--task', 'pos', '--criterion', 'entity_f1'], 'expected --task ner'),
    (GOOD, ['--output_dir', __file__], 'cannot be written'),
    (GOOD, ['--output_dir', ''], '--output_dir: expected a folder, found no name'),
    (GOOD, ['--output_dir', '/proc/self'], '--output_dir /proc/self: cannot be written'),
    (GOOD, ['--checkpoint', __file__], 'expected a checkpoint of train.py'),
    (GOOD, ['--checkpoint', 'none'], 'none: cannot be read: No such file'),
])
def test_bad_input_to_training(people, tmp_path, text, arguments, message):
    (tmp_path / 'data.txt').unlink()
    if text is not None:
        (tmp_path / 'data.txt').write_text(text)
    assert_one_line(train.main, [*people, *arguments], message)


@pytest.mark.parametrize('script', ['train.py', 'inference.py'])
def test_bad_input_ends_a_process_with_one_line_and_a_status(script, tmp_path):
    arguments = ['--checkpoint'] * (script == 'train.py') + [tmp_path / 'none']
    result = run_script(script, *arguments)
    message = f'error: {tmp_path / "none"}: cannot be read: No such file or directory\n'
    assert (result.stderr, result.stdout, result.returncode) == (message, '', 1)


@pytest.mark.parametrize('size', [3_000_000, 10**9])
def test_too_little_memory_is_said_in_one_line(people, size):
    result = run_script('train.py', *people, '--char_rnn_dim', size)
    message = 'error: expected more memory; smaller batches or sizes need less\n'
    assert (result.stderr, result.returncode) == (message, 1)


def test_train_file_alone_is_not_validated_on_the_sample(people, tmp_path):
    assert_one_line(train.main, ['--train_file', tmp_path / 'data.txt'],
                    '--train_file and --val_file, or none')


def test_unknown_tag_when_going_on(trained, tmp_path):
    file = write_conll(tmp_path / 'data.txt', [(['Bahamas'], ['B-ISLAND'])])
    arguments = ['--checkpoint', trained / LATEST, '--output_dir', tmp_path, '--epochs', 99]
    assert_one_line(train.main, [*arguments, '--train_file', file],
                    'data.txt, line 1: expected a tag that the model knows')


def test_tagging_needs_a_checkpoint():
    assert_one_line(inference.main, [__file__], f'{__file__}: expected a checkpoint of train.py')
    assert_one_line(inference.main, [], 'the following arguments are required: checkpoint (--help')


@pytest.mark.parametrize('rate', ['1e4', '1e9'])
def test_scores_beyond_all_bounds_end_training_in_one_line(people, rate):
    assert_one_line(train.main, [*people, '--epochs', 20, '--lr', rate], 'scores far below 1000000')


def test_a_checkpoint_in_half_precision_tags_alike(trained, tmp_path):
    def halve(checkpoint):
        checkpoint['model'] = {name: weight.half() for name, weight in checkpoint['model'].items()}

    path = by_hand(trained / BEST, tmp_path, halve)
    assert call(inference.main, path, '--text', 'Amara saw Oslo.') == call(
        inference.main, trained / BEST, '--text', 'Amara saw Oslo.')


@pytest.mark.parametrize('name, value', [
    ('tag_scheme', 'other'), ('char_emb_dim', 0), ('char_rnn_dim', -1), ('word_rnn_dim', None),
    ('word_emb_dim', 'x'), ('highway_layers', [])])
def test_an_argument_of_another_kind_is_refused(trained, tmp_path, name, value):
    def change(checkpoint):
        checkpoint['arguments'][name] = value

    path = by_hand(trained / BEST, tmp_path, change)
    assert_one_line(inference.main, [path, '--text', 'Oslo'], f'{path}: ')
