"""Train a sequence labeler.

    python train.py                                         on data/sample, for named entities
    python train.py --task pos                              on data/sample, for parts of speech
    python train.py --train_file my/train.txt --val_file my/val.txt --emb_file glove.6B.100d.txt
"""

import csv
import math
import os
import shlex
import signal
import sys
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, BooleanOptionalAction
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import SimilarLengthSampler, WCDataset
from inference import (ViterbiDecoder, inline, load_tagger, name_tags, score_thresholds,
                       tag_labeled)
from models import LM_LSTM_CRF, ViterbiLoss, lm_loss
from utils import (ArgumentParser, AverageMeter, InputError, adjust_learning_rate,
                   clip_gradient, create_input_tensors, create_maps, devices, file_errors,
                   find_entities, load_checkpoint, load_embeddings, number, print_scores,
                   read_corpus, run_main, save_checkpoint, score_task, word_index, write_tags)

SAMPLE = Path(__file__).parent / 'data' / 'sample'
CHECKPOINT = 'checkpoint_lm_lstm_crf.pth.tar'
BEST_CHECKPOINT = f'BEST_{CHECKPOINT}'
LOG = 'training_log.csv'


def add_arguments(parser):
    """The command-line arguments, in groups."""
    switch = {'action': BooleanOptionalAction}
    count, amount, share = number(int, 1), number(float, 0), number(float, 0, 1)

    add = parser.add_argument_group('data').add_argument
    add('--task', choices=('ner', 'pos'), default='ner', help='named entities or parts of speech')
    add('--tag_column', type=int, help='from 0, or -1 for the last; None is -1 for ner, 1 for pos')
    add('--word_column', type=int, default=0, help='from 0, or -1 for the last')
    add('--train_file', help='CoNLL file to learn from; None is the one in data/sample')
    add('--val_file', help='CoNLL file that says when to stop, likewise')
    add('--test_file', help='CoNLL file to score at the end, likewise')
    add('--emb_file', help='word vectors, such as GloVe or word2vec, in text format, plain or .gz')
    add('--min_word_freq', type=count, default=5, help='rarer words are <unk>')
    add('--min_char_freq', type=count, default=2, help='rarer characters are <unk>')
    add('--caseless', default=True, help='lower-case the vocabulary', **switch)
    add('--expand_vocab', default=True, help="take in all of emb_file's words", **switch)
    add('--tag_scheme', choices=('iobes', 'iob2'), default='iobes', help='how entities are learned')
    add = parser.add_argument_group('model').add_argument
    add('--char_emb_dim', type=count, default=30, help='size of character embeddings')
    add('--word_emb_dim', type=count, help="size of word embeddings; None is emb_file's, or 100")
    add('--char_rnn_dim', type=count, default=300, help='size of each character LSTM')
    add('--word_rnn_dim', type=number(int, 2), default=300, help='size of the word BiLSTM')
    add('--char_rnn_layers', type=count, default=1, help='layers of each character LSTM')
    add('--word_rnn_layers', type=count, default=1, help='layers of the word BiLSTM')
    add('--highway_layers', type=count, default=1, help='layers of each highway network')
    add('--dropout', type=share, default=0.3, help='probability')
    add('--fine_tune_word_embeddings', default=True, help="change emb_file's vectors", **switch)
    add('--language_models', default=True, help="train them too; off in README's (a)", **switch)
    add('--characters', default=True, help="read them; off, with the above, in (b)", **switch)
    add('--crf', default=True, help="learn transitions; off, with both, in (c)", **switch)
    add = parser.add_argument_group('training').add_argument
    add('--epochs', type=count, default=200, help='largest number of epochs')
    add('--batch_size', type=count, default=10, help='sentences in a step of each process')
    add('--lr', type=amount, default=0.03, help='learning rate of the first epoch')
    add('--lr_decay', type=amount, default=0.05, help='learning rate: lr / (1 + lr_decay * epoch)')
    add('--momentum', type=share, default=0.9, help='of stochastic gradient descent')
    add('--grad_clip', type=amount, default=5.0, help='largest absolute value of a gradient')
    add('--ema', type=share, default=0.998, help='decay of the average of weights; 0: no average')
    add('--lm_weight', type=amount, default=1.0, help="weight of the language models' losses")
    add('--patience', type=count, default=10, help='epochs without a better score before it stops')
    add('--criterion', choices=('macro_f1', 'entity_f1', 'accuracy'), default='macro_f1',
        help='score that says which epoch is best')
    add('--seed', type=number(int, 0, 2**32 - 1), default=0, help='seed of all random numbers')
    add = parser.add_argument_group('files and machine').add_argument
    add('--checkpoint', help='checkpoint to continue from')
    add('--output_dir', default='.', help="folder to save in (else --checkpoint's)")
    add('--device', choices=devices(), default=devices()[0], help='cpu or cuda')


