"""From CoNLL files to tensors and back: maps, the eight inputs, embeddings, metrics, checkpoints.

    words, tags = read_words_tags('data/sample/train.txt', tag_ind=3, caseless=False)
    word_map, char_map, tag_map = create_maps(words, tags, min_word_freq=5, caseless=True)
    tensors = create_input_tensors(words, tags, word_map, char_map, tag_map)

The comments follow one sentence, `dunston checks in`, tagged tag_2, tag_3, tag_3.
"""

import argparse
import codecs
import gzip
import hashlib
import os
import re
import signal
import sys
import warnings
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import torch

SPECIAL_WORDS = ('<pad>', '<end>', '<unk>')
CHECKPOINT_FORMAT = 1
# A longer sentence is usually a forgotten blank line, and would make every padded tensor as long
MOST_WORDS, MOST_CHARS = 1000, 10_000


class InputError(Exception):
    """What the user gave can't be used; the message is one line that says what and where."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but for mistakes, which are InputErrors, and so one line."""

    def error(self, message):
        raise InputError(f'{message} (--help says more)')


def number(kind, least, most=float('inf')):
    """An int or a float between two bounds, for argparse."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f'expected {kind.__name__} from {least} to {most}, found {text!r}')
        return value
    return parse


def available_device(text):
    """The name of a device that PyTorch can use here, for argparse."""
    try:
        if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
            raise RuntimeError
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError):
        raise argparse.ArgumentTypeError(
            f'expected cpu, or cuda if PyTorch has one here, found {text!r}') from None
    return text


def exit_status(main, argv):
    """Run a script's main function on the command line.

    Returns:
        For sys.exit, what main returns or, in one line, what was wrong with the input.
    """
    # Names of people and places need more than some terminals' encodings have
    sys.stdout.reconfigure(encoding='utf-8', errors='replace')
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except InputError as error:
        return f'error: {error}'
    except BrokenPipeError:
        # The reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


# --- CoNLL files ---

def read_text(file):
    """Read a UTF-8 file, with or without a byte-order mark, with LF or CRLF at the ends of lines.

    Raises:
        InputError: it can't be opened, or a line is not UTF-8.
    """
    try:
        data = Path(file).read_bytes()
        return data.decode('utf-8-sig').replace('\r\n', '\n')
    except OSError as error:
        raise InputError(f'{file}: cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        found = error.object[error.start:error.start + 1].hex()
        raise InputError(f'{file}, line {line}: expected UTF-8, found the byte 0x{found}') from None


def read_words_tags(file, tag_ind, caseless=True):
    """Read the words and one column of tags from a file in CoNLL format.

    A row holds a word and its tags, in columns between spaces or tabs (a no-break space belongs
    to its word). A blank line or a -DOCSTART- line ends a sentence.

    Args:
        file: path of the file.
        tag_ind: number of the column of the tags, counted from 0, which is the word's.
        caseless: lower-case the words?

    Returns:
        words and tags: for each sentence, a list of str.

    Raises:
        InputError: no sentence, one that is longer than any real one, or too few columns.
    """
    # Each step runs over the whole text at once and leaves the number of lines as it is
    text = re.sub(r'(?m)^-DOCSTART-(?:[ \t].*)?$', '', read_text(file))
    if '\t' in text or '  ' in text or ' \n' in text or '\n ' in text:
        text = re.sub(r' *\n *', '\n', re.sub(r'[ \t]+', ' ', text))
    sentences = re.split(r'\n\n+', text.strip(' \n'))
    if sentences == ['']:
        raise InputError(f'{file}: expected sentences, found none')

    words, tags = [], []
    for sentence in sentences:
        rows = [row.split(' ') for row in sentence.split('\n')]
        try:
            tags.append([row[tag_ind] for row in rows])
        except IndexError:
            short = next(i for i, row in enumerate(rows) if len(row) <= tag_ind)
            raise bad_row(file, sum(map(len, words)) + short,
                          f'at least {tag_ind + 1} columns') from None
        words.append([row[0] for row in rows])
        if len(rows) > MOST_WORDS or sum(map(len, words[-1])) > MOST_CHARS:
            raise bad_row(file, sum(map(len, words[:-1])), f'at most {MOST_WORDS:,} words and '
                          f'{MOST_CHARS:,} characters in the sentence that begins here')
    if caseless:
        words = [[word.lower() for word in sentence] for sentence in words]
    return words, tags


def bad_row(file, row, expected):
    """The InputError for the given row of a CoNLL file, rows counted from 0 without blank lines."""
    lines = enumerate(read_text(file).split('\n'), start=1)
    rows = ((number, line.strip(' \t')) for number, line in lines
            if line.strip(' \t') and not re.match(r'-DOCSTART-([ \t]|$)', line))
    number, line = next(found for i, found in enumerate(rows) if i == row)
    return InputError(f'{file}, line {number}: expected {expected}, found {line!r}')


# --- Tag schemes and entities ---

def find_entities(tags):
    """Find the entities in a sentence's tags, be they IOB1, IOB2 or IOBES, as conlleval does.

    A word continues the entity of the word before it unless a tag of either says otherwise (B and
    S begin one, E and S end one, O is outside) or the type changes.

    Args:
        tags: tags of one sentence, such as ['B-PER', 'I-PER', 'O'].

    Returns:
        A list of (type, first word, last word + 1).
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


