"""From CoNLL files to tensors and back: maps, the eight tensors, files, embeddings, metrics.

    words, tags = read_corpus('data/sample/train.txt', 'ner', tag_column=3, tag_scheme='iob2')
    word_map, char_map, tag_map = create_maps(words, tags, min_word_freq=1, caseless=True)
    batch = create_input_tensors(words, tags, word_map, char_map, tag_map)

The comments follow `dunston checks in`, the title of a film: its tags in the scheme IOB2 are
B-FILM, I-FILM, I-FILM (begin, inside, inside), and O (outside) is the tag of all other words.
"""

import argparse
import codecs
import gzip
import math
import os
import re
import sys
import zipfile
import zlib
from array import array
from collections import Counter
from contextlib import contextmanager
from itertools import accumulate, chain, count, pairwise
from pathlib import Path

import numpy as np
import torch

from datasets import Batch

SPECIAL_WORDS = ('<pad>', '<end>', '<unk>')
CHECKPOINT_FORMAT = 2


# --- Maps and the eight tensors ---

def create_maps(words, tags, min_word_freq=5, min_char_freq=1, caseless=False):
    """Number the words, characters and tags of a corpus.

    Args:
        words, tags: for each sentence, a list of str.
        min_word_freq, min_char_freq: what is seen less often is binned as <unk>.
        caseless: lower-case the words (never the characters)?

    Returns:
        word_map and char_map: <pad> is 0, then all words or characters in the order in which they
        first occur, <end>, <unk>; tag_map: <start> is 0, then the tags in sorted order, <end>.
    """
    word_counts, char_counts = Counter(), Counter()
    for sentence in words:
        word_counts.update(word.lower() if caseless else word for word in sentence)
        char_counts.update(''.join(sentence))
    kept_words = [word for word, times in word_counts.items()
                  if times >= min_word_freq and word not in SPECIAL_WORDS]
    kept_chars = [char for char, times in char_counts.items()
                  if times >= min_char_freq and char != ' ']
    tag_names = sorted(set(chain.from_iterable(tags)) - {'<start>', '<end>'})

    # {'<pad>': 0, 'dunston': 1, 'checks': 2, 'in': 3, '<end>': 4, '<unk>': 5}
    # {'<pad>': 0, ' ': 1, 'd': 2, 'u': 3, 'n': 4, ..., '<end>': 13, '<unk>': 14}
    # {'<start>': 0, 'B-FILM': 1, 'I-FILM': 2, 'O': 3, '<end>': 4}
    return (dict(zip(['<pad>', *kept_words, '<end>', '<unk>'], count())),
            dict(zip(['<pad>', ' ', *kept_chars, '<end>', '<unk>'], count())),
            dict(zip(['<start>', *tag_names, '<end>'], count())))


def create_input_tensors(words, tags, word_map, char_map, tag_map):
    """Encode sentences as the eight tensors that the model takes, a Batch.

    The words and tags are, for each of N sentences, a list of str, not empty (tags are None for raw
    text); the maps are from create_maps.
    """
    m, unknown_char = len(tag_map), char_map['<unk>']
    wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps = [], [], [], [], [], []
    for n, sentence in enumerate(words):
        # dunston, checks, in, <end>: [1, 2, 3, 4]
        wmaps.append([word_index(word, word_map) for word in sentence] + [word_map['<end>']])

        # 'dunston checks in ' and 'ni skcehc notsnud ', each with <end>: 19 characters
        text = ' '.join(sentence)
        chars = [char_map.get(char, unknown_char) for char in text]
        cmaps_f.append(chars + [char_map[' '], char_map['<end>']])
        cmaps_b.append(chars[::-1] + [char_map[' '], char_map['<end>']])

        # The words begin at 0, 8, 15, and <end> is at 18. The space after a word is right before
        # the next word: [7, 14, 17, 18]
        *starts, end_place = word_starts(sentence)
        cmarkers_f.append([start - 1 for start in starts[1:]] + [end_place - 1, end_place])
        # Read backward, a word that begins at 0 ends as the last of 17 characters, and the space
        # after it is at 17. In the order of the words: [17, 9, 2, 18]
        cmarkers_b.append([len(text) - start for start in starts] + [end_place])

        # <start>, B, I, I, <end> are the cells (0, 1), (1, 2), (2, 2), (2, 4) of a matrix with
        # 5 columns, whose places are previous * 5 + current: [1, 7, 12, 14]
        if tags is not None:
            path = [tag_map[tag] for tag in ('<start>', *tags[n], '<end>')]
            tmaps.append([previous * m + current for previous, current in pairwise(path)])

    return Batch(
        wmaps=pad(wmaps), cmaps_f=pad(cmaps_f), cmaps_b=pad(cmaps_b), cmarkers_f=pad(cmarkers_f),
        cmarkers_b=pad(cmarkers_b), tmaps=None if tags is None else pad(tmaps),
        wmap_lengths=torch.tensor([len(row) for row in wmaps]),
        cmap_lengths=torch.tensor([len(row) for row in cmaps_f]))