def main(argv):
    """Train as the command line says."""
    args, checkpoint = parse_arguments(argv)
    rank, processes = join_processes(args)
    torch.manual_seed(args.seed)

    # Files: for each of them, the words and the tags of its sentences
    known_tags = None if checkpoint is None else checkpoint['maps']['tag_map']
    files = {'train': args.train_file, 'val': args.val_file, 'test': args.test_file}
    corpora = {name: read_corpus(file, args.task, args.tag_column, args.tag_scheme,
                                 args.word_column, known_tags)
               for name, file in files.items() if file is not None}

    # Maps: those of the training file, or of the checkpoint to continue from
    maps, lm_vocab_size, embeddings = make_maps(corpora, checkpoint, args)

    # Tensors, in batches of sentences of similar length
    train_loader = make_loader(*corpora['train'], maps, args.batch_size, args.seed, rank, processes)
    val_loader = make_loader(*corpora['val'], maps, batch_size=32)

    # Model; with --checkpoint, parse_arguments has taken the sizes from it
    model_arguments = dict(
        tagset_size=len(maps['tag_map']), charset_size=len(maps['char_map']),
        vocab_size=len(maps['word_map']), lm_vocab_size=lm_vocab_size,
        **{name: value for name, value in vars(args).items() if name in MODEL_ARGUMENTS})
    model = LM_LSTM_CRF(**model_arguments)
    if embeddings is not None:
        model.init_word_embeddings(embeddings)
    model.fine_tune_word_embeddings(args.fine_tune_word_embeddings)
    optimizer = make_optimizer(model.to(args.device), args)

    # Loop, from the first epoch or from where the checkpoint stopped
    state = {'epoch': 0, 'best_score': -1.0, 'epochs_since_improvement': 0, 'log': [],
             'arguments': vars(args), 'model_arguments': model_arguments}
    averaged = average_weights(model, train_loader, args)
    with locked(args.output_dir, rank):
        prepare_run(checkpoint, model, averaged, optimizer, state, args, rank)
        try:
            train_epochs(
                train_loader, val_loader, model, averaged, optimizer, maps, state, args, rank)
        except KeyboardInterrupt:
            # What was learned until then is tested all the same, unless other processes wait
            say_how_to_continue(args, state)
            if dist.is_initialized():
                raise
        finish(args, rank)
    if dist.is_initialized():
        # Leave together: gloo may abort a process whose connections end under it
        dist.barrier()
        dist.destroy_process_group()


def train(train_loader, model, vb_criterion, optimizer, averaged, args, epoch):
    """Train for an epoch; returns two means: the language models' loss (or 0), the Viterbi loss."""
    model.train()
    lm_losses, vb_losses = AverageMeter(), AverageMeter()
    progress = show_progress(train_loader, f'epoch {epoch}')
    for step, batch in enumerate(progress):
        batch = batch.to(args.device)

        # Forward
        crf_scores, lm_f_scores, lm_b_scores = model(**batch._asdict())

        # The total loss: that of the CRF, which is the goal, and those of the language models
        loss = vb_criterion(crf_scores, batch.tmaps, batch.wmap_lengths)
        vb_losses.update(loss.detach(), len(batch.wmaps))
        if lm_f_scores is not None:
            sum_of_two = lm_loss(lm_f_scores, lm_b_scores, batch.wmaps, batch.wmap_lengths)
            loss = loss + args.lm_weight * sum_of_two
            # Something is predicted at each word, but nothing at <end>
            lm_losses.update(sum_of_two.detach(), int((batch.wmap_lengths - 1).sum()))

        # Backward, clip, step, average
        optimizer.zero_grad()
        loss.backward()
        clip_gradient(optimizer, args.grad_clip)
        optimizer.step()
        if step % 2 == 0:  # half as costly as every time
            averaged.update_parameters(model)

        # Not every time, since a GPU's loss has to be waited for
        if step % 50 == 0:
            progress.set_postfix(LM=f'{lm_losses.val:.2f}', Viterbi=f'{vb_losses.val:.2f}')
    return float(lm_losses.avg), float(vb_losses.avg)


