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
    annotations = [{'result': []}, {'was_cancelled': False, 'result': result},
                   {'was_cancelled': True, 'result': []}]
    return {'id': 1, 'data': {'text': text, 'number': 5, **data}, 'annotations': annotations}


def ours(text, entities):
    tokens = [text[start:end] for start, end in inference.find_tokens(text)]
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
    assert capsys.readouterr().out.endswith(
        'all.txt: 2 sentences, 8 tokens\n  2 entities: PER 1, LOC 1\n')


@pytest.mark.parametrize('indent', [None, 2])
def test_label_studio(indent, convert):
    tasks = [label_studio(TEXT, ENTITIES), label_studio('Rain.', [])]
    assert convert(json.dumps(tasks, indent=indent)) == f'{ROWS}Rain - - O\n. - - O\n\n'


def test_a_text_under_another_key(convert):
    entries = [{'body': TEXT, 'label': ENTITIES}]
    assert convert(entries).startswith('FILE, line 1: cannot be read: expected the key text')
    assert convert(entries, '--text_field', 'body') == ROWS


def test_what_is_left_out(convert, capsys):
    cancelled = label_studio(TEXT, ENTITIES)
    cancelled['annotations'] = cancelled['annotations'][2:]
    entries = [prodigy(TEXT, ENTITIES), prodigy('No', [], 'reject'), prodigy('No', [], 'ignore'),
               cancelled, {**cancelled, 'annotations': []}, {'text': 'Hm', 'answer': 'accept'}]
    assert convert(entries) == f'{ROWS}Hm - - O\n\n'
    assert note(capsys) == '1 texts without annotation are left out\n'


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
    assert note(capsys).startswith(
        "5 names begin or end inside a token, such as 'New-York' in 'New-Yorkers', ")


def test_the_longest_of_overlapping_entities(convert, capsys):
    entities = [(0, 5, 'A'), (0, 12, 'B'), (6, 12, 'C'), (6, 17, 'D'), (21, 25, 'E'), (21, 25, 'F')]
    assert convert([doccano(TEXT, entities)]) == (
        "FILE, line 1: cannot be read: expected no overlap of names (see --overlaps), found "
        "[6, 17, 'D']")
    assert convert([doccano(TEXT, entities)], '--overlaps', 'longest') == (
        ROWS.replace('PER', 'B').replace('LOC', 'E'))
    assert note(capsys) == ("4 names that overlap with a longer one are left out, such as 'Okafor "
                            "flew', 'Okafor', 'Amara'\n")


def test_offsets_of_javascript(convert):
    text = '\U0001f600 Oslo \U0001f600'
    right, counted = [(2, 6, 'LOC'), (7, 8, 'X')], [(3, 7, 'LOC'), (8, 10, 'X')]
    rows = '\U0001f600 - - O\nOslo - - B-LOC\n\U0001f600 - - B-X\n\n'
    entry = doccano(text, counted)
    assert convert([entry]) == (
        "FILE, line 1: cannot be read: expected offsets of the text (see --utf16), found "
        "[8, 10, 'X']")
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
    assert convert([entry]) == (
        "FILE, line 1: cannot be read: expected 'Amara' from 3 to 8 (see --utf16), found 'mara '")
    assert 'Amara - - B-PER\n' in convert([entry], '--utf16')


# --- What is refused ---

PLACE = 'integers as start and end, and one type'


@pytest.mark.parametrize('entity, message', [
    ([0, 27, 'X'], "offsets of the text (see --utf16), found [0, 27, 'X']"),
    ([-1, 5, 'X'], "offsets of the text (see --utf16), found [-1, 5, 'X']"),
    ([5, 0, 'X'], "a name that has words, found [5, 0, 'X']"),
    ([5, 6, 'X'], "a name that has words, found [5, 6, 'X']"),
    ([5, 5, 'X'], "a name that has words, found [5, 5, 'X']"),
    ([0, 5.0, 'X'], f"{PLACE}, found [0, 5.0, 'X']"),
    ([False, 5, 'X'], f"{PLACE}, found [False, 5, 'X']"),
    (['0', '5', 'X'], f"{PLACE}, found ['0', '5', 'X']"),
    ([0, None, 'X'], f"{PLACE}, found [0, None, 'X']"),
    ({'from': 0, 'to': 5}, f'{PLACE}, found [None, None, None]'),
    ([0, 5, ''], f"{PLACE}, found [0, 5, '']"),
    ([0, 5, ' \t'], f"{PLACE}, found [0, 5, ' \\t']"),
    ([0, 5, 7], f'{PLACE}, found [0, 5, 7]'),
    ([0, 5, None], f'{PLACE}, found [0, 5, None]'),
    ({'start': 0, 'end': 5, 'labels': ['A', 'B']}, f"{PLACE}, found [0, 5, ['A', 'B']]"),
    ({'start': 0, 'end': 5, 'labels': []}, f'{PLACE}, found [0, 5, []]'),
    ([0, 5, 'X', 'Y'], "a list of start, end and type, found [0, 5, 'X', 'Y']"),
    (5, 'a list of start, end and type, found 5'),
    (100 * 'x', f"a list of start, end and type, found '{79 * 'x'}"),
    ([], 'a list of start, end and type, found []'),
])
def test_a_bad_entity(entity, message, convert):
    found = convert([doccano('Rain', []), {'text': TEXT, 'spans': [entity]}])
    assert found.startswith('FILE, line 2: cannot be read: ')
    assert found.endswith(f'expected {message}')


