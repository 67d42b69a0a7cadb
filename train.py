"""Train a sequence labeler.

    python train.py                                         on data/sample, for named entities
    python train.py --task pos                              on data/sample, for parts of speech
    python train.py --train_file my/train.txt --val_file my/val.txt --emb_file glove.6B.100d.txt
"""

import copy
import math
import os
import shlex
import signal
import sys
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, BooleanOptionalAction, Namespace
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import SimilarLengthSampler, WCDataset
from inference import (TOKENIZERS, ViterbiDecoder, find_tokens, inline, load_tagger, make_batches,
                       model_arguments, name_tags, score_thresholds, tag_labeled)
from models import LM_LSTM_CRF, ViterbiLoss, lm_loss
from utils import (ArgumentParser, AverageMeter, InputError, adjust_learning_rate,
                   clip_gradient, create_maps, devices, encode, file_errors, find_entities,
                   in_range, load_checkpoint, load_embeddings, print_scores, read_corpus, readable,
                   run_main, save_checkpoint, score_task, word_index, word_starts, write_tags)

SAMPLE = Path(__file__).parent / 'data' / 'sample'
CHECKPOINT, LOG = 'checkpoint_lm_lstm_crf.pth.tar', 'training_log.csv'
BEST_CHECKPOINT = f'BEST_{CHECKPOINT}'

def add_arguments(parser):
    """The command-line arguments, in groups."""
    switch = {'action': BooleanOptionalAction}
    count, amount, share = in_range(int, 1), in_range(float, 0), in_range(float, 0, 1)
    add = parser.add_argument_group('data').add_argument
    add('--task', choices=('ner', 'pos'), default='ner', help='named entities or parts of speech')
    add('--tag_column', type=int, help='from 0, or -1 for the last; None is -1 for ner, 1 for pos')
    add('--word_column', type=int, default=0, help='from 0, or -1 for the last')
    add('--train_file', help='CoNLL file to learn from; without any file, those of data/sample')
    add('--val_file', help='CoNLL file that says when to stop')
    add('--test_file', help='CoNLL file to score at the end; None is val_file')
    add('--emb_file', help='word vectors, such as GloVe or word2vec, in text format, plain or .gz')
    add('--min_word_freq', type=count, default=5, help='rarer words are <unk>')
    add('--min_char_freq', type=count, default=2, help='rarer characters are <unk>')
    add('--caseless', default=True, help='lower-case the vocabulary', **switch)
    add('--expand_vocab', default=True, help="take in all of emb_file's words", **switch)
    add('--tokenizer', choices=tuple(TOKENIZERS), default='words', help='how to split raw text')
    add('--tag_scheme', choices=('iobes', 'iob2'), default='iobes', help='how entities are learned')
    add = parser.add_argument_group('model').add_argument
    add('--char_emb_dim', type=count, default=30, help='size of character embeddings')
    add('--word_emb_dim', type=count, help="size of word embeddings; None is emb_file's, or 100")
    add('--char_rnn_dim', type=count, default=300, help='size of each character LSTM')
    add('--word_rnn_dim', type=in_range(int, 2), default=300, help='size of the word BiLSTM')
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
    add('--seed', type=in_range(int, 0, 2**32 - 1), default=0, help='seed of all random numbers')
    add = parser.add_argument_group('files and machine').add_argument
    add('--checkpoint', help='checkpoint to continue from')
    add('--output_dir', default='.', help="folder to save in (else --checkpoint's)")
    add('--device', choices=devices(), default=devices()[0], help='cpu or cuda')

def main(argv):
    """Train as the command line says."""
    args, checkpoint = parse_arguments(argv)
    join_processes(args)
    torch.manual_seed(args.seed)

    # Files: for each of them, the words and the tags of its sentences
    files, known_tags = list_files(args), checkpoint and checkpoint['maps']['tag_map']
    corpora = [read_corpus(file, args.task, args.tag_column, args.tag_scheme, args.word_column,
                           known_tags) for file in files]
    describe(files, corpora, args)

    # Maps, and vectors of the words: new ones, or the checkpoint's
    maps, vectors = make_maps(corpora, checkpoint, args)

    # Tensors, in batches of sentences of similar length
    train_loader = make_loader(*corpora[0], maps, args, training=True)
    val_loader = make_loader(*corpora[1], maps, args)

    # The run: a model and all that trains it, from the first epoch or from the checkpoint's
    run = Run(args, maps, vectors, train_loader.dataset)
    with locked(args.output_dir):
        prepare_folder(run, checkpoint)
        try:
            train_epochs(train_loader, val_loader, run)
        except KeyboardInterrupt:
            say_how_to_continue(run)
            # What was learned until then is tested all the same, unless other processes wait
            if dist.is_initialized():
                raise
        first = process_number() == 0
        if dist.is_initialized():
            # Leave together: gloo may abort a process when another one hangs up or takes long
            dist.barrier()
            dist.destroy_process_group()
        if first:
            finish(args, files, corpora)