@torch.inference_mode()
def validate(val_loader, model, vb_criterion, vb_decoder, tag_map, args):
    """Find a model's mean Viterbi loss and its scores, by name."""
    model.eval()
    vb_losses, gold, predicted = AverageMeter(), [], []
    for batch in show_progress(val_loader, 'validation'):
        batch = batch.to(args.device)
        crf_scores, _, _ = model(**batch._asdict())
        vb_loss = vb_criterion(crf_scores, batch.tmaps, batch.wmap_lengths)
        vb_losses.update(vb_loss, len(batch.wmaps))

        decoded = vb_decoder.decode(crf_scores, batch.wmap_lengths)
        predicted += name_tags(decoded, batch.wmap_lengths, tag_map)
        # The current tag of previous * m + current
        gold += name_tags(batch.tmaps % len(tag_map), batch.wmap_lengths, tag_map)
    _, scores = score_task(gold, predicted, args.task)
    return float(vb_losses.avg), scores


def train_epochs(train_loader, val_loader, model, averaged, optimizer, maps, state, args, rank):
    """Train for --epochs, or until the score has not improved for --patience of them."""
    tag_map = maps['tag_map']
    scheme = args.tag_scheme if args.task == 'ner' else None
    vb_criterion, vb_decoder = ViterbiLoss(tag_map), ViterbiDecoder(tag_map, scheme).to(args.device)
    parallel_model = DistributedDataParallel(model) if dist.is_initialized() else model
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f'{len(train_loader.dataset):,} sentences, {size:,} parameters to train', flush=True)

    while state['epoch'] < args.epochs and state['epochs_since_improvement'] < args.patience:
        epoch, began = state['epoch'], time.perf_counter()
        lr = args.lr / (1 + args.lr_decay * epoch)
        adjust_learning_rate(optimizer, lr)
        # Seeded by epoch, a continued run draws what an unbroken one would; each process differs
        torch.manual_seed((args.seed * 100_003 + epoch) * 1009 + rank)
        train_loader.sampler.set_epoch(epoch)
        mean_lm_loss, mean_vb_loss = train(
            train_loader, parallel_model, vb_criterion, optimizer, averaged, args, epoch)
        # The averaged weights are kept and used; the score of the others is only printed
        results = [validate(val_loader, weights, vb_criterion, vb_decoder, tag_map, args)
                   for weights in (averaged.module, model)]
        if dist.is_initialized():
            # All take the first one's results, to stop together (the call fills a list)
            dist.broadcast_object_list(results)
        (val_loss, scores), (_, plain) = results
        if not math.isfinite(mean_lm_loss + mean_vb_loss + val_loss):
            raise InputError(f'epoch {epoch}: the loss is not finite; try a smaller --lr')

        is_best = scores[args.criterion] > state['best_score']
        state['best_score'] = max(scores[args.criterion], state['best_score'])
        state['epochs_since_improvement'] = 0 if is_best else state['epochs_since_improvement'] + 1
        state['epoch'] = epoch + 1
        state['log'].append({
            'epoch': epoch, 'lm_loss': mean_lm_loss, 'viterbi_loss': mean_vb_loss,
            'val_viterbi_loss': val_loss, **scores, 'plain_score': plain[args.criterion], 'lr': lr,
            'seconds': time.perf_counter() - began})
        if rank == 0:
            save_epoch(model, averaged, optimizer, maps, state, args, is_best)
    if state['epochs_since_improvement'] >= args.patience:
        print(f'no better score for {args.patience} epochs (a larger --patience continues)')


# --- What main and the loop call ---

