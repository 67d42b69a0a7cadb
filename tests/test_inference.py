"""inference.py: tokens, probabilities against enumeration, formats, scores, and odd input."""

import io
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import threading
import time
import unicodedata

import hypothesis.strategies as st
import pytest
import seqeval.metrics
import torch
from conftest import BEST, PEOPLE, ROOT, call, run_script, write_conll
from hypothesis import given
from oracle import legal_sequences

import inference
from inference import TOKEN, ViterbiDecoder, choose, load_tagger
from utils import InputError, create_input_tensors, find_entities

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
    ('e\u0301te\u0301 \u5317\u4eac\u3002', 'e\u0301te\u0301 \u5317 \u4eac \u3002'),
    ("DON'T say IT'S OVER", "DO N'T say IT 'S OVER"),
    ('THEY\u2019RE sure WE CAN\u2019T', 'THEY \u2019RE sure WE CA N\u2019T'),
    ("I'D'VE CANNOT O'NEILL'S", "I 'D 'VE CAN NOT O'NEILL 'S"),
    ('MR. SMITH met DR. LEE in ST. PAUL', 'MR. SMITH met DR. LEE in ST. PAUL'),
    ('ACME CORP. v. Acme Inc., JAN. 5', 'ACME CORP. v . Acme Inc. , JAN. 5'),
    ('the non-U.S. and ex-U.S.S.R. markets', 'the non-U.S. and ex-U.S.S.R. markets'),
    ('at 5p.m., not 10A.M.', 'at 5p.m. , not 10A.M.'),
    ('two Ph.D.s and M.B.A.s', 'two Ph.D.s and M.B.A.s'),
    ('HTTPS://EXAMPLE.COM and example.com.', 'HTTPS://EXAMPLE.COM and example.com .'),
    ('WWW.EXAMPLE.ORG, bbc.co.uk', 'WWW.EXAMPLE.ORG , bbc.co.uk'),
    ('J. R. R. TOLKIEN, J.K. Rowling', 'J. R. R. TOLKIEN , J.K. Rowling'),
    # Nothing tells this B. from an initial
    ('Plan B. Then home', 'Plan B. Then home'),
    ('\u6771\u4eac\u30bf\u30ef\u30fc\u3067\u3059', '\u6771 \u4eac \u30bf\u30ef\u30fc\u3067\u3059'),
    ('\U00020000\uf900\u8c49\u9fa5\u3007x', '\U00020000 \uf900 \u8c49 \u9fa5 \u3007x'),
    ('\U0001f1f3\U0001f1f4\U0001f1f8\U0001f1ea', '\U0001f1f3\U0001f1f4 \U0001f1f8\U0001f1ea'),
    ('Oslo\U0001f600\U0001f44d\U0001f3fd!', 'Oslo \U0001f600 \U0001f44d\U0001f3fd !'),
    ('\u0939\u0948\u0902\u0964 \u0939\u0942\u0901\u0965',
     '\u0939\u0948\u0902 \u0964 \u0939\u0942\u0901 \u0965'),
    ('\u00c9. Zola', '\u00c9. Zola'),
    ('a PH.D. thesis', 'a PH.D. thesis'),
    ('at 10:30p.m. today', 'at 10:30p.m. today'),
])
def test_tokenizer(text, tokens):
    assert TOKEN.findall(text) == tokens.split(' ')