def train(train_loader, run):
    """Train for an epoch; returns two means: the language models' loss (or 0), the Viterbi loss."""
    args, model = run.args, run.parallel_model
    model.train()
    lm_losses, vb_losses = AverageMeter(), AverageMeter()
    progress = tqdm(train_loader, f'epoch {run.history["epoch"]}', leave=False,
                    disable=process_number() > 0 or None)  # only on a terminal
    for step, batch in enumerate(progress):
        batch = batch.to(args.device)
        crf_scores, lm_f_scores, lm_b_scores = model(**batch._asdict())
        # The total loss: the CRF's, which is the goal, and those of the language models
        loss = run.vb_criterion(crf_scores, batch.tmaps, batch.wmap_lengths)
        vb_losses.update(loss.detach(), len(batch.wmaps))
        if lm_f_scores is not None:
            sum_of_two = lm_loss(lm_f_scores, lm_b_scores, batch.wmaps, batch.wmap_lengths)
            loss = loss + args.lm_weight * sum_of_two
            # Something is predicted at each word, but nothing at <end>
            lm_losses.update(sum_of_two.detach(), int((batch.wmap_lengths - 1).sum()))
        run.optimizer.zero_grad()
        loss.backward()
        clip_gradient(run.optimizer, args.grad_clip)
        run.optimizer.step()
        if step % 2 == 0:  # half as costly as every time
            run.average.update(run.model)
        if step % 50 == 0 and not progress.disable:  # rarely, since a GPU has to be waited for
            progress.set_postfix(LM=f'{lm_losses.val:.2f}', Viterbi=f'{vb_losses.val:.2f}')
    return lm_losses.avg, vb_losses.avg

@torch.inference_mode()
def validate(val_loader, model, run):
    """Find the mean Viterbi loss and the scores, by name, of the run's model or of its average."""
    model.eval()
    tag_map, vb_losses, gold, predicted = run.maps['tag_map'], AverageMeter(), [], []
    for batch in tqdm(val_loader, 'validation', leave=False, disable=process_number() > 0 or None):
        batch = batch.to(run.args.device)
        crf_scores, _, _ = model(**batch._asdict())
        vb_loss = run.vb_criterion(crf_scores, batch.tmaps, batch.wmap_lengths)
        vb_losses.update(vb_loss, len(batch.wmaps))
        decoded = run.vb_decoder.decode(crf_scores, batch.wmap_lengths)
        predicted += name_tags(decoded, batch.wmap_lengths, tag_map)
        # The current tag of previous * m + current
        gold += name_tags(batch.tmaps % len(tag_map), batch.wmap_lengths, tag_map)
    return float(vb_losses.avg), score_task(gold, predicted, run.args.task)[1]

