"""inference.py: tokens, probabilities against enumeration, formats, scores, and odd input."""

import itertools
import json
import math
import subprocess
import sys

import hypothesis.strategies as st
import pytest
import seqeval.metrics
import torch
from conftest import PEOPLE, ROOT, run_script, write_conll
from hypothesis import given

import inference
from inference import ViterbiDecoder, load_tagger, tokenize
from models import LM_LSTM_CRF
from utils import all_tags, create_maps, exit_status, find_entities, save_checkpoint, write_tags

# --- The tokenizer ---


@pytest.mark.parametrize(
    'text, tokens',
    [
        (
            "Mr. O'Brien's dog can't, and won't, go.",
            "Mr. O'Brien 's dog ca n't , and wo n't , go .",
        ),
        ('They cannot; we\u2019ll see.', 'They can not ; we \u2019ll see .'),
        (
            'J. K. Lee met J.-P. Roux at 10:30 a.m. in Washington, D.C.',
            'J. K. Lee met J.-P. Roux at 10:30 a.m. in Washington , D.C.',
        ),
        ('$3.5 million (US$5, \u00a3200) or 40%', '$ 3.5 million ( US$ 5 , \u00a3 200 ) or 40 %'),
        ('Al-Ahly won 2-1 -- in N\u2019Djamena', 'Al-Ahly won 2-1 -- in N\u2019Djamena'),
        ('20-year-old mid-1990s 1,600 1/2 -4 +.5', '20-year-old mid-1990s 1,600 1/2 -4 +.5'),
        ('"Yes," she said... No. 5 is vitamin C.', '" Yes , " she said ... No. 5 is vitamin C .'),
        ('see https://x.org/a?b=c, or www.y.net.', 'see https://x.org/a?b=c , or www.y.net .'),
        ('mail a.b@c.org @me #tag AT&T U.S.-led', 'mail a.b@c.org @me #tag AT&T U.S.-led'),
        ("Adams' '90s 'hello' rock'n'roll", "Adams ' '90s ' hello ' rock'n'roll"),
        ('e\u0301te\u0301 \u5317\u4eac\u3002', 'e\u0301te\u0301 \u5317\u4eac \u3002'),
    ],
)
def test_tokenizer(text, tokens):
    assert [word.group() for word in tokenize(text)] == tokens.split(' ')


def test_tokenizer_loses_nothing():
    text = ''.join(map(chr, range(32, 0x3000)))
    joined = ''.join(word.group() for word in tokenize(text))
    assert joined == ''.join(text.split())


# --- Probabilities ---

SCHEMES = {
    'none': ['X', 'Y', 'Z'],
    'iob2': all_tags('XY', 'iob2'),
    'iobes': all_tags('XY', 'iobes'),
}


def legal_paths(decoder, scores, length, m):
    """Every legal path of one sentence, with its score."""
    legal = decoder.legal.tolist()
    for tags in itertools.product(range(1, m - 1), repeat=length - 1):
        path = [0, *tags, m - 1]
        if all(legal[i][j] for i, j in itertools.pairwise(path)):
            yield path[1:], sum(scores[t, path[t], path[t + 1]].item() for t in range(length))


@pytest.mark.parametrize('scheme', SCHEMES)
def test_marginals_and_entities_are_the_enumerated_ones(scheme):
    tag_map = {name: i for i, name in enumerate(['<start>', *SCHEMES[scheme], '<end>'])}
    names, m, decoder = list(tag_map), len(tag_map), ViterbiDecoder(tag_map)
    lengths = torch.tensor([4, 2, 5, 3])
    torch.manual_seed(0)
    scores = 2 * torch.randn(4, 5, m, m, dtype=torch.float64)
    sums = decoder.forward_backward(scores, lengths)
    marginals = decoder.marginals(*sums)
    for n, length in enumerate(lengths.tolist()):
        paths = list(legal_paths(decoder, scores[n], length, m))
        log_z = torch.tensor([score for _, score in paths], dtype=torch.float64).logsumexp(0)
        assert sums[2][n].item() == pytest.approx(log_z.item())
        expected, entities = torch.zeros(length, m, dtype=torch.float64), {}
        for path, score in paths:
            p = math.exp(score - log_z)
            expected[range(length), path] += p
            for entity in (
                find_entities([names[tag] for tag in path[:-1]]) if scheme != 'none' else []
            ):
                entities[entity] = entities.get(entity, 0) + p
        assert torch.allclose(marginals[n, :length], expected)
        masked = decoder.mask(scores)[n]
        for (name, start, end), p in entities.items():
            tags = torch.tensor(
                [tag_map[t] for t in write_tags([(name, start, end)], length, scheme)]
            )
            found = decoder.entity_probability(masked, *(x[n] for x in sums), tags, start, end)
            assert found == pytest.approx(p)


