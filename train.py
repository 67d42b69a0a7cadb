"""Train a sequence labeler.

    python train.py                                         on data/sample, for named entities
    python train.py --task pos                              on data/sample, for parts of speech
    python train.py --train_file my/train.txt --val_file my/val.txt --emb_file glove.6B.100d.txt

All that one might want to change stands here, in add_arguments.
"""

import argparse
import contextlib
import csv
import math
import os
import signal
import sys
import time
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import SimilarLengthSampler, WCDataset, trim
from inference import ViterbiDecoder, evaluate, inline, load_tagger, name_tags, run_model
from models import LM_LSTM_CRF, ViterbiLoss
from utils import (ArgumentParser, AverageMeter, InputError, adjust_learning_rate, all_tags,
                   available_device, check_tags, clip_gradient, create_input_tensors, create_maps,
                   exit_status, find_entities, load_checkpoint, load_embeddings, number,
                   read_corpus, read_embeddings, save_checkpoint, score_tags, to_device)

SAMPLE = Path(__file__).parent / 'data' / 'sample'
CHECKPOINT = 'checkpoint_lm_lstm_crf.pth.tar'
BEST_CHECKPOINT = f'BEST_{CHECKPOINT}'
LOG = 'training_log.csv'
# Signals that ask to stop
INTERRUPTS = []
# What may be given anew beside --checkpoint; all else is part of what was learned
CHANGEABLE = ('train_file', 'val_file', 'test_file', 'epochs', 'batch_size', 'lr', 'lr_decay',
              'grad_clip', 'lm_weight', 'patience', 'checkpoint', 'output_dir', 'device')


