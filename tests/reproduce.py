"""Make the tables of tests/README.md again.

    python tests/reproduce.py results               how good the model is
    python tests/reproduce.py parts                 what each part buys; also writes img/parts.json
    python tests/reproduce.py steps                 the tutorial's part 2, one switch at a time
    python tests/reproduce.py ablations             decisions undone, one by one, in the small model
    python tests/reproduce.py settings              the settings that were searched
    python tests/reproduce.py sizes                 sizes, with and without language models
    python tests/reproduce.py results --jobs 2      two runs at a time, of one thread each

Each takes some hours. The corpora come from data/prepare.py: ewt, wnut17, gmb and glove. A run that
is cut off continues when the same command is given again, and one that is done is not repeated. The
table is in Markdown.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch

ROOT = Path(__file__).parent.parent
CURVES = ROOT / 'img' / 'parts.json'
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
import utils  # noqa: E402
from inference import load_tagger, score_thresholds, tag_labeled  # noqa: E402

CORPORA = {'wnut17': ('--criterion', 'entity_f1'),
           'gmb': ('--criterion', 'entity_f1'),
           'gmb8000': ('--criterion', 'entity_f1'),
           'ewt': ('--task', 'pos', '--criterion', 'accuracy'),
           'ewt4000': ('--task', 'pos', '--criterion', 'accuracy')}


# --- Variants that no user has a reason for: each replaces one function ---

def lower_case():
    """Characters in lower case."""
    read = utils.read_words_tags
    utils.read_words_tags = lambda file, tag_ind, caseless, *others, **named: read(
        file, tag_ind, True, *others, **named)


def random_batches():
    """Batches of sentences of any lengths."""
    sampler = train.SimilarLengthSampler
    train.SimilarLengthSampler = lambda words, chars, *others, **named: sampler(
        torch.zeros_like(words), torch.zeros_like(chars), *others, **named)


def norm_clipping():
    """The norm of all gradients together clipped, instead of each value."""
    def clip(optimizer, grad_clip):
        gradients = []
        for parameter in chain.from_iterable(group['params'] for group in optimizer.param_groups):
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values() if parameter.grad.is_sparse
                             else parameter.grad)
        norm = torch.nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient.mul_((grad_clip / norm).clamp(max=1))

    train.clip_gradient = clip


SMALL = ('--no-language_models', '--char_rnn_dim', '50', '--word_rnn_dim', '200')
# What a variant is called in a table: its arguments, and what it replaces
PARTS = {
    'the full model': ((), None),
    '(a) no language models': (('--no-language_models',), None),
    '(b) no characters either': (('--no-language_models', '--no-characters'), None),
    '(c) no CRF either': (('--no-language_models', '--no-characters', '--no-crf'), None),
    'the small model': (SMALL, None)}
# The tutorial's steps from (b) to the full model, where each changes one switch
STEPS = {
    '(b) and characters': (('--no-language_models', '--char_rnn_dim', '50'), None),
    'and language models': (('--char_rnn_dim', '50'), None)}
SEARCHED = {
    'learning rate 0.06': (('--lr', '0.06'), None),
    'learning rate decay 0': (('--lr_decay', '0'), None),
    'dropout 0.2': (('--dropout', '0.2'), None),
    'dropout 0.5': (('--dropout', '0.5'), None),
    'batches of 16, learning rate 0.04': (('--batch_size', '16', '--lr', '0.04'), None),
    'batches of 32, learning rate 0.06': (('--batch_size', '32', '--lr', '0.06'), None),
    'momentum 0.95, learning rate 0.015': (('--momentum', '0.95', '--lr', '0.015'), None)}
SIZES = {f'characters {size}{name}': (('--char_rnn_dim', size, *arguments), None)
         for size in ('50', '100', '300')
         for name, arguments in (('', ()), (', no language models', ('--no-language_models',)))}
DECISIONS = {
    'characters in lower case': ((), lower_case),
    'vectors cut to the training vocabulary': (('--no-expand_vocab',), None),
    'no pre-trained vectors': ((), None),
    'vectors frozen': (('--no-fine_tune_word_embeddings',), None),
    'tags learned as IOB2': (('--tag_scheme', 'iob2'), None),
    'random batches': ((), random_batches),
    'norm clipping': ((), norm_clipping),
    'small, dropout 0.5': (('--dropout', '0.5'), None),
    'small, learning rate 0.015': (('--lr', '0.015'), None)}
# Each is undone in the small model, which is fast enough for several seeds
UNDONE = {name: ((*SMALL, *arguments), change)
          for name, (arguments, change) in DECISIONS.items()}
VARIANTS = PARTS | STEPS | SEARCHED | SIZES | UNDONE


class Run(NamedTuple):
    """One run of train.py."""

    corpus: str
    variant: str
    epochs: int
    seed: int

    def folder(self, args):
        name = ''.join(c if c.isalnum() else '-' for c in self.variant)
        return args.folder / f'{self.corpus}-{name}-{self.epochs}-{self.seed}'


def on_corpora(variants, *corpora):
    """The runs of some variants on corpora, which are given as (name, epochs, seeds)."""
    return [Run(corpus, variant, epochs, seed) for corpus, epochs, seeds in corpora
            for variant in variants for seed in range(seeds)]


# The decision on which validation and test file disagree
REPEATED = 'vectors frozen'
QUICK = ('wnut17', 10, 1), ('ewt4000', 5, 1), ('gmb8000', 4, 1)
QUICK_BY_THREE = ('wnut17', 10, 3), ('ewt4000', 5, 3), ('gmb8000', 4, 3)
TABLES = {
    'results': on_corpora(['the full model'], ('wnut17', 25, 3), ('ewt', 12, 3), ('gmb', 6, 1)),
    # (a) takes nearly as long as the full model
    'parts': on_corpora(PARTS, ('wnut17', 25, 3)) + on_corpora(
        [part for part in PARTS if part[:3] != '(a)'], ('ewt', 12, 1), ('gmb', 6, 1)),
    'steps': on_corpora(STEPS, ('wnut17', 25, 3)),
    'ablations': on_corpora(['the small model', REPEATED], ('wnut17', 10, 3)) + on_corpora(
        [variant for variant in UNDONE if variant != REPEATED], ('wnut17', 10, 1)),
    'settings': on_corpora(['the full model'], *QUICK_BY_THREE) + on_corpora(SEARCHED, *QUICK),
    'sizes': on_corpora(SIZES, ('ewt4000', 5, 3)),
}


# --- Runs ---

def files(run, args):
    """The training, validation and test file of a corpus."""
    corpus, number = re.fullmatch(r'(.*?)(\d000)?', run.corpus).groups()
    paths = [args.data / corpus / f'{name}.txt' for name in ('train', 'val', 'test')]
    if number is not None:
        sentences = paths[0].read_text(encoding='utf-8').split('\n\n')[:int(number)]
        paths[0] = run.folder(args) / 'train.txt'
        paths[0].write_text('\n\n'.join(sentences) + '\n', encoding='utf-8')
    return paths


def perform(run, args):
    """Train, or go on, and score the best checkpoint; the figures go to scores.json."""
    folder = run.folder(args)
    arguments, change = VARIANTS[run.variant]
    if change is not None:
        change()
    train_file, val_file, test_file = files(run, args)
    command = ['--train_file', train_file, '--val_file', val_file, '--seed', run.seed,
               '--epochs', run.epochs, '--output_dir', folder, *CORPORA[run.corpus], *arguments]
    if run.variant != 'no pre-trained vectors':
        command += ['--emb_file', args.emb_file]
    if (folder / train.CHECKPOINT).exists():
        command = ['--checkpoint', folder / train.CHECKPOINT]
    train.main([str(argument) for argument in command])
    state = utils.load_checkpoint(folder / train.CHECKPOINT, 'cpu')
    if (state['epoch'] < run.epochs
            and state['epochs_since_improvement'] < state['arguments']['patience']):
        sys.exit(f'stopped in epoch {state["epoch"]}; repeat the command to continue')
    with open(folder / train.LOG) as file:
        log = list(csv.DictReader(file))
    tagger = load_tagger(folder / train.BEST_CHECKPOINT)
    # The least disturbed epoch is the one to compare
    scores = {'epochs': len(log), 'seconds': min(float(row['seconds']) for row in log),
              'plain': max(float(row['plain_score']) for row in log)}
    names = ('precision', 'recall', 'F1')
    for name, path in (('val', val_file), ('test', test_file)):
        words, gold = utils.read_corpus(path, tagger.task, tagger.arguments['tag_column'], 'iob2')
        tagged = tag_labeled(tagger, words, gold)
        predicted = [sentence['tags'] for sentence in tagged]
        rows, found = utils.score_task(gold, predicted, tagger.task)
        # The last row is that of all entities
        scores[name] = dict(zip(names, rows[-1][1:4]), accuracy=found['accuracy'])
    if tagger.threshold is not None:
        (_, *figures), = score_thresholds(tagged, [tagger.threshold])
        scores['chosen'] = dict(zip(names, figures), threshold=tagger.threshold)
    (folder / 'scores.json').write_text(json.dumps(scores))


def perform_apart(run, args):
    """perform, in a process with one thread, which writes to log.txt; its exit status."""
    folder = run.folder(args)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / 'scores.json').exists():
        return 0
    command = [sys.executable, __file__, 'run', '--run', json.dumps(run), '--data', args.data,
               '--emb_file', args.emb_file, '--folder', args.folder]
    with open(folder / 'log.txt', 'a') as log:
        status = subprocess.run(command, stdout=log, stderr=log,
                                env={**os.environ, 'OMP_NUM_THREADS': '1'}).returncode
    print(f'{folder}:', 'done' if status == 0 else f'exit status {status}, see log.txt',
          file=sys.stderr, flush=True)
    return status


# --- Tables ---

def spread(figures):
    """The mean of some figures in percent and, of several, their standard deviation."""
    percent = [100 * figure for figure in figures]
    return f'{mean(percent):.2f}' + (f' ± {stdev(percent):.2f}' if len(percent) > 1 else '')


def print_table(runs, args):
    """A row for each corpus and variant that has been run."""
    names = ('corpus', 'variant', 'seeds', 'epochs', 's / epoch', 'not averaged', 'validation',
             'test', 'precision', 'recall', 'threshold', 'test', 'precision', 'recall')
    print('|', ' | '.join(names), '|\n|', ' | '.join('---' for _ in names), '|')
    for corpus, variant in dict.fromkeys((run.corpus, run.variant) for run in runs):
        paths = [run.folder(args) / 'scores.json' for run in runs
                 if (run.corpus, run.variant) == (corpus, variant)]
        scores = [json.loads(path.read_text()) for path in paths if path.exists()]
        if not scores:
            continue
        figures = [('val', 'accuracy'), ('test', 'accuracy')] if corpus[:3] == 'ewt' else [
            ('val', 'F1'), ('test', 'F1'), ('test', 'precision'), ('test', 'recall'),
            ('chosen', 'threshold'), ('chosen', 'F1'), ('chosen', 'precision'),
            ('chosen', 'recall')]
        # Settings are chosen by validation alone
        figures = figures[:1] if args.table in ('settings', 'sizes') else figures
        cells = [spread([score['plain'] for score in scores])]
        cells += [spread([score[file][figure] for score in scores]) for file, figure in figures]
        cells += [''] * (9 - len(cells))
        epochs = mean(score['epochs'] for score in scores)
        seconds = mean(score['seconds'] for score in scores)
        print('|', ' | '.join((corpus, variant, str(len(scores)), f'{epochs:.0f}',
                               f'{seconds:.0f}', *cells)), '|')


def write_curves(runs, args):
    """Write img/parts.json, which draw.py draws: by corpus and variant, scores over minutes."""
    curves = {}
    for corpus, variant in dict.fromkeys((run.corpus, run.variant) for run in runs):
        logs = []
        for run in runs:
            path = run.folder(args) / train.LOG
            if (run.corpus, run.variant) == (corpus, variant) and path.exists():
                with open(path) as file:
                    logs.append(list(csv.DictReader(file)))
        if logs:
            score = CORPORA[corpus][CORPORA[corpus].index('--criterion') + 1]
            # As many epochs as all seeds have; the least disturbed one says how long they take
            curves.setdefault(corpus, {})[variant] = {
                'seconds': min(float(row['seconds']) for log in logs for row in log),
                'scores': [round(mean(float(row[score]) for row in rows), 4)
                           for rows in zip(*logs)]}
    if not curves:
        raise utils.InputError(f'{args.folder}: expected runs, found none; {CURVES} is as it was')
    CURVES.write_text(json.dumps(curves, indent=1) + '\n')


def main(argv):
    """Make a table, or perform one run of it."""
    parser = argparse.ArgumentParser(description='Make the tables of tests/README.md again.')
    parser.add_argument('table', choices=(*TABLES, 'run'))
    parser.add_argument('--data', type=Path, default=ROOT / 'data', help='folder of the corpora')
    parser.add_argument('--emb_file', type=Path,
                        default=ROOT / 'data' / 'glove' / 'glove.6B.100d.txt')
    parser.add_argument('--folder', type=Path, default=ROOT / 'data' / 'runs')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--run', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.table == 'run':
        perform(Run(*args.run), args)
        return
    with ThreadPoolExecutor(args.jobs) as pool:
        statuses = list(pool.map(lambda run: perform_apart(run, args), TABLES[args.table]))
    print_table(TABLES[args.table], args)
    if any(statuses):
        sys.exit(1)
    # The picture is of all runs or stays as it is
    if args.table == 'parts':
        write_curves(TABLES['parts'], args)


if __name__ == '__main__':
    utils.run_main(main)