def test_marginals_are_the_gradient_of_log_z():
    tag_map = {name: i for i, name in enumerate(['<start>', *SCHEMES['iobes'], '<end>'])}
    decoder, lengths = ViterbiDecoder(tag_map), torch.tensor([6, 3])
    scores = torch.randn(2, 6, 11, 11, dtype=torch.float64, requires_grad=True)
    decoder.forward_backward(scores, lengths)[2].sum().backward()
    inside = torch.arange(6) < lengths.unsqueeze(1)
    expected = scores.grad.sum(dim=2)[inside]
    sums = decoder.forward_backward(scores.detach(), lengths)
    assert torch.allclose(decoder.marginals(*sums)[inside], expected)


@pytest.fixture(scope='module')
def tagger(tmp_path_factory):
    """A small model, not trained, so that nothing is certain; tagger.path is its checkpoint."""
    torch.manual_seed(1)
    words, tags = ([sentence[k] for sentence in PEOPLE] for k in (0, 1))
    maps = create_maps(words, [all_tags(['LOC', 'PER'], 'iobes')], min_word_freq=1)
    maps = dict(zip(('word_map', 'char_map', 'tag_map'), maps))
    sizes = {
        'tagset_size': len(maps['tag_map']),
        'charset_size': len(maps['char_map']),
        'vocab_size': len(maps['word_map']),
        'lm_vocab_size': len(maps['word_map']),
        **dict.fromkeys(('char_emb_dim', 'char_rnn_dim', 'word_emb_dim', 'word_rnn_dim'), 8),
        **dict.fromkeys(('char_rnn_layers', 'word_rnn_layers'), 1),
        'dropout': 0.5,
    }
    model = LM_LSTM_CRF(**sizes)
    torch.nn.init.normal_(model.crf.transition)
    model.crf.emission.weight.data *= 30
    path = tmp_path_factory.mktemp('tagger') / 'model.pth.tar'
    arguments = {'task': 'ner', 'tag_scheme': 'iobes', 'tag_column': 3}
    state = {'arguments': arguments, 'model_arguments': sizes}
    save_checkpoint(path, model, torch.optim.SGD(model.parameters(), lr=0.1), maps, state)
    tagger = load_tagger(path)
    tagger.path = path
    return tagger


def test_shown_probabilities_sum_the_variants_of_a_tag(tagger):
    words = ['Dunston', 'checks', 'in']
    (tagged,) = tagger.tag([words], probabilities=True)
    batch = inference.create_input_tensors([words], None, **tagger.maps)
    scores = inference.run_model(tagger.model, batch)[0].double()
    m, names = len(tagger.maps['tag_map']), list(tagger.maps['tag_map'])
    paths = list(legal_paths(tagger.decoder, scores[0], 4, m))
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
    lengths = torch.randint(0, 30, (5000,), generator=generator).tolist()
    sentences = [
        [known[i] for i in torch.randint(len(known), (n,), generator=generator).tolist()]
        for n in lengths
    ]
    tagged = list(tagger.tag(iter(sentences), probabilities=True))
    assert [row['tokens'] for row in tagged] == sentences
    for i in range(0, 5000, 250):
        (alone,) = tagger.tag([sentences[i]], probabilities=True)
        assert alone['tags'] == tagged[i]['tags']
        assert alone.get('probabilities', []) == pytest.approx(tagged[i].get('probabilities', []))
        assert [e['probability'] for e in alone['entities']] == pytest.approx(
            [e['probability'] for e in tagged[i]['entities']]
        )


