"""tests/reproduce.py and tests/baseline.py, on a corpus of five sentences."""

import argparse
import importlib.util
import json
import re

import pytest
import torch
from conftest import PEOPLE, ROOT, SMALL, write_conll

import train
import utils


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / 'tests' / f'{name}.py')
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


baseline, reproduce = load('baseline'), load('reproduce')


@pytest.fixture
def args(tmp_path, monkeypatch):
    """The arguments of a table for models that train in a moment."""
    for corpus in ('wnut17', 'gmb', 'ewt'):
        (tmp_path / corpus).mkdir()
        for name in ('train', 'val', 'test'):
            write_conll(tmp_path / corpus / f'{name}.txt', PEOPLE)
    (tmp_path / 'vectors.txt').write_text('dunston 0 1 2 3 4 5\nberlin 5 4 3 2 1 0\n')
    small = tuple(map(str, SMALL))
    monkeypatch.setattr(reproduce, 'CORPORA', {
        corpus: (*arguments, *small) for corpus, arguments in reproduce.CORPORA.items()})
    # What a variant replaces is put back afterwards
    monkeypatch.setattr(train, 'clip_gradient', train.clip_gradient)
    monkeypatch.setattr(train, 'SimilarLengthSampler', train.SimilarLengthSampler)
    monkeypatch.setattr(utils, 'read_words_tags', utils.read_words_tags)
    return argparse.Namespace(data=tmp_path, emb_file=tmp_path / 'vectors.txt', table='ablations',
                              folder=tmp_path / 'runs')


def perform(run, args):
    run.folder(args).mkdir(parents=True)
    reproduce.perform(run, args)


@pytest.mark.parametrize('variant', reproduce.VARIANTS)
def test_each_variant_trains_and_is_scored(variant, args):
    run = reproduce.Run('wnut17', variant, epochs=2, seed=0)
    perform(run, args)
    scores = json.loads((run.folder(args) / 'scores.json').read_text())
    assert scores['epochs'] == 2 and scores['seconds'] > 0
    assert set(scores['val']) == set(scores['test']) == {'precision', 'recall', 'F1', 'accuracy'}
    # Both files hold the same sentences here
    assert scores['val'] == scores['test'] and 0 <= scores['plain'] <= 1
    assert set(scores['chosen']) == {'precision', 'recall', 'F1', 'threshold'}


def test_variants_change_what_they_say(args, monkeypatch):
    reproduce.lower_case()
    assert utils.read_corpus(args.data / 'ewt/val.txt', 'ner', 3, 'iob2')[0][0][0] == 'dunston'
    reproduce.random_batches()
    lengths = torch.arange(1, 41)
    sampler = train.SimilarLengthSampler(lengths, 2 * lengths, batch_size=4)
    spans = [max(batch) - min(batch) for batch in sampler]
    assert sorted(i for batch in sampler for i in batch) == list(range(40))
    assert sum(spans) / len(spans) > 10


def test_norm_clipping_is_that_of_pytorch(args):
    reproduce.norm_clipping()
    for largest in (0.5, 100):
        gradients = []
        for sparse in (False, True):
            torch.manual_seed(0)
            layers = torch.nn.Embedding(9, 3, sparse=sparse), torch.nn.Linear(3, 2)
            layers[1](layers[0](torch.tensor([1, 2, 1]))).pow(2).sum().backward()
            parameters = [p for layer in layers for p in layer.parameters()]
            if sparse:
                train.clip_gradient(torch.optim.SGD(parameters, lr=1), largest)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, largest)
            gradients.append([p.grad.to_dense() for p in parameters])
        assert all(torch.allclose(a, b) for a, b in zip(*gradients))


def test_a_table(args, capsys):
    runs = [reproduce.Run('ewt', 'the full model', 1, seed) for seed in (0, 1)]
    runs += [reproduce.Run('gmb8000', 'random batches', 1, 0)]
    for run in runs:
        perform(run, args)
    capsys.readouterr()
    reproduce.print_table(runs + [reproduce.Run('gmb', 'the full model', 1, 0)], args)
    header, line, ewt, gmb = capsys.readouterr().out.splitlines()
    assert header.count('|') == line.count('|') == ewt.count('|') == gmb.count('|') == 15
    assert re.match(r'\| ewt \| the full model \| 2 \| 1 \| \d+ \| [\d.]+ ± [\d.]+ \|', ewt)
    # Settings are chosen by validation alone
    args.table = 'settings'
    reproduce.print_table(runs, args)
    for row in capsys.readouterr().out.splitlines()[2:]:
        assert [cell.strip() != '' for cell in row.split('|')[6:15]] == [True] * 2 + [False] * 7
    assert gmb.startswith('| gmb8000 | random batches | 1 | 1 |')