def add_arguments(parser):
    """The command-line arguments, in groups."""
    switch = {'action': argparse.BooleanOptionalAction}
    count, amount, share = number(int, 1), number(float, 0), number(float, 0, 1)

    add = parser.add_argument_group('data').add_argument
    add('--task', choices=('ner', 'pos'), default='ner', help='named entities or parts of speech')
    add('--tag_column', type=number(int, 0), help='from 0 (default: 3 for ner, 1 for pos)')
    add('--train_file', help='CoNLL file to learn from (default: the one in data/sample)')
    add('--val_file', help='CoNLL file that says when to stop (default: the one in data/sample)')
    add('--test_file', help='CoNLL file to score at the end (default: the one in data/sample)')
    add('--emb_file', help='word vectors, as of GloVe or word2vec, in text format, plain or .gz')
    add('--min_word_freq', type=count, default=5, help='rarer words are <unk>')
    add('--min_char_freq', type=count, default=2, help='rarer characters are <unk>')
    add('--caseless', default=True, help='look words up in lower case', **switch)
    add('--expand_vocab', default=True, help="take in all of emb_file's words", **switch)
    add('--tag_scheme', choices=('iobes', 'iob2'), default='iobes', help='how entities are learned')

    add = parser.add_argument_group('model').add_argument
    add('--char_emb_dim', type=count, default=30, help='size of character embeddings')
    add('--word_emb_dim', type=count, help="size of word embeddings (default: emb_file's or 100)")
    add('--char_rnn_dim', type=count, default=300, help='size of each character LSTM')
    add('--word_rnn_dim', type=number(int, 2), default=300, help='size of the word BLSTM')
    add('--char_rnn_layers', type=count, default=1, help='layers of each character LSTM')
    add('--word_rnn_layers', type=count, default=1, help='layers of the word BLSTM')
    add('--highway_layers', type=count, default=1, help='layers of each highway network')
    add('--dropout', type=share, default=0.3, help='probability')
    add('--fine_tune_word_embeddings', default=True, help="change emb_file's vectors", **switch)
    add('--language_models', default=True, help='configuration (a) is without them', **switch)
    add('--characters', default=True, help='configuration (b) is without them as well', **switch)
    add('--crf', default=True, help='configuration (c) is without it as well', **switch)

    add = parser.add_argument_group('training').add_argument
    add('--epochs', type=count, default=200, help='at most so many')
    add('--batch_size', type=count, default=10, help='sentences in a step, of each process')
    add('--lr', type=amount, default=0.03, help='learning rate of the first epoch')
    add('--lr_decay', type=amount, default=0.05, help='learning rate: lr / (1 + lr_decay * epoch)')
    add('--momentum', type=share, default=0.9, help='of stochastic gradient descent')
    add('--grad_clip', type=amount, default=5.0, help='largest absolute value of a gradient')
    add('--lm_weight', type=amount, default=1.0, help="weight of the language models' losses")
    add('--patience', type=count, default=10, help='epochs without a better score to stop at')
    add('--criterion', choices=('macro_f1', 'entity_f1', 'accuracy'), default='macro_f1',
        help='score that says which epoch is best')
    add('--seed', type=number(int, 0, 2**32 - 1), default=0, help='of all that is random')

    add = parser.add_argument_group('files and machine').add_argument
    add('--checkpoint', help='checkpoint to go on from')
    add('--output_dir', default='.', help='folder for checkpoints and the log')
    add('--device', type=available_device, default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu or cuda')


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that are not None."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def parse_arguments(argv):
    """Read the command line.

    Returns:
        The arguments, as a namespace, and the checkpoint to go on from, or None. The arguments of
        that checkpoint's run stand in for the defaults.

    Raises:
        InputError: arguments that contradict one another, or the checkpoint.
    """
    parser = ArgumentParser(
        usage='%(prog)s [arguments]', formatter_class=HelpFormatter,
        description='Train LM-LSTM-CRF to tag named entities or parts of speech.')
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.checkpoint is not None:
        checkpoint = load_checkpoint(args.checkpoint, args.device)
        arguments = {**checkpoint['arguments'], 'output_dir': str(Path(args.checkpoint).parent),
                     'device': args.device}
        parser.set_defaults(**arguments)
        args = parser.parse_args(argv)
        for name, value in checkpoint['arguments'].items():
            if name not in CHANGEABLE and getattr(args, name) != value:
                raise InputError(f'--{name}: expected {value}, as in {args.checkpoint}, '
                                 f'found {getattr(args, name)}')
        return args, checkpoint

    if args.tag_column is None:
        args.tag_column = 3 if args.task == 'ner' else 1
    if args.train_file is None and args.val_file is None and args.test_file is None:
        args.train_file, args.val_file, args.test_file = (
            str(SAMPLE / f'{name}.txt') for name in ('train', 'val', 'test'))
    for name in ('train_file', 'val_file'):
        if getattr(args, name) is None:
            raise InputError(f'--{name}: expected a file beside your others, found none')
    if args.language_models and not args.characters:
        raise InputError('--no-characters: expected --no-language_models too, which need them')
    if args.criterion == 'entity_f1' and args.task == 'pos':
        raise InputError('--criterion entity_f1: expected --task ner, found pos')
    return args, None


# --- Data ---

def make_maps(train_words, tags, args):
    """Make the maps.

    Args:
        train_words: words of the training file, which alone gives the vocabulary.
        tags: tags of all labelled files, since the tags are part of the task.

    Returns:
        A dict of word_map, char_map and tag_map.
    """
    if args.task == 'ner':
        types = {entity_type for sentence in tags for entity_type, _, _ in find_entities(sentence)}
        tags = [all_tags(types, args.tag_scheme)]
    maps = create_maps(train_words, tags, args.min_word_freq, args.min_char_freq, args.caseless)
    return dict(zip(('word_map', 'char_map', 'tag_map'), maps))


def load_word_embeddings(args, maps, corpora):
    """Load --emb_file: the embeddings, the word_map expanded with its words, and lm_vocab_size.

    Raises:
        InputError: see load_embeddings; or its size is not --word_emb_dim.
    """
    _, vectors = next(read_embeddings(args.emb_file))
    if args.word_emb_dim not in (None, vectors.shape[1]):
        raise InputError(f'--word_emb_dim: expected {vectors.shape[1]}, as in {args.emb_file}, '
                         f'found {args.word_emb_dim}')
    args.word_emb_dim = vectors.shape[1]
    return load_embeddings(args.emb_file, maps['word_map'], args.expand_vocab, args.caseless,
                           corpora)


def make_loader(words, tags, maps, args, batch_size):
    """A DataLoader of batches of similar length; the tensors are on the device from the start."""
    tensors = to_device(create_input_tensors(words, tags, **maps), args.device)
    dataset = WCDataset(*tensors)
    sampler = SimilarLengthSampler(dataset.wmap_lengths, dataset.cmap_lengths, batch_size,
                                   args.seed, *rank_and_processes())
    # The sampler gives lists, so that the dataset gives whole batches
    return DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=trim)


# --- Training ---

