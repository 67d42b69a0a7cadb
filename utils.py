"""From CoNLL files to tensors and back: maps, the eight tensors, files, vectors, scores.

    words, tags = read_corpus('data/sample/train.txt', 'ner', tag_column=3, tag_scheme='iob2')
    word_map, char_map, tag_map = create_maps(words, tags, min_word_freq=1, caseless=True)
    batch = create_input_tensors(words, tags, word_map, char_map, tag_map)

The comments follow `dunston checks in`, the title of a film. Its tags are B-FILM, I-FILM, I-FILM
(begin, inside) in IOB2, and B-FILM, I-FILM, E-FILM (end) in IOBES; S is a single word, O outside.
"""

import argparse
import errno
import gzip
import io
import math
import os
import re
import signal
import sys
import zipfile
import zlib
from array import array
from collections import Counter
from contextlib import contextmanager
from functools import cache
from itertools import accumulate, chain, count, pairwise
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch

from datasets import Batch, make_batch

SPECIAL = ('<pad>', '<end>', '<unk>')
MOST_CHARS = 100  # letters that are read of a word
CHECKPOINT_FORMAT = 6

# --- Maps and the eight tensors ---
def create_maps(words, tags, min_word_freq=5, min_char_freq=1, caseless=False):
    """Number the words, characters and tags of a corpus.

    The words and tags are lists of str for each sentence. What is seen less often than min_..._freq
    is binned as <unk>. If caseless, words are lower-cased (never the characters). Returns word_map
    and char_map, in the order of the text, and tag_map, sorted.
    """
    word_counts, char_counts = Counter(), Counter()
    for word, times in Counter(map(readable, chain.from_iterable(words))).items():
        word_counts[word.lower() if caseless else word] += times
        for char in word:
            char_counts[char] += times
    kept_words = [word for word, times in word_counts.items()
                  if times >= min_word_freq and word not in SPECIAL]
    kept_chars = [char for char, n in char_counts.items() if n >= min_char_freq and char != ' ']
    tag_names = sorted(set(chain.from_iterable(tags)) - {'<start>', '<end>'})
    # {'<pad>': 0, 'dunston': 1, 'checks': 2, 'in': 3, '<end>': 4, '<unk>': 5}
    # {'<pad>': 0, ' ': 1, 'd': 2, 'u': 3, 'n': 4, ..., '<end>': 13, '<unk>': 14}
    # {'<start>': 0, 'B-FILM': 1, 'I-FILM': 2, 'O': 3, '<end>': 4}
    return (dict(zip(['<pad>', *kept_words, '<end>', '<unk>'], count())),
            dict(zip(['<pad>', ' ', *kept_chars, '<end>', '<unk>'], count())),
            dict(zip(['<start>', *tag_names, '<end>'], count())))

def create_input_tensors(words, tags, word_map, char_map, tag_map):
    """Encode sentences, lists of str (tags are None for raw text), as the model's eight tensors."""
    return make_batch([encode(sentence, tags and tags[n], word_map, char_map, tag_map)
                       for n, sentence in enumerate(words)])

def encode(words, tags, word_map, char_map, tag_map):
    """The numbers of a sentence, as a Batch without the dimension N; tags are a list or None."""
    words = [readable(word) for word in words]
    # dunston, checks, in, <end>: [1, 2, 3, 4]
    wmap = [word_index(word, word_map) for word in words] + [word_map['<end>']]

    # 'dunston checks in ' and 'ni skcehc notsnud ', each with <end>: 19 characters
    text = ' '.join(words)
    chars = [char_map.get(char, char_map['<unk>']) for char in text]
    cmap_f = chars + [char_map[' '], char_map['<end>']]
    cmap_b = chars[::-1] + [char_map[' '], char_map['<end>']]

    # Words begin at 0, 8, 15. Markers are the spaces after them, and <end>: [7, 14, 17, 18]
    *starts, end_place = word_starts(words)
    cmarker_f = [start - 1 for start in (*starts[1:], end_place)] + [end_place]
    # In 'ni skcehc notsnud ', a word that began at p is followed by its space at 17 - p: [17, 9, 2]
    cmarker_b = [len(text) - start for start in starts] + [end_place]

    # <start>, B, I, I, <end>: cells (0, 1), (1, 2), (2, 2), (2, 4), previous * 5 + current
    path = [] if tags is None else [tag_map[tag] for tag in ('<start>', *tags, '<end>')]
    tmap = [previous * len(tag_map) + current for previous, current in pairwise(path)]
    rows = [array('i', row) for row in (wmap, cmap_f, cmap_b, cmarker_f, cmarker_b, tmap)]
    return Batch(*rows[:5], None if tags is None else rows[5], len(wmap), len(cmap_f))

