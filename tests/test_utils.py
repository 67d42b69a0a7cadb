"""Readers, maps, the eight tensors, tag schemes, embeddings and metrics."""

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import re
import time
import unicodedata
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
import torch
from conftest import ROOT
from hypothesis import given

import utils
from utils import (InputError, convert_tags, create_input_tensors, create_maps,
                   find_entities, load_embeddings, read_corpus, read_words_tags, score_task)

# --- CoNLL files ---

def test_reader_lower_cases_only_when_caseless(tmp_path):
    file = tmp_path / 'file.txt'
    file.write_text('Oslo X', encoding='utf-8')
    assert read_words_tags(file, 1, caseless=True)[0] == [['oslo']]
    assert read_words_tags(file, 1, caseless=False)[0] == [['Oslo']]


@pytest.mark.parametrize('data, message', [
    (b'', 'expected sentences, found none'),
    (b'\n \n-DOCSTART- X\n\n', 'expected sentences, found none'),
    (b'a X\n\n-DOCSTART- X\n\nb X\nc\n',
     "line 6: expected 2 columns, as in the first row, found 'c'"),
    (b'a X\nb \xff X\n', 'line 2: expected UTF-8, found the byte 0xff'),
    (b'a X\r\nb \xff X\r\n', 'line 2: expected UTF-8, found the byte 0xff'),
    (b'a X\rb \xff X\r', 'line 2: expected UTF-8, found the byte 0xff')])
def test_reader_names_file_and_line(tmp_path, data, message):
    file = tmp_path / 'file.txt'
    file.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_words_tags(file, 1)
    assert str(error.value) == f'{file}{", " if "line" in message else ": "}{message}'


@pytest.mark.parametrize('rows, line', [('a X\n' * 1001, 3),
                                        ('a X\n' + 'b' * 10_000 + ' X\n', 3)])
def test_a_forgotten_blank_line_is_noticed(tmp_path, rows, line):
    file = tmp_path / 'file.txt'
    file.write_text('a X\n\n' + rows)
    with pytest.raises(InputError, match=f'line {line}: expected a blank line within 1,000 words'):
        read_words_tags(file, 1)


# --- Columns, as people have them ---

def write_and_read(folder, text, task='ner', tag_column=-1, **others):
    """Read what a file would say: for each sentence, its words and tags in pairs."""
    file = folder / 'file.txt'
    file.write_bytes(text.encode())
    words, tags = read_corpus(file, task, tag_column, 'iob2', **others)
    return [list(zip(*sentence, strict=True)) for sentence in zip(words, tags, strict=True)]