def write_tags(entities, length, scheme):
    """Write a sentence's entities, in order, as tags; the inverse of find_entities.

    Args:
        entities: a list of (type, first word, last word + 1).
        length: number of words in the sentence.
        scheme: 'iob1' (I, but B after an entity of the same type), 'iob2' (B first, then I) or
            'iobes' (B first, I inside, E last, S for an entity of a single word).

    Returns:
        A list of tags.
    """
    tags = ['O'] * length
    last_type, last_end = None, None
    for entity_type, start, end in entities:
        prefixes = ['I'] * (end - start)
        if scheme != 'iob1' or (entity_type, start) == (last_type, last_end):
            prefixes[0] = 'B'
        if scheme == 'iobes':
            prefixes[-1] = 'S' if end - start == 1 else 'E'
        tags[start:end] = [f'{prefix}-{entity_type}' for prefix in prefixes]
        last_type, last_end = entity_type, end
    return tags


def convert_tags(tags, scheme):
    """Write one sentence's tags, of any scheme, in the given scheme: 'iob1', 'iob2' or 'iobes'."""
    return write_tags(find_entities(tags), len(tags), scheme)


def all_tags(entity_types, scheme):
    """Every tag that a scheme, 'iob2' or 'iobes', has for the given entity types."""
    prefixes = {'iob2': 'BI', 'iobes': 'BIES'}[scheme]
    return ['O', *(f'{prefix}-{name}' for name in entity_types for prefix in prefixes)]


def read_corpus(file, task, tag_column, tag_scheme):
    """Read a labelled file for a task: words as they are written, entity tags in tag_scheme.

    Raises:
        InputError: see read_words_tags; or the column holds no such tags.
    """
    words, tags = read_words_tags(file, tag_column, caseless=False)
    if set(chain.from_iterable(tags)) == {'-'}:
        raise bad_row(file, 0, f"a tag in column {tag_column} (that column has only '-')")
    pattern = r'O|[BIES]-.+' if task == 'ner' else r'(?!<start>$|<end>$).+'
    check_tags(file, tags, lambda tag: re.fullmatch(pattern, tag),
               f"{'an entity' if task == 'ner' else 'a'} tag in column {tag_column}")
    return words, [convert_tags(row, tag_scheme) for row in tags] if task == 'ner' else tags


def check_tags(file, tags, is_valid, expected):
    """Refuse a file whose tags are not all valid, naming the first line with one that is not."""
    wrong = {tag for tag in set(chain.from_iterable(tags)) if not is_valid(tag)}
    if wrong:
        flat = list(chain.from_iterable(tags))
        row = next(i for i, tag in enumerate(flat) if tag in wrong)
        raise bad_row(file, row, f'{expected} instead of {flat[row]!r}')


# --- Maps and the eight tensors ---