def train_epochs(train_loader, val_loader, run):
    """Train for --epochs, or until the score has not improved for --patience of them."""
    args, history = run.args, run.history
    size = sum(weight.numel() for weight in run.model.parameters() if weight.requires_grad)
    print(f'{len(train_loader.dataset):,} sentences, {size:,} parameters to train', flush=True)
    while history['epoch'] < args.epochs and history['epochs_since_improvement'] < args.patience:
        epoch, began = history['epoch'], time.perf_counter()
        lr = args.lr / (1 + args.lr_decay * epoch)
        adjust_learning_rate(run.optimizer, lr)
        # Seeded by epoch, so that a continued run draws the same; each process draws its own
        torch.manual_seed((args.seed * 100_003 + epoch) * 1009 + process_number())
        train_loader.sampler.set_epoch(epoch)
        mean_lm_loss, mean_vb_loss = map(float, train(train_loader, run))
        # The averaged weights are kept and used; the score of the others is only printed
        models = [run.average.model, run.model] if args.ema > 0 else [run.model]
        results = [validate(val_loader, model, run) for model in models]
        if dist.is_initialized():
            # All take the first one's results, to stop together (the call fills a list)
            dist.broadcast_object_list(results)
        (val_loss, scores), (_, plain_scores) = results[0], results[-1]
        if not math.isfinite(mean_lm_loss + mean_vb_loss + val_loss):
            raise InputError(f'epoch {epoch}: the loss is not finite; try a smaller --lr')
        score, since = scores[args.criterion], history['epochs_since_improvement'] + 1
        is_best = score > history['best_score']
        history.update(epoch=epoch + 1, best_score=max(score, history['best_score']),
                       epochs_since_improvement=0 if is_best else since)
        history['log'].append({
            'epoch': epoch, 'lm_loss': mean_lm_loss, 'viterbi_loss': mean_vb_loss,
            'val_viterbi_loss': val_loss, **scores, 'plain_score': plain_scores[args.criterion],
            'lr': lr, 'seconds': time.perf_counter() - began})
        if process_number() == 0:
            save_epoch(run, is_best)
            print_epoch(history['log'][-1], args.criterion, is_best)
    if history['epochs_since_improvement'] >= args.patience:
        print(f'no better score for {args.patience} epochs (a larger --patience continues)')

# --- What a run owns ---
class Run:
    """A model and all that trains it; its state_dict is what a checkpoint holds."""
    def __init__(self, args, maps, vectors, dataset):
        self.args, self.maps = args, maps
        word_emb_dim = vectors.size(1) if vectors is not None else args.word_emb_dim or 100
        self.arguments = {**vars(args), 'word_emb_dim': word_emb_dim}
        self.history = {'epoch': 0, 'best_score': -1.0, 'epochs_since_improvement': 0, 'log': []}
        self.model = model = LM_LSTM_CRF(**model_arguments(maps, self.arguments))
        if vectors is not None:
            model.init_word_embeddings(vectors)
        model.fine_tune_word_embeddings(args.fine_tune_word_embeddings)
        model.to(args.device)
        self.optimizer = make_optimizer(model, args)
        self.average = Average(model, args.ema, max(map(max, dataset.sentences.wmaps)) + 1)
        self.parallel_model = DistributedDataParallel(model) if dist.is_initialized() else model
        scheme = args.tag_scheme if args.task == 'ner' else None
        self.vb_criterion = ViterbiLoss(maps['tag_map'])
        self.vb_decoder = ViterbiDecoder(maps['tag_map'], scheme).to(args.device)

    def state_dict(self):
        """What it takes to tag, and to continue training where it stopped."""
        plain = self.average.changing(self.model)
        return {'model': self.average.model.state_dict(), 'updates': self.average.updates,
                'plain': {name: weight.detach().clone() for name, weight in plain.items()},
                'optimizer': self.optimizer.state_dict()['state'],
                'maps': self.maps, 'arguments': self.arguments, **self.history}

    def for_tagging(self):
        """What it takes to tag: no language models, in half precision, which ends at 65,504."""
        weights = {name: weight.clamp(-65504, 65504).half()
                   for name, weight in self.average.model.state_dict().items()
                   if not name.startswith(('forw_lm_', 'back_lm_'))}
        return {'model': weights, 'scores': self.history['log'][-1],
                'maps': self.maps, 'arguments': self.arguments}

    def load_state_dict(self, state):
        """Continue from a state_dict, that of the checkpoint args.checkpoint."""
        embeds, average, optimizer = self.model.word_embeds, self.average, self.optimizer
        with file_errors(self.args.checkpoint, 'used', KeyError, RuntimeError), torch.no_grad():
            average.updates, plain = state['updates'], state['plain']
            average.model.load_state_dict(state['model'])
            self.model.load_state_dict(state['model'])
            for name, weight in self.model.named_parameters():
                weight[:len(plain[name])] = plain[name]
            optimizer.load_state_dict({**optimizer.state_dict(), 'state': state['optimizer']})
            average.trained_words = max(average.trained_words, len(plain['word_embeds.weight']))
            self.history.update({name: state[name] for name in self.history})
        momentum = optimizer.state.get(embeds.weight, {})
        if not embeds.sparse and 'momentum_buffer' in momentum:
            momentum['momentum_buffer'] = momentum['momentum_buffer'].to_dense()  # from rows