def test_places_in_the_text(tagger):
    text = '  Dunston,  checks\u00a0in:\tAmara Okafor\u2028(Oslo) \U0001f600 '
    (tagged,) = tagger.tag([text])
    assert tagged['text'] == text and ''.join(tagged['tokens']) == ''.join(text.split())
    assert tagged['entities']
    for entity in tagged['entities']:
        assert text[entity['start'] : entity['end']] == entity['text']


def test_odd_sentences(tagger):
    sentences = [
        '',
        ' \t ',
        'x' * 100_000,
        'Oslo ' * 50_000,
        '\x00\x07\x1b \ud800 \u202e',
        '\u5317' * 9,
    ]
    tagged = list(tagger.tag(sentences, probabilities=True))
    assert [len(row['tags']) for row in tagged] == [0, 0, 1, 50_000, 5, 1]
    assert tagged[2]['tokens'] == ['x' * 100_000]
    pieces = list(tagger.tag([['Oslo'] * 1000]))
    assert tagged[3]['tags'][:1000] == tagged[3]['tags'][-1000:] == pieces[0]['tags']


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_tagged(tagger, texts):
    tagged = list(tagger.tag(texts))
    assert [row['text'] for row in tagged] == texts
    assert all(''.join(row['tokens']) == ''.join(row['text'].split()) for row in tagged)
    assert all(len(row['tokens']) == len(row['tags']) for row in tagged)


# --- The command line ---

TEXT = 'Amara Okafor flew to Oslo.\n\nDunston  checks in\n'