@pytest.mark.parametrize('word', [
    '\u0926\u093f\u0932\u094d\u0932\u0940',  # Hindi
    '\u0924\u094d\u200d\u092f',  # with a joiner
    '\u09ac\u09be\u0982\u09b2\u09be',  # Bengali
    '\u0ba4\u0bae\u0bbf\u0bb4\u0bcd',  # Tamil
    '\u0dc1\u0dca\u200d\u0dbb\u0dd3',  # Sinhala
    '\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e17\u0e35\u0e48',  # Thai
    '\u0eb5\u0e99\u0ebb\u0ec8',  # Lao signs
    '\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42',  # Tibetan
    '\u1019\u103c\u1014\u103a\u1019\u102c',  # Burmese
    '\u1781\u17d2\u1798\u17c2\u179a',  # Khmer
    '\u0645\u064f\u062d\u0645\u0651\u064e\u062f',  # Arabic
    '\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645',  # Persian
    '\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd',  # Hebrew
    '\u12a0\u121b\u122d\u129b',  # Amharic
    '\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8',  # Georgian
    '\U0001e900\U0001e923\U0001e924\U0001e922\U0001e925',  # Adlam
    'A\u030angstro\u0308m',
    'Vie\u0323\u0302t',
    'co\u00adop\u00aderation',
    'Hawai\u02bbi',
    'H\u2082O',
    '\u304b\u3099\u3059',  # Japanese, its marks apart
    '\u1109\u1165\u110b\u116e\u11af',  # Korean, its letters apart
    '\U0001f468\u200d\U0001f469\u200d\U0001f467',  # a family
    '\U0001f9d1\U0001f3ff\u200d\U0001f680',  # a person at work
    '\U0001f3f3\ufe0f\u200d\U0001f308',  # a rainbow flag
    '\U0001f1f3\U0001f1f4',  # the flag of Norway
    '\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f',  # of England
    '\u2764\ufe0f',
    '1\ufe0f\u20e3',
    '\u845b\U000e0100',  # an ideograph with a selector
    '\uc11c\uc6b8\uc5d0\uc11c',  # Korean
    '\ua9a7\ua9ae',  # Javanese
    '\u1795\u17d2\u179f\u17c1\u1784\u17d7',
])
def test_a_word_in_any_script_is_one_token(word):
    assert TOKEN.findall(word) == [word]
    assert TOKEN.findall(f'({word}, {word})') == ['(', word, ',', word, ')']


ASSIGNED = [char for char in map(chr, range(sys.maxunicode + 1))
            if unicodedata.category(char) not in ('Cn', 'Co', 'Cs')]


@pytest.mark.parametrize('last', ['\u8c47', '\U0010ffff'])
def test_no_mark_divides_a_word(last):
    marks = [char for char in ASSIGNED if unicodedata.category(char)[0] == 'M' and char <= last]
    words = [f'a{mark}b' for mark in marks]
    assert len(words) > 1000 and TOKEN.findall(' '.join(words)) == words


def test_an_ideograph_is_a_token():
    ideographs = [char for char in ASSIGNED
                  if re.match('CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH', unicodedata.name(char, ''))]
    assert len(ideographs) > 90_000 and TOKEN.findall(''.join(ideographs)) == ideographs


@pytest.mark.parametrize('separator', ['', ' ', 'a', "'"])
def test_tokenizer_loses_nothing(separator):
    text = separator.join(ASSIGNED)
    assert ''.join(TOKEN.findall(text)) == ''.join(text.split())


SPECIAL = ".-_+@#&/:$%,'\u2019\u00b7\u0301\u200d\u0915\u094d\u5317\U0001f44d019aAsDtTnNMrwPh"


@given(st.text() | st.text(SPECIAL + ' \u3000\x1c', max_size=30))
def test_tokenizer_loses_nothing_of_random_text(text):
    assert ''.join(TOKEN.findall(text)) == ''.join(text.split())


