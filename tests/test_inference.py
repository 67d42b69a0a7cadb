"""inference.py: tokens, probabilities against enumeration, formats, scores, and odd input."""

import json
import math
import re
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import seqeval.metrics
import torch
from conftest import BEST, PEOPLE, ROOT, call, write_conll
from hypothesis import given
from oracle import legal_sequences

import inference
from inference import TOKEN, ViterbiDecoder, load_tagger
from utils import InputError, all_tags, create_input_tensors, find_entities

# --- The tokenizer ---


@pytest.mark.parametrize('text, tokens', [
    ("Mr. O'Brien's dog can't, and won't, go.", "Mr. O'Brien 's dog ca n't , and wo n't , go ."),
    ('They cannot; we\u2019ll see.', 'They can not ; we \u2019ll see .'),
    ('J. K. Lee met J.-P. Roux at 10:30 a.m. in Washington, D.C.',
     'J. K. Lee met J.-P. Roux at 10:30 a.m. in Washington , D.C.'),
    ('$3.5 million (US$5, \u00a3200) or 40%', '$ 3.5 million ( US$ 5 , \u00a3 200 ) or 40 %'),
    ('Al-Ahly won 2-1 -- in N\u2019Djamena', 'Al-Ahly won 2-1 -- in N\u2019Djamena'),
    ('20-year-old mid-1990s 1,600 1/2 -4 +.5', '20-year-old mid-1990s 1,600 1/2 -4 +.5'),
    ('"Yes," she said... No. 5 is vitamin C.', '" Yes , " she said ... No. 5 is vitamin C .'),
    ('see https://x.org/a?b=c, or www.y.net.', 'see https://x.org/a?b=c , or www.y.net .'),
    ('mail a.b@c.org @me #tag AT&T U.S.-led', 'mail a.b@c.org @me #tag AT&T U.S.-led'),
    ("Adams' '90s 'hello' rock'n'roll", "Adams ' '90s ' hello ' rock'n'roll"),
    ('e\u0301te\u0301 \u5317\u4eac\u3002', 'e\u0301te\u0301 \u5317\u4eac \u3002'),
])
def test_tokenizer(text, tokens):
    assert TOKEN.findall(text) == tokens.split(' ')


def test_tokenizer_loses_nothing():
    text = ''.join(map(chr, range(32, 0x3000)))
    assert ''.join(TOKEN.findall(text)) == ''.join(text.split())


# --- Probabilities ---

SCHEMES = {None: ['X', 'Y', 'Z'], 'iob2': all_tags('XY', 'iob2'), 'iobes': all_tags('XY', 'iobes')}


def make_tag_map(scheme):
    return {name: i for i, name in enumerate(['<start>', *SCHEMES[scheme], '<end>'])}


def tags_of(entity, length, scheme):
    """The tags of a sentence with one entity."""
    name, start, end = entity
    tags = ['O'] * length
    tags[start:end] = [f'B-{name}'] + [f'I-{name}'] * (end - start - 1)
    if scheme == 'iobes':
        tags[end - 1] = f'E-{name}' if end - start > 1 else f'S-{name}'
    return tags