def lm_targets(wmaps, lengths, lm_vocab_size):
    """What the language models are to predict at each word.

    The forward model predicts the next word, the backward model the one before; for `dunston checks
    in`: checks, in, <end> and <end>, dunston, checks.

    Args:
        wmaps: words, (N, L_w).
        lengths: numbers of words, with <end>, (N,).
        lm_vocab_size: other words are <unk> for the language models.

    Returns:
        Two (N, L_w) LongTensors, with -100, which the loss ignores, at <end> and at the pads.
    """
    # <end> and <unk> are the last two words of the corpus
    end, unk = lm_vocab_size - 2, lm_vocab_size - 1
    words = torch.where(wmaps < lm_vocab_size, wmaps, unk)
    following = nn.functional.pad(words[:, 1:], (0, 1))
    preceding = nn.functional.pad(words[:, :-1], (1, 0), value=end)
    no_word = torch.arange(wmaps.size(1)) >= lengths.unsqueeze(1) - 1
    no_word = no_word.to(wmaps.device, non_blocking=True)
    return following.masked_fill(no_word, -100), preceding.masked_fill(no_word, -100)


def lm_loss(lm_f_scores, lm_b_scores, wmaps, lengths):
    """The forward plus the backward language model's cross entropy, each a mean over its words."""
    return sum(nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
               for scores, targets in zip(
                   (lm_f_scores, lm_b_scores), lm_targets(wmaps, lengths, lm_f_scores.size(2))))


def rank_and_processes():
    """This process's number, and how many of them train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def weigh(counts, device):
    """What makes the mean over processes of their mean losses the mean over all that they count.

    Args:
        counts: how many sentences, words, ... this process's losses are means of; it may be 0.

    Returns:
        For each count, this count / the sum over processes * the number of processes.
    """
    if not dist.is_initialized():
        return [1.0] * len(counts)
    own = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    total = own.clone()
    dist.all_reduce(total)
    return own / total * dist.get_world_size()


def train(train_loader, model, crf_criterion, optimizer, args, epoch):
    """Train for an epoch.

    Args:
        train_loader: from make_loader.
        model, crf_criterion, optimizer: an LM_LSTM_CRF, a ViterbiLoss, and an SGD.
        args: from parse_arguments.
        epoch: its number, from 0.

    Returns:
        The mean losses of the language models (0 if there are none) and of the CRF.
    """
    model.train()
    train_loader.sampler.set_epoch(epoch)
    rank, processes = rank_and_processes()
    if processes > 1:
        # Dropout differs between the processes, and not between a run and its continuation
        torch.manual_seed(args.seed + processes * epoch + rank)
    lm_losses, vb_losses = AverageMeter(), AverageMeter()
    progress = tqdm(train_loader, desc=f'epoch {epoch}', leave=False, disable=rank > 0 or None)
    for step, batch in enumerate(progress):
        crf_scores, lm_f_scores, lm_b_scores, wmaps, tmaps, lengths, _, _ = run_model(model, batch)
        # Each sentence has as many predicted words as it has words
        sentences = 0 if train_loader.sampler.idle else len(lengths)
        words = 0 if train_loader.sampler.idle else int(lengths.sum()) - len(lengths)
        weights = weigh([sentences, words], args.device)
        vb_loss = crf_criterion(crf_scores, tmaps, lengths)
        vb_losses.update(vb_loss.detach(), sentences)
        loss = weights[0] * vb_loss
        if lm_f_scores is not None:
            both_lm_losses = lm_loss(lm_f_scores, lm_b_scores, wmaps, lengths)
            lm_losses.update(both_lm_losses.detach(), words)
            loss = loss + weights[1] * args.lm_weight * both_lm_losses
        optimizer.zero_grad()
        loss.backward()
        clip_gradient(optimizer, args.grad_clip)
        optimizer.step()
        # To show a loss, the host has to wait for a GPU
        if step % 50 == 0:
            check_loss(float(loss.detach()), epoch, step)
            progress.set_postfix(LM=f'{lm_losses.val:.2f}', Viterbi=f'{vb_losses.val:.2f}')
        if INTERRUPTS:
            raise Interrupted
    means = [total_mean(losses, args.device) for losses in (lm_losses, vb_losses)]
    check_loss(sum(means), epoch, step)
    return means


def total_mean(meter, device):
    """The mean of an AverageMeter over all processes."""
    total = torch.tensor([float(meter.sum), meter.count], dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(total)
    return (total[0] / total[1].clamp(min=1)).item()


def check_loss(loss, epoch, step):
    """Stop training when a loss is no longer a number."""
    if not math.isfinite(loss):
        raise InputError(f'epoch {epoch}, by step {step}: the loss is {loss}; try a smaller --lr '
                         'or --grad_clip (checkpoints of earlier epochs are as they were)')


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came, and the batch that was under way is done."""