def seconds(text, runs=3):
    """How long the tokenizer takes at best; other processes do not count."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        TOKEN.findall(text)
        times.append(time.process_time() - begin)
    return min(times)


def check_time_is_linear(pattern):
    short, long = (seconds((pattern * length)[:length]) for length in (20_000, 40_000))
    assert long < min(3 * short + 0.05, 1), f'{pattern!r}: {short:.3f} and {long:.3f} seconds'


@pytest.mark.parametrize('pattern', [
    'A.-', '_.-_.', '+1', 'a.b+', 'a.b', 'No.', 'Mr.', 'a', 'A', '1', '.', '-', "'", '_', '@', '#',
    'a@', '@a', 'a.b@c-', 'a@b.', 'a-', 'a.', 'a.com', 'a.co.uk.', 'www.', 'https://', 'https:',
    "n't", "n'", "a'", 'a\u00b7', '1.', '1,', '1/', 'A.', 'p.m.', 'Ph.D.', '5p.m.s', 'a&', '+.',
    '$', 'A.-A.-A.-', '\u0301', '\u200d', '\U0001f44d\u200d', '\U0001f1f3', '\u5317',
    '\u0915\u094d',
])
def test_time_is_linear(pattern):
    check_time_is_linear(pattern)


def test_time_is_linear_for_the_worst_of_random_patterns(rounds):
    generator = random.Random(0)
    patterns = [''.join(generator.choices(SPECIAL, k=generator.randint(4, 6)))
                for _ in range(20 * rounds)]
    patterns.sort(key=lambda pattern: seconds(pattern * 500, runs=1))
    for pattern in patterns[-5:]:
        check_time_is_linear(pattern)


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
def test_the_sample_comes_out_as_it_is(name):
    text = (ROOT / f'data/sample/{name}.txt').read_text(encoding='utf-8')
    for sentence in text.strip().split('\n\n'):
        words = [row.split(' ')[0] for row in sentence.split('\n')]
        assert TOKEN.findall(' '.join(words)) == words


# --- Probabilities ---

SCHEMES = {None: ['X', 'Y', 'Z'], 'iob2': 'O B-X I-X B-Y I-Y'.split(),
           'iobes': 'O B-X I-X E-X S-X B-Y I-Y E-Y S-Y'.split()}


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
        # All entities that there can be, and those above some probability
        assert scheme is None or len(entities) == length * (length - 1)
        for least in (1e-12, 0.01, 0.2):
            found = {one[:3]: one[3] for one in decoder.candidates(scores, lengths, least)[n]}
            assert found == pytest.approx({e: p for e, p in entities.items() if p >= least})
        # Those that begin where they may, however improbable
        starts = [(n, first) for first in range(0, length - 1, 2)]
        found = decoder.candidates(scores, lengths, 0, starts)
        assert {one[:3]: one[3] for one in found[n]} == pytest.approx(
            {entity: p for entity, p in entities.items() if entity[1] % 2 == 0})
        assert not any(row for i, row in enumerate(found) if i != n)


@pytest.mark.parametrize('threshold', [0.01, 0.1, 0.25, 0.5, 0.9, 0.99])
def test_the_chosen_entities_are_worth_most(threshold, rounds):
    generator = random.Random(0)
    for _ in range(rounds):
        candidates = []
        for _ in range(generator.randrange(9)):
            first = generator.randrange(5)
            candidates.append((generator.choice('XY'), first, first + generator.randrange(1, 4),
                               generator.random()))
        worth = [sum(p - threshold for *_, p in some) for number in range(len(candidates) + 1)
                 for some in itertools.combinations(candidates, number)
                 if all(a[2] <= b[1] or b[2] <= a[1] for a, b in itertools.combinations(some, 2))]
        chosen = choose(candidates, threshold)
        assert all(a[2] <= b[1] for a, b in itertools.pairwise(chosen))
        assert sum(p - threshold for *_, p in chosen) == pytest.approx(max(worth))


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
    assert [len(row['tags']) for row in tagged] == [0, 0, 1, 5003, 3, 9]
    assert tagged[2]['tokens'] == ['x' * 100_000]
    (piece,) = tagger.tag([['Oslo'] * 1000])
    assert tagged[3]['tags'] == 5 * piece['tags'] + ['B-PER', 'O', 'O']


def test_probabilities_only_if_asked_for(tagger):
    (plain,), (full,) = tagger.tag(['Oslo is']), tagger.tag(['Oslo is'], probabilities=True)
    assert list(plain) == list(full) == ['text', 'tokens', 'tags', 'probabilities', 'probability',
                                         'entities', 'candidates']
    assert plain['probabilities'] == [] and len(full['probabilities']) == 2
    assert [entity['probability'] for entity in plain['entities']] == [None]
    assert all(0 < entity['probability'] <= 1 for entity in full['entities'])


@pytest.mark.parametrize('sentence', ['Oslo is', '', b'x'])
def test_one_sentence_is_no_list_of_sentences(tagger, sentence):
    with pytest.raises(TypeError, match=re.escape('give a list: tag([sentence])')):
        next(tagger.tag(sentence))


@pytest.mark.parametrize('batch_size', [1, 3])
def test_no_more_sentences_are_read_than_are_tagged_together(tagger, batch_size):
    read = []
    sentences = (read.append(i) or 'Oslo' for i in range(10))
    for i, _ in enumerate(tagger.tag(sentences, batch_size=batch_size)):
        assert len(read) == min(10, (i // batch_size + 1) * batch_size)


@pytest.fixture
def sizes(tagger, monkeypatch):
    """How many characters, with pads, each batch has that the model is given."""
    sizes = []

    class Model(torch.nn.Module):
        def forward(self, cmaps_f, wmaps, **batch):
            sizes.append(cmaps_f.numel())
            m = len(tagger.maps['tag_map'])
            return torch.zeros(*wmaps.shape, m, m), None, None

    monkeypatch.setattr(tagger, 'model', Model())
    return sizes


def test_the_padded_size_of_batches_is_bounded(tagger, sizes, rounds):
    generator = random.Random(0)
    for _ in range(rounds):
        words = [['x' * generator.choice([1, 5, 150])] * generator.choice([1, 20, 200])
                 for _ in range(100)]
        assert [row['tokens'] for row in tagger.tag(words)] == words
    # The longest sentence has 200 words of 100 characters that the model sees, and spaces
    assert 10 < len(sizes) and max(sizes) <= 21_000


def test_a_long_sentence_is_not_batched_with_nine_short_ones(tagger, sizes):
    words = [['x'] * 1000] * 4 + [['x' * 100] * 1000] + [['x'] * 1000] * 5
    assert [row['tokens'] for row in tagger.tag(words)] == words
    assert max(sizes) <= 102_000


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


def test_standard_input_is_a_file_among_others(path, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).write_text(f'{name} 1\n{name} 2')
    # The second time it is at its end
    output = tag(path, tmp_path / 'a', '-', tmp_path / 'b', '-', '--output_format', 'jsonl',
                 stdin='one\ntwo\n')
    assert [json.loads(line)['text'] for line in output.splitlines()] == [
        'a 1', 'a 2', 'one', 'two', 'b 1', 'b 2']


@pytest.mark.parametrize('size', [1, 2, 1000])
def test_the_batch_size_changes_nothing(path, size):
    assert tag(path, '--batch_size', size, stdin=TEXT * 3) == tag(path, stdin=TEXT * 3)


def test_each_line_is_answered_before_the_next_is_written(path):
    with subprocess.Popen(
            [sys.executable, ROOT / 'inference.py', path, '--batch_size', '1'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, 'PYTHONUNBUFFERED': ''}) as process:
        # Without an answer, reading would wait forever
        timer = threading.Timer(60, process.kill)
        timer.start()
        for line, answer in zip(TEXT.split('\n'), ('[PER Amara', '\n', '[PER Dunston]')):
            process.stdin.write(line + '\n')
            assert process.stdout.readline().startswith(answer)
        process.stdin.close()
        assert process.wait() == 0
        timer.cancel()


def test_a_terminal_is_prompted_on_standard_error(path, monkeypatch, capsys):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, 'stdin', Terminal(io.BytesIO(b'Oslo\n')))
    inference.main([str(path)])
    output, prompt = capsys.readouterr()
    assert output == '[LOC Oslo]\n' and 'Type a sentence' in prompt


@pytest.mark.parametrize('missing', ['missing.txt', '.'])
def test_a_second_file_that_cannot_be_read_costs_nothing(path, tmp_path, missing, capsys):
    (tmp_path / 'text.txt').write_text(TEXT)
    with pytest.raises(InputError, match=re.escape(f'{tmp_path / missing}: cannot be read')):
        inference.main([str(path), str(tmp_path / 'text.txt'), str(tmp_path / missing),
                        '--batch_size', '1'])
    assert capsys.readouterr().out == ''


@pytest.mark.skipif(sys.platform == 'win32', reason='has no such files')
@pytest.mark.parametrize('redirection, message', [
    ('> /dev/full', 'error: standard output: No space left on device'),
    ('>&-', 'error: expected standard output and standard error to be open'),
    ('<&-', 'error: standard input: cannot be read: it is closed'),
])
def test_a_stream_that_is_full_or_closed_is_one_line(path, redirection, message):
    command = f'echo Oslo | ("{sys.executable}" inference.py "{path}" {redirection})'
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 1 and result.stderr == message + '\n' and result.stdout == ''


def test_standard_input_may_be_closed_if_it_is_not_read(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdin', None)
    inference.main([str(path), '--text', 'Oslo'])
    assert capsys.readouterr().out == '[LOC Oslo]\n'


@pytest.mark.skipif(sys.platform == 'win32', reason='has no such files')
def test_a_named_pipe_is_read_once_and_whole(path, tmp_path):
    # More than a pipe holds
    text = 'Oslo\n' + 'x ' * 100_000 + '\nDunston checks in'
    pipe, file = tmp_path / 'pipe', tmp_path / 'text.txt'
    file.write_text('Rain.\n' * 9)
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=[text], daemon=True).start()
    # Opened a second time, it would wait forever
    result = run_script('inference.py', path, file, pipe, '--batch_size', 1, timeout=60)
    first, long, last = result.stdout.splitlines()[9:]
    assert (first, last) == ('[LOC Oslo]', '[PER Dunston] checks in')
    assert result.returncode == 0 and long.count('x') == 100_000


@pytest.mark.parametrize('arguments, message', [
    (['FILE', '--text', 'Oslo'], '--text: expected no files'),
    (['FILE', '--text', ''], '--text: expected no files'),
    (['--evaluate'], '--evaluate: expected labeled files'),
    (['--evaluate', '--text', 'Oslo'], '--evaluate: expected labeled files'),
    (['FILE', '--evaluate', '--output_format', 'jsonl'], 'no --output_format but conll'),
    (['FILE', '--evaluate', '--output_format', 'inline'], 'no --output_format but conll'),
    (['FILE', '--evaluate', '--text', 'Oslo'], '--text: expected no files'),
    (['FILE', '--evaluate', '--tokenized'], '--evaluate: expected no --tokenized'),
    (['FILE', '--evaluate', '--probabilities'], '--evaluate: expected no --probabilities'),
    (['FILE', '--evaluate', '--batch_size', 2], '--evaluate: expected no --batch_size'),
    (['FILE', '--explain', '--evaluate'], '--explain: expected no --evaluate'),
    (['--explain', '--output_format', 'conll'], '--explain: expected no --output_format'),
    (['--explain', '--probabilities'], '--explain: expected no --probabilities'),
    (['--explain', '--batch_size', 2], '--explain: expected no --batch_size'),
    (['FILE', '--tag_column', 1], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['FILE', '--tag_column', 0], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['--word_column', 0], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['--batch_size', 0], '--batch_size: invalid int from 1'),
    (['--batch_size', 'all'], '--batch_size: invalid int from 1'),
])
def test_arguments_without_effect_are_refused(path, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        tag(path, *arguments)
    assert '\n' not in str(caught.value)


def test_formats_agree(path, tagger):
    rows = [json.loads(line) for line in tag(path, '--output_format', 'jsonl').splitlines()]
    assert [row['text'] for row in rows] == TEXT.splitlines()
    assert [{**row, 'candidates': []} for row in rows] == list(
        tagger.tag(TEXT.splitlines(), probabilities=True))
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


# The model knows PER and LOC
UNKNOWN = [
    (['Dunston', 'checks', 'in'], ['B-PER', 'O', 'O']),
    (['Amara', 'Okafor', 'flew'], ['B-SHIP', 'I-SHIP', 'O']),
    (['Oslo'], ['B-CITY']),
    (['Rain', '.'], ['O', 'O']),
    (['Oslo', '.'], ['B-LOC', 'O']),
]


def test_tags_that_the_model_does_not_know_are_missed(path, tagger, tmp_path):
    words, gold = zip(*UNKNOWN)
    file = write_conll(tmp_path / 'gold.txt', UNKNOWN)
    predicted = [row['tags'] for row in tagger.tag(words)]
    report = seqeval.metrics.classification_report(
        list(gold), predicted, output_dict=True, zero_division=0)
    table = [line.split() for line in tag(path, '--evaluate', file).splitlines()]
    assert [row[0] for row in table[2:7]] == ['CITY', 'LOC', 'PER', 'SHIP', 'all']
    for name, *figures, support in table[2:7]:
        expected = report['micro avg' if name == 'all' else name]
        assert figures == [f'{expected[key]:.4f}' for key in ('precision', 'recall', 'f1-score')]
        assert int(support) == expected['support']
    assert table[2] == ['CITY', '0.0000', '0.0000', '0.0000', '1']
    pairs = list(zip(sum(gold, []), sum(predicted, [])))
    accuracy = sum(tag == guess for tag, guess in pairs) / len(pairs)
    assert ['all', 'tags:', 'accuracy', f'{accuracy:.4f},'] in [row[:4] for row in table]


def test_evaluate_prints_columns_that_conlleval_reads(path, tmp_path):
    files = [write_conll(tmp_path / 'one.txt', UNKNOWN[:3]),
             write_conll(tmp_path / 'two.txt', UNKNOWN[3:])]
    output = tag(path, '--evaluate', *files, '--output_format', 'conll')
    sentences = [[line.split(' ') for line in sentence.split('\n')]
                 for sentence in output.strip('\n').split('\n\n')]
    columns = [list(zip(*sentence)) for sentence in sentences]
    assert [(list(words), list(gold)) for words, gold, _ in columns] == UNKNOWN
    gold, predicted = [list(column[1]) for column in columns], [list(c[2]) for c in columns]
    whole = write_conll(tmp_path / 'whole.txt', UNKNOWN)
    figures = [getattr(seqeval.metrics, f'{name}_score')(gold, predicted)
               for name in ('precision', 'recall', 'f1')]
    expected = 'all {:.4f} {:.4f} {:.4f} 4'.format(*figures)
    assert 0 < figures[1] < 1
    assert expected in re.sub(' +', ' ', tag(path, '--evaluate', whole))


def test_a_word_with_a_space_adds_no_column(path, tmp_path):
    (tmp_path / 'tabs.txt').write_text(
        'B-LOC\tNew  York City\nO\tis\n\nB-LOC\tOslo\n', encoding='utf-8')
    output = tag(path, '--evaluate', tmp_path / 'tabs.txt', '--output_format', 'conll',
                 '--tag_column', 0, '--word_column', 1)
    rows = [line.split(' ') for line in output.rstrip('\n').split('\n')]
    assert [row[:2] for row in rows] == [
        ['New__York_City', 'B-LOC'], ['is', 'O'], [''], ['Oslo', 'B-LOC']]
    assert [len(row) for row in rows] == [3, 3, 1, 3] and rows[3][2] == 'B-LOC'


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


def read_table(table):
    """(word, starred tag, {tag: probability}) of each word in --explain's table, without <end>."""
    words = []
    for line in table.split('\n')[1:]:
        if line[:20].strip():
            words.append([line[:20].strip(), None, {}])
        name, _, _, p = line[21:].split()
        words[-1][2][name.removeprefix('*')] = float(p)
        if name.startswith('*'):
            words[-1][1] = name.removeprefix('*')
    return [row for row in words if row[0] != '<end>']