@pytest.mark.parametrize('scheme', SCHEMES)
def test_marginals_and_entities_are_the_enumerated_ones(scheme):
    tag_map = make_tag_map(scheme)
    names, m, decoder = list(tag_map), len(tag_map), ViterbiDecoder(tag_map, scheme)
    lengths = torch.tensor([4, 2, 5, 3])
    torch.manual_seed(0)
    scores = 2 * torch.randn(4, 5, m, m, dtype=torch.float64)
    _, _, log_zs = decoder.forward_backward(scores, lengths)
    marginals = decoder.marginals(scores, lengths)
    for n, length in enumerate(lengths.tolist()):
        paths = list(legal_sequences(scores[n], length, tag_map, scheme))
        log_z = torch.tensor([score for _, score in paths], dtype=torch.float64).logsumexp(0)
        assert log_zs[n].item() == pytest.approx(log_z.item())
        expected, entities = torch.zeros(length, m, dtype=torch.float64), {}
        for path, score in paths:
            p = math.exp(score - log_z)
            expected[range(length), path] += p
            if scheme is not None:
                for entity in find_entities([names[tag] for tag in path[:-1]]):
                    entities[entity] = entities.get(entity, 0) + p
        assert torch.allclose(marginals[n, :length], expected)
        # All entities that there can be, each in a sentence of its own
        tags = torch.tensor([[tag_map[tag] for tag in tags_of(entity, length, scheme)]
                             for entity in entities])
        found = decoder.entity_probabilities(
            scores[[n] * len(entities)], lengths[[n] * len(entities)], tags,
            [[entity] for entity in entities])
        assert [p for p, in found] == pytest.approx(list(entities.values()))
        assert scheme is None or len(entities) == length * (length - 1)


def test_marginals_are_the_gradient_of_log_z():
    decoder, lengths = ViterbiDecoder(make_tag_map('iobes'), 'iobes'), torch.tensor([6, 3])
    scores = torch.randn(2, 6, 11, 11, dtype=torch.float64, requires_grad=True)
    decoder.forward_backward(scores, lengths)[2].sum().backward()
    inside = torch.arange(6) < lengths.unsqueeze(1)
    expected = scores.grad.sum(dim=2)[inside]
    assert torch.allclose(decoder.marginals(scores.detach(), lengths)[inside], expected)


@pytest.fixture(scope='module')
def path(trained):
    return trained / BEST


@pytest.fixture(scope='module')
def tagger(path):
    """The model when it knew its sentences for the first time, so that it was not certain yet."""
    tagger = load_tagger(path)
    assert all(p < 0.9 for row in tagger.tag([words for words, _ in PEOPLE], probabilities=True)
               for p in [entity['probability'] for entity in row['entities']])
    return tagger


def test_shown_probabilities_sum_the_variants_of_a_tag(tagger):
    words = ['Amara', 'Okafor', 'flew']
    (tagged,) = tagger.tag([words], probabilities=True)
    assert tagged['tags'] == ['B-PER', 'I-PER', 'O']
    batch = create_input_tensors([words], None, **tagger.maps)
    scores = tagger.model(**batch._asdict())[0].double()
    names = list(tagger.maps['tag_map'])
    paths = list(legal_sequences(scores[0], 4, tagger.maps['tag_map'], 'iobes'))
    z = sum(math.exp(score) for _, score in paths)
    for t, (tag, p) in enumerate(zip(tagged['tags'], tagged['probabilities'])):
        alike = {tag, tag.replace('B-', 'S-'), tag.replace('I-', 'E-')}
        expected = sum(math.exp(score) for path, score in paths if names[path[t]] in alike) / z
        assert p == pytest.approx(expected)
    best = max(paths, key=lambda path: path[1])[0]
    assert find_entities(tagged['tags']) == find_entities([names[tag] for tag in best[:-1]])


# --- Sentences of all lengths, in order ---


def test_order_windows_and_batches_change_nothing(tagger):
    generator = torch.Generator().manual_seed(0)
    known = [word for word in tagger.maps['word_map'] if word[0] != '<']
    # More than a window of 2,048
    lengths = torch.randint(0, 30, (2500,), generator=generator).tolist()
    sentences = [[known[i] for i in torch.randint(len(known), (n,), generator=generator).tolist()]
                 for n in lengths]
    tagged = list(tagger.tag(iter(sentences), probabilities=True))
    assert [row['tokens'] for row in tagged] == sentences
    for i in range(0, 2500, 100):
        (alone,) = tagger.tag([sentences[i]], probabilities=True)
        assert alone['tags'] == tagged[i]['tags']
        assert alone['probabilities'] == pytest.approx(tagged[i]['probabilities'], rel=1e-4)
        assert [entity['probability'] for entity in alone['entities']] == pytest.approx(
            [entity['probability'] for entity in tagged[i]['entities']], rel=1e-4)