def readable(word):
    """What is read of a word: composed letters (Unicode's NFC), at most MOST_CHARS of them."""
    return normalize('NFC', word)[:MOST_CHARS]

def word_index(word, word_map):
    """Look a word up as it is written, then in lower case, then as <unk>."""
    for spelling in (word, word.lower()):
        # A word of the text that is spelled like a special word is an unknown word
        if spelling in word_map and spelling not in SPECIAL:
            return word_map[spelling]
    return word_map['<unk>']

def word_starts(words):
    """Where words begin in ' '.join(words) + ' ', and then the length of that text."""
    return list(accumulate((len(word) + 1 for word in words), initial=0))

# --- CoNLL files, entities and their tags ---
def read_words_tags(file, tag_ind, caseless=True, word_ind=0, expected=None):
    """Read the words and one column of tags from a file in CoNLL format: lists of lists of str.

    Columns are between single tabs, if most rows have any, or spaces; -1 is the last. A blank or
    -DOCSTART- line ends a sentence. expected(tag) says what is wanted instead. Raises InputError.
    """
    lines, words, tags, sentence, width = read_lines(file), [], [], [], None
    tabs = 2 * sum('\t' in line for line in lines) > sum(map(bool, lines))  # not a stray one
    if any(re.match(r'1(-\d+)?(\t[^\t]*){9}$', line) for line in lines[:1000]):
        raise InputError(f'{file}: found a .conllu file, which data/prepare.py conllu converts')
    for number, line in enumerate([*lines, ''], start=1):
        # Not at other white space: a no-break space, for example, belongs to its word
        row = ([column.strip(' ') for column in line.split('\t')] if tabs
               else re.split('[ \t]+', line.strip(' \t')))
        if line.strip() and row[0] != '-DOCSTART-':
            if problem := find_problem(row, width, tag_ind, word_ind, expected):
                hint = ' (data/prepare.py gmb reads a table with commas)' * (line.count(',') > 1)
                raise InputError(f'{file}, line {number}: {problem}{hint}, found {line[:80]!r}')
            word, width = (row[word_ind].lower() if caseless else row[word_ind]), len(row)
            sentence.append((sys.intern(word), sys.intern(row[tag_ind])))  # in memory only once
        elif sentence:
            words.append([word for word, _ in sentence])
            tags.append([tag for _, tag in sentence])
            # More is usually a forgotten blank line
            if len(sentence) > 1000 or sum(map(len, words[-1])) > 10_000:
                raise InputError(f'{file}, line {number - len(sentence)}: expected a blank line '
                                 'within 1,000 words and 10,000 characters from here on')
            sentence = []
    if not words:
        raise InputError(f'{file}: expected sentences, found none')
    if width > 2 and all(word.isdigit() for word in chain.from_iterable(words)):
        raise InputError(f'{file}: expected words, found only numbers (see --word_column)')
    return words, tags

def find_problem(columns, width, tag_ind, word_ind, expected):
    """Say what is wrong with a row, whose file has width columns or begins with it, or None."""
    is_first, width = width is None, width or len(columns)
    least = max(tag_ind + 1, -tag_ind, word_ind + 1, -word_ind, 2)
    if width < least:
        return f'expected at least {least} columns'
    if len(columns) != width:
        return f'expected {width} columns, as in the first row'
    if tag_ind % width == word_ind % width:
        return f'expected tags and words in different columns, not both in {tag_ind}'
    word, tag = columns[word_ind], columns[tag_ind]
    header = '(word|token|form|text)s? ([ux]?pos|ner|tag|label|[a-z]+_tag)s?'
    if not word or not tag or is_first and re.fullmatch(header, f'{word} {tag}', re.IGNORECASE):
        return 'expected a word and a tag'
    wanted = expected and expected(tag)
    return wanted and f'expected {wanted} in column {tag_ind} instead of {tag[:40]!r}'