def word_index(word, word_map):
    """Look a word up as it is written, then in lower case, then as <unk>."""
    for spelling in (word, word.lower()):
        # A word of the text that is spelled like a special word is an unknown word
        if spelling in word_map and spelling not in SPECIAL_WORDS:
            return word_map[spelling]
    return word_map['<unk>']


def word_starts(words):
    """Where words begin in the text that they make with a space after each, and where it ends."""
    return list(accumulate((len(word) + 1 for word in words), initial=0))


def pad(rows):
    """Fill lists of int up with 0 to the longest: an (N, L) LongTensor."""
    padded = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for padded_row, row in zip(padded, rows):
        padded_row[:len(row)] = row
    return torch.from_numpy(padded)


# --- CoNLL files ---

def read_words_tags(file, tag_ind, caseless=True, word_ind=0, wrong=None):
    """Read the words and one column of tags from a file in CoNLL format.

    A row holds a word and its tags, in columns between spaces or tabs (a no-break space belongs
    to its word). A blank line or a -DOCSTART- line ends a sentence.

    The columns tag_ind and word_ind are counted from 0; caseless lower-cases the words; wrong is a
    function that says what was expected in place of a tag, if anything. Returns words and tags,
    for each sentence a list of str; InputError if there is anything wrong.
    """
    words, tags, sentence_words, sentence_tags = [], [], [], []
    for number, line in enumerate([*read_lines(file), ''], start=1):
        columns = re.findall(r'[^ \t]+', line)
        if columns and columns[0] != '-DOCSTART-':
            where, least = f'{file}, line {number}', max(word_ind, tag_ind) + 1
            if len(columns) < least:
                raise InputError(f'{where}: expected at least {least} columns, found {line[:80]!r}')
            word, tag = columns[word_ind], columns[tag_ind]
            if wrong is not None and wrong(tag):
                raise InputError(f'{where}: expected {wrong(tag)} in column {tag_ind} instead of '
                                 f'{tag!r}, found {line[:80]!r}')
            sentence_words.append(word.lower() if caseless else word)
            sentence_tags.append(tag)
        elif sentence_words:
            # A longer one is usually a forgotten blank line, and all tensors would become as long
            if len(sentence_words) > 1000 or sum(map(len, sentence_words)) > 10_000:
                raise InputError(f'{file}, line {number - len(sentence_words)}: expected at most '
                                 '1,000 words and 10,000 characters in the sentence from here on')
            words.append(sentence_words)
            tags.append(sentence_tags)
            sentence_words, sentence_tags = [], []
    if not words:
        raise InputError(f'{file}: expected sentences, found none')
    return words, tags


def read_lines(file):
    """Read the lines of a UTF-8 file; InputError if it can't be opened or is not UTF-8."""
    with file_errors(file):
        text = Path(file).read_bytes().decode('utf-8-sig')
    # str.splitlines would also split at signs that belong to words
    return re.split('\r\n|\r|\n', text)


