"""data/prepare.py jsonl and split: every tool's annotations become a corpus, drawn by a seed."""

import contextlib
import io
import itertools
import json
import random
import re
import shutil
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from conftest import BEST, call
from test_prepare import names, run

import inference
from models import LM_LSTM_CRF
from utils import create_maps, find_entities, read_corpus, read_words_tags

TEXT = 'Amara Okafor flew to Oslo.'
ENTITIES = [(0, 12, 'PER'), (21, 25, 'LOC')]
ROWS = 'Amara - - B-PER\nOkafor - - I-PER\nflew - - O\nto - - O\nOslo - - B-LOC\n. - - O\n\n'


# The same text as each tool writes it

def doccano(text, entities, key='label'):
    return {'id': 1, 'text': text, key: [list(entity) for entity in entities], 'Comments': []}


def doccano_relations(text, entities):
    return {'text': text, 'relations': [], 'entities': [
        {'id': 3, 'start_offset': start, 'end_offset': end, 'label': name}
        for start, end, name in entities]}


def prodigy(text, entities, answer='accept'):
    spans = [{'start': start, 'end': end, 'label': name, 'token_start': 0, 'text': text[start:end]}
             for start, end, name in entities]
    tokens = [{'text': text, 'start': 0, 'end': len(text), 'id': 0}]
    return {'text': text, 'tokens': tokens, 'label': 'PER', 'spans': spans, 'answer': answer}


def label_studio(text, entities, **data):
    values = [{'start': start, 'end': end, 'text': text[start:end], 'labels': [name]}
              for start, end, name in entities]
    result = [{'id': 'a', 'type': 'labels', 'value': value} for value in values]
    result += [{'type': 'relation', 'from_id': 'a', 'to_id': 'b'},
               {'type': 'choices', 'value': {'choices': ['news']}}]
    annotations = [{'was_cancelled': True, 'result': []},
                   {'was_cancelled': False, 'result': result}, {'result': []}]
    return {'id': 1, 'data': {'text': text, 'number': 5, **data}, 'annotations': annotations}


def ours(text, entities):
    tokens = [token.group() for token in inference.TOKEN.finditer(text)]
    return {'text': text, 'tokens': tokens, 'tags': ['O'] * len(tokens), 'entities': [
        {'type': name, 'text': text[start:end], 'start': start, 'end': end, 'probability': 0.5}
        for start, end, name in entities]}


def doccano_labels(text, entities):
    return doccano(text, entities, key='labels')


def doccano_entities(text, entities):
    return doccano(text, entities, key='entities')


TOOLS = [doccano, doccano_labels, doccano_entities, doccano_relations, prodigy, ours]


def write(path, entries):
    """Write entries as JSON lines, or text as it is."""
    text = entries if isinstance(entries, str) else ''.join(
        json.dumps(entry) + '\n' for entry in entries)
    path.write_text(text, encoding='utf-8', errors='surrogateescape')
    return path


@pytest.fixture
def convert(tmp_path):
    """A function that converts entries without a split: what is wrong with them, or all.txt."""
    def convert(entries, *options):
        path = write(tmp_path / 'x.jsonl', entries)
        error = run('jsonl', path, '--name', 'x', '--no-split', '--output_dir', tmp_path, *options)
        if error is None:
            assert names(tmp_path / 'x') == ['all.txt']
            return (tmp_path / 'x' / 'all.txt').read_text(encoding='utf-8')
        assert names(tmp_path) == ['x.jsonl']
        assert len(error) < 300
        return error.replace(f'error: {path}', 'FILE').replace(f'error: {tmp_path}', 'FILE')
    convert.folder = tmp_path
    return convert


# --- What every tool writes is read ---

@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_in_lines(tool, convert, capsys):
    empty = [tool('', []), tool(' \n', [])]
    assert convert([tool(TEXT, ENTITIES), *empty, tool('Rain.', [])]) == (
        f'{ROWS}Rain - - O\n. - - O\n\n')
    output = capsys.readouterr().out
    assert 'all.txt: 2 sentences, 8 tokens\n  2 entities: PER 1, LOC 1\n' in output
    assert 'begins or ends: 0 tokens; left out: 0 texts' in output