def test_places_in_the_text(tagger):
    text = '  Dunston,  checks\u00a0in:\tAmara Okafor\u2028(Oslo) \U0001f600 '
    (tagged,) = tagger.tag([text])
    assert tagged['text'] == text and ''.join(tagged['tokens']) == ''.join(text.split())
    assert tagged['entities']
    for entity in tagged['entities']:
        assert text[entity['start']:entity['end']] == entity['text']


def test_odd_sentences(tagger):
    sentences = ['', ' \t ', 'x' * 100_000, 'Oslo ' * 5000 + 'Dunston checks in',
                 '\x00\x07\x1b \ud800 \u202e', '\u5317' * 9]
    tagged = list(tagger.tag(sentences, probabilities=True))
    assert [len(row['tags']) for row in tagged] == [0, 0, 1, 5003, 5, 1]
    assert tagged[2]['tokens'] == ['x' * 100_000]
    (piece,) = tagger.tag([['Oslo'] * 1000])
    assert tagged[3]['tags'] == 5 * piece['tags'] + ['B-PER', 'O', 'O']


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_tagged(tagger, texts):
    tagged = list(tagger.tag(texts))
    assert [row['text'] for row in tagged] == texts
    assert all(''.join(row['tokens']) == ''.join(row['text'].split()) for row in tagged)
    assert all(len(row['tokens']) == len(row['tags']) for row in tagged)


# --- The command line ---

TEXT = 'Amara Okafor flew to Oslo.\n\nDunston  checks in\n'


def tag(path, *arguments, stdin=TEXT):
    return call(inference.main, path, *arguments, stdin=stdin.encode())


def test_text_is_an_argument_a_file_or_standard_input(path, tmp_path):
    expected = '[PER Amara Okafor] flew to [LOC Oslo].\n\n[PER Dunston]  checks in\n'
    (tmp_path / 'text.txt').write_text(TEXT)
    assert tag(path, '--text', TEXT.removesuffix('\n')) == expected
    assert tag(path, tmp_path / 'text.txt') == expected
    assert tag(path, stdin=TEXT) == expected


def test_formats_agree(path, tagger):
    rows = [json.loads(line) for line in tag(path, '--output_format', 'jsonl').splitlines()]
    assert [row['text'] for row in rows] == TEXT.splitlines()
    assert rows == list(tagger.tag(TEXT.splitlines(), probabilities=True))
    assert all(0 < e['probability'] <= 1 for row in rows for e in row['entities'])

    lines = tag(path, '--probabilities').splitlines()
    for line, row in zip(lines, rows):
        for entity in row['entities']:
            assert f'[{entity["type"]} {entity["probability"]:.2f} {entity["text"]}]' in line
    assert lines[1] == '' and len(lines) == 3

    for extra in ([], ['--probabilities']):
        columns = [[word, name, f'{p:.4f}'][:3 if extra else 2] for row in rows
                   for word, name, p in zip(row['tokens'], row['tags'], row['probabilities'])]
        # A blank line ends each sentence, the empty one, too
        columns.insert(len(rows[0]['tokens']), [])
        columns.insert(len(rows[0]['tokens']), [])
        expected = '\n'.join(' '.join(row) for row in [*columns, [], []])
        assert tag(path, '--output_format', 'conll', *extra) == expected


def test_tokenized(path):
    output = tag(path, '--tokenized', '--output_format', 'jsonl', stdin="Oslo,  (in) don't\n")
    assert json.loads(output)['tokens'] == ['Oslo,', '(in)', "don't"]