def read_corpus(file, task, tag_column, tag_scheme, known_tags=None):
    """Read a labeled file for a task: words as they are written, entity tags in tag_scheme.

    Tags have to be those of entities where the task is 'ner', and are left alone where it is 'pos'.
    Where the known_tags of a trained model are given, all others are wrong.
    """
    def wrong(tag):
        if not re.fullmatch('O|[BIES]-.+' if task == 'ner' else '(?!<start>$|<end>$).+', tag):
            return 'an entity tag' if task == 'ner' else 'a tag'
        learned = convert_tags([tag], tag_scheme)[0] if task == 'ner' else tag
        unknown = known_tags is not None and learned not in known_tags
        return 'a tag that the model knows' if unknown else None

    words, tags = read_words_tags(file, tag_column, caseless=False, wrong=wrong)
    if all(tag == '-' for tag in chain.from_iterable(tags)):
        raise InputError(f"{file}: expected tags in column {tag_column}, found only '-'")
    if task == 'ner':
        tags = [convert_tags(sentence_tags, tag_scheme) for sentence_tags in tags]
    return words, tags


# --- Entities and their tags ---

def find_entities(tags):
    """Find entities as (type, first word, last word + 1) in tags of IOB1, IOB2 or IOBES.

    As for conlleval, a word continues the entity of the word before it unless a tag of either says
    otherwise (B and S begin one, E and S end one, O is outside) or the type changes.
    """
    entities = []
    start, last_prefix, last_type = None, 'O', ''
    for position, tag in enumerate([*tags, 'O']):
        prefix, _, entity_type = tag.partition('-')
        if prefix in 'BSO' or last_prefix in 'ESO' or entity_type != last_type:
            if start is not None:
                entities.append((last_type, start, position))
            start = None if prefix == 'O' else position
        last_prefix, last_type = prefix, entity_type
    return entities


def convert_tags(tags, scheme):
    """Write a sentence's entity tags, which may be of any scheme, in 'iob2' or 'iobes'.

    IOB2 has B for the first word of an entity, I for those inside it, and O outside: B I I. IOBES
    also has E for the last word, B I E, and S for an entity of a single word.
    """
    converted = ['O'] * len(tags)
    for entity_type, start, end in find_entities(tags):
        prefixes = ['B'] + ['I'] * (end - start - 1)
        if scheme == 'iobes':
            prefixes[-1] = 'S' if end - start == 1 else 'E'
        converted[start:end] = [f'{prefix}-{entity_type}' for prefix in prefixes]
    return converted


def all_tags(entity_types, scheme):
    """Every tag that a scheme, 'iob2' or 'iobes', has for the given entity types."""
    prefixes = 'BIES' if scheme == 'iobes' else 'BI'
    return ['O', *(f'{prefix}-{name}' for name in entity_types for prefix in prefixes)]


# --- Embeddings ---

def init_embedding(input_embedding):
    """Fill an embedding matrix (vocabulary, dim) in place, uniformly within +-sqrt(3 / dim)."""
    bias = (3.0 / input_embedding.size(1)) ** 0.5
    torch.nn.init.uniform_(input_embedding, -bias, bias)


def load_embeddings(emb_file, word_map, expand_vocab=True, caseless=False):
    """Load pre-trained vectors for the words of word_map and, with expand_vocab, for all others.

    Words of the word_map without a vector get a random one. If caseless, vectors of words that are
    not in lower case are skipped. Returns embeddings, (len(new word_map), dim); the new word_map;
    and lm_vocab_size, the size of the old one, whose words keep their indices.
    """
    lm_vocab_size, new_map = len(word_map), dict(word_map)
    found, others, vector = {}, array('f'), None
    for word, vector in read_embeddings(emb_file):
        if word in word_map:
            # The first vector of a repeated word counts
            found.setdefault(word, vector)
        elif expand_vocab and word not in new_map and not (caseless and word != word.lower()):
            new_map[word] = len(new_map)
            others.extend(vector)

    if vector is None:
        raise InputError(f'{emb_file}: expected word vectors, found none')
    in_corpus = torch.empty(lm_vocab_size, len(vector))
    init_embedding(in_corpus)
    for word, values in found.items():
        in_corpus[word_map[word]] = torch.tensor(values)
    new_rows = torch.from_numpy(np.asarray(others)).view(-1, len(vector))

    words, covered = word_map.keys() - SPECIAL_WORDS, found.keys() - SPECIAL_WORDS
    print(f'{emb_file} has vectors for {len(covered):,} of the {len(words):,} words of the corpus '
          f'and for {len(new_rows):,} other words')
    return torch.cat((in_corpus, new_rows)), new_map, lm_vocab_size