@pytest.mark.parametrize('indent', [None, 2])
def test_label_studio(indent, convert):
    tasks = [label_studio(TEXT, ENTITIES), label_studio('Rain.', [])]
    assert convert(json.dumps(tasks, indent=indent)) == f'{ROWS}Rain - - O\n. - - O\n\n'


@pytest.mark.parametrize('tool, field', [
    (lambda *entry: label_studio(*entry, title='Travel'), 'text'),
    (lambda text, entities: {'body': text, 'label': entities}, 'body')])
def test_a_text_under_another_key(tool, field, convert):
    entries = [tool(TEXT, ENTITIES)]
    assert convert(entries).startswith('FILE, line 1: cannot be read: expected the key text')
    assert convert(entries, '--text_field', field) == ROWS


def test_what_is_left_out(convert, capsys):
    cancelled = label_studio(TEXT, ENTITIES)
    cancelled['annotations'] = cancelled['annotations'][:1]
    entries = [prodigy(TEXT, ENTITIES), prodigy('No', [], 'reject'), prodigy('No', [], 'ignore'),
               cancelled, {**cancelled, 'annotations': []}, {'text': 'Hm', 'answer': 'accept'}]
    assert convert(entries) == f'{ROWS}Hm - - O\n\n'
    assert 'left out: 4 texts' in capsys.readouterr().out


def test_lines_types_and_white_space(convert):
    text = 'Oslo,\r\n\n a B. \nNo. -DOCSTART- '
    assert convert([doccano(text, [(0, 7, ' big\tcity '), (8, 10, 'X'), (15, 18, 'B')])]) == (
        'Oslo - - B-big_city\n, - - I-big_city\n\na - - B-X\nB - - O\n. - - O\n\n'
        'No - - B-B\n. - - I-B\n- - - O\nDOCSTART - - O\n- - - O\n\n')
    tokenized = {'text': '-DOCSTART- a', 'tokens': ['-DOCSTART-', 'a'], 'tags': [], 'entities': []}
    (convert.folder / 'x' / 'all.txt').unlink()
    assert convert([tokenized]) == '_DOCSTART_ - - O\na - - O\n\n'


def test_tokens_are_split_where_an_entity_begins_or_ends(convert, capsys):
    text = 'anti-Obama New-Yorkers xAy abcd'
    entities = [(5, 10, 'PER'), (11, 19, 'LOC'), (24, 25, 'X'), (27, 29, 'Y'), (29, 31, 'Z')]
    assert convert([doccano(text, entities)]) == (
        'anti- - - O\nObama - - B-PER\nNew-York - - B-LOC\ners - - O\n'
        'x - - O\nA - - B-X\ny - - O\nab - - B-Y\ncd - - B-Z\n\n')
    assert 'begins or ends: 4 tokens;' in capsys.readouterr().out


def test_the_longest_of_overlapping_entities(convert, capsys):
    entities = [(0, 5, 'A'), (0, 12, 'B'), (6, 12, 'C'), (6, 17, 'D'), (21, 25, 'E'), (21, 25, 'F')]
    assert convert([doccano(TEXT, entities)]) == (
        "FILE, line 1: cannot be read: expected no overlap of entities (see --overlaps), found "
        "[6, 17, 'D']")
    assert convert([doccano(TEXT, entities)], '--overlaps', 'longest') == (
        ROWS.replace('PER', 'B').replace('LOC', 'E'))
    assert 'without annotation, 4 entities\n' in capsys.readouterr().out


def test_offsets_of_javascript(convert):
    text = '\U0001f600 Oslo \U0001f600'
    right, counted = [(2, 6, 'LOC'), (7, 8, 'X')], [(3, 7, 'LOC'), (8, 10, 'X')]
    rows = '\U0001f600 - - O\nOslo - - B-LOC\n\U0001f600 - - B-X\n\n'
    entry = doccano(text, counted)
    assert convert([entry]) == ('FILE, line 1: cannot be read: expected offsets of the text (see '
                                "--utf16), found [8, 10, 'X']")
    assert convert([entry], '--utf16') == rows
    (convert.folder / 'x' / 'all.txt').unlink()
    assert convert([doccano(text, right)]) == rows