def make_maps(corpora, checkpoint, args):
    """The maps, new or a checkpoint's; lm_vocab_size; embeddings or None. Sets word_emb_dim."""
    for name in ('train', 'val'):
        if args.task == 'ner' and all(tag == 'O' for row in corpora[name][1] for tag in row):
            raise InputError(f'--{name}_file: expected entities, found only O (see --tag_column)')
    if checkpoint is not None:
        return checkpoint['maps'], checkpoint['model_arguments']['lm_vocab_size'], None
    # Words come from the training file alone; tags, which define the task, from all files
    tags = [sentence_tags for _, file_tags in corpora.values() for sentence_tags in file_tags]
    if args.task == 'ner':
        # A type has all its tags, for an entity of one word (S) and one of three (B, I, E), say
        types = {entity_type for row in tags for entity_type, _, _ in find_entities(row)}
        tags = [write_tags([(name, 0, 1), (name, 1, 4)], 5, args.tag_scheme) for name in types]
    word_map, char_map, tag_map = create_maps(
        corpora['train'][0], tags, args.min_word_freq, args.min_char_freq, args.caseless)
    lm_vocab_size, embeddings = len(word_map), None
    if args.emb_file is not None:
        embeddings, word_map, lm_vocab_size = load_embeddings(
            args.emb_file, word_map, args.expand_vocab, args.caseless)
        given, args.word_emb_dim = args.word_emb_dim, embeddings.size(1)
        if given not in (None, args.word_emb_dim):
            raise InputError(f'--word_emb_dim: expected {args.word_emb_dim}, found {given}')
        # Rows that training changes, those of the training file's words, come first
        used = {word_index(word, word_map) for row in corpora['train'][0] for word in row}
        order = sorted(range(len(word_map)), key=lambda i: i >= lm_vocab_size and i not in used)
        names, embeddings = list(word_map), embeddings[order]
        word_map = {names[old]: new for new, old in enumerate(order)}
    args.word_emb_dim = args.word_emb_dim or 100
    maps = {'word_map': word_map, 'char_map': char_map, 'tag_map': tag_map}
    return maps, lm_vocab_size, embeddings


def make_loader(words, tags, maps, batch_size, seed=0, rank=0, processes=1):
    """A DataLoader of batches of similar length."""
    batch = create_input_tensors(words, tags, **maps)
    sampler = SimilarLengthSampler(
        batch.wmap_lengths, batch.cmap_lengths, batch_size, seed, rank, processes)
    return DataLoader(WCDataset(*batch), batch_size=None, sampler=sampler)


def make_optimizer(model, args):
    """Make the optimizer: stochastic gradient descent with momentum."""
    # Of pre-trained vectors only the words of a batch get a gradient, as separate rows, or a CPU
    # would spend half of a step on 400,000 others. (A GPU would not merge the rows of momentum.)
    words = model.word_embeds.weight
    model.word_embeds.sparse = (args.emb_file is not None and words.requires_grad
                                and words.device.type == 'cpu' and not dist.is_initialized())
    # A fused step reads and writes each value once, but can't take rows alone
    others = [p for p in model.parameters() if p.requires_grad and p is not words]
    groups = [{'params': others, 'fused': True}]
    if words.requires_grad:
        groups.append({'params': [words], 'fused': not model.word_embeds.sparse})
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum)


def average_weights(model, train_loader, args):
    """A model whose weights are the moving average of another's, which it is updated with (EMA)."""
    def move(averages, weights, _):
        # At first it forgets faster, or it would long remember the beginning
        updates = int(averaged.n_averaged)
        decay = min(args.ema, (1 + updates) / (10 + updates))
        # Vectors of words that the training file lacks never change
        for tensors in (averages, weights):
            tensors[words] = tensors[words][:averaged.rows]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    words = [name for name, _ in model.named_parameters()].index('word_embeds.weight')
    averaged = AveragedModel(model, multi_avg_fn=move)
    averaged.module = averaged.module if args.ema > 0 else model
    averaged.rows = int(train_loader.dataset.sentences.wmaps.max()) + 1
    return averaged


def finish(args, rank):
    """Find the threshold for entities, write it into the best checkpoint, score the test file."""
    path, file = Path(args.output_dir) / BEST_CHECKPOINT, args.test_file or args.val_file
    if rank > 0 or not path.exists():
        print(f'nothing to score: there is no {path}')
        return
    tagger = load_tagger(path, args.device)
    if args.task == 'ner':
        # Half of the best F1 in validation, in steps of 0.05
        rows = score_thresholds(tag_labeled(tagger, args.val_file)[1])
        threshold = max(round(10 * max(f1 for *_, f1 in rows)), 1) / 20
        save_checkpoint(path, {**load_checkpoint(path), 'threshold': threshold})
    gold, tagged = tag_labeled(tagger, file)
    print(f'{file}, tagged by {path}:')
    scores = print_scores(gold, [sentence['tags'] for sentence in tagged], args.task)
    print(*(inline(sentence, args.task) for sentence in tagged[:2]), sep='\n')
    if args.task == 'ner':
        row, = score_thresholds(tagged, [threshold])
        print('--threshold best is {:.2f}: precision {:.4f}, recall {:.4f}, F1 {:.4f}'.format(*row),
              f"instead of Viterbi's {scores['entity_f1']:.4f}")