@pytest.mark.parametrize('text, options, sentences', [
    # In a file with tabs nothing else separates
    ('New York\tNNP\tB-NP\tB-LOC', {}, [[('New York', 'B-LOC')]]),
    ('New York\tNNP\tB-NP\tB-LOC\nis\tVBZ\tO\tO', {}, [[('New York', 'B-LOC'), ('is', 'O')]]),
    ('New  York\tB-LOC', {}, [[('New  York', 'B-LOC')]]),
    ('Oslo  \tNNP \t B-LOC  ', {}, [[('Oslo', 'B-LOC')]]),
    ('Oslo\tNNP or NN\tB-LOC', {}, [[('Oslo', 'B-LOC')]]),
    ('"Oslo\tB-LOC\n"\tO', {}, [[('"Oslo', 'B-LOC'), ('"', 'O')]]),
    # An empty cell is a cell
    ('Oslo\t\tB-LOC\tO', {'tag_column': 2}, [[('Oslo', 'B-LOC')]]),
    ('\tOslo\tB-LOC', {'word_column': 1}, [[('Oslo', 'B-LOC')]]),
    ('Oslo\tB-LOC\t', {'tag_column': 1}, [[('Oslo', 'B-LOC')]]),
    # A line of white space alone is blank
    ('Oslo\tB-LOC\n\t\nis\tO', {}, [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    ('Oslo\tB-LOC\n \t \t\nis\tO', {}, [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    # Without tabs, runs of spaces separate
    ('Oslo   NNP B-LOC', {}, [[('Oslo', 'B-LOC')]]),
    ('  Oslo B-LOC  \n   \nis O', {}, [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    ('1\u00a0000 B-LOC', {}, [[('1\u00a0000', 'B-LOC')]]),
    ('1\u00a0000\tB-LOC', {}, [[('1\u00a0000', 'B-LOC')]]),
    ('a\u2028b O\nx\x0by O\np\x85q O\n\u3000 O', {},
     [[('a\u2028b', 'O'), ('x\x0by', 'O'), ('p\x85q', 'O'), ('\u3000', 'O')]]),
    # The beginning of a file, and the ends of lines
    ('\ufeffOslo B-LOC\n\n\n\nis O\n\n', {}, [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    ('Oslo B-LOC\ris O\r\rRain O\r', {}, [[('Oslo', 'B-LOC'), ('is', 'O')], [('Rain', 'O')]]),
    ('Oslo\tB-LOC\r\n\r\nis\tO\r\n', {}, [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    # Which column
    ('Kofi NNP I-NP - B-PER', {}, [[('Kofi', 'B-PER')]]),
    ('1\tKofi\tB-PER', {'word_column': 1}, [[('Kofi', 'B-PER')]]),
    ('1 Kofi B-PER', {'word_column': -2}, [[('Kofi', 'B-PER')]]),
    ('B-PER\tKofi', {'tag_column': 0, 'word_column': 1}, [[('Kofi', 'B-PER')]]),
    ('Kofi B-PER x y', {'tag_column': -3}, [[('Kofi', 'B-PER')]]),
    # Numbers are words, too, among others or where there is no other column
    ('1999 - B-DATE\nwas - O', {}, [[('1999', 'B-DATE'), ('was', 'O')]]),
    ('1999 B-DATE', {}, [[('1999', 'B-DATE')]]),
    # -DOCSTART- lines may have other columns
    ('-DOCSTART- -X- O O\n\nOslo B-LOC\n-DOCSTART-\nis O', {},
     [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    ('-DOCSTART-\tO\n\nOslo\tNNP\tB-LOC\n-DOCSTART-\t\t\t\nis\tVBZ\tO', {},
     [[('Oslo', 'B-LOC')], [('is', 'O')]]),
    ('-DOCSTART-s B-X\n-DOCSTART O\n-DOCSTART-x O', {},
     [[('-DOCSTART-s', 'B-X'), ('-DOCSTART', 'O'), ('-DOCSTART-x', 'O')]]),
])
def test_columns(tmp_path, text, options, sentences):
    assert write_and_read(tmp_path, text, **options) == sentences


SCHEMES = 'IOB1, IOB2, IOBES, BILOU, BMES or BMEWO'


@pytest.mark.parametrize('text, options, message', [
    ('Oslo\t\tB-LOC', {'tag_column': 1}, ", line 1: expected a word and a tag, found 'Oslo"),
    ('Oslo\tB-LOC\n\tO', {}, ", line 2: expected a word and a tag, found '\\tO'"),
    ('Oslo\tB-LOC\n \tO', {}, ', line 2: expected a word and a tag'),
    # A row of another width
    ('Kofi B-PER\nKofi B-city mayor', {}, ', line 2: expected 2 columns, as in the first row, '
     "found 'Kofi B-city mayor'"),
    ('Kofi - B-PER\nKofi B-PER', {}, ', line 2: expected 3 columns, as in the first row'),
    ('Oslo\tB-LOC\nin\tO\nis  O', {}, ', line 3: expected 2 columns, as in the first row'),
    ('Oslo\t-\tB-LOC\nis\tO', {}, ', line 2: expected 3 columns, as in the first row'),
    ('Oslo\tB-LOC\nis\t\tO', {}, ', line 2: expected 2 columns, as in the first row'),
    # Columns that are not there, or not two
    ('Oslo', {}, ', line 1: expected at least 2 columns'),
    ('Oslo B-LOC', {'tag_column': 2}, ', line 1: expected at least 3 columns'),
    ('Oslo B-LOC', {'tag_column': -3}, ', line 1: expected at least 3 columns'),
    ('Oslo B-LOC', {'word_column': 5}, ', line 1: expected at least 6 columns'),
    ('Oslo B-LOC', {'word_column': -4}, ', line 1: expected at least 4 columns'),
    ('B-PER\tKofi', {'tag_column': 0}, ', line 1: expected tags and words in different columns'),
    ('B-PER Kofi', {'tag_column': -2}, ', line 1: expected tags and words in different columns'),
    ('Oslo B-LOC', {'word_column': 1}, ', line 1: expected tags and words in different columns'),
    # Columns that hold something else
    ('1\tKofi\tB-PER\n2\tAnnan\tI-PER', {}, ': expected words, found only numbers (see '
     '--word_column)'),
    ('1 Kofi B-PER\n\n1 Ama B-PER', {}, ': expected words, found only numbers'),
    ('B-PER Kofi', {}, f', line 1: expected an entity tag ({SCHEMES}) in column -1 instead of '
     "'Kofi'"),
    ('Oslo NNP B-LOC', {'tag_column': 1}, f', line 1: expected an entity tag ({SCHEMES})'),
    ('Oslo X-LOC', {}, f', line 1: expected an entity tag ({SCHEMES})'),
    ('Oslo B-', {}, f', line 1: expected an entity tag ({SCHEMES})'),
    ('Oslo BLOC', {}, f', line 1: expected an entity tag ({SCHEMES})'),
    ('Oslo\tin New York', {'task': 'pos', 'tag_column': 1}, ', line 1: expected a tag in column 1'),
    ('Oslo <start>', {'task': 'pos'}, ', line 1: expected a tag in column -1'),
    ('Oslo <end>', {'task': 'pos'}, ', line 1: expected a tag in column -1'),
    ('Oslo - O\nis - O', {'task': 'pos', 'tag_column': 1},
     ": expected tags in column 1, found only '-'"),
    ('Oslo _\nis _', {'task': 'pos'}, ": expected tags in column -1, found only '_'"),
    ('Oslo B-LOC', {'known_tags': {'O': 1, 'B-PER': 2}},
     ', line 1: expected a tag that the model knows in column -1'),
])
def test_columns_that_are_refused(tmp_path, text, options, message):
    with pytest.raises(InputError) as error:
        write_and_read(tmp_path, text, **options)
    assert str(error.value).startswith(f'{tmp_path / "file.txt"}{message}')
    assert '\n' not in str(error.value)


CONLLU = '{}\tKofi\tKofi\tPROPN\tNNP\t_\t0\troot\t_\t_\n'


@pytest.mark.parametrize('text', [
    CONLLU.format(1), '# sent_id = 1\n# text = Kofi\n' + CONLLU.format(1), CONLLU.format('1-2'),
    '\n' + CONLLU.format(1).replace('\n', '\r\n')])
def test_a_conllu_file_is_refused(tmp_path, text):
    for options in ({}, {'task': 'pos', 'tag_column': 3, 'word_column': 1}):
        with pytest.raises(InputError, match='found a .conllu file, which data/prepare.py conllu'):
            write_and_read(tmp_path, text, **options)


@pytest.mark.parametrize('row', ['x' * 10_000, 'x ' * 500, 'x ' + 'y' * 9_000])
def test_a_message_quotes_80_characters_at_most(tmp_path, row):
    with pytest.raises(InputError) as error:
        write_and_read(tmp_path, f'Oslo B-LOC\n{row}\n')
    message = str(error.value).removeprefix(str(tmp_path))
    assert message.endswith(f' found {row[:80]!r}') and len(message) < 300


@pytest.mark.skipif(not os.path.exists('/dev/fd'), reason='this system has no /dev/fd')
@pytest.mark.parametrize('text, found', [('Oslo\tB-LOC\n', None),
                                         ('Oslo\tcity\n', "instead of 'city', found 'Oslo\\tcity'"),
                                         ('Oslo\t_\n', "instead of '_'"),
                                         (CONLLU.format(1), 'found a .conllu file')])
def test_a_pipe_is_read_and_its_mistakes_are_told(text, found):
    """A shell's <(...) can be read only once."""
    output, pipe = os.pipe()
    os.write(pipe, text.encode())
    os.close(pipe)
    try:
        if found is None:
            assert read_corpus(f'/dev/fd/{output}', 'ner', -1, 'iob2') == ([['Oslo']], [['B-LOC']])
        else:
            with pytest.raises(InputError) as error:
                read_corpus(f'/dev/fd/{output}', 'ner', -1, 'iob2')
            assert str(error.value).startswith(f'/dev/fd/{output}') and found in str(error.value)
    finally:
        os.close(output)


def test_one_stray_tab_is_no_error_at_another_line(tmp_path):
    rows = ['Oslo NNP B-LOC', 'is\tVBZ O', 'in NNP\tO ', 'Rain  NN O']
    assert write_and_read(tmp_path, '\n'.join(rows)) == [
        [(row.split()[0], row.split()[2]) for row in rows]]
    # Where tabs are the rule, a line without one is the error
    with pytest.raises(InputError, match='line 3: expected 3 columns, as in the first row'):
        write_and_read(tmp_path, 'Oslo\tNNP\tB-LOC\nis\tVBZ\tO\nin NNP O')


@pytest.mark.parametrize('line', [
    '{}Oslo\tB-LOC', 'Oslo\t{}B-LOC', 'Oslo\tB-LOC{}', 'Oslo {}B-LOC'])
def test_time_is_linear_in_white_space(tmp_path, line):
    times = []
    for number in (100_000, 200_000):
        text = '\n'.join(['Rain\tO'] * ('\t' in line) + [line.format(' ' * number)])
        (tmp_path / 'file.txt').write_text(text)
        began = time.process_time()
        read_corpus(tmp_path / 'file.txt', 'ner', -1, 'iob2')
        times.append(time.process_time() - began)
    assert times[1] < 3 * times[0] + 0.05


@pytest.mark.parametrize('row', [
    'word pos', 'token label', 'Word Tag', 'Token\tNER', 'TEXT ner_tag'])
def test_names_of_columns_are_no_words(tmp_path, row):
    rest = 'Oslo\tB-LOC' if '\t' in row else 'Oslo B-LOC'
    for task in ('ner', 'pos'):
        with pytest.raises(InputError, match='file.txt, line 1: expected .*, found') as error:
            write_and_read(tmp_path, f'{row}\n{rest}\n{rest}', task)
        assert '\n' not in str(error.value)
    # Anywhere else they may well be words
    assert write_and_read(tmp_path, 'The DT\nword pos', 'pos')[0][1] == ('word', 'pos')


@pytest.mark.parametrize('text', ['Sentence: 1,Thousands,NNS,O\n,of,IN,O\n',
                                  'Sentence #,Word,POS,Tag\nSentence: 1,Thousands,NNS,O\n'])
def test_a_table_with_commas_is_refused_with_a_hint(tmp_path, text):
    with pytest.raises(InputError, match='line 1: .*data/prepare.py gmb .*commas') as error:
        write_and_read(tmp_path, text)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('data', ['Oslo B-LOC\n'.encode('utf-16'), b'Oslo B-LOC\nis\0 O\n',
                                  'Oslo B-LOC\n'.encode('utf-16-le')])
def test_utf_16_and_zeros_are_refused(tmp_path, data):
    (tmp_path / 'file.txt').write_bytes(data)
    with pytest.raises(InputError, match='file.txt[:,] .*expected UTF-8, found') as error:
        read_corpus(tmp_path / 'file.txt', 'ner', -1, 'iob2')
    assert '\n' not in str(error.value) and '\0' not in str(error.value)


# --- Tag schemes ---

SINGLE_FIRST_INSIDE_LAST = {'iobes': 'SBIE', 'bilou': 'UBIL', 'bmes': 'SBME', 'bmewo': 'WBME'}
ENTITIES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from('XY')))


def lay_out(entities, scheme):
    """Turn (gap, length, type) into (type, start, end) and the sentence's tags."""
    placed, tags = [], []
    for gap, length, name in entities:
        tags += ['O'] * gap
        placed.append((name, len(tags), len(tags) + length))
        # IOB1 has B only where I would continue the entity before
        first = 'I' if scheme == 'iob1' and tags[-1:] not in ([f'B-{name}'], [f'I-{name}']) else 'B'
        if scheme in SINGLE_FIRST_INSIDE_LAST:
            single, begin, inside, last = SINGLE_FIRST_INSIDE_LAST[scheme]
            prefixes = single if length == 1 else begin + inside * (length - 2) + last
        else:
            prefixes = first + 'I' * (length - 1)
        tags += [f'{prefix}-{name}' for prefix in prefixes]
    return placed, tags


@given(ENTITIES)
def test_schemes(entities):
    for one in ('iob1', 'iob2', *SINGLE_FIRST_INSIDE_LAST):
        placed, tags = lay_out(entities, one)
        assert find_entities(tags) == placed
        for other in ('iob2', 'iobes'):
            assert convert_tags(tags, other) == lay_out(entities, other)[1]


def test_every_scheme_is_read_from_a_file(tmp_path):
    placed = [(0, 2, 'PER'), (0, 1, 'PER'), (0, 3, 'LOC'), (1, 1, 'LOC')]
    for one in ('iob1', 'iob2', *SINGLE_FIRST_INSIDE_LAST):
        file = tmp_path / f'{one}.txt'
        file.write_text(''.join(f'a {tag}\n' for tag in lay_out(placed, one)[1]))
        for other in ('iob2', 'iobes'):
            assert read_corpus(file, 'ner', -1, other)[1] == [lay_out(placed, other)[1]]
        assert read_corpus(file, 'pos', -1, 'iob2')[1] == [lay_out(placed, one)[1]]


@given(st.lists(st.sampled_from([f'{p}-{t}' for p in 'BIES' for t in 'XY'] + ['O'])))
def test_entities_of_any_tags_are_conllevals(tags):
    # seqeval's default mode counts as conlleval does; its last words are inclusive
    expected = seqeval.metrics.sequence_labeling.get_entities(tags)
    # The same as BILOU, BMES and BMEWO would write it
    for letters in ('BIES', 'BILU', 'BMES', 'BMEW'):
        written = [tag.translate(str.maketrans('BIES', letters)) for tag in tags]
        assert find_entities(written) == [(name, start, end + 1) for name, start, end in expected]


# --- Maps and tensors ---


def test_words_spelled_like_special_ones_are_unknown():
    words = [['<pad>', '<end>', '<unk>', '<PAD>'] * 9]
    for caseless in (False, True):
        word_map, char_map, tag_map = create_maps(words, [['O'] * 36], caseless=caseless)
        wmaps = create_input_tensors(words, None, word_map, char_map, tag_map)[0]
        assert wmaps[0, :3].tolist() == [word_map['<unk>']] * 3
        assert wmaps[0, 3].item() == word_map['<unk>' if caseless else '<PAD>']


def test_order_of_maps():
    # Many words: in a set they would have another order
    words, tags = read_words_tags(ROOT / 'data' / 'sample' / 'test.txt', 3, caseless=False)
    word_map, char_map, tag_map = create_maps(words, tags, 1, 1)
    first_seen = list(dict.fromkeys(word for sentence in words for word in sentence))
    assert list(word_map) == ['<pad>', *first_seen, '<end>', '<unk>']
    chars = list(dict.fromkeys(''.join(first_seen)))
    assert list(char_map) == ['<pad>', ' ', *chars, '<end>', '<unk>']
    assert list(tag_map) == ['<start>', *sorted({t for row in tags for t in row}), '<end>']
    for numbered in (word_map, char_map, tag_map):
        assert list(numbered.values()) == list(range(len(numbered)))


def slow_tensors(words, tags, word_map, char_map, tag_map):
    """The eight inputs of one sentence, step by step as the tutorial tells it."""

    def word_number(word):
        for spelling in (word, word.lower()):
            if spelling in word_map and spelling not in ('<pad>', '<end>', '<unk>'):
                return word_map[spelling]
        return word_map['<unk>']

    def char_numbers(words):
        numbers, markers = [], []
        for word in words:
            numbers += [char_map.get(char, char_map['<unk>']) for char in word]
            markers.append(len(numbers))
            numbers.append(char_map[' '])
        return [*numbers, char_map['<end>']], markers

    wmaps = [word_number(word) for word in words] + [word_map['<end>']]
    cmaps_f, markers_f = char_numbers(words)
    cmaps_b, markers_b = char_numbers([word[::-1] for word in reversed(words)])
    numbers = [tag_map['<start>'], *(tag_map[tag] for tag in tags), tag_map['<end>']]
    tmaps = [a * len(tag_map) + b for a, b in zip(numbers, numbers[1:])]
    return (wmaps, cmaps_f, cmaps_b, [*markers_f, len(cmaps_f) - 1],
            [*reversed(markers_b), len(cmaps_b) - 1], tmaps, len(words) + 1, len(cmaps_f))


WORDS = st.one_of(st.text(min_size=1, max_size=6),
                  st.sampled_from(['Oslo', 'oslo', '<pad>', 'a b']))
SENTENCE = st.lists(st.tuples(WORDS, st.sampled_from('XYZ')), min_size=1, max_size=8)
SENTENCES = st.lists(SENTENCE, min_size=1, max_size=5)


@given(SENTENCES, SENTENCES, st.integers(1, 2), st.booleans())
def test_tensors_against_the_slow_way(known, sentences, min_freq, caseless):
    words, tags = ([[pair[k] for pair in s] for s in known] for k in (0, 1))
    maps = create_maps(words, [*tags, ['X', 'Y', 'Z']], min_freq, min_freq, caseless)
    words, tags = ([[pair[k] for pair in s] for s in sentences] for k in (0, 1))
    batch = create_input_tensors(words, tags, *maps)
    expected = [slow_tensors(w, t, *maps) for w, t in zip(words, tags)]
    for name, tensor, rows in zip(batch._fields, batch, zip(*expected), strict=True):
        assert tensor.dtype == torch.int64
        if name in ('wmap_lengths', 'cmap_lengths'):
            assert tensor.tolist() == list(rows)
        else:
            # Filled up with 0 to the longest
            longest = max(map(len, rows))
            assert tensor.tolist() == [row + [0] * (longest - len(row)) for row in rows]
    untagged = create_input_tensors(words, None, *maps)
    assert untagged.tmaps is None and torch.equal(untagged.cmarkers_b, batch.cmarkers_b)


def test_a_tag_that_is_not_in_the_map_is_refused():
    maps = create_maps([['a']], [['X']])
    with pytest.raises(KeyError):
        create_input_tensors([['a']], [['Y']], *maps)


# Words of several languages, and how they are written with their marks apart
COMPOSED = ['Vi\u1ec7t', 'Nam', '\u00e9t\u00e9', '\uc11c\uc6b8', '\u212bngstr\u00f6m']
APART = [unicodedata.normalize('NFD', word) for word in COMPOSED]


def test_composed_letters_are_those_with_marks():
    assert all(one != other for one, other in zip(COMPOSED, APART) if one != 'Nam')
    both = [[COMPOSED], [APART]]
    maps, other_maps = (create_maps(words, [['X'] * 5], 1, 1, caseless=True) for words in both)
    assert maps == other_maps
    tensors, others = (create_input_tensors(words, [['X'] * 5], *maps) for words in both)
    assert all(torch.equal(one, other) for one, other in zip(tensors, others))
    assert maps[0]['<unk>'] not in tensors.wmaps and maps[1]['<unk>'] not in tensors.cmaps_f


@pytest.mark.parametrize('written, searched', [(COMPOSED, APART), (APART, COMPOSED)])
def test_vectors_of_composed_letters_are_those_of_letters_with_marks(tmp_path, written, searched):
    (tmp_path / 'vectors.txt').write_text(''.join(
        f'{word} {n} 7\n' for n, word in enumerate(written)), encoding='utf-8')
    word_map = create_maps([searched[:3]], [['X'] * 3], min_word_freq=1)[0]
    vectors, word_map, _ = load_embeddings(tmp_path / 'vectors.txt', word_map)
    char_map = {' ': 0, '<end>': 1, '<unk>': 2}
    indices = create_input_tensors([searched], None, word_map, char_map, {})[0]
    assert vectors[indices[0, :-1]].tolist() == [[n, 7] for n in range(5)]


@pytest.mark.parametrize('letters', [100, 101, 150])
def test_of_a_long_word_the_first_hundred_letters_are_read(letters):
    short, long = 'a' * 98 + 'bc', 'a' * 98 + 'bc' * 40
    maps = create_maps([[long[:letters], 'Oslo']], [['X', 'X']], 1, 1)
    assert short in maps[0]
    tensors, others = (create_input_tensors([[word, 'Oslo']], [['X', 'X']], *maps)
                       for word in (short, long[:letters]))
    assert all(torch.equal(one, other) for one, other in zip(tensors, others))
    assert maps[0]['<unk>'] not in tensors.wmaps


# --- Embeddings ---

GLOVE = 'the 0.1 -0.2\noslo 3e-1 4\nthe 9 9\nat name@x.org 5 6\nOslo 7 8\n<unk> 1 -1\n'
GLOVE += '\u00e9t\u00e9 1 2\n'


@pytest.mark.parametrize('header', ['', '7 2\n', '\ufeff', '\ufeff7 2\n'])
@pytest.mark.parametrize('zipped', [False, True])
def test_load_embeddings(tmp_path, capsys, header, zipped):
    file = tmp_path / ('vectors.txt' + '.gz' * zipped)
    (gzip.open if zipped else open)(file, 'wb').write((header + GLOVE).encode())
    word_map = create_maps([['the', 'cat']], [['O', 'O']], min_word_freq=1)[0]
    embeddings, new_map, lm_vocab_size = load_embeddings(file, word_map, caseless=True)
    assert lm_vocab_size == 5
    assert list(new_map) == [*word_map, 'oslo', 'at name@x.org', '\u00e9t\u00e9']
    assert torch.allclose(embeddings[word_map['the']], torch.tensor([0.1, -0.2]))
    assert embeddings[word_map['<unk>']].tolist() == [1, -1]
    assert torch.allclose(embeddings[5:], torch.tensor([[0.3, 4], [5, 6], [1, 2]]))
    assert embeddings.shape == (8, 2) and embeddings.abs()[:5].max() <= 1.5**0.5
    assert capsys.readouterr().out == (
        f'{file} has vectors for 1 of the 2 words of the corpus and for 3 other words\n')


def test_load_embeddings_without_expansion_and_with_case(tmp_path):
    file = tmp_path / 'vectors.txt'
    file.write_text(GLOVE, encoding='utf-8')
    word_map = create_maps([['Oslo']], [['O']], min_word_freq=1)[0]
    embeddings, new_map, _ = load_embeddings(file, word_map, expand_vocab=False)
    assert new_map == word_map and embeddings[1].tolist() == [7, 8]
    assert 'oslo' in load_embeddings(file, word_map)[1]


def load(folder, text, name='vectors.txt'):
    """Load what a file would say: a dict from words to the values that are in the file."""
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith('.gz') else text.encode())
    special = {'<pad>': 0, '<end>': 1, '<unk>': 2}
    embeddings, word_map, _ = load_embeddings(file, special)
    return {word: embeddings[i].tolist() for word, i in word_map.items() if word not in special}


@pytest.mark.parametrize('name', ['vectors.txt', 'vectors.txt.gz'])
@pytest.mark.parametrize('text, vectors', [
    # The header says how many values there are, so that the rest is the word
    ('2 2\nNew York 1 2\n', {'New York': [1, 2]}),
    ('1 2\nin 2004 1 2\n', {'in 2004': [1, 2]}),
    ('1 2\n2004 1 2\n', {'2004': [1, 2]}),
    ('1 2 \r\nOslo 1 2 \r\n', {'Oslo': [1, 2]}),
    # Its number of rows is not believed
    ('9 2\nOslo 1 2\nRome 3 4\n', {'Oslo': [1, 2], 'Rome': [3, 4]}),
    ('0 2\nOslo 1 2\nRome 3 4', {'Oslo': [1, 2], 'Rome': [3, 4]}),
    # Blank lines say nothing
    ('Oslo 1 2\n\n', {'Oslo': [1, 2]}),
    ('Oslo 1 2\n \r\n\nRome 3 4\n \n', {'Oslo': [1, 2], 'Rome': [3, 4]}),
    # Neither three numbers nor a word and a number are a header
    ('1 2 3\nOslo 4 5\n', {'1': [2, 3], 'Oslo': [4, 5]}),
    ('Oslo 7\n', {'Oslo': [7]}),
    # A no-break space belongs to its word
    ('1\u00a0000 1 2\n', {'1\u00a0000': [1, 2]}),
    ('Oslo\t1\t2\n', {'Oslo': [1, 2]}),
])
def test_rows_of_vectors(tmp_path, text, vectors, name):
    assert load(tmp_path, text, name) == vectors


@pytest.mark.parametrize('name', ['vectors.txt', 'vectors.txt.gz'])
@pytest.mark.parametrize('text, message', [
    ('', ': expected word vectors, found none'),
    ('2 2\n', ': expected word vectors, found none'),
    ('hello\n', ', line 1: expected a word in UTF-8 and 0 numbers, found 1 fields'),
    # The header's number of values is believed
    ('3 5\nOslo 1 2\n', ', line 2: expected a word in UTF-8 and 5 numbers, found 3 fields'),
    ('3 5\n7 1 2\n', ', line 2: expected a word in UTF-8 and 5 numbers, found 3 fields'),
    ('3 1\nOslo 0.5 0.25\n', ', line 2: expected a word in UTF-8 and 1 numbers, found 3 fields'),
    ('1 0\nOslo 1\n', ', line 2: expected a word in UTF-8 and 0 numbers, found 2 fields'),
    # So is the first row's, and no row borrows from the next one
    ('New York 1 2\n', ', line 1: expected a word in UTF-8 and 3 numbers, found 4 fields'),
    ('Oslo .1 .2\nRome .3\n.4 Kyiv .5 .6\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2\nRome\n.3 .4\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2\n.3 .4\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2\n\nRome .3 .4 .5\n', ', line 3: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2\nRome -0.3 .4 .5\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2 Rome .3 .4\n', ', line 1: expected a word in UTF-8 and 5 numbers'),
    ('Oslo .1 .2\nRome 1e-05 .2 .3\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('Oslo .1 .2\nRome -1.5e-05 .2 .3\n', ', line 2: expected a word in UTF-8 and 2 numbers'),
    ('2 2\nOslo 1 2 \nRome 1 2,0\n', ", line 3: expected a word in UTF-8 and 2 numbers, found 3 "
     "fields: b'Rome 1 2,0'"),
    # What is no number is named
    ('Oslo 1 2\nRome 1 nan\n', ', line 2: expected finite numbers, found nan'),
    ('Oslo NaN 2\n', ', line 1: expected finite numbers, found nan'),
    ('1 2\nOslo inf 2\n', ', line 2: expected finite numbers, found inf'),
    ('Oslo 1 -Infinity\n', ', line 1: expected finite numbers, found -inf'),
    ('Oslo inf -inf\n', ', line 1: expected finite numbers, found inf'),
    # A float has no room for these
    ('Oslo 1e39 2\n', ', line 1: expected finite numbers, found inf'),
    ('Oslo 1 2\nRome 1 -1e39\n', ', line 2: expected finite numbers, found -inf'),
])
def test_rows_of_vectors_that_are_refused(tmp_path, text, message, name):
    with pytest.raises(InputError) as error:
        load(tmp_path, text, name)
    assert str(error.value).startswith(f'{tmp_path / name}{message}')
    assert '\n' not in str(error.value)


WORD_MAP = {'<pad>': 0, 'oslo': 1, '<end>': 2, '<unk>': 3}


def zipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('vectors.txt', data)
    return file.getvalue()


@pytest.mark.parametrize('packed', [bz2.compress, lzma.compress, gzip.compress, zipped])
def test_packed_vectors_are_to_be_unpacked(tmp_path, packed):
    file = tmp_path / 'vectors.txt'
    file.write_bytes(packed(b'oslo 1 2\n'))
    with pytest.raises(InputError) as error:
        load_embeddings(file, WORD_MAP)
    assert str(error.value) == f'{file}: expected text or text in a .gz; unpack it first'


def test_vectors_with_capitals_alone_say_what_takes_them(tmp_path, capsys):
    (tmp_path / 'vectors.txt').write_text('Oslo 1 2\n')
    for caseless in (True, False):
        load_embeddings(tmp_path / 'vectors.txt', WORD_MAP, caseless=caseless)
        assert ('(--no-caseless takes those with capitals)' in capsys.readouterr().out) == caseless


@pytest.mark.parametrize('header', ['2 2', '1 2', '3 2', '4 2'])
def test_a_header_that_counts_wrong_is_noted(tmp_path, header, capsys):
    load(tmp_path, f'{header}\nOslo 1 2\nRome 3 4\nOslo 1 2\n')
    first, *others = capsys.readouterr().out.splitlines()
    if header == '3 2':
        assert 'has vectors for' in first and not others
    else:
        assert first.startswith(f'note: {tmp_path / "vectors.txt"} has 3 vectors, ')
        assert re.findall(r'\d+', first.split(' vectors, ')[1]) == [header[0]]


def test_a_word_without_a_vector_has_that_of_its_lower_case(tmp_path):
    (tmp_path / 'vectors.txt').write_text('oslo 1 2\nRome 3 4\nrome 5 6\n')
    word_map = create_maps([['Oslo', 'Rome', 'OSLO']], [['X'] * 3], 1)[0]
    vectors, _, _ = load_embeddings(tmp_path / 'vectors.txt', word_map)
    assert [vectors[word_map[word]].tolist() for word in ('Oslo', 'Rome', 'OSLO')] == [
        [1, 2], [3, 4], [1, 2]]


def test_the_largest_and_the_smallest_values_are_read(tmp_path):
    # Their sum has no room in a float
    assert load(tmp_path, 'Oslo 3e38 3e38 1e-60\n') == {
        'Oslo': [pytest.approx(3e38), pytest.approx(3e38), 0]}


def test_half_a_gzip_file_is_refused_in_one_line(tmp_path):
    file = tmp_path / 'vectors.txt.gz'
    data = gzip.compress(GLOVE.encode() * 100)
    for length in (5, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(InputError) as error:
            load_embeddings(file, {'<pad>': 0, '<end>': 1, '<unk>': 2})
        assert str(error.value).startswith(f'{file}: cannot be read: ')
        assert '\n' not in str(error.value)


def test_a_damaged_gzip_file_is_refused(tmp_path):
    data = bytearray(gzip.compress(GLOVE.encode() * 100))
    file = tmp_path / 'vectors.txt.gz'
    for position in range(10, len(data)):
        file.write_bytes(data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :])
        try:
            load_embeddings(file, {'<pad>': 0, '<end>': 1, '<unk>': 2})
        except InputError as error:
            assert str(error).startswith(str(file)) and '\n' not in str(error)


# --- Metrics ---

NER_TAGS = st.sampled_from(['O', 'B-X', 'I-X', 'B-Y', 'I-Y'])
TAG_PAIRS = st.lists(st.lists(st.tuples(NER_TAGS, NER_TAGS), min_size=1, max_size=9), min_size=1)


@given(TAG_PAIRS)
def test_metrics_are_scikit_learns_and_seqevals(pairs):
    gold, predicted = ([[pair[k] for pair in s] for s in pairs] for k in (0, 1))
    flat = [sum(tags, []) for tags in (gold, predicted)]
    options = {'output_dict': True, 'zero_division': 0}
    report = sklearn.metrics.classification_report(*flat, **options)
    rows, scores = score_task(gold, predicted, 'pos')
    assert scores.keys() == {'macro_f1', 'accuracy'}
    assert scores['accuracy'] == pytest.approx(sklearn.metrics.accuracy_score(*flat))
    assert scores['macro_f1'] == pytest.approx(report['macro avg']['f1-score'])
    assert [row[0] for row in rows] == [*sorted({*flat[0], *flat[1]}), 'all']
    compare(rows[:-1], report)

    # Well-formed IOB2, in which all scores of entities are computed
    gold, predicted = ([convert_tags(tags, 'iob2') for tags in c] for c in (gold, predicted))
    _, of_tags = score_task(gold, predicted, 'pos')
    rows, scores = score_task(gold, predicted, 'ner')
    assert scores == of_tags | {'entity_f1': rows[-1][3]}
    f1 = seqeval.metrics.f1_score(gold, predicted, zero_division=0)
    assert scores['entity_f1'] == pytest.approx(f1)
    if any(tag != 'O' for sentence in gold + predicted for tag in sentence):
        report = seqeval.metrics.classification_report(gold, predicted, **options)
        compare(rows, report | {'all': report['micro avg']})


def compare(rows, report):
    """Rows of ours with scikit-learn's or seqeval's."""
    for name, *figures in rows:
        keys = ('precision', 'recall', 'f1-score', 'support')
        assert figures == pytest.approx([report[name][key] for key in keys])


def test_metrics_do_not_depend_on_the_scheme():
    random.seed(0)
    entities = [[[(random.randint(0, 2), random.randint(1, 3), random.choice('XY'))
                  for _ in range(5)] for _ in range(50)] for _ in range(2)]
    scores = []
    for scheme in ('iob1', 'iob2', 'iobes'):
        gold, predicted = ([(lay_out(sentence, scheme)[1] + ['O'] * 25)[:25] for sentence in corpus]
                           for corpus in entities)
        scores.append(score_task(gold, predicted, 'ner'))
    assert scores[0] == scores[1] == scores[2] and 0 < scores[0][1]['entity_f1'] < 1


def test_average_meter():
    meter = utils.AverageMeter()
    meter.update(2.0, 3)
    meter.update(4.0)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (4.0, 2.5, 10.0, 4)
    meter.reset()
    assert meter.count == 0


def test_clip_gradient():
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([-9.0, 1.0, 9.0])
    utils.clip_gradient(torch.optim.SGD([parameter], lr=1), 5)
    assert parameter.grad.tolist() == [-5, 1, 5]


def test_log_sum_exp():
    tensor = torch.tensor([[1000.0, 1000.0], [0.0, -1000.0]])
    assert utils.log_sum_exp(tensor, 1).tolist() == pytest.approx([1000 + np.log(2), 0])


# --- Whatever stands in a file, it is read or refused, with one line ---

ROWS = st.lists(st.sampled_from(['a X', 'b\tY', '', ' ', '-DOCSTART- X', 'c', '\ufeffd X', '\r',
                                 '\x00 X']), max_size=8)


@given(ROWS, st.sampled_from(['\n', '\r\n', '\r']), st.binary(max_size=3))
def test_any_conll_file_is_read_or_refused(tmp_path_factory, rows, end, junk):
    file = tmp_path_factory.mktemp('fuzz') / 'file.txt'
    file.write_bytes(end.join(rows).encode() + junk)
    try:
        words, tags = read_words_tags(file, 1)
    except InputError as error:
        assert str(error).startswith(str(file)) and '\n' not in str(error)
    else:
        assert words and all(map(len, words)) and [*map(len, words)] == [*map(len, tags)]
        assert all(word and not set(word) & set(' \t\r\n') for row in words + tags for word in row)


@given(st.integers(0, 1500), st.integers(0, 9), st.binary(max_size=9))
def test_a_real_file_with_some_bytes_changed_is_read_or_refused(tmp_path_factory, start, n, junk):
    data = (ROOT / 'data' / 'sample' / 'test.txt').read_bytes()[:2000]
    file = tmp_path_factory.mktemp('fuzz') / 'file.txt'
    file.write_bytes(data[:start] + junk + data[start + n :])
    try:
        words, tags = utils.read_corpus(file, 'ner', 3, 'iobes')
    except InputError as error:
        assert str(error).startswith(f'{file}, line') and '\n' not in str(error)
    else:
        assert [*map(len, words)] == [*map(len, tags)]


FIELDS = st.sampled_from(['a', '\u5317', '1', '-2.5', '3e-2', 'nan', '1e99', '', '\xa0', '2 2'])


@given(st.lists(st.lists(FIELDS, max_size=4).map(' '.join), max_size=6), st.binary(max_size=3))
def test_any_embedding_file_is_read_or_refused(tmp_path_factory, rows, junk):
    file = tmp_path_factory.mktemp('fuzz') / 'vectors.txt'
    file.write_bytes('\n'.join(rows).encode() + junk)
    try:
        embeddings, new_map, _ = load_embeddings(file, {'<pad>': 0, 'a': 1, '<end>': 2, '<unk>': 3})
    except InputError as error:
        assert str(error).startswith(str(file)) and '\n' not in str(error)
    else:
        assert len(embeddings) == len(new_map) and torch.isfinite(embeddings).all()


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_a_checkpoint(tmp_path_factory, data):
    file = tmp_path_factory.mktemp('fuzz') / 'model.pth.tar'
    file.write_bytes(data)
    with pytest.raises(InputError, match='expected a checkpoint of train.py'):
        utils.load_checkpoint(file, 'cpu')


# --- Checkpoints and errors ---

@pytest.fixture
def checkpoint(tmp_path):
    """The file of a checkpoint of a small model, and what was saved."""
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    words = ['<pad>', 'a\u2028b', ' ', '1\u00a0000', 'x\x85', '\t', '<end>', '<unk>']
    maps = {name: {one: i for i, one in enumerate(numbered)} for name, numbered in (
        ('word_map', words), ('char_map', ['<pad>', ' ', '<end>', '<unk>']),
        ('tag_map', ['<start>', '<end>']))}
    path = tmp_path / 'model.pth.tar'
    content = {
        'model': model.state_dict(), 'plain': {}, 'updates': 1, 'maps': maps,
        'optimizer': optimizer.state_dict()['state'],
        'epoch': 7, 'best_score': 0.5, 'epochs_since_improvement': 1, 'log': [],
        'arguments': {'task': 'ner', 'tag_scheme': 'iobes', 'tokenizer': 'words'}}
    utils.save_checkpoint(path, content)
    return path, content


def test_a_checkpoint_is_what_was_saved(checkpoint):
    path, content = checkpoint
    loaded = utils.load_checkpoint(path, 'cpu')
    assert loaded['format'] == 6 and loaded['epoch'] == 7 and loaded['maps'] == content['maps']
    assert all(torch.equal(loaded['model'][name], p) for name, p in content['model'].items())


@pytest.mark.parametrize('change, found', [
    (lambda content: content.update(format=4), 'format 4'),
    (lambda content: content.update(format=5), 'format 5'),
    (lambda content: content.update(format=99), 'format 99'),
    (lambda content: content.pop('format'), 'another or a damaged file')])
def test_another_format_is_named(checkpoint, change, found):
    path = checkpoint[0]
    content = torch.load(path)
    change(content)
    torch.save(content, path)
    with pytest.raises(InputError) as error:
        utils.load_checkpoint(path, 'cpu')
    assert str(error.value) == (
        f'{path}: expected a checkpoint of train.py, format 6, found {found}')


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_checkpoint_that_is_not_done_leaves_the_old_one_and_nothing_else(
        checkpoint, monkeypatch, error):
    path, content = checkpoint
    before = path.read_bytes()

    def write_half(_, file):
        file.write(b'half of it')
        raise error

    monkeypatch.setattr(torch, 'save', write_half)
    with pytest.raises((KeyboardInterrupt, InputError)) as raised:
        utils.save_checkpoint(path, content)
    if raised.type is InputError:
        assert str(raised.value) == f'{path}: cannot be written: No space left on device'
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('error, reason', [
    (FileNotFoundError(2, 'No such file or directory'), 'No such file or directory'),
    (EOFError('it ended\nbefore its end'), 'it ended before its end'),
    (KeyError('word_map'), "'word_map'"),
    (RuntimeError('size mismatch:\n\t' + 'x' * 1000), 'size mismatch: ' + 'x' * 145)])
def test_errors_of_files_are_one_short_line(error, reason):
    with pytest.raises(InputError) as raised, utils.file_errors('here.txt', 'used', type(error)):
        raise error
    assert str(raised.value) == f'here.txt: cannot be used: {reason}'


@pytest.mark.parametrize('error', [KeyError, TypeError, ValueError, RuntimeError])
def test_other_errors_are_not_those_of_files_unless_they_are_named(error):
    for named in ((), (ZeroDivisionError,)):
        with pytest.raises(error), utils.file_errors('here.txt', 'used', *named):
            raise error('ours')


@pytest.mark.parametrize('thousands', range(0, 60, 3))
def test_a_full_disk_is_named_however_much_fits(tmp_path, monkeypatch, thousands):
    """At some sizes, torch.save hides it: less was written than it thought."""
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > thousands * 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr('builtins.open', lambda path, mode: Full(path, 'w'))
    content = {'maps': {'word_map': {'a': 0}}, 'model': {'weight': torch.zeros(20_000)}}
    with pytest.raises(InputError, match='cannot be written: No space left on device$'):
        utils.save_checkpoint(tmp_path / 'model.pth.tar', content)
    assert not list(tmp_path.iterdir())