def test_names_across_lines(convert, capsys):
    """They are left out; or the lines of a text become one."""
    entries = [doccano('Rain in\r\nNew\nYork', [(0, 4, 'X'), (9, 17, 'Y')])]
    assert convert(entries) == 'Rain - - B-X\nin - - O\n\nNew - - O\n\nYork - - O\n\n'
    assert "\n1 names across lines are left out, such as 'New\\nYork' (--join_lines makes" in (
        capsys.readouterr().out)
    shutil.rmtree(convert.folder / 'x')
    assert convert(entries, '--join_lines') == (
        'Rain - - B-X\nin - - O\nNew - - B-Y\nYork - - I-Y\n\n')
    assert 'across lines' not in capsys.readouterr().out


NO_SENTENCES = 'expected texts for all.txt (more, or other shares; see --val, --test), found []'
NO_JSON = 'expected an entry in JSON with the key text, found '
NO_TEXT = 'expected the key text, or another --text_field, found '


@pytest.mark.parametrize('entries, message', [
    ('', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    (' \n\n', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    ('[]', 'FILE: cannot be read: expected annotated texts in JSON, found []'),
    ('\n{"text": "a", "label": []}\n\n{"text": \n',
     f"FILE, line 4: cannot be read: {NO_JSON}'{{\"text\":'"),
    ('Rain ' * 50, f'FILE, line 1: cannot be read: {NO_JSON}{("Rain " * 16)!r:.80}'),
    ('{"a":' * 20000, f"FILE, line 1: cannot be read: {NO_JSON}'" + '{"a":' * 15),
    ('[{}\n,', 'FILE: cannot be read: Expecting value: line 2 column 2 (char 5)'),
    ('[' * 20000, 'FILE: cannot be read: '),
    ([{'label': []}], f"FILE, line 1: cannot be read: {NO_TEXT}{{'label': []}}"),
    ([{'text': None, 'label': []}], f"FILE, line 1: cannot be read: {NO_TEXT}{{'text': None, 'lab"),
    ('[{"text": "a", "spans": []}, {"spans": []}]',
     f"FILE, task 2: cannot be read: {NO_TEXT}{{'spans': []}}"),
    ([{'text': 'Oslo'}], f'FILE/x: cannot be written: {NO_SENTENCES}'),
    ([5], f'FILE, line 1: cannot be read: {NO_JSON}5'),
    ([None], f'FILE, line 1: cannot be read: {NO_JSON}None'),
    (['a'], f"FILE, line 1: cannot be read: {NO_JSON}'a'"),
    ([{'data': {'title': 'a', 'body': 'b'}, 'annotations': [{'result': []}]}],
     f"FILE, line 1: cannot be read: {NO_TEXT}['title', 'body']"),
    ([{'data': {'number': 5}, 'annotations': [{'result': []}]}],
     f"FILE, line 1: cannot be read: {NO_TEXT}{{'number': 5}}"),
    ([{'data': {'text': 'Oslo'}}], 'FILE, line 1: cannot be read: expected a list under '
     "annotations or completions, found ['data']"),
    ([{'data': {'text': 'Oslo'}, 'annotations': []}], f'FILE/x: cannot be written: {NO_SENTENCES}'),
    ([{'data': {'text': 'Oslo'}, 'annotations': [5]}], 'FILE, line 1: cannot be read: '),
    ([{'data': {'text': 'Oslo'}, 'annotations': [{'result': [{'value': 5}]}]}],
     'FILE, line 1: cannot be read: '),
    ([doccano('Oslo', []) | {'label': 5}], 'FILE, line 1: cannot be read: '),
    ([{**ours('Oslo', []), 'tokens': ['Os', 'l', 'a']}],
     "FILE, line 1: cannot be read: expected tokens that are all of the text, found 'Oslo'"),
    ([{**ours('Oslo', []), 'tokens': ['']}],
     "FILE, line 1: cannot be read: expected tokens that are all of the text, found 'Oslo'"),
    ([{**ours('Oslo', []), 'tokens': [5]}], 'FILE, line 1: cannot be read: '),
    ('\udcff', 'FILE, line 1: expected UTF-8, found the byte 0xff'),
    ([doccano('Rain.', []), doccano('Rain ' * 1001, [])], 'FILE/x: cannot be written: expected '
     f"at most 1,000 words and 10,000 characters in a line or sentence, found '{'Rain ' * 15}Rain"),
    ([doccano(f'{"x" * 5000} {"y" * 5001}', [])], 'FILE/x: cannot be written: expected at most'),
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


# --- What each tool writes, as it does ---

PRODIGY = {'text': TEXT, '_input_hash': 1, '_task_hash': 2, '_session_id': None, '_timestamp': 5,
           'tokens': [{'text': 'Amara', 'start': 0, 'end': 5, 'id': 0, 'ws': True}]}
SPANS = [{'start': 0, 'end': 12, 'label': 'PER', 'text': 'Amara Okafor', 'source': 'x.y'},
         {'start': 21, 'end': 25, 'label': 'LOC', 'text': 'Oslo', 'source': 'x.y'}]
TOKENS = ['Amara', 'Okafor', 'flew', 'to', 'Oslo', '.']
TAGS = ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O']


def note(capsys):
    """The lines that a conversion has printed after its counts."""
    return ''.join(line for line in capsys.readouterr().out.splitlines(True) if line[0].isdigit())


def again(convert, *arguments):
    """Convert once more, in the same place."""
    shutil.rmtree(convert.folder / 'x')
    return convert(*arguments)


@pytest.mark.parametrize('tokenizer, rows', [
    ('words', 'anti-Obama - - B-X\n, - - O\n5th - - O\n\n'),
    ('fine', 'anti - - B-X\n- - - I-X\nObama - - I-X\n, - - O\n5 - - O\nth - - O\n\n'),
    ('spaces', 'anti-Obama - - B-X\n, - - O\n5th - - O\n\n')])
def test_the_tokenizer(tokenizer, rows, convert):
    assert convert([doccano('anti-Obama, 5th', [(0, 10, 'X')])], '--tokenizer', tokenizer) == rows


def test_names_inside_a_token_are_counted_and_shown(convert, capsys):
    text = 'anti-Obama, pro-EU, un-American and non-NATO'
    names = [(5, 10, 'PER'), (16, 18, 'ORG'), (23, 31, 'MISC'), (40, 44, 'ORG')]
    assert 'anti- - - O\nObama - - B-PER\n' in convert([doccano(text, names)])
    assert note(capsys) == (
        "4 names begin or end inside a token, such as 'American' in 'un-American', 'Obama' in "
        "'anti-Obama', 'NATO' in 'non-NATO': in raw text these will not be found\n")
    again(convert, [doccano(text, names)], '--tokenizer', 'fine')
    assert note(capsys) == ''


def test_what_nobody_sees_is_like_white_space(convert):
    text = '\ufeff\u200eOslo\u200b \u200fLagos\u200e.'
    assert convert([doccano(text, [(0, 6, 'LOC'), (8, 15, 'LOC')])]) == (
        'Oslo - - B-LOC\nLagos - - B-LOC\n. - - O\n\n')
    assert again(convert, [doccano(f'{TEXT}\u200e\n \u200b', ENTITIES)]) == ROWS


@pytest.mark.parametrize('view', ['ner', None])
def test_yes_or_no_to_single_names(view, convert):
    """Prodigy's ner.teach: a text comes once for each name, and nobody was asked for the others."""
    known = {'_view_id': view} if view else {}
    entries = [{**PRODIGY, **known, 'spans': [SPANS[0]], 'answer': 'accept'},
               {**PRODIGY, **known, 'spans': [SPANS[1]], 'answer': 'accept'},
               {**PRODIGY, **known, 'spans': [{'start': 13, 'end': 17, 'label': 'LOC'}],
                'answer': 'reject'}]
    assert convert(entries) == (
        'FILE, line 1: expected all names of a text, found a yes or no to one, which leaves the '
        'others unknown (--yes_no takes them as O)')
    assert convert(entries, '--yes_no') == ROWS
    rejected = [{**entry, 'answer': 'reject'} for entry in entries]
    assert again(convert, rejected, '--yes_no') == re.sub('[BI]-.*', 'O', ROWS)
    # An annotation of all names says what the decisions do not
    full = {**PRODIGY, '_view_id': 'ner_manual', 'spans': SPANS, 'answer': 'accept'}
    assert again(convert, [entries[2], full, entries[0]]) == ROWS


def test_a_single_decision_of_prodigy(convert):
    entry = {**PRODIGY, '_view_id': 'ner', 'spans': [SPANS[0]], 'answer': 'accept'}
    assert convert([entry]).startswith('FILE, line 1: expected all names of a text, found a yes')
    assert convert([{**entry, '_view_id': 'ner_manual'}]).count('B-') == 1


def test_the_same_text_from_two_tools(convert, capsys):
    same = [prodigy(TEXT, ENTITIES), doccano(TEXT, ENTITIES[::-1]), label_studio(TEXT, ENTITIES)]
    assert convert([*same, doccano('Rain', [])]) == f'{ROWS}Rain - - O\n\n'
    assert '2 entries have the text and the names of another, and count once\n' in note(capsys)
    shutil.rmtree(convert.folder / 'x')
    assert convert([same[0], doccano('Rain', []), doccano(TEXT, ENTITIES[:1])]) == (
        f'FILE, line 3: expected names as in {convert.folder}/x.jsonl, line 1, found others')


def annotation(name, **more):
    """An annotation of Label Studio's that has one name of the type in TEXT."""
    value = {'start': 21, 'end': 25, 'text': 'Oslo', 'labels': [name]}
    return {'id': 1, 'completed_by': 1, 'result': [
        {'id': 'a', 'from_name': 'label', 'to_name': 'text', 'type': 'labels', 'value': value},
        {'id': 'a', 'type': 'choices', 'value': {**value, 'choices': ['x']}}], **more}


@pytest.mark.parametrize('annotations, others', [
    ([annotation('OLD', was_cancelled=False), annotation('NEW', was_cancelled=False)], 1),
    ([annotation('OLD'), annotation('NEW'), annotation('BAD', was_cancelled=True)], 1),
    ([annotation('NEW', ground_truth=True), annotation('OLD', ground_truth=False)], 1),
    ([annotation('NEW', updated_at='2024-03-01T00:00:00.5Z', created_at='2023-01-01T00:00:00Z'),
      annotation('OLD', updated_at='2024-02-01T00:00:00.5Z', created_at='2024-01-01T00:00:00Z'),
      annotation('OLD', created_at='2023-12-01T00:00:00Z')], 2),
    ([annotation('NEW')], 0)])
@pytest.mark.parametrize('key', ['annotations', 'completions'])
def test_several_annotations_of_a_task(annotations, others, key, convert, capsys):
    task = {'id': 7, 'data': {'text': TEXT}, key: annotations, 'predictions': [
        {'result': annotation('GUESS')['result']}]}
    assert re.findall('B-.*', convert(json.dumps([task]))) == ['B-NEW']
    assert note(capsys) == (f'{others} annotations are left out, since another one is the ground '
                            'truth or newer\n' if others else '')


REGIONS = {
    'hypertextlabels': {'start': '/div[1]/p[1]/text()[1]', 'end': '/div[1]/p[1]/text()[1]',
                        'startOffset': 0, 'endOffset': 5, 'text': 'Amara'},
    'paragraphlabels': {'start': '0', 'end': '0', 'startOffset': 0, 'endOffset': 5},
    'timeserieslabels': {'start': 1, 'end': 5, 'instant': False},
    'brushlabels': {'format': 'rle', 'rle': [0, 1]},
    'rectanglelabels': {'x': 1.5, 'y': 2, 'width': 3, 'height': 4, 'rotation': 0},
    'rectangle': {'x': 1.5, 'y': 2, 'width': 3, 'height': 4, 'rotation': 0},
}


@pytest.mark.parametrize('kind', REGIONS)
def test_regions_of_other_types_are_refused_by_name(kind, convert):
    value = REGIONS[kind] | ({kind: ['PER']} if kind.endswith('labels') else {})
    for result in ({'type': kind, 'value': value}, {'value': value}):
        found = convert([{'data': {'text': TEXT}, 'annotations': [{'result': [result]}]}])
        assert found.startswith('FILE, line 1: cannot be read: expected ')
        assert kind in found or 'type' not in result and kind == 'rectangle'
    if kind.endswith('labels'):
        assert kind in convert([{'id': 1, 'text': TEXT, 'label': [value], 'annotation_id': 5}])


def json_min(text, entities, keys=('text', 'label'), **more):
    regions = [{'start': start, 'end': end, 'text': text[start:end], 'labels': [name]}
               for start, end, name in entities]
    entry = {'id': 1, keys[0]: text, 'annotator': 1, 'annotation_id': 2, 'lead_time': 9.5,
             'created_at': '2024-01-01T00:00:00Z', 'updated_at': '2024-01-01T00:00:00Z', **more}
    return entry | ({keys[1]: regions} if regions else {})


@pytest.mark.parametrize('keys', [('text', 'label'), ('body', 'ner'), ('sentence', 'tags')])
def test_json_min(keys, convert):
    """Label Studio leaves the key of the labels out where a task has none."""
    assert convert(json.dumps([json_min(TEXT, ENTITIES, keys, sentiment='good', source='News'),
                               json_min('Rain.', [], keys)])) == f'{ROWS}Rain - - O\n. - - O\n\n'


def test_data_with_two_strings(convert):
    """The text is the one with the names, or the key text, or else the user has to say."""
    assert convert([label_studio(TEXT, ENTITIES, title='Travel')]) == ROWS
    title = label_studio(TEXT, ENTITIES)
    title['data'] = {'headline': TEXT, 'text': 'Travel'}
    assert again(convert, [title]) == ROWS
    title['data'] = {'headline': TEXT, 'body': TEXT}
    shutil.rmtree(convert.folder / 'x')
    assert convert([title]) == ('FILE, line 1: cannot be read: expected the key text, or another '
                                "--text_field, found ['headline', 'body']")
    assert convert([title], '--text_field', 'body') == ROWS


@pytest.mark.parametrize('text', ['/data/upload/1/report.txt', 'https://example.org/report',
                                  's3://bucket/a.txt', 'report.txt', r'C:\texts\a'])
def test_a_task_that_points_to_a_file(text, convert):
    assert convert([label_studio(text, [])]) == (
        f'FILE, line 1: cannot be read: expected a text, not only where it is, found {text!r}')
    assert 'not only where it is' in convert([json_min(text, [])])


ARGILLA = {'text': TEXT, 'tokens': TOKENS, 'prediction': [{'label': 'X', 'start': 0, 'end': 5}],
           'prediction_agent': 'model', 'annotation_agent': 'me', 'id': 'a', 'metadata': {},
           'status': 'Validated', 'metrics': {'tokens': [{'idx': 0, 'char_start': 0}]}}


def test_argilla(convert, capsys):
    names = [{'label': name, 'start': start, 'end': end, 'score': 1.0}
             for start, end, name in ENTITIES]
    assert convert([{**ARGILLA, 'annotation': names}, {**ARGILLA, 'text': 'Rain', 'annotation': []},
                    {**ARGILLA, 'text': 'No', 'annotation': None}]) == f'{ROWS}Rain - - O\n\n'
    assert note(capsys) == '1 texts without annotation are left out\n'


@pytest.mark.parametrize('key, value', [
    ('annotations', [{'label': 4, 'start_offset': 0, 'end_offset': 5, 'user': 1}]),
    ('annotations', [{'start': 0, 'end': 5, 'label': 'PER'}]), ('ner', {'PER': ['Amara']}),
    ('Entities', [[0, 5, 'PER']]), ('ner_tags', ['O', 'B-PER']), ('marks', [[0, 5, 'PER']]),
    ('result', {'all': [{'begin': 0, 'finish': 5, 'kind': 'PER'}]}), ('label', 'positive'),
    ('spans', {'sc': []}), ('labels', 5)])
def test_a_key_that_is_not_known_is_named(key, value, convert):
    found = convert([{'text': TEXT, 'id': 1, key: value}])
    assert found.startswith('FILE, line 1: cannot be read: expected ') and key in found
    if isinstance(value, list):
        assert key in convert([{'text': TEXT, 'entities': [], key: value}]) or key == 'ner_tags'


@pytest.mark.parametrize('entry, key', [
    ({'options': [{'id': 'A'}], 'accept': ['A'], 'answer': 'accept'}, 'options'),
    ({'label': 'POSITIVE', 'answer': 'accept', '_view_id': 'classification'}, 'label'),
    ({'ents': [{'start': 0, 'end': 5, 'label': 'PER'}], 'tokens': [{'start': 0}]}, 'ents')])
def test_annotations_of_something_else_are_no_texts_without_names(entry, key, convert):
    assert convert([{'text': TEXT, **entry}]) == (
        'FILE, line 1: cannot be read: expected a list of names under spans, entities, labels, '
        f'label, annotation, found {[one for one in entry if one in (key, "accept")]}')


def test_texts_and_lists_that_look_like_names(convert):
    texts = ['Rain [1, 2, ', 'x", 1, 2]', '"start": 5']
    entries = [doccano(text, []) for text in texts]
    assert convert(entries).count('\n\n') == 3
    entries = [{'text': TEXT, 'annotation': None, 'vectors': {'a': [0.5]}},
               {'tokens': TOKENS, 'ner_tags': TAGS, 'labels': [1, 2, 0, 0, 1, 0]}]
    assert again(convert, entries) == ROWS


def test_line_breaks_of_label_studio(convert):
    """It may write them as a backslash and n in the words of a name."""
    task = label_studio('Rain in\nNew York', [(8, 16, 'LOC'), (5, 11, 'X')], other='Rain')
    task['data'] = {'body': task['data']['text'], 'title': 'Rain'}
    text = json.dumps([task]).replace('"text": "in\\nNew"', '"text": "in\\\\nNew"')
    assert text.count('\\\\n') == 1
    assert convert(text, '--overlaps', 'longest') == (
        'Rain - - O\nin - - O\n\nNew - - B-LOC\nYork - - I-LOC\n\n')


def test_keys_beside_the_names(convert):
    """Empty lists, and what has the name of something else, are in nobody's way."""
    plain = {'text': TEXT, 'meta': {'start': 5}, 'tags': ['news'], 'tokens': 6}
    assert convert([{**plain, 'entities': [], 'label': ENTITIES}]) == ROWS
    assert again(convert, [{**plain, 'spans': [], 'labels': ENTITIES}]) == ROWS
    assert again(convert, [{**ours(TEXT, ENTITIES), 'tags': ['news']}]) == ROWS
    assert again(convert, [{**prodigy(TEXT, ENTITIES), 'tags': ['news']}]) == ROWS
    shutil.rmtree(convert.folder / 'x')
    assert convert([{**plain, 'entities': ENTITIES, 'label': ENTITIES[:1]}]) == (
        "FILE, line 1: cannot be read: expected names under one key, found ['entities', 'label']")


# --- Offsets that count something else ---

def shifted(text, entities, count):
    """An entry of doccano with offsets that are as long as `count` finds the text before them."""
    return doccano(text, [(count(text[:start]), count(text[:end]), name)
                          for start, end, name in entities])


@pytest.mark.parametrize('text, count, counting', [
    ('\U0001f600 Amara saw Oslo and Okafor.', lambda text: len(text.encode('utf-16-le')) // 2,
     'UTF-16 units (--utf16)'),
    ('\u00c9ric: Amara saw Oslo and Okafor.', lambda text: len(text.encode()), 'bytes of UTF-8'),
    ('Rain.\r\nAmara saw Oslo and Okafor.', lambda text: len(text.replace('\r\n', '\n')),
     'characters with CR LF as one')])
def test_how_offsets_were_counted_is_found_out(text, count, counting, convert):
    names = [(found.start(), found.end(), 'X') for found in re.finditer('Amara|Oslo|Okafor', text)]
    entries = [doccano(TEXT, ENTITIES), shifted(text, names, count)]
    assert convert(entries) == (
        f'FILE: expected offsets in characters; these fit if counted in {counting}, found 3 names '
        'that are other words or begin or end inside a word')
    if 'utf16' in counting:
        assert convert(entries, '--utf16').count('B-X') == 3
        shutil.rmtree(convert.folder / 'x')
    assert convert([doccano(text, names)]).count('B-X') == 3


def test_names_inside_words_are_no_other_counting(convert):
    """Some languages write what follows a name as part of the word."""
    texts = [f'\u00e9\U0001f600\r\nHelsingiss\u00e4 on Oslo{n}ssa' for n in range(20)]
    entries = [doccano(text, [(4, 12, 'LOC'), (text.index('Oslo'), text.index('Oslo') + 4, 'LOC')])
               for text in texts]
    assert convert(entries).count('B-LOC') == 40
    # B c would fit if counted in bytes, but Oslo would not
    entries = [doccano(f'\u00e9 aB cd {n} Oslo saw', [(3, 6, 'X'), (10, 14, 'LOC')])
               for n in range(9)]
    assert again(convert, entries).count('B-LOC') == 9


# --- Formats of other libraries ---

@pytest.mark.parametrize('entry', [
    {'id': '0', 'tokens': TOKENS, 'ner_tags': TAGS}, {'tokens': TOKENS, 'tags': TAGS},
    {'tokens': TOKENS, 'tags': ['I-PER', 'I-PER', 'O', 'O', 'I-LOC', 'O']},
    {'tokens': TOKENS, 'pos_tags': [1, 2, 3, 4, 5, 6], 'ner_tags': [1, 2, 0, 0, 3, 0]},
    {'tokens': TOKENS, 'text': TEXT, 'tags': TAGS}])
@pytest.mark.parametrize('listed', [False, True])
def test_hugging_face(entry, listed, convert):
    entries = json.dumps([entry]) if listed else [entry]
    assert convert(entries, '--tag_names', 'O,B-PER,I-PER,B-LOC,I-LOC') == ROWS


def test_the_sentences_of_hugging_face_may_come_again(convert):
    entries = [{'tokens': ['Oslo', '-', ''], 'ner_tags': tags} for tags in (
        ['B-LOC', 'O', 'O'], ['B-ORG', 'O', 'O'], ['B-LOC', 'O', 'O'])]
    assert re.findall('B-.*', convert(entries)) == ['B-LOC', 'B-ORG', 'B-LOC']


@pytest.mark.parametrize('entry, options, message', [
    ({'ner_tags': [1, 2, 0, 0, 3, 0]}, [], 'ner_tags (see --tag_names), found [1, 2, 0, 0, 3, 0]'),
    ({'ner_tags': [0, 0, 0, 0, 0, 0]}, [], 'ner_tags (see --tag_names), found [0, 0, 0, 0, 0, 0]'),
    ({'tags': [1, 2, 0, 0, 3, 0]}, ['--tag_names', 'O,B-PER,I-PER'],
     "tags (see --tag_names), found ['B-PER', 'I-PER', 'O', 'O', 3, 'O']"),
    ({'tags': [1, 2, 0, 0, -1, 0]}, ['--tag_names', 'O,B-PER,I-PER'],
     "tags (see --tag_names), found ['B-PER', 'I-PER', 'O', 'O', -1, 'O']"),
    ({'tags': [1, 2, 0.5, 0, 3, 'O']}, [],
     "tags (see --tag_names), found [1, 2, 0.5, 0, 3, 'O']"),
    ({'ner_tags': TAGS[1:]}, [], f'ner_tags (see --tag_names), found {TAGS[1:]!r}'),
    ({'ner_tags': ['PER', 'PER', 'O', 'O', 'LOC', 'O']}, [],
     "ner_tags (see --tag_names), found ['PER', 'PER', 'O', 'O', 'LOC', 'O']")])
def test_bad_tags_of_hugging_face(entry, options, message, convert):
    assert convert([{'tokens': TOKENS, **entry}], *options) == (
        f'FILE, line 1: cannot be read: expected 6 tags such as O and B-PER under {message}')


@pytest.mark.parametrize('listed', [False, True])
def test_spacy(listed, convert):
    pairs = [[TEXT, {'entities': ENTITIES}], ['Rain.', {'entities': []}]]
    assert convert(json.dumps(pairs) if listed else pairs) == f'{ROWS}Rain - - O\n. - - O\n\n'


ANN = ('T1\tPER 0 12\tAmara Okafor\nT2\tLOC 21 25\tOslo\nR1\tIn Arg1:T1 Arg2:T2\n'
       '#1\tAnnotatorNotes T1\tsure\n*\tEquiv T1 T2\nE1\tFlight:T2\nA1\tNegation E1\n')


@pytest.fixture
def brat(tmp_path):
    """A function that converts brat's files, given as text by name: what is wrong, or all.txt."""
    def brat(**files):
        shutil.rmtree(tmp_path, ignore_errors=True)
        (tmp_path / 'my').mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / 'my' / name.replace('_', '.')).write_bytes(text.encode())
        error = run('jsonl', tmp_path / 'my', '--no-split', '--output_dir', tmp_path / 'data')
        return error.replace(f'{tmp_path}/', '') if error else (
            tmp_path / 'data' / 'my' / 'all.txt').read_text(encoding='utf-8')
    return brat


def test_brat(brat, capsys):
    assert brat(a_txt=TEXT, a_ann=ANN, b_txt='Rain.', b_ann='', c_txt='No') == (
        f'{ROWS}Rain - - O\n. - - O\n\n')
    assert note(capsys) == '1 texts without annotation are left out\n'


def test_fragments_of_brat(brat, capsys):
    assert brat(a_txt='North and South America', a_ann='T1\tLOC 0 5;16 23\tNorth America\n') == (
        'North - - B-LOC\nand - - I-LOC\nSouth - - I-LOC\nAmerica - - I-LOC\n\n')
    assert note(capsys) == ("1 names in fragments are read with all that is between, such as "
                            "'North America'\n")


@pytest.mark.parametrize('files, message', [
    ({'a_ann': ANN}, 'my/a.txt: cannot be read: No such file or directory'),
    ({'a_json': '[]'}, 'my: expected .txt and .ann files, found none'),
    ({'a_txt': TEXT, 'a_ann': 'E1\tx\nT1\tPER 0\tAmara\n'}, 'my/a.ann, line 2: cannot be '
     'read: expected T1, a type with its start and end, and words, between tabs, found '
     "'T1\\tPER 0\\tAmara'"),
    ({'a_txt': TEXT, 'a_ann': 'T1\tPER 0 5\tOslo\n'}, "my/a.ann: cannot be read: expected 'Oslo' "
     "from 0 to 5 (see --utf16), found 'Amara'"),
    ({'a_txt': TEXT}, f'data/my: cannot be written: {NO_SENTENCES}')])
def test_a_bad_folder_of_brat(files, message, brat):
    assert brat(**files) == f'error: {message}'


# --- Tokens that are given ---

@pytest.mark.parametrize('tokens, found', [
    (['Amara', 'Okafor', 'flew', 'Oslo', '.'], TEXT), (['Okafor', 'flew', 'to', 'Oslo', '.'], TEXT),
    (['Amara', 'Okafor', 'flew', 'to', 'Oslo'], TEXT)])
def test_text_beside_the_tokens_is_refused(tokens, found, convert):
    entry = {**ours(TEXT, []), 'tokens': tokens, 'tags': ['O'] * 5}
    assert convert([entry]) == (
        f'FILE, line 1: cannot be read: expected tokens that are all of the text, found {found!r}')


def test_parts_of_speech_of_inference(convert, capsys):
    parts = ['NNP', 'NNP', 'VBD', 'IN', 'NNP', '.']
    entries = [{**ours(TEXT, []), 'tags': parts}, ours('', [])]
    rows = [f'{token} {part} - -\n' for token, part in zip(TOKENS, parts)]
    assert convert(entries) == ''.join(rows) + '\n'
    assert '  6 POS tags: NNP 3, VBD 1, IN 1, . 1\n' in capsys.readouterr().out
    assert again(convert, [{**ours(TEXT, ENTITIES), 'tags': parts}]) == ROWS.replace(
        'flew -', 'flew VBD').replace('to -', 'to IN').replace('. -', '. .').replace(
        'Amara -', 'Amara NNP').replace('Okafor -', 'Okafor NNP').replace('Oslo -', 'Oslo NNP')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.sampled_from(
        ['', TEXT, 'Oslo', 'O', 'B-PER', 'ner', 'accept', 'labels', 5.5]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.sampled_from(
        ['text', 'start', 'end', 'label', 'labels', 'type', 'value', 'result', 'annotations',
         'data', 'entities', 'spans', 'tokens', 'tags', 'ner_tags', 'answer', '_view_id']), values,
        max_size=5), max_leaves=15)


def hugging_face(text, _):
    return {'tokens': text.replace('.', ' .').split(), 'tags': TAGS}


@hypothesis.given(st.lists(st.just({'text': TEXT, 'label': []}) | VALUES, max_size=3),
                  st.sampled_from([*TOOLS, label_studio, json_min, hugging_face]), st.data())
def test_any_json_is_read_or_refused(entries, tool, data):
    """Any value in any place of what a tool writes."""
    entry = json.loads(json.dumps(tool(TEXT, ENTITIES)))
    place = entry
    while isinstance(place, (dict, list)) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict)
                                        else range(len(place))))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            break
        place = place[key]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = write(Path(folder) / 'x.jsonl', [entry, *entries])
        options = data.draw(st.sampled_from([[], ['--yes_no', '--join_lines', '--utf16']]))
        error = run('jsonl', path, '--no-split', '--output_dir', folder, *options)
        assert error is None or error.startswith(f'error: {folder}')


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