def show_progress(loader, title):
    """A progress bar, only on a terminal, and only that of the first process."""
    hidden = dist.is_initialized() and dist.get_rank() > 0
    return tqdm(loader, title, leave=False, disable=hidden or None)


# --- Arguments ---

# What may be given anew beside --checkpoint; all else is part of what was learned
CHANGEABLE = ('train_file', 'val_file', 'test_file', 'epochs', 'batch_size', 'lr', 'lr_decay',
              'grad_clip', 'lm_weight', 'patience', 'checkpoint', 'output_dir', 'device')
# What the model takes as it is
MODEL_ARGUMENTS = ('char_emb_dim', 'word_emb_dim', 'char_rnn_dim', 'word_rnn_dim', 'dropout',
                   'char_rnn_layers', 'word_rnn_layers', 'highway_layers', 'language_models',
                   'characters', 'crf')


def parse_arguments(argv):
    """Read the command line, as a namespace, and the checkpoint to continue from, or None."""
    parser = ArgumentParser(
        usage='%(prog)s [arguments]', formatter_class=ArgumentDefaultsHelpFormatter,
        description='Train LM-LSTM-CRF to tag named entities or parts of speech.')
    add_arguments(parser)
    args, checkpoint = parser.parse_args(argv), None
    if args.checkpoint is not None:
        # The arguments of its run are used in place of the defaults
        checkpoint = load_checkpoint(args.checkpoint)
        if vars(args).keys() != checkpoint['arguments'].keys():
            raise InputError(f'{args.checkpoint}: expected the arguments of train.py, found others')
        parser.set_defaults(**{**checkpoint['arguments'], 'device': args.device,
                               'output_dir': str(Path(args.checkpoint).parent)})
        args = parser.parse_args(argv)
        for name, value in checkpoint['arguments'].items():
            if name not in CHANGEABLE and vars(args)[name] != value:
                raise InputError(f'--{name}: expected {value}, as before, found {vars(args)[name]}')

    if args.tag_column is None:
        args.tag_column = -1 if args.task == 'ner' else 1
    if args.train_file is None and args.val_file is None and args.test_file is None:
        args.train_file, args.val_file, args.test_file = (
            str(SAMPLE / f'{name}.txt') for name in ('train', 'val', 'test'))
    if args.train_file is None or args.val_file is None:
        raise InputError('expected both --train_file and --val_file, or none, found one')
    if args.language_models and not args.characters:
        raise InputError('--no-characters: expected --no-language_models too, which need them')
    if args.criterion == 'entity_f1' and args.task == 'pos':
        raise InputError('--criterion entity_f1: expected --task ner, found pos')
    return args, checkpoint


# --- A run's files ---

def prepare_run(checkpoint, model, averaged, optimizer, state, args, rank):
    """Continue from a checkpoint, if there is one; rename the files of other runs in the folder."""
    folder, files, own = Path(args.output_dir), (CHECKPOINT, BEST_CHECKPOINT, LOG), ()
    if checkpoint is not None:
        restore(checkpoint, model, averaged, optimizer, args.checkpoint)
        for name in ('epoch', 'best_score', 'epochs_since_improvement', 'log'):
            state[name] = checkpoint[name]
        if state['epoch'] >= args.epochs:
            print(f'{state["epoch"]} epochs are done already (a larger --epochs continues)')
        path, val_file = Path(args.checkpoint), Path(checkpoint['arguments']['val_file'])
        if (path.resolve().parent == folder.resolve() and path.name in (CHECKPOINT, BEST_CHECKPOINT)
                and (folder / BEST_CHECKPOINT).exists()
                and val_file.resolve() == Path(args.val_file).resolve()):
            own = files if path.name == CHECKPOINT else (BEST_CHECKPOINT,)
        else:
            # Its best checkpoint is elsewhere, or gone, or the best for another file
            state.update(best_score=-1.0, epochs_since_improvement=0)
            print('the best score and the patience start anew')
    with file_errors(f'--output_dir {folder}', 'written'):
        old = [folder / name for name in files
               if rank == 0 and name not in own and (folder / name).exists()]
        newest = time.localtime(max((path.stat().st_mtime for path in old), default=0))
        for path in old:
            kept = Path(f'{path}.{time.strftime("%Y%m%d-%H%M%S", newest)}')
            if kept.exists():
                raise InputError(f'{kept}: expected no such file, found one in the way')
            path.rename(kept)
            print(f'{path} is kept as {kept}')
            if args.checkpoint and path.resolve() == Path(args.checkpoint).resolve():
                args.checkpoint = str(kept)