def read_lines(file):
    """Read the lines of a UTF-8 file; InputError if it can't be opened or is not UTF-8."""
    with file_errors(file):
        data = sys.stdin.buffer.read() if str(file) == '-' else Path(file).read_bytes()
        text = data.decode('utf-8-sig')
    if '\0' in text:
        raise InputError(f'{file}: expected UTF-8, found UTF-16 or zeros')
    return split_lines(text)

def split_lines(text):
    """The lines of a text; str.splitlines would also split at signs that belong to words."""
    return re.split('\r\n|\r|\n', text)

def read_corpus(file, task, tag_column, tag_scheme, word_column=0, known_tags=None):
    """Read a labeled file, with entities in tag_scheme for 'ner', or any tags, or known ones."""
    @cache
    def expected(tag):
        if task == 'ner' and not re.fullmatch(r'O|[BIESULMW]-\S+', tag):
            return 'an entity tag (IOB1, IOB2, IOBES, BILOU, BMES or BMEWO)'
        if re.fullmatch(r'<start>|<end>|.*\s.*', tag):
            return 'a tag'
        learned = convert_tags([tag], tag_scheme)[0] if task == 'ner' else tag
        if known_tags is not None and learned not in known_tags:
            return 'a tag that the model knows'

    words, tags = read_words_tags(file, tag_column, False, word_column, expected)
    if {'-', '_'}.issuperset(chain.from_iterable(tags)):
        raise InputError(f'{file}: expected tags in column {tag_column}, found only {tags[0][0]!r}')
    return words, [convert_tags(row, tag_scheme) if task == 'ner' else row for row in tags]

def find_entities(tags):
    """Find entities, (type, first word, last word + 1), in tags of any scheme like conlleval."""
    entities, start, last_prefix, last_type = [], None, 'O', ''
    for position, tag in enumerate([*tags, 'O']):
        prefix, _, entity_type = tag.partition('-')
        prefix = {'U': 'S', 'W': 'S', 'L': 'E', 'M': 'I'}.get(prefix, prefix)
        # An entity continues until a tag ends it or the type changes
        if prefix in 'BSO' or last_prefix in 'ESO' or entity_type != last_type:
            if start is not None:
                entities.append((last_type, start, position))
            start = None if prefix == 'O' else position
        last_prefix, last_type = prefix, entity_type
    return entities

def convert_tags(tags, scheme):
    """Write a sentence's entity tags, which may be of any scheme, in 'iob2' or 'iobes'."""
    return write_tags(find_entities(tags), len(tags), scheme)

def write_tags(entities, length, scheme='iob2'):
    """Write entities, (type, first word, last word + 1, ...), as the tags of so many words."""
    tags = ['O'] * length
    for entity_type, first, end, *_ in entities:
        tags[first:end] = [f'B-{entity_type}'] + [f'I-{entity_type}'] * (end - first - 1)
        if scheme == 'iobes':
            tags[end - 1] = f'S-{entity_type}' if end - first == 1 else f'E-{entity_type}'
    return tags

# --- Vectors ---
def init_embedding(input_embedding):
    """Fill an embedding matrix (vocabulary, dim) in place, uniformly within +-sqrt(3 / dim)."""
    bound = (3 / input_embedding.size(1)) ** 0.5
    torch.nn.init.uniform_(input_embedding, -bound, bound)