def test_explain_agrees_with_tagging(tagger):
    words = ['Oslo', 'checks', 'in', 'Amara', 'Okafor', 'saw', 'Rain', '.'] * 375
    (tagged,) = tagger.tag([' '.join(words)], probabilities=True)
    # All tags, instead of the most likely ones
    rows = read_table(inference.explain(tagger, ' '.join(words), most=100))
    assert [word for word, _, _ in rows] == words and len(words) == 3000
    for (_, best, column), name, p in zip(rows, tagged['tags'], tagged['probabilities']):
        assert best.replace('S-', 'B-').replace('E-', 'I-') == name
        alike = {name, name.replace('B-', 'S-'), name.replace('I-', 'E-')}
        # Each is rounded to four places
        assert sum(column.get(tag, 0) for tag in alike) == pytest.approx(p, abs=1.1e-4)
        assert sum(column.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('text', ['Oslo', 'Dunston checks in ' * 700])
def test_the_explained_probabilities_of_a_word_add_up_to_1_at_most(path, text):
    rows = read_table(tag(path, '--explain', '--text', text).rstrip('\n'))
    assert [word for word, _, _ in rows] == text.split()
    assert all(best is not None and len(column) in (5, 6) and sum(column.values()) < 1.0003
               for _, best, column in rows)


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