def test_what_has_the_same_text_stays_together(tmp_path):
    path = write(tmp_path / 'x.jsonl', [
        {'tokens': [f'x{n % 10}'], 'ner_tags': ['O']} for n in range(40)])
    assert run('jsonl', path, '--output_dir', tmp_path) is None
    found = drawn(tmp_path / 'x')
    assert {name: len(sentences) for name, sentences in found.items()} == {
        'train.txt': 32, 'val.txt': 4, 'test.txt': 4}
    assert len({word for sentences in found.values() for word, in sentences[::4]}) == 10


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


@pytest.mark.parametrize('documents', [1, 9])
def test_split_of_few_documents_draws_sentences(documents, tmp_path, capsys):
    parts = ['-DOCSTART- -X- O\n' + ''.join(f'\na{n}{m} NN O\n' for m in range(20))
             for n in range(documents)]
    path = write(tmp_path / 'x.txt', '\n'.join(parts))
    assert run('split', path, '--output_dir', tmp_path) is None
    assert (f'{path}: {documents} documents are too few to draw from; sentences are drawn\n'
            in capsys.readouterr().out)
    found = {name: (tmp_path / 'x' / name).read_text() for name in names(tmp_path / 'x')}
    assert {name: text.count('\n\n') for name, text in found.items()} == {
        'train.txt': 16 * documents, 'val.txt': 2 * documents, 'test.txt': 2 * documents}
    assert sorted(re.findall('a.*', ''.join(found.values()))) == sorted(
        re.findall('a.*', ''.join(parts))) and 'DOCSTART' not in ''.join(found.values())