def test_evaluate_is_seqevals(path, tagger, tmp_path):
    # Shuffled gold tags, which are only partly right
    gold = [tags for _, tags in PEOPLE[:3]] + [['O'], ['O', 'O', 'B-PER', 'I-PER', 'B-LOC', 'O']]
    words = [words for words, _ in PEOPLE]
    file = write_conll(tmp_path / 'gold.txt', zip(words, gold))
    predicted = [row['tags'] for row in tagger.tag(words)]
    precision, recall, f1 = (getattr(seqeval.metrics, f'{name}_score')(gold, predicted)
                             for name in ('precision', 'recall', 'f1'))
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    expected = f'all {precision:.4f} {recall:.4f} {f1:.4f} 5'
    assert expected in re.sub(' +', ' ', tag(path, '--evaluate', file))
    file = write_conll(tmp_path / 'odd.txt', [(['Oslo'], ['B-CITY'])])
    message = f'{file}, line 1: expected a tag that the model knows'
    with pytest.raises(InputError, match=re.escape(message)):
        tag(path, '--evaluate', file)


def test_text_that_is_not_utf8_is_tagged_with_one_warning(path, tmp_path, capsys):
    file = tmp_path / 'text.txt'
    file.write_bytes('\ufeffOslo\r\n'.encode() + b'a \xff b\n\xfe\nOslo')
    output = tag(path, file, '--output_format', 'jsonl')
    rows = [json.loads(line)['text'] for line in output.splitlines()]
    assert rows == ['Oslo', 'a \ufffd b', '\ufffd', 'Oslo']
    warnings = capsys.readouterr().err
    assert warnings.count('warning') == 1 and f'{file}, line 2' in warnings


def test_head_ends_it_quietly(path, tmp_path):
    (tmp_path / 'text.txt').write_text(TEXT * 2000)
    command = f'"{sys.executable}" inference.py "{path}" < "{tmp_path / "text.txt"}" | head -n 1'
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True,
                            timeout=120)
    assert result.stdout == '[PER Amara Okafor] flew to [LOC Oslo].\n' and result.stderr == ''


def test_explain_shows_the_tutorials_trellis(tagger):
    from worked_example import SCORES, TAG_MAP

    class Scores(torch.nn.Module):
        def forward(self, **batch):
            return SCORES, None, None

    example = inference.Tagger(Scores(), {**tagger.maps, 'tag_map': TAG_MAP}, {'task': 'pos'})
    table = [line.split() for line in inference.explain(example, 'dunston checks in').split('\n')]
    assert table[1][:4] == ['dunston', '*tag_2', '4.85', '<start>']
    assert ['*tag_3', '11.64', 'tag_2'] in [row[1:4] for row in table]
    assert ['tag_2', '12.34', 'tag_3'] in [row[:3] for row in table]
    assert ['*tag_3', '15.49', 'tag_3'] in [row[1:4] for row in table]
    assert ['tag_2', '17.23', 'tag_2'] in [row[:3] for row in table]
    assert table[-1] == ['<end>', '*<end>', '19.01', 'tag_3', '1.0000']


def test_explain_from_the_command_line(path):
    output = tag(path, '--explain', '--text', 'Dunston checks in')
    assert output.count('*') == 4 and output.startswith('word')


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_does_not_grow_with_the_input(path, tmp_path, request):
    # A window holds 2,048 sentences
    sentences = 20_000 if request.config.getoption('--long') else 2500
    files = [tmp_path / 'one.txt', tmp_path / 'six.txt']
    for file, factor in zip(files, (1, 6)):
        file.write_text(''.join(
            f'Amara Okafor number {i} flew to Oslo in {i % 100} hours .\n'
            for i in range(factor * sentences)))
    # The peak of this process alone; that of getrusage would begin with its parent's
    code = ('import re, sys, inference\n'
            'for file in sys.argv[2:]:\n'
            '    inference.main([sys.argv[1], file])\n'
            '    status = open("/proc/self/status").read()\n'
            '    print(re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)\n')
    result = subprocess.run([sys.executable, '-c', code, path, *files], cwd=ROOT,
                            capture_output=True, text=True)
    assert result.stdout.count('\n') == 7 * sentences
    small, large = map(int, result.stderr.split())
    assert large < 1.05 * small