def load_embeddings(emb_file, word_map, expand_vocab=True, caseless=False):
    """Load pre-trained vectors for the words of word_map and, with expand_vocab, for all others.

    If caseless, the others have to be in lower case. Words without a vector get a random one.
    Returns embeddings, (vocabulary, dim), the larger word_map, and its old size, lm_vocab_size.
    """
    lm_vocab_size, new_map = len(word_map), dict(word_map)
    known, others, vector = {}, array('f'), None
    wanted = {*word_map, *map(str.lower, word_map)}
    for word, vector in read_embeddings(emb_file):
        word = readable(word)
        if word in wanted:
            known.setdefault(word, vector)
        if expand_vocab and word not in new_map and not (caseless and word != word.lower()):
            new_map[word] = len(new_map)
            others.extend(vector)
    if vector is None:
        raise InputError(f'{emb_file}: expected word vectors, found none')
    # As in word_index, a word's own vector, which comes last, replaces that of its lower case
    found = {word: known[key] for word in word_map for key in (word.lower(), word) if key in known}
    in_corpus = torch.empty(lm_vocab_size, len(vector))
    init_embedding(in_corpus)
    for word, values in found.items():
        in_corpus[word_map[word]] = torch.tensor(values)
    new_rows = torch.from_numpy(np.asarray(others)).view(-1, len(vector))
    print(f'{emb_file} has vectors for {len(found.keys() - SPECIAL):,} of the '
          f'{lm_vocab_size - len(SPECIAL):,} words of the corpus and for {len(new_rows):,} '
          'other words' + ' (--no-caseless takes those with capitals)' * (caseless and not found))
    return torch.cat((in_corpus, new_rows)), new_map, lm_vocab_size

def read_embeddings(emb_file):
    """Yield words and vectors, arrays of floats, of a file in GloVe's or word2vec's text format."""
    dim, total, rows = None, None, 0
    open_file = gzip.open if str(emb_file).endswith('.gz') else open
    with file_errors(emb_file), open_file(emb_file, 'rb') as file:
        if file.peek(3)[:3] in (b'PK\x03', b'BZh', b'\xfd7z', b'\x1f\x8b\x08'):
            raise InputError(f'{emb_file}: expected text or text in a .gz; unpack it first')
        for number, row in enumerate(file, start=1):
            # bytes.split keeps no-break spaces, which belong to words
            fields = row.removeprefix(b'\xef\xbb\xbf' if number == 1 else b'').split()
            if dim is None and len(fields) == 2 and all(field.isdigit() for field in fields):
                total, dim = map(int, fields)  # word2vec's header
            elif fields:
                dim, rows = (len(fields) - 1 if dim is None else dim), rows + 1
                yield parse_vector(fields, dim, f'{emb_file}, line {number}')
    if total not in (None, rows):
        print(f'note: {emb_file} has {rows:,} vectors, not {total:,} as its first line says')

def parse_vector(fields, dim, where):
    """Turn the fields of a row, which is at `where`, into its word and an array of dim floats."""
    try:
        word, vector = b' '.join(fields[:-dim]).decode(), array('f', map(float, fields[-dim:]))
    except ValueError:
        word, vector = '', []
    # A trailing number is a value too many, not part of the word
    if not word or re.search(r' [-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$', word):
        raise InputError(f'{where}: expected a word in UTF-8 and {dim} numbers, found '
                         f'{len(fields)} fields: {b" ".join(fields)[:40]!r}')
    if not math.isfinite(sum(vector)):
        raise InputError(f'{where}: expected finite numbers, found '
                         f'{next(value for value in vector if not math.isfinite(value))}')
    return word, vector

# --- Scores ---
def score_task(gold, predicted, task):
    """Rows of score_rows and scores by name, of all sentences at once (no mean over batches)."""
    if task == 'ner':
        gold = [convert_tags(sentence, 'iob2') for sentence in gold]
        predicted = [convert_tags(sentence, 'iob2') for sentence in predicted]
    rows = score_rows(gold, predicted, lambda tags: zip(tags, count()))
    # The last row is that of all tags; with one tag a word, its F1 is the accuracy
    f1_scores = [f1 for _, _, _, f1, _ in rows[:-1]]
    scores = {'macro_f1': sum(f1_scores) / len(f1_scores), 'accuracy': rows[-1][3]}
    if task == 'ner':
        # An entity is right if its type, its first and its last word are (conlleval)
        rows = score_rows(gold, predicted, find_entities)
        scores['entity_f1'] = rows[-1][3]
    return rows, scores