def create_maps(words, tags, min_word_freq=5, min_char_freq=1, caseless=False):
    """Number the words, characters and tags of a corpus.

    Args:
        words, tags: for each sentence, a list of str.
        min_word_freq: words that are seen less often are binned as <unk>.
        min_char_freq: characters that are seen less often are binned as <unk>.
        caseless: lower-case the words (never the characters)?

    Returns:
        word_map: <pad> is 0, then the words in the order in which they first occur, <end>, <unk>.
        char_map: the same for characters, the space always among them.
        tag_map: <start> is 0, then the tags in sorted order, <end>.
    """
    counts = Counter(chain.from_iterable(words))
    char_counts, word_counts = Counter(), Counter()
    for word, count in counts.items():
        for char in word:
            char_counts[char] += count
        word_counts[word.lower() if caseless else word] += count

    kept_words = [word for word, count in word_counts.items()
                  if count >= min_word_freq and word not in SPECIAL_WORDS]
    kept_chars = [char for char, count in char_counts.items()
                  if count >= min_char_freq and char != ' ']
    tag_names = sorted(set(chain.from_iterable(tags)) - {'<start>', '<end>'})
    return (number_from_0(['<pad>', *kept_words, '<end>', '<unk>']),
            number_from_0(['<pad>', ' ', *kept_chars, '<end>', '<unk>']),
            number_from_0(['<start>', *tag_names, '<end>']))


def number_from_0(names):
    """Map each name to its place in the list."""
    return {name: number for number, name in enumerate(names)}


def word_index(word, word_map):
    """Look a word up as it is written, then in lower case, then as <unk>."""
    for spelling in (word, word.lower()):
        # A word of the text that is spelled like a special word is an unknown word
        if spelling in word_map and spelling not in SPECIAL_WORDS:
            return word_map[spelling]
    return word_map['<unk>']


def pad_rows(values, lengths, end):
    """Lay a flat list or array out in rows, close each with `end`, and pad them with 0.

    Args:
        values: (sum of lengths,), lengths: (N,).

    Returns:
        (N, longest length + 1) array of int64.
    """
    places = np.arange(lengths.max() + 1)
    padded = np.where(places == lengths[:, None], end, 0)
    padded[places < lengths[:, None]] = values
    return padded


def encode_chars(texts, char_map):
    """Encode texts, character by character, and close each with <end>.

    Args:
        texts: N strings.

    Returns:
        (N, L_c) array of int64, 0 at the pads.
    """
    lengths = np.array([len(text) for text in texts])
    # One table from code point to index and one look-up serve all characters of the corpus
    table = np.full(0x110000, char_map['<unk>'])
    for char, index in char_map.items():
        if len(char) == 1:
            table[ord(char)] = index
    codes = np.frombuffer(''.join(texts).encode('utf-32-le', 'surrogatepass'), dtype=np.uint32)
    return pad_rows(table[codes], lengths, char_map['<end>'])


def create_input_tensors(words, tags, word_map, char_map, tag_map):
    """Encode sentences as the eight tensors that the model takes.

    Args:
        words: for each of N sentences, a list of str, not empty.
        tags: the same for its tags, or None for raw text.
        word_map, char_map, tag_map: from create_maps.

    Returns:
        wmaps (N, L_w), cmaps_f (N, L_c), cmaps_b (N, L_c), cmarkers_f (N, L_w), cmarkers_b
        (N, L_w), tmaps (N, L_w) or None, wmap_lengths (N,), cmap_lengths (N,): LongTensors. L_w
        counts the words and <end>; L_c the characters, a space after each word, and <end>. Pads
        are 0.

    Raises:
        KeyError: a tag is not in tag_map.
    """
    # dunston, checks, in -> 3
    sizes = np.array([len(sentence) for sentence in words])
    flat_words = list(chain.from_iterable(words))

    # dunston, checks, in, <end>
    indices = {word: word_index(word, word_map) for word in set(flat_words)}
    wmaps = pad_rows([indices[word] for word in flat_words], sizes, word_map['<end>'])

    # 'dunston checks in ' + <end>, 'ni skcehc notsnud ' + <end>
    texts = [' '.join(sentence) for sentence in words]
    cmaps_f = encode_chars([text + ' ' for text in texts], char_map)
    cmaps_b = encode_chars([text[::-1] + ' ' for text in texts], char_map)

    # The words, each with its space, and <end> take 8, 7, 3 and 1 characters, so that the last of
    # each are at [7, 14, 17, 18] forward and, in the order of the words, [17, 9, 2, 18] backward
    steps = pad_rows([len(word) + 1 for word in flat_words], sizes, 1)
    inside, lengths = steps > 0, steps.sum(axis=1)
    cmarkers_f = np.where(inside, steps.cumsum(axis=1) - 1, 0)
    # The sums from the right have begun with the 1 of <end>, which is not read before the words
    cmarkers_b = np.where(inside, steps[:, ::-1].cumsum(axis=1)[:, ::-1] - 2, 0)
    cmarkers_b[np.arange(len(words)), sizes] = lengths - 1

    tmaps = None
    if tags is not None:
        # <start>, 2, 3, 3 are the tags before 2, 3, 3, <end>; unrolled, 0 * 5 + 2 = 2, 13, 18, 19
        flat_tags = [tag_map[tag] for tag in chain.from_iterable(tags)]
        current = pad_rows(flat_tags, sizes, tag_map['<end>'])
        previous = np.pad(current, ((0, 0), (1, 0)), constant_values=tag_map['<start>'])[:, :-1]
        tmaps = np.where(inside, previous * len(tag_map) + current, 0)

    arrays = (wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps, sizes + 1, lengths)
    return tuple(None if array is None else torch.from_numpy(array) for array in arrays)