def read_embeddings(emb_file):
    """Read a file of word vectors, plain or .gz, in UTF-8.

    A row has a word and its values between spaces (GloVe). The first row may be a header with the
    number of words and of values (word2vec). Words may contain spaces (GloVe 840B has some). Yields
    a word and its vector, an array of floats; InputError if a row is malformed.
    """
    dim, open_file = None, gzip.open if str(emb_file).endswith('.gz') else open
    with file_errors(emb_file), open_file(emb_file, 'rb') as file:
        for number, row in enumerate(file, start=1):
            # bytes.split keeps no-break spaces, which belong to words
            fields = (row.removeprefix(codecs.BOM_UTF8) if number == 1 else row).split()
            if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                dim = int(fields[1])
            elif fields:
                dim = len(fields) - 1 if dim is None else dim
                yield parse_vector(fields, dim, f'{emb_file}, line {number}')


def parse_vector(fields, dim, where):
    """Turn the fields of a row, which is at `where`, into its word and an array of dim floats."""
    try:
        word, vector = b' '.join(fields[:-dim]).decode(), array('f', map(float, fields[-dim:]))
        # One value too many is no part of the word; a sum is finite if all of its parts are
        if word and not re.search(r' [-+]?\d*\.\d+$', word) and math.isfinite(sum(vector)):
            return word, vector
    except ValueError:
        pass
    raise InputError(f'{where}: expected a word in UTF-8 and {dim} numbers, found {len(fields)} '
                     f'fields: {b" ".join(fields)[:40]!r}')


# --- Metrics ---

def score_task(gold, predicted, task):
    """Score the tags of all sentences at once: a mean over batches would be another number.

    The dict has macro_f1 and accuracy; for ner, entity_f1; and rows, for print_scores.
    """
    if task == 'pos':
        return score_tags(gold, predicted)
    tags = score_tags([convert_tags(sentence, 'iob2') for sentence in gold],
                      [convert_tags(sentence, 'iob2') for sentence in predicted])
    entities = score_entities(gold, predicted)
    return {'macro_f1': tags['macro_f1'], **entities, 'accuracy': tags['accuracy']}


def score_tags(gold, predicted):
    """Compare tags word by word: their accuracy, and the mean of the F1s of all that occur."""
    rows = score_rows([set(zip(tags, count())) for tags in gold],
                      [set(zip(tags, count())) for tags in predicted])
    # The last row is that of all tags together
    f1_scores = [f1 for _, _, _, f1, _ in rows[:-1]]
    return {'macro_f1': sum(f1_scores) / len(f1_scores), 'accuracy': rows[-1][3], 'rows': rows}


def score_entities(gold, predicted):
    """Compare entities: one is right if its type, its first and its last word are (conlleval)."""
    rows = score_rows([set(find_entities(tags)) for tags in gold],
                      [set(find_entities(tags)) for tags in predicted])
    return {'entity_f1': rows[-1][3], 'rows': rows}


def score_rows(gold, predicted):
    """(name, precision, recall, F1, support) of each name, and all, in sets of (name, place)."""
    right, found, wanted = Counter(), Counter(), Counter()
    for gold_places, predicted_places in zip(gold, predicted, strict=True):
        right.update(name for name, *_ in gold_places & predicted_places)
        found.update(name for name, *_ in predicted_places)
        wanted.update(name for name, *_ in gold_places)
    counts = [(name, right[name], found[name], wanted[name]) for name in sorted(found | wanted)]
    counts.append(('all', right.total(), found.total(), wanted.total()))
    # A ratio without a denominator is 0, as in conlleval
    return [(name, r / max(f, 1), r / max(w, 1), 2 * r / max(f + w, 1), w)
            for name, r, f, w in counts]


def print_scores(scores):
    """Print what score_task found as a table, with the figures for all tags below."""
    width = max(len(row[0]) for row in scores['rows'])
    print(f'{"":{width}}  precision  recall      F1  support')
    for name, precision, recall, f1, support in scores['rows']:
        print(f'{name:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {support:7}')
    print(f'all tags: accuracy {scores["accuracy"]:.4f}, macro F1 {scores["macro_f1"]:.4f}')


# --- Training ---

def log_sum_exp(tensor, dim):
    """log(sum(exp(tensor))) over a dimension, which is then gone; nothing in it overflows."""
    return torch.logsumexp(tensor, dim)