@pytest.mark.parametrize('start, end', [(0, 1), (1, 2), (8, 9), (9, 10), (0, 11), (-1, 2)])
def test_offsets_inside_a_surrogate_pair(start, end, convert):
    entry = doccano('\U0001f600 Oslo \U0001f600', [(start, end, 'X')])
    assert convert([entry], '--utf16') == (
        'FILE, line 1: cannot be read: expected offsets of the text (see --utf16), found '
        f"[{start}, {end}, 'X']")


@pytest.mark.parametrize('tool', [prodigy, ours, label_studio])
def test_words_that_differ(tool, convert):
    """A tool that counts as JavaScript does is found out by the words that it gives."""
    text = '\U0001f600 Amara Oslo'
    entry = tool(text, [(2, 7, 'PER')])
    entry = json.loads(json.dumps(entry).replace('"start": 2, "end": 7', '"start": 3, "end": 8'))
    if tool is ours:
        entry['entities'][0].update(start=3, end=8)
    assert convert([entry]) == ("FILE, line 1: cannot be read: expected 'Amara' from 3 to 8 "
                                "(see --utf16), found 'mara '")
    assert 'Amara - - B-PER\n' in convert([entry], '--utf16')


# --- What is refused ---

@pytest.mark.parametrize('entity, message', [
    ([0, 27, 'X'], "offsets of the text (see --utf16), found [0, 27, 'X']"),
    ([-1, 5, 'X'], "offsets of the text (see --utf16), found [-1, 5, 'X']"),
    ([5, 0, 'X'], "an entity that has words, found [5, 0, 'X']"),
    ([5, 6, 'X'], "an entity that has words, found [5, 6, 'X']"),
    ([5, 5, 'X'], "an entity that has words, found [5, 5, 'X']"),
    ([0, 5.0, 'X'], "integers as offsets, found [0, 5.0, 'X']"),
    ([False, 5, 'X'], "integers as offsets, found [False, 5, 'X']"),
    (['0', '5', 'X'], "integers as offsets, found ['0', '5', 'X']"),
    ([0, None, 'X'], "integers as offsets, found [0, None, 'X']"),
    ({'from': 0, 'to': 5}, 'integers as offsets, found [None, None, None]'),
    ([0, 5, ''], "one type, found [0, 5, '']"),
    ([0, 5, ' \t'], "one type, found [0, 5, ' \\t']"),
    ([0, 5, 7], 'one type, found [0, 5, 7]'),
    ([0, 5, None], 'one type, found [0, 5, None]'),
    ({'start': 0, 'end': 5, 'labels': ['A', 'B']}, "one type, found [0, 5, ['A', 'B']]"),
    ({'start': 0, 'end': 5, 'labels': []}, 'one type, found [0, 5, []]'),
    ([0, 5, 'X', 'Y'], "a list of start, end and type, found [0, 5, 'X', 'Y']"),
    (5, 'a list of start, end and type, found 5'),
    (100 * 'x', f"a list of start, end and type, found '{79 * 'x'}"),
    ([], 'a list of start, end and type, found []'),
])
def test_a_bad_entity(entity, message, convert):
    found = convert([doccano('Rain', []), {'text': TEXT, 'spans': [entity]}])
    assert found.startswith('FILE, line 2: cannot be read: ')
    assert found.endswith(f'expected {message}')


def test_an_entity_across_lines(convert):
    assert convert([doccano('Rain in\r\nOslo', [(0, 7, 'X'), (5, 13, 'Y')])]) == (
        "FILE, line 1: cannot be read: expected an entity in one line, found 'in\\r\\nOslo'")


NO_SENTENCES = 'expected texts for all.txt (more, or other shares; see --val, --test), found []'
NO_TEXT = 'expected the key text, or another --text_field, found '