def score_rows(gold, predicted, find):
    """Rows of (name, precision, recall, F1, support); find(tags) yields (name, place, ...)."""
    right, found, wanted = Counter(), Counter(), Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        gold_places, predicted_places = set(find(gold_tags)), set(find(predicted_tags))
        right.update(name for name, *_ in gold_places & predicted_places)
        found.update(name for name, *_ in predicted_places)
        wanted.update(name for name, *_ in gold_places)
    rows = [(name, right[name], found[name], wanted[name]) for name in sorted(found | wanted)]
    rows.append(('all', right.total(), found.total(), wanted.total()))
    # A ratio without a denominator is 0, as in conlleval
    return [(tag, r / max(f, 1), r / max(w, 1), 2 * r / max(f + w, 1), w) for tag, r, f, w in rows]

def print_scores(gold, predicted, task):
    """Print score_task's rows as a table, and the scores of all tags; return all scores by name."""
    rows, scores = score_task(gold, predicted, task)
    width = max(len(row[0]) for row in rows)
    print(f'{"":{width}}  precision  recall      F1  support')
    for name, precision, recall, f1, support in rows:
        print(f'{name:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {support:7}')
    print(f'all tags: accuracy {scores["accuracy"]:.4f}, macro F1 {scores["macro_f1"]:.4f}')
    return scores

# --- Losses, training, checkpoints ---
def log_sum_exp(tensor, dim):
    """log(sum(exp(tensor))) over a dimension, which is then gone; nothing in it overflows."""
    return torch.logsumexp(tensor, dim)

def real_words(lengths, size, device='cpu'):
    """Which of a row's `size` places hold a word or <end>, and not a pad: (N,) -> (N, size)."""
    return torch.arange(size, device=device) < lengths.to(device, non_blocking=True).unsqueeze(1)

def check_shapes(scores, lengths, m, *targets):
    """ValueError unless scores are (N, L, m, m), N lengths from 1 to L, and targets (N, L)."""
    found = [tuple(tensor.shape) for tensor in (scores, lengths, *targets)]
    wanted = [(*found[0][:2], m, m), found[0][:1], found[0][:2]][:len(found)]
    if found != wanted or not 1 <= lengths.min() <= lengths.max() <= scores.size(1):
        raise ValueError(f'expected scores, lengths (from 1 to L) and targets of shapes {wanted}, '
                         f'found {found} and the lengths {lengths.tolist()}')

def clip_gradient(optimizer, grad_clip):
    """Clip the gradients of all of the optimizer's parameters to +-grad_clip, value by value."""
    for parameter in chain.from_iterable(group['params'] for group in optimizer.param_groups):
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
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        """Add a value that is itself the mean of n."""
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.sum / self.count

def save_checkpoint(path, checkpoint):
    """Save the state of a run, to continue training, or what it takes to tag: a dict."""
    # A map is saved as one string, which is read faster than 400,000 short ones
    maps = {name: '\n'.join(numbered) for name, numbered in checkpoint['maps'].items()}
    # Written beside its place and then renamed, a checkpoint is always whole
    temporary = Path(f'{path}.tmp')
    with file_errors(path, 'written', RuntimeError):
        try:
            with open(temporary, 'wb') as file:
                torch.save({**checkpoint, 'format': CHECKPOINT_FORMAT, 'maps': maps}, file)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