def interrupt(number, _frame):
    """Note a signal; a second one stops at once."""
    if INTERRUPTS:
        raise KeyboardInterrupt
    INTERRUPTS.append(number)


@contextlib.contextmanager
def stopping_between_batches():
    """Let Ctrl-C and SIGTERM stop training only after the batch that is under way."""
    INTERRUPTS.clear()
    old = [(number, signal.signal(number, interrupt))
           for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in old:
            signal.signal(number, handler)


@torch.inference_mode()
def validate(val_loader, model, crf_criterion, vb_decoder, tag_map, task):
    """Find a model's mean Viterbi loss and, as score_tags does, its scores."""
    model.eval()
    losses, gold, predicted = AverageMeter(), [], []
    hidden = rank_and_processes()[0] > 0 or None
    for batch in tqdm(val_loader, desc='validation', leave=False, disable=hidden):
        crf_scores, _, tmaps, lengths, _, _ = run_model(model, batch)
        if val_loader.sampler.idle:
            continue
        losses.update(crf_criterion(crf_scores, tmaps, lengths), len(lengths))
        # An unrolled tag is previous * m + current
        gold += name_tags(tmaps % len(tag_map), lengths, tag_map)
        predicted += name_tags(vb_decoder.decode(crf_scores, lengths), lengths, tag_map)
    mean_loss = total_mean(losses, crf_scores.device)
    if dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (gold, predicted))
        gold, predicted = (list(chain.from_iterable(part)) for part in zip(*parts))
    return mean_loss, score_tags(gold, predicted, task)


# --- A run ---

def start(args, corpora):
    """Begin a run.

    Args:
        args: from parse_arguments.
        corpora: the words and tags of each file.

    Returns:
        The model; the maps; and the state of the run, a dict of what is saved beside them.
    """
    torch.manual_seed(args.seed)
    all_sentences = list(chain.from_iterable(tags for _, tags in corpora.values()))
    maps = make_maps(corpora['train'][0], all_sentences, args)
    lm_vocab_size, embeddings = len(maps['word_map']), None
    if args.emb_file is not None:
        words = {'training': corpora['train'][0], 'validation': corpora['val'][0]}
        embeddings, maps['word_map'], lm_vocab_size = load_word_embeddings(args, maps, words)
    args.word_emb_dim = args.word_emb_dim or 100

    model_arguments = {
        'tagset_size': len(maps['tag_map']), 'charset_size': len(maps['char_map']),
        'vocab_size': len(maps['word_map']), 'lm_vocab_size': lm_vocab_size,
        **{name: getattr(args, name) for name in (
            'char_emb_dim', 'char_rnn_dim', 'char_rnn_layers', 'word_emb_dim', 'word_rnn_dim',
            'word_rnn_layers', 'dropout', 'highway_layers', 'language_models', 'characters',
            'crf')}}
    model = LM_LSTM_CRF(**model_arguments)
    if embeddings is not None:
        model.init_word_embeddings(embeddings)
    return model, maps, {'epoch': 0, 'best_score': -1.0, 'epochs_since_improvement': 0, 'log': [],
                         'arguments': vars(args), 'model_arguments': model_arguments}


def go_on(args, corpora, checkpoint):
    """Go on with a run: the same as start, from a checkpoint.

    Raises:
        InputError: a file has a tag that the checkpoint does not know.
    """
    maps = {name: checkpoint[name] for name in ('word_map', 'char_map', 'tag_map')}
    for name, (_, tags) in corpora.items():
        check_tags(getattr(args, f'{name}_file'), tags, maps['tag_map'].__contains__,
                   f'a tag that {args.checkpoint} knows')
    model = LM_LSTM_CRF(**checkpoint['model_arguments'])
    model.load_state_dict(checkpoint['model'])
    torch.set_rng_state(checkpoint['rng_state'].cpu())
    if torch.cuda.is_available() and checkpoint['cuda_rng_state'] is not None:
        torch.cuda.set_rng_state(checkpoint['cuda_rng_state'].cpu())
    if checkpoint['epoch'] >= args.epochs:
        print(f'{checkpoint["epoch"]} epochs are done already (a larger --epochs goes on)')
    state = {name: checkpoint[name] for name in (
        'epoch', 'best_score', 'epochs_since_improvement', 'log', 'model_arguments')}
    return model, maps, {**state, 'arguments': vars(args)}