@contextmanager
def locked(folder, rank):
    """Make a folder and keep other runs out of it; the system forgets the lock with the process."""
    with file_errors(f'--output_dir {folder}', 'written'):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # Better now than after an epoch
    if rank > 0 or os.name == 'nt':  # Windows has no such locks
        yield
        return
    import fcntl
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f'--output_dir {folder}: expected no other run in it, found one') from None
    except OSError:
        pass  # A file system without locks
    try:
        yield
    finally:
        os.close(handle)


def restore(checkpoint, model, averaged, optimizer, path):
    """Bring a model, its averaged weights and its optimizer to where a checkpoint has them."""
    with file_errors(path, 'used'), torch.no_grad():
        averaged.module.load_state_dict(checkpoint['model'])
        averaged.n_averaged.fill_(checkpoint['updates'])
        model.load_state_dict(checkpoint['model'])
        for name, weight in model.named_parameters():
            weight[:len(checkpoint['plain'][name])] = checkpoint['plain'][name]
        averaged.rows = max(averaged.rows, len(checkpoint['plain']['word_embeds.weight']))
        optimizer.load_state_dict({**optimizer.state_dict(), 'state': checkpoint['optimizer']})
        momentum = optimizer.state.get(model.word_embeds.weight, {})
        if not model.word_embeds.sparse and 'momentum_buffer' in momentum:
            momentum['momentum_buffer'] = momentum['momentum_buffer'].to_dense()  # from rows


def save_epoch(model, averaged, optimizer, maps, state, args, is_best):
    """Save an epoch and say how it went; the latest checkpoint, to continue from, comes last."""
    folder, row = Path(args.output_dir), state['log'][-1]
    plain = {name: weight.detach() for name, weight in model.named_parameters()}
    plain['word_embeds.weight'] = plain['word_embeds.weight'][:averaged.rows].clone()
    checkpoint = {'model': averaged.module.state_dict(), 'plain': plain,
                  'updates': int(averaged.n_averaged), 'optimizer': optimizer.state_dict()['state'],
                  'maps': maps, **state}
    if is_best:
        save_checkpoint(folder / BEST_CHECKPOINT, checkpoint)
    with file_errors(folder / LOG, 'written'), open(folder / LOG, 'w', newline='') as file:
        writer = csv.DictWriter(file, row.keys())
        writer.writeheader()
        writer.writerows(state['log'])
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    scores = ', '.join(f'{name.replace("_", " ").replace("f1", "F1")} {row[name]:.4f}'
                       + f' (not averaged {row["plain_score"]:.4f})' * (name == args.criterion)
                       for name in ('macro_f1', 'entity_f1', 'accuracy') if name in row)
    print(f'epoch {row["epoch"]}: LM loss {row["lm_loss"]:.3f}, Viterbi loss '
          f'{row["viterbi_loss"]:.3f}; validation: Viterbi loss {row["val_viterbi_loss"]:.3f}, '
          f'{scores}{" (best so far)" if is_best else ""}; lr {row["lr"]:.5f}, '
          f'{row["seconds"]:.1f} s', flush=True)


def say_how_to_continue(args, state):
    """After Ctrl-C, name the checkpoint of the last whole epoch."""
    path = Path(args.output_dir) / CHECKPOINT
    path = path if path.exists() else args.checkpoint
    advice = ('there is no checkpoint yet' if path is None else
              f'to continue: python train.py --checkpoint {shlex.quote(str(path))}')
    print(f'stopped in epoch {state["epoch"]}; {advice}', flush=True)


# --- Several processes ---

def join_processes(args):
    """Join torchrun's processes, of which the first prints; this one's number, and how many."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return 0, 1
    if args.device.startswith('cuda'):
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if args.device.startswith('cuda') else 'gloo')
    # When one process ends, torchrun tells the others so
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if dist.get_rank() > 0:
        sys.stdout = open(os.devnull, 'w')
    return dist.get_rank(), dist.get_world_size()


if __name__ == '__main__':
    run_main(main)