@pytest.mark.parametrize('entries, message', [
    ('', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    (' \n\n', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    ('[]', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    ('\n{"text": "a", "label": []}\n\n{"text": \n',
     "FILE, line 4: cannot be read: expected JSON, found '{\"text\":'"),
    ('Rain ' * 50, f'FILE, line 1: cannot be read: expected JSON, found {("Rain " * 16)!r:.80}'),
    ('{"a":' * 20000, "FILE, line 1: cannot be read: expected JSON, found '" + '{"a":' * 15),
    ('[{}\n,', 'FILE: cannot be read: Expecting value: line 2 column 2 (char 5)'),
    ('[' * 20000, 'FILE: cannot be read: '),
    ([{'label': []}], f"FILE, line 1: cannot be read: {NO_TEXT}{{'label': []}}"),
    ([{'text': None, 'label': []}], f"FILE, line 1: cannot be read: {NO_TEXT}{{'text': None, 'lab"),
    ('[{"text": "a", "spans": []}, {"spans": []}]',
     f"FILE, task 2: cannot be read: {NO_TEXT}{{'spans': []}}"),
    ([{'text': 'Oslo'}], f'FILE/x: cannot be written: {NO_SENTENCES}'),
    ([5], 'FILE, line 1: cannot be read: expected an entry with the key text, found 5'),
    ([None], 'FILE, line 1: cannot be read: expected an entry with the key text, found None'),
    (['a'], "FILE, line 1: cannot be read: expected an entry with the key text, found 'a'"),
    ([label_studio(TEXT, [], other='x')], f'FILE, line 1: cannot be read: {NO_TEXT}'),
    ([{'data': {'number': 5}, 'annotations': [{'result': []}]}],
     f"FILE, line 1: cannot be read: {NO_TEXT}{{'number': 5}}"),
    ([{'data': {'text': 'Oslo'}}], f'FILE/x: cannot be written: {NO_SENTENCES}'),
    ([{'data': {'text': 'Oslo'}, 'annotations': [5]}], 'FILE, line 1: cannot be read: '),
    ([{'data': {'text': 'Oslo'}, 'annotations': [{'result': [{'value': 5}]}]}],
     'FILE, line 1: cannot be read: '),
    ([doccano('Oslo', []) | {'label': 5}], 'FILE, line 1: cannot be read: '),
    ([{**ours('Oslo', []), 'tokens': ['Os', 'l', 'a']}],
     "FILE, line 1: cannot be read: expected tokens of the text, found 'a'"),
    ([{**ours('Oslo', []), 'tokens': ['']}],
     "FILE, line 1: cannot be read: expected tokens of the text, found ''"),
    ([{**ours('Oslo', []), 'tokens': [5]}], 'FILE, line 1: cannot be read: '),
    ('\udcff', 'FILE, line 1: expected UTF-8, found the byte 0xff'),
    ([doccano('Rain.', []), doccano('Rain ' * 1001, [])], 'FILE, line 2: cannot be read: expected '
     f"at most 1,000 words and 10,000 characters in a line or sentence, found '{'Rain ' * 15}Rain"),
    ([doccano(f'{"x" * 5000} {"y" * 5001}', [])], 'FILE, line 1: cannot be read: expected at most'),
])
def test_a_bad_file(entries, message, convert):
    assert convert(entries).startswith(message)


def test_the_longest_sentences_can_be_trained_on(convert):
    for text in ('Rain ' * 1000, f'{"x" * 5000} {"y" * 5000}', f'{"Rain " * 999}\n{"Rain " * 999}'):
        convert([doccano(text, [])])
        read, _ = read_corpus(convert.folder / 'x' / 'all.txt', 'ner', -1, 'iob2')
        assert [word for sentence in read for word in sentence] == text.split()
        shutil.rmtree(convert.folder / 'x')


def test_half_of_a_surrogate_pair(tmp_path):
    path = write(tmp_path / 'x.jsonl', '{"text": "\\ud83d", "label": []}')
    found = run('jsonl', path, '--no-split', '--output_dir', tmp_path)
    assert found.startswith(f'error: {tmp_path}/x: cannot be written: ') and len(found) < 300


def test_the_files_are_different(tmp_path):
    path = write(tmp_path / 'x.jsonl', [doccano(TEXT, ENTITIES)])
    assert run('jsonl', path, path) == (
        f'error: expected 1 to 999 different files, found {path} {path}')
    assert run('split', path, tmp_path) == (
        f'error: expected 1 to 1 different files, found {path} {tmp_path}')


# --- Shares ---

def numbered(folder, name, amount=20):
    """A file of texts of two lines, the numbers of the text."""
    entries = [doccano(f'{name}{n} a\n{name}{n} b', []) for n in range(amount)]
    return write(folder / f'{name}.jsonl', entries)


def drawn(folder):
    """The sentences of the files in a folder, as lists of words."""
    return {path.name: read_words_tags(path, 3, caseless=False)[0] for path in folder.iterdir()}


def test_texts_are_drawn_whole(tmp_path):
    files = [numbered(tmp_path, name) for name in 'xy']
    assert run('jsonl', *files, '--output_dir', tmp_path, '--test', 0.2) is None
    found = drawn(tmp_path / 'x')
    assert {name: len(sentences) for name, sentences in found.items()} == {
        'train.txt': 56, 'val.txt': 8, 'test.txt': 16}
    for sentences in found.values():
        # Both lines of a text, in the order of the files
        assert sentences[::2] == [[name, 'a'] for name, _ in sentences[1::2]]
        assert sentences[1::2] == sorted(sentences[1::2], key=lambda row: (
            row[0][0], int(row[0][1:])))
    assert sum(map(len, found.values())) == len({tuple(s) for part in found.values() for s in part})
    # The same on every machine, as random() is: those with the lowest numbers
    random.seed(0)
    lowest = sorted((random.random(), n) for n in range(40))[:4]
    assert [row[0] for row in found['val.txt'][::2]] == [
        f'{"xy"[n // 20]}{n % 20}' for n in sorted(n for _, n in lowest)]


def test_the_seed(tmp_path):
    path, found = numbered(tmp_path, 'x'), []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        assert run('jsonl', path, '--output_dir', tmp_path, '--name', name, '--seed', seed) is None
        found.append(drawn(tmp_path / name))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize('val, test, expected', [
    (0, 0.5, ['test.txt', 'train.txt']), (0.5, 0, ['train.txt', 'val.txt']), (0, 0, ['train.txt']),
    (0.5, 0.5, "texts for train.txt (more, or other shares; see --val, --test), found []"),
    (0.9, 0.9, "texts for train.txt (more, or other shares; see --val, --test), found []"),
    (0.01, 0.5, "texts for val.txt (more, or other shares; see --val, --test), found []"),
    (0.5, 0.01, "texts for test.txt (more, or other shares; see --val, --test), found []"),
    (-0.1, 0.1, "argument --val: invalid float from 0 to 1 value: '-0.1' (--help says more)"),
    (0.1, 1.1, "argument --test: invalid float from 0 to 1 value: '1.1' (--help says more)"),
    ('nan', 0.1, "argument --val: invalid float from 0 to 1 value: 'nan' (--help says more)"),
])
@pytest.mark.parametrize('command', ['jsonl', 'split'])
def test_shares(command, val, test, expected, tmp_path):
    path = (numbered(tmp_path, 'x', amount=10) if command == 'jsonl' else
            write(tmp_path / 'x.txt', ''.join(f'{n}x O\n\n' for n in range(10))))
    error = run(command, path, f'--val={val}', f'--test={test}', '--output_dir', tmp_path)
    if error is None:
        assert names(tmp_path / 'x') == expected
    else:
        assert error.endswith(expected) and names(tmp_path) == [path.name]


def test_all_texts_are_left_out(convert):
    assert convert([prodigy('No', [], 'reject')]).endswith(NO_SENTENCES)


@pytest.mark.parametrize('held', ['all.txt', 'train.txt'])
@pytest.mark.parametrize('command', ['jsonl', 'split'])
def test_a_corpus_is_not_overwritten(command, held, tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / held).write_text('mine')
    assert run(command, numbered(tmp_path, 'x'), '--output_dir', tmp_path) == (
        f'error: {tmp_path}/x: has a corpus already; give another --name, or delete it')


# --- Splitting a CoNLL file ---

@pytest.mark.parametrize('row', ['{0} O', '{0}\tNN\tx\ty\tO', '# {0}  -DOCSTART-\u00a0O'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_split_keeps_rows(row, end, tmp_path):
    sentences = [row.format(f'a{n}') + '\n' + row.format(f'b{n}') + '\n' for n in range(20)]
    (tmp_path / 'x.txt').write_bytes(('\n\n' + '\n\n'.join(sentences)).replace('\n', end).encode())
    assert run('split', tmp_path / 'x.txt', '--name', 'y', '--output_dir', tmp_path) is None
    parts = {path.name: path.read_text(encoding='utf-8').split('\n\n')
             for path in (tmp_path / 'y').iterdir()}
    assert {name: len(part) - 1 for name, part in parts.items()} == {
        'train.txt': 16, 'val.txt': 2, 'test.txt': 2}
    assert sorted(part + '\n' for rows in parts.values() for part in rows if part) == (
        sorted(sentences))


def test_split_keeps_documents(tmp_path):
    documents = [f'-DOCSTART- O\n\na{n} O\n\nb{n} O\n' for n in range(10)]
    (tmp_path / 'x.txt').write_text('a O\n\n\n' + '\n'.join(documents))
    assert run('split', tmp_path / 'x.txt', '--output_dir', tmp_path, '--test', 0) is None
    train, val = [(tmp_path / 'x' / name).read_text() for name in ('train.txt', 'val.txt')]
    assert val.strip('\n') + '\n' in documents and train.startswith('a O\n\n-DOCSTART- O\n\na')
    assert sorted(re.findall(r'-DOC.*\n\n.*\n\n.*\n', train + val)) == documents


@pytest.mark.parametrize('text, message', [
    ('', ': expected sentences, found none'),
    ('a O\nb\n', ", line 2: expected 2 columns, as in the first row, found 'b'"),
    ('PK\x03', ': expected text, found a .gz or .zip; unpack it first'),
])
def test_a_bad_file_to_split(text, message, tmp_path):
    path = write(tmp_path / 'x.txt', text)
    assert run('split', path, '--output_dir', tmp_path) == f'error: {path}{message}'


# --- Round trips ---

def words_and_tags(entries):
    """What is read back from entries, all in one file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = write(Path(folder) / 'x.jsonl', entries)
        assert run('jsonl', path, '--no-split', '--output_dir', folder) is None
        return read_words_tags(Path(folder) / 'x' / 'all.txt', 3, caseless=False)


@pytest.fixture(scope='module')
def tagger():
    """A tagger that has learned nothing, so that it finds entities everywhere."""
    torch.manual_seed(0)
    words, tags = [['a', 'b']], [['B-PER', 'I-PER'], ['B-LOC', 'I-LOC'], ['O']]
    maps = dict(zip(('word_map', 'char_map', 'tag_map'), create_maps(words, tags, 1)))
    model = LM_LSTM_CRF(len(maps['tag_map']), len(maps['char_map']), 3, 4, 1, len(maps['word_map']),
                        len(maps['word_map']), 5, 6, 1, 0.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return inference.Tagger(model, maps, {'task': 'ner', 'tag_scheme': 'iob2'})


SENTENCES = ['Dunston flew to Oslo.', '', 'Amara\u2009Okafor \U0001f600 saw (Dunston).',
             "U.S.! can't"]


RAW = ["Amara Okafor's flew to Oslo.", '', '\t Dunston,\u00a0Amara\u2028and Oslo \U0001f600!',
       '{"text": "Rain"} [Okafor]', 'U.S. Amara Okafor saw Dunston (Oslo) \U0001d518x ']


@pytest.mark.parametrize('tool', [None, *TOOLS])
def test_what_a_model_has_tagged(tool, tagger):
    """The words and tags of --output_format conll, from what its jsonl or another tool says."""
    tagged = list(tagger.tag(SENTENCES, probabilities=True))
    assert sum(len(sentence['entities']) for sentence in tagged) > 3
    entries = tagged if tool is None else [
        tool(row['text'], [(entity['start'], entity['end'], entity['type'])
                           for entity in row['entities']]) for row in tagged]
    assert list(zip(*words_and_tags(entries))) == [
        (row['tokens'], row['tags']) for row in tagged if row['tokens']]


@pytest.mark.parametrize('tool', [None, doccano, prodigy, label_studio])
@pytest.mark.parametrize('options', [(), ('--threshold', 0.1), ('--threshold', 0.5)])
def test_from_raw_text_to_a_corpus(tool, options, trained, tmp_path):
    """What --output_format jsonl prints becomes the corpus that --output_format conll prints."""
    (tmp_path / 'text.txt').write_text('\n'.join(RAW), encoding='utf-8')
    lines, columns = (call(inference.main, trained / BEST, tmp_path / 'text.txt', *options,
                           '--output_format', form) for form in ('jsonl', 'conll'))
    if tool is not None:
        rows = map(json.loads, lines.rstrip('\n').split('\n'))
        lines = [tool(row['text'], [(entity['start'], entity['end'], entity['type'])
                                    for entity in row['entities']]) for row in rows]
    (tmp_path / 'conll.txt').write_text(columns, encoding='utf-8')
    words, tags = words_and_tags(lines)
    assert (words, tags) == read_words_tags(tmp_path / 'conll.txt', 1, caseless=False)
    assert len(words) == 4 and {tag for row in tags for tag in row} > {'B-PER', 'I-PER', 'O'}


def test_the_tokens_of_inference_are_kept(tagger):
    """Words that are what stands between white space, and lists of words."""
    sentences = [*map(str.split, SENTENCES[::2]), ['Oslo', ',', '?!a']]
    tagged = list(tagger.tag(sentences))
    assert list(zip(*words_and_tags(tagged))) == [(row['tokens'], row['tags']) for row in tagged]
    assert [row['tokens'] for row in tagged] == sentences


LINES = st.text(st.sampled_from("aB.'-1 \t\n\r\u00a0\u3000é\U0001f600中\ufeff") | st.characters(
    blacklist_categories=['Cs']), min_size=1, max_size=30)


@st.composite
def annotated(draw):
    """A text and entities that do not overlap, in its order, each in a line and of some words."""
    text = draw(LINES.filter(str.strip))
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    kinds = st.sampled_from(['PER', 'B-X', 'a b', '中', '-'])
    entities = [(start, end, draw(kinds)) for start, end in zip(places[::2], places[1::2])]
    return text, [(start, end, name) for start, end, name in entities
                  if text[start:end].strip() and '\n' not in text[start:end].strip()]


@hypothesis.given(st.lists(annotated(), min_size=1, max_size=3), st.sampled_from(TOOLS[:-1]))
def test_random_texts(entries, tool):
    """All characters are there, and all entities with their words, line by line."""
    # Not all words may be numbers
    entries.append(('a', []))
    words, tags = words_and_tags([tool(*entry) for entry in entries])
    expected = ''.join(''.join(text.split()) for text, _ in entries)
    found = ''.join(itertools.chain(*words))
    assert without_marks(found) == without_marks(expected)
    assert len(words) == sum(bool(line.strip()) for text, _ in entries for line in text.split('\n'))
    found = [(name, without_marks(''.join(row[start:end])))
             for row, row_tags in zip(words, tags) for name, start, end in find_entities(row_tags)]
    assert found == [('_'.join(name.split()), without_marks(''.join(text[start:end].split())))
                     for text, entities in entries for start, end, name in entities]


def without_marks(text):
    """A byte order mark that is all of a word is written as _."""
    return text.replace('\ufeff', '').replace('_', '')