def make_optimizer(model, args, state=None):
    """Make the optimizer, and give it the state that a checkpoint has of it, if any.

    Of pre-trained vectors only those of the training words ever get a gradient. On a CPU it comes
    as these rows alone, since a step would spend half its time on 400,000 rows that do not change.
    """
    sparse = (args.fine_tune_word_embeddings and args.emb_file is not None
              and args.device == 'cpu' and not dist.is_initialized())
    model.word_embeds.sparse = sparse
    words = model.word_embeds.weight
    # A fused step reads and writes each value once; for sparse gradients there is none
    groups = [{'params': [p for p in model.parameters() if p.requires_grad and p is not words]}]
    if words.requires_grad:
        groups.append({'params': [words], 'fused': not sparse})
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, fused=True)
    if state is not None:
        optimizer.load_state_dict(state)
        # The state may come from another device
        optimizer.param_groups[-1]['fused'] = not sparse
        of_words = optimizer.state.get(words, {})
        buffer = of_words.get('momentum_buffer')
        if buffer is not None and buffer.is_sparse != sparse:
            of_words['momentum_buffer'] = buffer.to_sparse(1) if sparse else buffer.to_dense()
    return optimizer


def train_epochs(model, maps, optimizer, loaders, state, args):
    """Train until the validation score has not improved for --patience epochs, or for --epochs.

    Args:
        model, maps, state: from start or go_on; state is kept up to date.
        optimizer: an SGD.
        loaders: of the training and of the validation file.
        args: from parse_arguments.
    """
    folder = Path(args.output_dir)
    crf_criterion, vb_decoder = ViterbiLoss(maps['tag_map']), ViterbiDecoder(maps['tag_map'])
    trained = DistributedDataParallel(model) if dist.is_initialized() else model
    while state['epoch'] < args.epochs and state['epochs_since_improvement'] < args.patience:
        began = time.perf_counter()
        lr = args.lr / (1 + args.lr_decay * state['epoch'])
        adjust_learning_rate(optimizer, lr)
        lm_loss, vb_loss = train(loaders[0], trained, crf_criterion, optimizer, args,
                                 state['epoch'])
        val_loss, scores = validate(loaders[1], model, crf_criterion, vb_decoder, maps['tag_map'],
                                    args.task)
        check_loss(val_loss, state['epoch'], len(loaders[0]))
        figures = {name: score for name, score in scores.items() if name != 'rows'}
        row = {'epoch': state['epoch'], 'lm_loss': lm_loss, 'viterbi_loss': vb_loss,
               'val_viterbi_loss': val_loss, **figures, 'lr': lr,
               'seconds': time.perf_counter() - began}

        is_best = figures[args.criterion] > state['best_score']
        state['best_score'] = max(state['best_score'], figures[args.criterion])
        state['epochs_since_improvement'] = 0 if is_best else state['epochs_since_improvement'] + 1
        state['epoch'] += 1
        state['log'].append(row)
        if rank_and_processes()[0] == 0:
            # The best one first: wherever the run is cut off, it is no worse than the other says
            for name in (BEST_CHECKPOINT, CHECKPOINT) if is_best else (CHECKPOINT,):
                save_checkpoint(folder / name, model, optimizer, maps, state)
            write_log(folder / LOG, state['log'])
        print(f'epoch {row["epoch"]}: LM loss {lm_loss:.3f}, Viterbi loss {vb_loss:.3f}; '
              f'validation: Viterbi loss {val_loss:.3f}, ' + ', '.join(
                  f'{name.replace("_", " ").replace("f1", "F1")} {figure:.4f}'
                  for name, figure in figures.items())
              + f'{" (best so far)" if is_best else ""}; lr {lr:.5f}, {row["seconds"]:.1f} s',
              flush=True)
        if INTERRUPTS:
            raise Interrupted
    if state['epochs_since_improvement'] >= args.patience:
        print(f'no better score for {args.patience} epochs (a larger --patience goes on)')