def to_device(tensors, device):
    """Move the eight tensors to a device, but for the lengths, which only the host works with."""
    *padded, wmap_lengths, cmap_lengths = tensors
    padded = [None if tensor is None else tensor.to(device) for tensor in padded]
    return *padded, wmap_lengths, cmap_lengths


# --- Embeddings ---

def init_embedding(input_embedding):
    """Fill an embedding matrix (vocabulary, dim) in place, uniformly within +-sqrt(3 / dim)."""
    bias = (3.0 / input_embedding.size(1)) ** 0.5
    torch.nn.init.uniform_(input_embedding, -bias, bias)


def read_embeddings(emb_file):
    """Read a file of word vectors, a block of rows at a time.

    Args:
        emb_file: path, plain or .gz, in UTF-8: a word and its values in each row, between spaces
            (GloVe), perhaps after a header row with the number of words and of values (word2vec).

    Yields:
        words, a list of n str, and their vectors, an (n, dim) array of float32.

    Raises:
        InputError: it can't be read, or a row is malformed or of another length.
    """
    dim, number = None, 1
    try:
        with gzip.open(emb_file) if str(emb_file).endswith('.gz') else open(emb_file, 'rb') as file:
            while rows := file.readlines(1 << 20):
                if dim is None:
                    rows[0] = rows[0].removeprefix(codecs.BOM_UTF8)
                    header = rows[0].split()
                    if len(header) == 2 and all(field.isdigit() for field in header):
                        rows, number = rows[1:], 2
                    dim = len((rows or [b''])[0].split()) - 1
                    if dim < 1:
                        raise InputError(f'{emb_file}, line {number}: expected a word and its '
                                         f'vector, found {rows[:1]!r:.60}')
                if rows:
                    yield parse_vectors(rows, dim, emb_file, number)
                number += len(rows)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'{emb_file}: cannot be read: {error}') from None
    if dim is None:
        raise InputError(f'{emb_file}: expected word vectors, found an empty file')


def parse_vectors(rows, dim, file, number):
    """Parse rows of an embedding file, the first of which is its line `number`.

    Returns:
        words, a list of n str, which may contain spaces (GloVe 840B has some), and their vectors,
        an (n, dim) array of float32.
    """
    words, values = [], []
    try:
        for row in rows:
            word, _, vector = row.rstrip().partition(b' ')
            if vector.count(b' ') != dim - 1:
                word, vector = split_long_row(row, dim)
            words.append(word.decode())
            values.append(vector)
        vectors = np.fromstring(b' '.join(values), dtype=np.float32, sep=' ').reshape(-1, dim)
        if len(vectors) != len(words) or not np.isfinite(vectors).all():
            raise ValueError
    except ValueError:
        # Some row is malformed: take them one by one to say which
        if len(rows) > 1:
            for i, row in enumerate(rows):
                parse_vectors([row], dim, file, number + i)
        raise InputError(f'{file}, line {number}: expected a word in UTF-8 and {dim} numbers, '
                         f'found {len(rows[0].split())} fields: {rows[0][:40]!r}') from None
    return words, vectors