def test_sentences_that_are_also_in_the_training_file(tmp_path, capsys):
    rows = ''.join(f'Rain NN {"OB"[n % 2]}\n. . O\n\n' for n in range(20))
    assert run('split', write(tmp_path / 'x.txt', rows), '--output_dir', tmp_path) is None
    output = capsys.readouterr().out
    for name in ('val', 'test'):
        assert f'x/{name}.txt: 2 sentences are also in train.txt\n' in output
    entries = [doccano(f'Rain.\n{n} sun', []) for n in range(20)]
    path = write(tmp_path / 'y.jsonl', entries)
    assert run('jsonl', path, '--output_dir', tmp_path) is None
    assert '/y/test.txt: 2 sentences are also in train.txt\n' in capsys.readouterr().out
    documents = ''.join(f'-DOCSTART- O\n\na{n} O\n\n' for n in range(20))
    assert run('split', write(tmp_path / 'z.txt', documents), '--output_dir', tmp_path) is None
    assert 'also in' not in capsys.readouterr().out


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
    return inference.Tagger(
        model, maps, {'task': 'ner', 'tag_scheme': 'iob2', 'tokenizer': 'words'})


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
    text = draw(LINES.filter(without_marks))
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    kinds = st.sampled_from(['PER', 'B-X', 'a b', '中', '-'])
    entities = [(start, end, draw(kinds)) for start, end in zip(places[::2], places[1::2])]
    return text, [(start, end, name) for start, end, name in entities
                  if without_marks(text[start:end]) and '\n' not in stripped(text[start:end])]