def load_checkpoint(path, device='cpu'):
    """Load a checkpoint onto a device; InputError if it is none, damaged, or of another format."""
    with file_errors(path), open(path, 'rb') as file:
        try:
            # A checkpoint is a zip archive, which knows when a part of it is damaged
            damaged = zipfile.ZipFile(file).testzip() is not None
            saved = torch.load(path, map_location=device, weights_only=True)
            found = 'a damaged one' if damaged else f'format {saved["format"]}'
        except Exception:  # torch.load raises all kinds of them
            found = 'another or a damaged file'
    if found != f'format {CHECKPOINT_FORMAT}':
        raise InputError(f'{path}: expected a checkpoint of train.py, format {CHECKPOINT_FORMAT}, '
                         f'found {found}')
    needed = {'word_map': SPECIAL, 'char_map': (' ', *SPECIAL), 'tag_map': ('<start>', '<end>')}
    with file_errors(path, 'used', AttributeError, KeyError, TypeError, ValueError):
        maps = {name: dict(zip(saved['maps'].pop(name).split('\n'), count())) for name in needed}
        if (saved['maps'] or not all({*needed[name]} <= maps[name].keys() for name in maps)
                or not {'task', 'tag_scheme', 'tokenizer'} <= saved['arguments'].keys()
                or not all(weight.isfinite().all() for weight in saved['model'].values())):
            raise ValueError(f'expected three maps, with {needed}, arguments and finite weights')
    return {**saved, 'maps': maps}

# --- The command line ---
class InputError(ValueError):
    """What the user gave can't be used; the message is one line that says what and where."""

@contextmanager
def file_errors(path, action='read', *errors):
    """Say in one line that a file can't be read or written; other errors only if they are named."""
    try:
        yield
    except UnicodeDecodeError as error:
        number = len(re.split(b'\r\n|\r|\n', error.object[:error.start]))
        found = f'{error.object[error.start]:#04x}'
        raise InputError(f'{path}, line {number}: expected UTF-8, found the byte {found}') from None
    except (OSError, EOFError, zlib.error, *errors) as error:
        # torch.save may hide that the disk is full behind an error of its own
        said = getattr(error.__context__, 'strerror', None) or getattr(error, 'strerror', None)
        reason = ' '.join(str(said or error).split())[:160]
        raise InputError(f'{path}: cannot be {action}: {reason}') from None

class ArgumentParser(argparse.ArgumentParser):
    """argparse's, except that mistakes are InputErrors."""
    def error(self, message):
        raise InputError(f'{message} (--help says more)')

def in_range(kind, least, most=10**9, word=None):
    """Make a type for argparse, which names it: a number between two bounds, or a word."""
    def parse(text):
        value = word if text == word else kind(text)
        if value != word and not least <= value <= most:
            raise ValueError
        return value
    parse.__name__ = f'{kind.__name__} from {least} to {most}' + (f' or {word}' if word else '')
    return parse

def devices():
    """The names of the devices that PyTorch can use here, the best one first."""
    gpus = [f'cuda:{i}' for i in range(torch.cuda.device_count())]
    return ['cuda', *gpus, 'cpu'] if gpus else ['cpu']

class StandardOutput(io.FileIO):
    """Standard output, whose errors say that they are its own."""
    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, 'standard output') from None

def run_main(main):
    """Run a script's main function on the command line, and say in one line what went wrong."""
    if sys.stdout is None or sys.stderr is None:
        sys.exit('error: expected standard output and standard error to be open')
    # Names of people and places need more than some terminals' encodings have
    output = io.BufferedWriter(StandardOutput(sys.stdout.fileno(), 'w', closefd=False))
    at_once = sys.stdout.line_buffering or sys.stdout.write_through
    sys.stdout = io.TextIOWrapper(output, 'utf-8', 'replace', line_buffering=at_once)
    # A GPU then multiplies matrices in TF32, which is several times as fast
    torch.set_float32_matmul_precision('high')
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except (RuntimeError, MemoryError) as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's would swallow the line below
        if re.search('MemoryError|allocate memory|size calculation', f'{type(error)} {error}'):
            sys.exit('error: expected more memory; smaller batches or sizes need less')
        if 'TORCHELASTIC_RUN_ID' not in os.environ:
            raise
        sys.exit('error: several processes failed: ' + ' '.join(str(error).split())[:120])
    except OSError as error:
        if error.filename is None:
            raise
        # What could not be printed is dropped, or it would fail once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Its reader, head for example, may have seen enough
        sys.exit(1 if error.errno == errno.EPIPE else f'error: {error.filename}: {error.strerror}')