def split_long_row(row, dim):
    """Split a row whose word contains spaces, or that has wider gaps, into word and vector."""
    fields = row.split()
    word = b' '.join(fields[:-dim])
    # One value too many is no part of the word
    if not word or re.search(rb' [-+]?\d*\.\d+$', word):
        raise ValueError
    return word, b' '.join(fields[-dim:])


def load_embeddings(emb_file, word_map, expand_vocab=True, caseless=False, corpora=None):
    """Load pre-trained vectors for the words of word_map and, with expand_vocab, for all others.

    Args:
        emb_file: see read_embeddings.
        word_map: from create_maps. Its words without a vector get a random one (init_embedding).
        expand_vocab: append the file's other words to the word_map?
        caseless: skip vectors of words that are not in lower case?
        corpora: None, or for each name the words (a list of lists) whose coverage is to be printed.

    Returns:
        embeddings, (len(new word_map), dim); the new word_map; lm_vocab_size, the size of the old:
        its words keep their indices, so that an index below lm_vocab_size is a word of the corpus.
    """
    lm_vocab_size, new_map = len(word_map), dict(word_map)
    in_corpus, found, rows = None, set(), bytearray()
    for words, vectors in read_embeddings(emb_file):
        if in_corpus is None:
            in_corpus = torch.empty(lm_vocab_size, vectors.shape[1])
            init_embedding(in_corpus)
            # A growing bytearray holds the matrix, so that it is never in memory twice
            rows += in_corpus.numpy().tobytes()
        new = []
        for i, word in enumerate(words):
            if word in word_map:
                # The first of repeated words counts
                if word not in found:
                    found.add(word)
                    in_corpus[word_map[word]] = torch.from_numpy(vectors[i])
            elif expand_vocab and word not in new_map and not (caseless and word != word.lower()):
                new_map[word] = len(new_map)
                new.append(i)
        rows += vectors[new].tobytes()
    embeddings = torch.frombuffer(rows, dtype=torch.float32).view(-1, in_corpus.size(1))
    embeddings[:lm_vocab_size] = in_corpus

    covered = {word_map[word] for word in found} - {word_map['<unk>']}
    for name, sentences in (corpora or {}).items():
        counts = Counter(chain.from_iterable(sentences))
        indices = {word: word_index(word, new_map) for word in counts}
        with_vector = [counts[word] for word, index in indices.items()
                       if index >= lm_vocab_size or index in covered]
        print(f'{emb_file} covers {sum(with_vector) / counts.total():.1%} of the {name} words, '
              f'{len(with_vector):,} of {len(counts):,} different ones')
    return embeddings, new_map, lm_vocab_size


# --- Metrics ---

def score_tags(gold, predicted, task):
    """Score predicted tags, once over all sentences (never as a mean over batches).

    Args:
        gold, predicted: for each sentence, a list of tags; entity tags may be of any scheme.
        task: 'ner' or 'pos'.

    Returns:
        A dict: macro_f1, the mean of the F1s of the tags (IOB2) that occur in either; for ner,
        entity_f1 as conlleval counts it; accuracy; rows, for print_scores.
    """
    if task == 'ner':
        # An entity is right if its type, its first and its last word are
        entities = [[find_entities(tags) for tags in corpus] for corpus in (gold, predicted)]
        gold, predicted = ([write_tags(found, len(tags), 'iob2')
                            for found, tags in zip(corpus, gold)] for corpus in entities)
        right = [entity for pair in zip(*entities) for entity in set(pair[0]) & set(pair[1])]
        entity_rows = score_rows(*(Counter(entity[0] for entity in found) for found in (
            right, chain.from_iterable(entities[1]), chain.from_iterable(entities[0]))))
    gold, predicted = (list(chain.from_iterable(corpus)) for corpus in (gold, predicted))
    right = Counter(g for g, p in zip(gold, predicted, strict=True) if g == p)
    rows = score_rows(right, Counter(predicted), Counter(gold))
    scores = {'macro_f1': sum(row[3] for row in rows[:-1]) / len(rows[:-1])}
    if task == 'ner':
        rows = entity_rows
        scores['entity_f1'] = rows[-1][3]
    return {**scores, 'accuracy': right.total() / len(gold), 'rows': rows}