def tag(tagger, *arguments, stdin=TEXT):
    result = run_script('inference.py', tagger.path, *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result


def test_formats_agree(tagger, tmp_path):
    rows = [
        json.loads(line) for line in tag(tagger, '--output_format', 'jsonl').stdout.splitlines()
    ]
    assert [row['text'] for row in rows] == TEXT.splitlines()
    assert rows == list(tagger.tag(TEXT.splitlines(), probabilities=True))
    assert all(0 < e['probability'] <= 1 for row in rows for e in row['entities'])

    lines = tag(tagger, '--probabilities').stdout.splitlines()
    for line, row in zip(lines, rows):
        for entity in row['entities']:
            assert f'[{entity["type"]} {entity["probability"]:.2f} {entity["text"]}]' in line
    assert lines[1] == '' and len(lines) == 3

    columns = tag(tagger, '--output_format', 'conll').stdout
    assert (
        columns
        == '\n'.join(
            ''.join(f'{word} {tag}\n' for word, tag in zip(row['tokens'], row['tags']))
            for row in rows
        )
        + '\n'
    )
    (tmp_path / 'columns.txt').write_text(columns)
    again = tag(
        tagger, tmp_path / 'columns.txt', '--format', 'conll', '--output_format', 'conll'
    ).stdout
    expected = [f'{line} {line.split(" ")[1]}' for line in columns.splitlines() if line]
    assert [line for line in again.splitlines() if line] == expected


def test_conll_input_keeps_its_columns(tagger):
    stdin = '-DOCSTART- -X-\n\nOslo\tNNP\tx y\n\n\nDunston\tNNP\t\n'
    output = tag(tagger, '--format', 'conll', '--output_format', 'conll', stdin=stdin).stdout
    rows = [line.rpartition('\t')[0] for line in output.splitlines()]
    assert rows == ['Oslo\tNNP\tx y', '', 'Dunston\tNNP', '']


def test_tokenized(tagger):
    output = tag(
        tagger, '--tokenized', '--output_format', 'jsonl', stdin="Oslo,  (in) don't\n"
    ).stdout
    assert json.loads(output)['tokens'] == ['Oslo,', '(in)', "don't"]


def test_evaluate_is_seqevals(tagger, tmp_path):
    file = write_conll(tmp_path / 'gold.txt', PEOPLE)
    output = tag(tagger, '--evaluate', file).stdout
    words, gold = ([sentence[k] for sentence in PEOPLE] for k in (0, 1))
    predicted = [row['tags'] for row in tagger.tag(words)]
    f1, precision, recall = (
        getattr(seqeval.metrics, f'{name}_score')(gold, predicted, zero_division=0)
        for name in ('f1', 'precision', 'recall')
    )
    assert f'all     {precision:.4f}  {recall:.4f}  {f1:.4f}        7'.replace(
        ' ', ''
    ) in output.replace(' ', '')
    file = write_conll(tmp_path / 'odd.txt', [(['Oslo'], ['B-CITY'])])
    message = exit_status(inference.main, [str(x) for x in (tagger.path, '--evaluate', file)])
    assert message.startswith(f'error: {file}, line 1: expected a tag that the checkpoint knows')


def test_text_that_is_not_utf8_is_tagged_with_one_warning(tagger, tmp_path):
    file = tmp_path / 'text.txt'
    file.write_bytes('\ufeffOslo\r\n'.encode() + b'a \xff b\n\xfe\nOslo')
    result = tag(tagger, file, '--output_format', 'jsonl')
    rows = [json.loads(line)['text'] for line in result.stdout.splitlines()]
    assert rows == ['Oslo', 'a \ufffd b', '\ufffd', 'Oslo']
    assert result.stderr.count('warning') == 1 and f'{file}, line 2' in result.stderr


def test_head_ends_it_quietly(tagger, tmp_path):
    (tmp_path / 'text.txt').write_text(TEXT * 20_000)
    command = (
        f'"{sys.executable}" inference.py "{tagger.path}" "{tmp_path / "text.txt"}" | head -n 1'
    )
    result = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.count('\n') == 1 and result.stderr == ''


def test_explain_shows_the_tutorials_trellis(tagger):
    from worked_example import LENGTHS, SCORES, TAG_MAP

    class Scores(torch.nn.Module):
        def forward(self, *batch):
            return SCORES, batch[4], None, LENGTHS, torch.tensor([0]), torch.tensor([0])

    maps = {**tagger.maps, 'tag_map': TAG_MAP}
    example = inference.Tagger(Scores(), maps, {'task': 'pos'}, 'cpu')
    table = [line.split() for line in inference.explain(example, 'dunston checks in').split('\n')]
    assert ['dunston', '*tag_2', '4.85', '<start>'] == [x for x in table[1]][:4]
    assert ['*tag_3', '11.64', 'tag_2'] in [row[1:4] for row in table]
    assert ['tag_2', '12.34', 'tag_3'] in [row[:3] for row in table]
    assert ['*tag_3', '15.49', 'tag_3'] in [row[1:4] for row in table]
    assert ['tag_2', '17.23', 'tag_2'] in [row[:3] for row in table]
    assert table[-1] == ['<end>', '*<end>', '19.01', 'tag_3', '1.0000']


def test_explain_from_the_command_line(tagger):
    output = tag(tagger, '--explain', '--text', 'Dunston checks in').stdout
    assert output.count('*') == 4 and output.startswith('word')


@pytest.mark.parametrize('sentences', [10_000])
def test_memory_does_not_grow_with_the_input(tagger, tmp_path, request, sentences):
    if not request.config.getoption('--long'):
        sentences //= 10
    peaks = []
    for factor in (1, 10):
        with open(tmp_path / 'text.txt', 'w') as file:
            for i in range(factor * sentences):
                file.write(f'Amara Okafor number {i} flew to Oslo in {i % 100} hours .\n')
        code = (
            'import sys, resource, inference; inference.main(sys.argv[1:]);'
            'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)'
        )
        result = subprocess.run(
            [sys.executable, '-c', code, str(tagger.path), str(tmp_path / 'text.txt')],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert result.stdout.count('\n') == factor * sentences
        peaks.append(int(result.stderr.split()[-1]))
    # A window holds 4,000 sentences, more than a short test has
    assert peaks[1] < peaks[0] * (1.1 if sentences == 10_000 else 1.3)