class Average:
    """A model with the moving average of another's weights (EMA), or with decay 0 that model."""
    def __init__(self, model, decay, trained_words):
        # `to` lays the weights of a copy's LSTMs side by side again, as a GPU wants them
        self.model = copy.deepcopy(model).to(model.crf.transition.device) if decay > 0 else model
        self.decay, self.trained_words, self.updates = decay, trained_words, 0

    def changing(self, model):
        """The weights that training changes, by name: of the words only the first ones."""
        return {**dict(model.named_parameters()),
                'word_embeds.weight': model.word_embeds.weight[:self.trained_words]}

    @torch.no_grad()
    def update(self, model):
        """Move towards the weights of the model, the first time all the way."""
        # At first it forgets faster, or it would long remember the beginning
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0
        latest, self.updates = self.changing(model), self.updates + 1
        for name, weight in self.changing(self.model).items():
            weight.lerp_(latest[name], 1 - decay)

# --- What main and the loop call ---
def list_files(args):
    """The files to train, validate and test with: the user's, or the sample's."""
    given = [file for file in (args.train_file, args.val_file, args.test_file) if file is not None]
    return given or [str(SAMPLE / f'{name}.txt') for name in ('train', 'val', 'test')]

def describe(files, corpora, args):
    """Print what will be learned, and what may be wrong with it."""
    (words, tags), file, split = corpora[0], files[0], []
    names = tags if args.task == 'pos' else [[one[0] for one in find_entities(row)] for row in tags]
    counts = Counter(name for row in names for name in row).most_common()
    print(f'{file}, column {args.tag_column}:', ', '.join(f'{tag} {n:,}' for tag, n in counts))
    known = {*map(tuple, words)}
    for other, (sentences, _) in zip(files[1:], corpora[1:]):
        twice = sum(tuple(sentence) in known for sentence in sentences)
        print(f'{other}: {twice:,} of {len(sentences):,} sentences are in {file}, too')
    for sentence in words[:10_000]:  # which are enough to tell
        tokens = {*find_tokens(' '.join(sentence), args.tokenizer)}
        split += [word for word, start in zip(sentence, word_starts(sentence))
                  if (start, start + len(word)) not in tokens]
    if (share := len(split) / sum(map(len, words[:10_000]))) > 0.01:
        print(f'warning: raw text is split in other ways: {share:.0%} of the words, such as '
              f'{", ".join([*dict.fromkeys(split)][:3])}, will be missed (see --tokenizer)')

def make_maps(corpora, checkpoint, args):
    """The three maps, new or a checkpoint's, by name; new pre-trained vectors of words, or None."""
    for name, (_, tags) in zip(('train', 'val'), corpora):
        if args.task == 'ner' and not any(map(find_entities, tags)):
            raise InputError(f'--{name}_file: expected entities, found only O (see --tag_column)')
    if checkpoint is not None:
        return checkpoint['maps'], None
    # Words come from the training file alone; tags, which define the task, from all files
    words, vectors, scheme, size = corpora[0][0], None, args.tag_scheme, args.word_emb_dim
    tags = [sentence for _, rows in corpora for sentence in rows]
    if args.task == 'ner':
        # A type has all its tags, also those that the files lack
        types = {name for sentence in tags for name, _, _ in find_entities(sentence)}
        tags = [['O'], *(write_tags([(name, 0, 1), (name, 1, 4)], 4, scheme) for name in types)]
    word_map, char_map, tag_map = create_maps(
        words, tags, args.min_word_freq, args.min_char_freq, args.caseless)
    if args.emb_file is not None:
        vectors, word_map, lm_vocab_size = load_embeddings(
            args.emb_file, word_map, args.expand_vocab, args.caseless)
        if size not in (None, vectors.size(1)):
            raise InputError(f'--word_emb_dim: expected {vectors.size(1)}, found {size}')
        # Rows that training changes, those of the training file's words, come first
        used = {word_index(readable(word), word_map) for sentence in words for word in sentence}
        order = sorted(range(len(word_map)), key=lambda i: i >= lm_vocab_size and i not in used)
        names, vectors = list(word_map), vectors[order]
        word_map = {names[old]: new for new, old in enumerate(order)}
    return {'word_map': word_map, 'char_map': char_map, 'tag_map': tag_map}, vectors