def write_log(path, rows):
    """Write the figures of all epochs so far as a CSV file."""
    try:
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}') from None


def own_files(folder, checkpoint):
    """The names of files in a folder that belong to the run that goes on from a checkpoint."""
    if checkpoint is None or not Path(checkpoint).parent.samefile(folder):
        return ()
    return {CHECKPOINT: (CHECKPOINT, BEST_CHECKPOINT, LOG),
            BEST_CHECKPOINT: (BEST_CHECKPOINT, LOG)}.get(Path(checkpoint).name, ())


def keep_old_files(folder, own):
    """Rename the files of another run, all but this run's own, so that none is overwritten."""
    old = [folder / name for name in (CHECKPOINT, BEST_CHECKPOINT, LOG)
           if name not in own and (folder / name).exists()]
    number = 1
    while any(Path(f'{path}.{number}').exists() for path in old):
        number += 1
    for path in old:
        path.rename(f'{path}.{number}')
        print(f'{path} is kept as {path}.{number}')


def score_test_file(args, words, best_checkpoint):
    """Score the best checkpoint on the test file and show how it tags two sentences of it."""
    tagger = load_tagger(best_checkpoint, args.device)
    print(f'tagged by {best_checkpoint}:')
    evaluate(tagger, [args.test_file])
    for tagged in tagger.tag(words[:2]):
        print(inline(tagged, args.task))


def run(args, checkpoint):
    """Train as the arguments say; return the exit status."""
    # A GPU then multiplies matrices in TF32, which is several times as fast
    torch.set_float32_matmul_precision('high')
    corpora = {name: read_corpus(getattr(args, f'{name}_file'), args.task, args.tag_column,
                                 args.tag_scheme)
               for name in ('train', 'val', 'test') if getattr(args, f'{name}_file') is not None}
    model, maps, state = (start(args, corpora) if checkpoint is None
                          else go_on(args, corpora, checkpoint))
    model.fine_tune_word_embeddings(args.fine_tune_word_embeddings)
    model.to(args.device)
    optimizer = make_optimizer(model, args, checkpoint and checkpoint['optimizer'])
    loaders = [make_loader(*corpora[name], maps, args, batch_size)
               for name, batch_size in (('train', args.batch_size), ('val', 64))]
    print(f'{len(corpora["train"][0]):,} sentences to learn from, '
          f'{sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters to train',
          flush=True)

    folder, rank = Path(args.output_dir), rank_and_processes()[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = own_files(folder, args.checkpoint)
        if BEST_CHECKPOINT not in own:
            # The best one of the run is elsewhere; here the best of what follows is kept
            state['best_score'] = -1.0
        if rank == 0:
            keep_old_files(folder, own)
            if state['log']:
                # Without rows that are newer than the checkpoint
                write_log(folder / LOG, state['log'])
    except OSError as error:
        raise InputError(f'--output_dir {folder}: cannot be written: {error.strerror}') from None
    status = 0
    try:
        with stopping_between_batches():
            train_epochs(model, maps, optimizer, loaders, state, args)
    except Interrupted:
        status = 128 + INTERRUPTS[0]
        latest = folder / CHECKPOINT if (folder / CHECKPOINT).exists() else args.checkpoint
        print(f'stopped in epoch {state["epoch"]}', end='; ')
        print(f'to go on: python train.py --checkpoint {latest}' if latest
              else 'there is no checkpoint yet', flush=True)
    if (status != 128 + signal.SIGTERM and args.test_file is not None and rank == 0
            and (folder / BEST_CHECKPOINT).exists()):
        score_test_file(args, corpora['test'][0], folder / BEST_CHECKPOINT)
    return status


@contextlib.contextmanager
def several_processes(args):
    """Join the processes that torchrun started, if it did; only the first of them prints."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        yield
        return
    if args.device.startswith('cuda'):
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if args.device.startswith('cuda') else 'gloo')
    try:
        with contextlib.redirect_stdout(sys.stdout if dist.get_rank() == 0 else None):
            yield
        # All leave together: gloo may abort a process whose connections end under it
        dist.barrier()
    finally:
        dist.destroy_process_group()


def main(argv):
    """Train as the command line says; return the exit status."""
    args, checkpoint = parse_arguments(argv)
    with several_processes(args):
        return run(args, checkpoint)


if __name__ == '__main__':
    sys.exit(exit_status(main, sys.argv[1:]))