@hypothesis.given(st.lists(annotated(), min_size=1, max_size=3, unique_by=lambda one: one[0]),
                  st.sampled_from(TOOLS[:-1]))
def test_random_texts(entries, tool):
    """All characters are there, and all entities with their words, line by line."""
    # Not all words may be numbers, nor may most names seem to be counted in another way
    right = ('\u00e9\U0001f600\r\n' + 9 * ' ab', [(n, n + 2, 'X') for n in range(5, 32, 3)])
    entries = [*(entry for entry in entries if entry[0] != right[0]), right]
    words, tags = words_and_tags([tool(*entry) for entry in entries])
    expected = ''.join(text for text, _ in entries)
    found = ''.join(itertools.chain(*words))
    assert without_marks(found) == without_marks(expected)
    lines = [line for text, _ in entries for line in text.split('\n')]
    assert len(words) == sum(bool(without_marks(line)) for line in lines)
    found = [(name, without_marks(''.join(row[start:end])))
             for row, row_tags in zip(words, tags) for name, start, end in find_entities(row_tags)]
    assert found == [('_'.join(name.split()), without_marks(text[start:end]))
                     for text, entities in entries for start, end, name in entities]


def without_marks(text):
    """What can be seen of a text, without 0, which is left out, and without _, written for it."""
    return re.sub(f'[{inference.SPACE}{inference.HIDDEN}_\0]', '', text)


def stripped(text):
    """A text without white space and invisible characters at its edges."""
    return re.sub(r'^[{0}]+|[{0}]+$'.format(inference.SPACE + inference.HIDDEN), '', text)


def test_tags_beside_an_empty_list_of_names(convert):
    tokens, tags = ['Amara', 'flew'], ['B-PER', 'O']
    for key in ('label', 'entities'):
        (convert.folder / 'x').exists() and shutil.rmtree(convert.folder / 'x')
        entry = {'text': 'Amara flew', 'tokens': tokens, 'ner_tags': tags, key: []}
        assert convert([entry]) == 'Amara - - B-PER\nflew - - O\n\n'


def test_a_text_beside_mere_tokens_of_the_same_words(convert):
    entries = [{'tokens': ['Oslo'], 'ner_tags': ['B-LOC']}, {'text': 'Oslo'}]
    assert convert(entries) == 'Oslo - - B-LOC\n\n'


def test_predictions_are_no_annotations(convert):
    entry = {'text': TEXT, 'label': [list(one) for one in ENTITIES],
             'predictions': [{'start': 0, 'end': 5, 'labels': ['X']}]}
    assert convert([entry]) == ROWS