def clip_gradient(optimizer, grad_clip):
    """Clip the gradients of all of the optimizer's parameters to +-grad_clip, value by value."""
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter.grad is not None and parameter.grad.is_sparse:
                # A word that occurs twice has two parts of a gradient: clip their sum
                parameter.grad = parameter.grad.coalesce()
                parameter.grad.values().clamp_(-grad_clip, grad_clip)
            elif parameter.grad is not None:
                parameter.grad.clamp_(-grad_clip, grad_clip)


def adjust_learning_rate(optimizer, new_lr):
    """Set the learning rate of all of the optimizer's parameters."""
    for group in optimizer.param_groups:
        group['lr'] = new_lr


class AverageMeter:
    """A running mean: val is the latest value, avg the mean, sum the total, count the weight."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget all values."""
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        """Add a value that is itself the mean of n."""
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


# --- Checkpoints ---

def save_checkpoint(path, model, optimizer, maps, state):
    """Save what is needed to tag, and to continue training where it stopped; state is a dict."""
    # A map is saved as one string, which is read faster than 400,000
    checkpoint = {'format': CHECKPOINT_FORMAT, 'model': model.state_dict(),
                  'optimizer': optimizer.state_dict()['state'],
                  'maps': {name: '\n'.join(numbered) for name, numbered in maps.items()}, **state}
    # Written beside its place and then renamed, a checkpoint is always whole
    temporary = Path(f'{path}.tmp')
    with file_errors(path, 'written'):
        try:
            with open(temporary, 'wb') as file:
                torch.save(checkpoint, file)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def load_checkpoint(path, device):
    """Load a checkpoint onto a device; InputError if it is none, damaged, or of another format."""
    found = 'another file'
    with file_errors(path), open(path, 'rb') as file:
        try:
            # A checkpoint is a zip archive, which knows when a part of it is damaged
            damaged = zipfile.ZipFile(file).testzip() is not None
            checkpoint = torch.load(path, map_location=device, weights_only=True)
            checkpoint['maps'] = {name: dict(zip(names.split('\n'), count()))
                                  for name, names in checkpoint.get('maps', {}).items()}
            found = 'a damaged one' if damaged else f'format {checkpoint["format"]}'
        except Exception:
            # Other files, and some that are damaged, raise all kinds of errors
            pass
    if found != f'format {CHECKPOINT_FORMAT}':
        raise InputError(f'{path}: expected a checkpoint of train.py, format {CHECKPOINT_FORMAT}, '
                         f'found {found}')
    return checkpoint


# --- The command line ---

class InputError(Exception):
    """What the user gave can't be used; the message is one line that says what and where."""


@contextmanager
def file_errors(path, action='read'):
    """Say in one line that a file cannot be read, or written."""
    try:
        yield
    except UnicodeDecodeError as error:
        number = error.object.count(b'\n', 0, error.start) + 1
        raise InputError(f'{path}, line {number}: expected UTF-8, found the byte '
                         f'{error.object[error.start]:#04x}') from None
    except (OSError, EOFError, RuntimeError, zlib.error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{path}: cannot be {action}: {reason}') from None


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, except that mistakes are InputErrors."""

    def error(self, message):
        raise InputError(f'{message} (--help says more)')


def number(kind, least, most=math.inf):
    """An int or a float between two bounds, for argparse, which tells the user the name."""
    def parse(text):
        if not least <= kind(text) <= most:
            raise ValueError
        return kind(text)
    parse.__name__ = f'{kind.__name__} from {least} to {most}'
    return parse


def devices():
    """The names of the devices that PyTorch can use here, the best one first."""
    gpus = [f'cuda:{i}' for i in range(torch.cuda.device_count())]
    return ['cuda', *gpus, 'cpu'] if gpus else ['cpu']


def run_main(main):
    """Run a script's main function on the command line, and say in one line what went wrong."""
    # Names of people and places need more than some terminals' encodings have
    sys.stdout.reconfigure(encoding='utf-8', errors='replace')
    # A GPU then multiplies matrices in TF32, which is several times as fast
    torch.set_float32_matmul_precision('high')
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except BrokenPipeError:
        # The reader, head for example, has seen enough; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