def test_curves_over_minutes(args, monkeypatch):
    """Scores are means over the seeds that have been run, times those of the fastest epoch."""
    runs = [reproduce.Run('ewt', variant, 2, seed)
            for variant in ('the full model', 'the small model') for seed in (0, 1)]
    logs = ['0,0.5,90.0\n1,0.7,80.0', '0,0.6,85.0\n1,0.9,99.0\n2,0.9,99.0', '0,0.5,20.0']
    for run, log in zip(runs, logs):
        run.folder(args).mkdir(parents=True)
        (run.folder(args) / train.LOG).write_text(f'epoch,accuracy,seconds\n{log}\n')
    monkeypatch.setattr(reproduce, 'CURVES', args.data / 'parts.json')
    reproduce.write_curves(runs, args)
    assert json.loads(reproduce.CURVES.read_text()) == {'ewt': {
        'the full model': {'seconds': 80, 'scores': [0.55, 0.8]},
        'the small model': {'seconds': 20, 'scores': [0.5]}}}


@pytest.mark.parametrize('log', [None, 'epoch,accuracy,seconds\n', 'epoch\n0\n', ''])
def test_curves_that_cannot_be_read_leave_the_earlier_ones(args, monkeypatch, log):
    monkeypatch.setattr(reproduce, 'CURVES', args.data / 'parts.json')
    reproduce.CURVES.write_text('earlier ones')
    run = reproduce.Run('ewt', 'the full model', 2, 0)
    if log is not None:
        run.folder(args).mkdir(parents=True)
        (run.folder(args) / train.LOG).write_text(log)
    with pytest.raises((utils.InputError, KeyError, ValueError)):
        reproduce.write_curves([run], args)
    assert reproduce.CURVES.read_text() == 'earlier ones'


def test_runs_that_failed_leave_the_earlier_curves(args, monkeypatch, capfd):
    monkeypatch.setattr(reproduce, 'CURVES', args.data / 'parts.json')
    reproduce.CURVES.write_text('earlier ones')
    runs = [reproduce.Run('ewt', 'the full model', 2, seed) for seed in (0, 1)]
    # Of the first one there is a log
    runs[0].folder(args).mkdir(parents=True)
    (runs[0].folder(args) / train.LOG).write_text('epoch,accuracy,seconds\n0,0.5,90\n')
    monkeypatch.setitem(reproduce.TABLES, 'parts', runs)
    monkeypatch.setattr(reproduce, 'perform_apart', lambda run, args: 1)
    with pytest.raises(SystemExit):
        reproduce.main(['parts', '--folder', str(args.folder)])
    assert reproduce.CURVES.read_text() == 'earlier ones'


def test_a_run_that_was_cut_off_goes_on(args, monkeypatch):
    run = reproduce.Run('wnut17', 'the full model', epochs=2, seed=0)
    train_epoch = train.train

    def interrupt(loader, run):
        # Ctrl-C in the second epoch
        if run.history['epoch'] == 1:
            raise KeyboardInterrupt
        return train_epoch(loader, run)

    monkeypatch.setattr(train, 'train', interrupt)
    with pytest.raises(SystemExit, match='stopped in epoch 1; repeat the command to continue'):
        perform(run, args)
    assert not (run.folder(args) / 'scores.json').exists()
    monkeypatch.setattr(train, 'train', train_epoch)
    reproduce.perform(run, args)
    assert json.loads((run.folder(args) / 'scores.json').read_text())['epochs'] == 2


def test_a_table_from_the_command_line(args, monkeypatch, capfd):
    # The first run is done already
    runs = reproduce.TABLES['results'][:3]
    runs[0].folder(args).mkdir(parents=True)
    figures = dict.fromkeys(('precision', 'recall', 'F1', 'accuracy'), 0.5)
    (runs[0].folder(args) / 'scores.json').write_text(json.dumps(
        {'epochs': 25, 'seconds': 9, 'plain': 0.5, 'val': figures, 'test': figures,
         'chosen': {**figures, 'threshold': 0.25}}))
    monkeypatch.setitem(reproduce.TABLES, 'results', runs)
    with pytest.raises(SystemExit) as ended:
        reproduce.main(['results', '--data', str(args.data / 'none'), '--folder', str(args.folder),
                        '--emb_file', str(args.emb_file), '--jobs', '2'])
    # The others could not be trained, and each failure is said
    output, errors = capfd.readouterr()
    assert ended.value.code == 1
    assert errors.count('exit status 1, see log.txt') == 2
    for run in runs[1:]:
        assert (run.folder(args) / 'log.txt').read_text().startswith('error: ')
    assert '| wnut17 | the full model | 1 | 25 | 9 | 50.00 |' in output


def test_baseline(args, capsys):
    baseline.main('ner', *(args.data / 'wnut17' / f'{name}.txt' for name in ('train', 'val')))
    assert 'all tags: accuracy 1.0000, macro F1 1.0000' in capsys.readouterr().out