def make_loader(words, tags, maps, args, training=False):
    """A DataLoader of batches of similar length; in training, of this process's share of each."""
    dataset = WCDataset(*zip(*(encode(*pair, **maps) for pair in zip(words, tags))))
    lengths = dataset.sentences[-2:]
    if training:
        processes = dist.get_world_size() if dist.is_initialized() else 1
        sampler = SimilarLengthSampler(*map(torch.tensor, lengths), args.batch_size, args.seed,
                                       process_number(), processes)
    else:
        sampler = list(make_batches(list(zip(*lengths)), len(maps['tag_map'])))
    return DataLoader(dataset, batch_size=None, sampler=sampler, pin_memory=args.device != 'cpu')

def make_optimizer(model, args):
    """Make the optimizer, SGD with momentum, and say whether the words' gradient is sparse."""
    # Of pre-trained vectors only the words of a batch get a gradient, as separate rows, or a CPU
    # would spend half of a step on 400,000 others. (A GPU would not merge the rows of momentum.)
    vectors = model.word_embeds.weight
    model.word_embeds.sparse = args.emb_file is not None and args.device == 'cpu'
    # A fused step reads and writes each value once, but can't take rows alone
    others = [p for p in model.parameters() if p.requires_grad and p is not vectors]
    groups = [{'params': others, 'fused': True}]
    if vectors.requires_grad:
        groups.append({'params': [vectors], 'fused': not model.word_embeds.sparse})
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum)

def finish(args, files, corpora):
    """Find the threshold for entities, write it into the best checkpoint, score the test file."""
    path = Path(args.output_dir) / BEST_CHECKPOINT
    if not path.exists():
        print(f'nothing to score: there is no {path}')
        return
    tagger = load_tagger(path, args.device)
    if args.task == 'ner':
        # Half of the best F1 in validation, in steps of 0.05
        rows = score_thresholds(tag_labeled(tagger, *corpora[1]))
        threshold = max(round(10 * max(f1 for *_, f1 in rows)), 1) / 20
        save_checkpoint(path, {**load_checkpoint(path), 'threshold': threshold})
    tagged = tag_labeled(tagger, *corpora[-1])
    print(f'{files[-1]}, tagged by {path}:')
    scores = print_scores(corpora[-1][1], [sentence['tags'] for sentence in tagged], args.task)
    print(*(inline(sentence, args.task) for sentence in tagged[:2]), sep='\n')
    if args.task == 'ner':
        [row] = score_thresholds(tagged, [threshold])
        print('--threshold best is {:.2f}: precision {:.4f}, recall {:.4f}, F1 {:.4f}'.format(*row),
              f"instead of Viterbi's {scores['entity_f1']:.4f}")

# --- Arguments ---
# What may be given anew beside --checkpoint; all else is part of what was learned
CHANGEABLE = ('train_file', 'val_file', 'test_file', 'epochs', 'batch_size', 'lr', 'lr_decay',
              'grad_clip', 'lm_weight', 'patience', 'checkpoint', 'output_dir', 'device')

def parse_arguments(argv):
    """Read the command line, as a namespace, and the checkpoint to continue from, or None."""
    parser = ArgumentParser(usage='%(prog)s [arguments]', description='Train LM-LSTM-CRF to tag.',
                            formatter_class=ArgumentDefaultsHelpFormatter)
    add_arguments(parser)
    args, checkpoint = parser.parse_args(argv), None
    if args.checkpoint is not None:
        load_tagger(args.checkpoint)  # which refuses what does not fit together
        checkpoint = load_checkpoint(args.checkpoint)
        if 'optimizer' not in checkpoint:
            raise InputError(f'{args.checkpoint}: expected {CHECKPOINT}, found a model for tagging')
        # The arguments of its run are used in place of the defaults
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
    if any(files := (args.train_file, args.val_file, args.test_file)) and None in files[:2]:
        raise InputError('expected --train_file and --val_file, or none of the three files')
    if not args.output_dir:
        raise InputError('--output_dir: expected a folder, found no name')
    if args.language_models and not args.characters:
        raise InputError('--no-characters: expected --no-language_models too, which need them')
    if args.criterion == 'entity_f1' and args.task == 'pos':
        raise InputError('--criterion entity_f1: expected --task ner, found pos')
    return args, checkpoint