def score_rows(right, predicted, gold):
    """Compare three Counters: how often each name was right, was predicted, and should have been.

    Returns:
        (name, precision, recall, F1, support) for each name, and for 'all'.
    """
    counts = (right, predicted, gold)
    names = sorted(predicted | gold)
    totals = [[count[name] for count in counts] for name in names]
    totals.append([count.total() for count in counts])
    # A ratio without a denominator is 0, as in conlleval
    return [(name, right / max(predicted, 1), right / max(gold, 1),
             2 * right / max(predicted + gold, 1), gold)
            for name, (right, predicted, gold) in zip([*names, 'all'], totals)]


def print_scores(scores):
    """Print what score_tags found as a table, with the figures for all tags below."""
    width = max(len(row[0]) for row in scores['rows'])
    print(f'{"":{width}}  precision  recall      F1  support')
    for name, precision, recall, f1, support in scores['rows']:
        print(f'{name:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {support:7}')
    print(f'all tags: accuracy {scores["accuracy"]:.4f}, macro F1 {scores["macro_f1"]:.4f}')


# --- Training ---

def log_sum_exp(tensor, dim):
    """log(sum(exp(tensor))) over a dimension, which is then gone.

    The maximum is taken out before the exponential, so that nothing overflows.
    """
    return torch.logsumexp(tensor, dim)


def clip_gradient(optimizer, grad_clip):
    """Clip the gradients of all of the optimizer's parameters to +-grad_clip, value by value."""
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter.grad is not None and parameter.grad.is_sparse:
                # Each row once, or the sum of its parts would be clipped part by part
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
        """Add a value that is itself the mean of n, which may be none."""
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / max(self.count, 1)


# --- Checkpoints ---

def checksum(value):
    """SHA-256 of a checkpoint: of tensors, plain values, and lists, tuples and dicts of them."""
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, dict):
            value = list(value.items())
        if isinstance(value, list | tuple):
            digest.update(f'{len(value)} values'.encode())
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor) and value.is_sparse:
            add([value.shape, value.coalesce().indices(), value.coalesce().values()])
        elif isinstance(value, torch.Tensor):
            digest.update(f'{value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().reshape(-1).numpy())
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()


def save_checkpoint(path, model, optimizer, maps, state):
    """Save what is needed to tag, and to go on training exactly where it stopped.

    The file is written beside its final place and then renamed, so that a checkpoint is always
    whole. It holds tensors, numbers, strings, and lists and dicts of them; a map is one string.

    Args:
        path: where to save.
        model, optimizer: their state_dicts are saved.
        maps: a dict of word_map, char_map and tag_map.
        state: a dict of everything else, in plain values.

    Raises:
        InputError: it can't be written.
    """
    checkpoint = {**state, 'format': CHECKPOINT_FORMAT, 'model': model.state_dict(),
                  'optimizer': optimizer.state_dict(), 'rng_state': torch.get_rng_state(),
                  'cuda_rng_state': (torch.cuda.get_rng_state() if torch.cuda.is_available()
                                     else None),
                  **{name: '\n'.join(names) for name, names in maps.items()}}
    checkpoint['checksum'] = checksum(checkpoint)
    temporary = Path(f'{path}.tmp')
    try:
        with open(temporary, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f'{path}: cannot be written: {error}') from None


def load_checkpoint(path, device):
    """Load a checkpoint of save_checkpoint onto a device; its maps are dicts again.

    Raises:
        InputError: it can't be read, or is no checkpoint, or one of another format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            checkpoint = torch.load(path, map_location=device, weights_only=True)
        found = checkpoint['format']
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or error}') from None
    except Exception:
        # torch.load raises, and warns of, many things at a file of another kind
        raise InputError(f'{path}: expected a checkpoint of train.py, found another file') from None
    if found != CHECKPOINT_FORMAT:
        raise InputError(f'{path}: expected format {CHECKPOINT_FORMAT}, found {found!r}')
    if checkpoint.pop('checksum', None) != checksum(checkpoint):
        raise InputError(f'{path}: expected a whole checkpoint, found a damaged one')
    for name in ('word_map', 'char_map', 'tag_map'):
        checkpoint[name] = number_from_0(checkpoint[name].split('\n'))
    return checkpoint