# --- A run's files, and its processes ---
def prepare_folder(run, checkpoint):
    """Continue from a checkpoint, if there is one; keep the files of other runs in the folder."""
    args, history, here, own = run.args, run.history, Path(run.args.output_dir), False
    if checkpoint is not None:
        run.load_state_dict(checkpoint)
        # The best score so far is void without its checkpoint, and with another validation file
        files = [list_files(one)[1] for one in (args, Namespace(**checkpoint['arguments']))]
        own = (Path(args.checkpoint).resolve() == (here / CHECKPOINT).resolve()
               and len({*map(os.path.realpath, files)}) == 1 and (here / BEST_CHECKPOINT).exists())
        if history['epoch'] >= args.epochs and not own:
            raise InputError(f'--epochs: expected more than the {history["epoch"]} that are done')
        if history['epoch'] >= args.epochs:
            print(f'{history["epoch"]} epochs are done already (a larger --epochs continues)')
        if not own:
            history.update(best_score=-1.0, epochs_since_improvement=0)
            print('the best score and the patience start anew')
    old = [here / name for name in (CHECKPOINT, BEST_CHECKPOINT, LOG) if (here / name).exists()]
    if process_number() == 0 and old and not own:
        newest = time.localtime(max(path.stat().st_mtime for path in old))
        for path in old:
            kept = f'{path}.{time.strftime("%Y%m%d-%H%M%S", newest)}'
            while Path(kept).exists():  # from another run in the same second
                kept += '+'
            if args.checkpoint and path.resolve() == Path(args.checkpoint).resolve():
                args.checkpoint = kept
            with file_errors(path, 'renamed'):
                path.rename(kept)
            print(f'{path} is kept as {kept}')

@contextmanager
def locked(folder):
    """Make a folder and keep other runs out of it; the system forgets the lock with the process."""
    name = f'--output_dir {folder}'
    with file_errors(name, 'written'):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # Better now than after an epoch
    with ExitStack() as at_end:
        if process_number() == 0 and os.name != 'nt':  # Windows has no such locks
            import fcntl
            handle = os.open(folder, os.O_RDONLY)
            at_end.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f'{name}: expected no other run in it, found one') from None
            except OSError:
                pass  # A file system without locks
        yield

def save_epoch(run, is_best):
    """Save an epoch; the latest checkpoint, to continue from, comes last."""
    folder, log = Path(run.args.output_dir), run.history['log']
    if is_best:
        save_checkpoint(folder / BEST_CHECKPOINT, run.for_tagging())
    rows = [log[-1].keys(), *(row.values() for row in log)]
    with file_errors(folder / LOG, 'written'):
        (folder / LOG).write_text(''.join(','.join(map(str, row)) + '\n' for row in rows))
    save_checkpoint(folder / CHECKPOINT, run.state_dict())

def print_epoch(row, criterion, is_best):
    """Say how an epoch went, which is a row of the log."""
    scores = ', '.join(f'{name.replace("_", " ").replace("f1", "F1")} {row[name]:.4f}'
                       + f' (not averaged {row["plain_score"]:.4f})' * (name == criterion)
                       for name in ('macro_f1', 'entity_f1', 'accuracy') if name in row)
    print('epoch {epoch}: LM loss {lm_loss:.3f}, Viterbi loss {viterbi_loss:.3f}; validation: '
          'Viterbi loss {val_viterbi_loss:.3f}, {}{}; lr {lr:.5f}, {seconds:.1f} s'.format(
              scores, ' (best so far)' * is_best, **row), flush=True)

def say_how_to_continue(run):
    """After Ctrl-C, name the checkpoint of the last whole epoch."""
    path = Path(run.args.output_dir) / CHECKPOINT
    path = path if path.exists() else run.args.checkpoint
    command = 'python' if not dist.is_initialized() else (
        f'torchrun --nproc_per_node={os.environ["LOCAL_WORLD_SIZE"]}')
    print(f'stopped in epoch {run.history["epoch"]}; ' + (
        'there is no checkpoint yet' if path is None else
        f'to continue: {command} train.py --checkpoint {shlex.quote(str(path))}'), flush=True)

def join_processes(args):
    """Join torchrun's processes, of which the first prints."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        if args.device.startswith('cuda'):
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        dist.init_process_group('nccl' if args.device.startswith('cuda') else 'gloo')
        # When one process ends, torchrun sends this to the others: like Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if process_number() > 0:
            sys.stdout = open(os.devnull, 'w')

def process_number():
    """This process's number among torchrun's; 0, the first, prints and saves."""
    return dist.get_rank() if dist.is_initialized() else 0

if __name__ == '__main__':
    run_main(main)
