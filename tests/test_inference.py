"""inference.py: tokens, probabilities against enumeration, formats, scores, and odd input."""

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
import tracemalloc
import unicodedata
from collections import Counter

import hypothesis.strategies as st
import pytest
import seqeval.metrics
import torch
from conftest import (BEST, LATEST, PEOPLE, ROOT, call, make_run, run_script, variant,
                      write_conll)
from hypothesis import given
from oracle import (best_score, entity_probabilities, entity_sets, is_legal, legal_sequences,
                    worth_most)

import inference
import train
from inference import (EXCLUDED, HIDDEN, PATTERNS, SPACE, TOKENIZERS, ViterbiDecoder, choose,
                       find_tokens, load_tagger)
from utils import (InputError, convert_tags, create_maps, find_entities, read_corpus,
                   word_starts)

# --- The tokenizer ---


def split(text, tokenizer='words'):
    """The tokens of a text."""
    return [text[start:end] for start, end in find_tokens(text, tokenizer)]


def visible(text):
    """A text without white space and what nobody sees."""
    return re.sub(f'[{SPACE}{HIDDEN}]', '', text)


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
    # A name or a word, unless something follows
    ('I met Jan.', 'I met Jan .'),
    ('on Jan. 5, Sen. Lee asked the prof. ', 'on Jan. 5 , Sen. Lee asked the prof .'),
    # Addresses end before punctuation and ideographs of other scripts, and begin after them
    ('\u5740\u662fhttps://x.org\uff0c\u5965', '\u5740 \u662f https://x.org \uff0c \u5965'),
    ('\u201chttps://x.org/a\u201d\uff0cOslo', '\u201c https://x.org/a \u201d \uff0c Oslo'),
    ('\u7ed9a@b.org\u3002 m\u00fcller@x.de\u2026', '\u7ed9 a@b.org \u3002 m\u00fcller@x.de \u2026'),
    ('at 10:30p.m. today', 'at 10:30p.m. today'),
])
def test_tokenizer(text, tokens):
    assert split(text) == tokens.split(' ')


@pytest.mark.parametrize('example', PATTERNS)
def test_each_pattern_takes_its_example_and_is_needed(example):
    token, _, text = example.partition(' of ')
    tokens = split(text or token)
    others = '|'.join(pattern for other, pattern in PATTERNS.items() if other != example)
    assert token in tokens and re.findall(others, text or token) != tokens


@pytest.mark.parametrize('text, tokens', [
    ("l'Irlande, d'Oslo", "l ' Irlande , d ' Oslo"),
    ('AHU-G1-4-Ctrl-Md', 'AHU - G 1 - 4 - Ctrl - Md'),
    ("can't x_y U.S. $3.5...", "can ' t x _ y U . S . $ 3 . 5 . . ."),
    ('2nd 10:30pm \u0664\u0665km', '2 nd 10 : 30 pm \u0664\u0665 km'),
    ('\u5317\u4eac\u3002', '\u5317 \u4eac \u3002'),
    # Letters with marks, and joiners inside words
    ('e\u0301te\u0301 No\u0323\u0302i', 'e\u0301te\u0301 No\u0323\u0302i'),
    ('\u0926\u093f\u0932\u094d\u0932\u0940\u0964', '\u0926\u093f\u0932\u094d\u0932\u0940 \u0964'),
    ('\u0924\u094d\u200d\u092f', '\u0924\u094d\u200d\u092f'),
    ('\u0645\u06cc\u200c\u062e\u0648\u0627', '\u0645\u06cc\u200c\u062e\u0648\u0627'),
    ('co\u00adop\u00ad', 'co\u00adop'),
    # Emoji
    ('1\ufe0f\u20e32\ufe0f\u20e3', '1\ufe0f\u20e3 2\ufe0f\u20e3'),
    ('\U0001f1f3\U0001f1f4\U0001f1f8\U0001f1ea', '\U0001f1f3\U0001f1f4 \U0001f1f8\U0001f1ea'),
    ('\U0001f468\u200d\U0001f469ok', '\U0001f468\u200d\U0001f469 ok'),
    ('a\U0001f9d1\U0001f3ff\u200d\U0001f680', 'a \U0001f9d1\U0001f3ff\u200d\U0001f680'),
    ('\u2764\ufe0f\u2764\ufe0f', '\u2764\ufe0f \u2764\ufe0f'),
])
def test_fine_tokens(text, tokens):
    assert split(text, 'fine') == tokens.split(' ')


@pytest.mark.parametrize('tokenizer', TOKENIZERS)
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r', '\n\n'])
def test_a_line_break_separates(tokenizer, end):
    lines = ['I met Jan.', 'He left at 5', 'p.m. - so the prof.']
    assert split(end.join(lines), tokenizer) == sum((split(one, tokenizer) for one in lines), [])


# Marks of order and direction, hyphens of which only a break would show, and joiners
UNSEEN = [*'\u00ad\u061c\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff',
          *map(chr, range(0x2060, 0x2070)), '\u180e', '\ufff9', '\ufffa', '\ufffb']
HARD = st.sampled_from([*UNSEEN, *"\u200b\u3000\n aA1._-@'\u2019\u0301\u5317\u0915\u094d\U0001f44d",
                        *'\U0001f1f3\U0001f3fd\u2764\ufe0f', 'www.', 'Jan.', "n't"])


@pytest.mark.parametrize('tokenizer', ['words', 'fine'])
@given(text=st.lists(HARD | st.characters()).map(''.join))
def test_no_token_begins_or_ends_with_what_nobody_sees(tokenizer, text):
    position, between = 0, ''
    for start, end in find_tokens(text, tokenizer):
        between += text[position:start]
        token, position = text[start:end], end
        assert start < end and not {'\u200b', '\n', '\r'} & {*token}
        assert not any(sign in UNSEEN or sign.isspace() for sign in (token[0], token[-1]))
    between += text[position:]
    assert not [sign for sign in between if sign not in [*UNSEEN, '\u200b'] and not sign.isspace()]


@pytest.mark.parametrize('sign', UNSEEN)
@pytest.mark.parametrize('tokenizer', ['words', 'fine'])
def test_what_nobody_sees_is_at_no_edge_of_a_name(sign, tokenizer):
    text = f'{sign}Oslo{sign}{sign} Dunston{sign}), {sign}'
    assert split(text, tokenizer) == ['Oslo', 'Dunston', ')', ',']


def test_a_zero_width_space_separates():
    for tokenizer in ('words', 'fine'):
        assert split('Oslo\u200bRain\u200b\u200b.', tokenizer) == ['Oslo', 'Rain', '.']


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
    assert split(word) == [word]
    assert split(f'({word}, {word})') == ['(', word, ',', word, ')']


ASSIGNED = [char for char in map(chr, range(sys.maxunicode + 1))
            if unicodedata.category(char) not in ('Cn', 'Co', 'Cs')]


@pytest.mark.parametrize('last', ['\u8c47', '\U0010ffff'])
def test_no_mark_divides_a_word(last):
    marks = [char for char in ASSIGNED if unicodedata.category(char)[0] == 'M' and char <= last]
    words = [f'a{mark}b' for mark in marks]
    assert len(words) > 1000 and split(' '.join(words)) == words


def test_an_ideograph_is_a_token():
    ideographs = [char for char in ASSIGNED
                  if re.match('CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH', unicodedata.name(char, ''))]
    assert len(ideographs) > 90_000 and split(''.join(ideographs)) == ideographs


@pytest.mark.parametrize('separator', ['', ' ', 'a', "'"])
def test_tokenizer_loses_nothing(separator):
    text = separator.join(ASSIGNED)
    assert visible(''.join(split(text))) == visible(text)


SPECIAL = ".-_+@#&/:$%,'\u2019\u00b7\u0301\u200d\u0915\u094d\u5317\U0001f44d019aAsDtTnNMrwPh"


@given(st.text() | st.text(SPECIAL + ' \u3000\x1c', max_size=30))
def test_tokenizer_loses_nothing_of_random_text(text):
    assert visible(''.join(split(text))) == visible(text)


def seconds(function, *arguments, runs=3):
    """How long a function takes at best; other processes do not count."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        function(*arguments)
        times.append(time.process_time() - begin)
    return min(times)


def check_time_is_linear(pattern):
    short, long = (seconds(split, (pattern * length)[:length]) for length in (20_000, 40_000))
    assert long < 3 * short + 0.05, f'{pattern!r}: {short:.3f} and {long:.3f} seconds'


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
    patterns.sort(key=lambda pattern: seconds(split, pattern * 500, runs=1))
    for pattern in patterns[-5:]:
        check_time_is_linear(pattern)


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
def test_the_sample_comes_out_as_it_is(name):
    text = (ROOT / f'data/sample/{name}.txt').read_text(encoding='utf-8')
    for sentence in text.strip().split('\n\n'):
        words = [row.split(' ')[0] for row in sentence.split('\n')]
        assert split(' '.join(words)) == words


# --- Probabilities ---

SCHEMES = {None: ['X', 'Y', 'Z'], 'iob2': 'O B-X I-X B-Y I-Y'.split(),
           'iobes': 'O B-X I-X E-X S-X B-Y I-Y E-Y S-Y'.split()}


def make_tag_map(scheme):
    return {name: i for i, name in enumerate(['<start>', *SCHEMES[scheme], '<end>'])}


@pytest.mark.parametrize('scheme', SCHEMES)
def test_marginals_are_the_enumerated_ones(scheme):
    tag_map = make_tag_map(scheme)
    m, decoder = len(tag_map), ViterbiDecoder(tag_map, scheme)
    lengths = torch.tensor([4, 2, 5, 3])
    torch.manual_seed(0)
    scores = 2 * torch.randn(4, 5, m, m, dtype=torch.float64)
    _, _, log_zs = decoder.forward_backward(scores, lengths)
    marginals = decoder.marginals(scores, lengths)
    for n, length in enumerate(lengths.tolist()):
        paths = list(legal_sequences(scores[n], length, tag_map, scheme))
        log_z = torch.tensor([score for _, score in paths], dtype=torch.float64).logsumexp(0)
        assert log_zs[n].item() == pytest.approx(log_z.item())
        expected = torch.zeros(length, m, dtype=torch.float64)
        for path, score in paths:
            expected[range(length), path] += math.exp(score - log_z)
        assert torch.allclose(marginals[n, :length], expected)


@pytest.fixture(scope='module', params=['iobes', 'iob2'])
def batch(request):
    """A decoder, scores and lengths from one word on, and all sets of entities of each sentence."""
    tag_map = make_tag_map(request.param)
    decoder, lengths = ViterbiDecoder(tag_map, request.param), torch.tensor([2, 5, 4, 3, 5] * 3)
    torch.manual_seed(0)
    scores = 2 * torch.randn(15, 5, len(tag_map), len(tag_map), dtype=torch.float64)
    sets = [entity_sets(row, length, tag_map, request.param)
            for row, length in zip(scores, lengths.tolist())]
    return decoder, scores, lengths, sets


@pytest.mark.parametrize('least', [1e-12, 0.01, 0.2])
def test_candidates_are_the_enumerated_ones(batch, least):
    decoder, scores, lengths, all_sets = batch
    for row, sets, length in zip(decoder.candidates(scores, lengths, least), all_sets, lengths):
        p = entity_probabilities(sets)
        # All types, and all runs of words
        assert len(p) == length * (length - 1)
        assert {one[:3]: one[3] for one in row} == pytest.approx(
            {entity: p[entity] for entity in p if p[entity] >= least})


def test_the_probabilities_of_given_entities_are_the_enumerated_ones(batch, rounds):
    """Of some, of none or of all, which overlap, and however improbable they are."""
    decoder, scores, lengths, all_sets = batch
    generator, all_p = random.Random(0), [entity_probabilities(sets) for sets in all_sets]
    assert min(min(p.values()) for p in all_p) < 1e-6
    for share in [0, 1, *(generator.random() for _ in range(rounds))]:
        chosen = [[one for one in p if generator.random() < share] for p in all_p]
        found = decoder.entity_probabilities(scores, lengths, chosen)
        for row, p, entities in zip(found, all_p, chosen, strict=True):
            assert row == pytest.approx([p[entity] for entity in entities])


def test_an_entity_that_cannot_be_has_no_probability(batch):
    decoder, scores, lengths, _ = batch
    scores = scores.clone()
    scores[..., decoder.tag_map['B-X']] -= 1000
    (row, *_) = decoder.entity_probabilities(scores[1:], lengths[1:], [[('X', 0, 2)]] + [[]] * 13)
    assert row == [0]


@pytest.mark.parametrize('threshold', [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_entities_are_the_set_that_is_worth_most(batch, threshold):
    decoder, scores, lengths, all_sets = batch
    for row, sets in zip(decoder.entities(scores, lengths, threshold), all_sets, strict=True):
        best, p = worth_most(sets, threshold), entity_probabilities(sets)
        assert [one[:3] for one in row] == sorted(best, key=lambda entity: entity[1])
        assert [one[3] for one in row] == pytest.approx([p[one[:3]] for one in row])


def test_tags_without_a_scheme_have_no_entities():
    # However they are spelled
    decoder = ViterbiDecoder(make_tag_map('iobes'))
    assert decoder.entities(torch.randn(2, 4, 11, 11), torch.tensor([4, 2]), 0.01) == [[], []]


@pytest.fixture
def sums(monkeypatch):
    """How many rows each call of log_sum_exp has."""
    def counted(tensor, dim):
        sums.append(len(tensor))
        return tensor.logsumexp(dim)

    sums = []
    monkeypatch.setattr(inference, 'log_sum_exp', counted)
    return sums


def test_the_work_of_candidates_grows_as_the_sentence_does(sums):
    """Twice the words make about twice the sums; with all runs of words it would be four times."""
    decoder, work = ViterbiDecoder(make_tag_map('iobes'), 'iobes'), []
    torch.manual_seed(0)
    for words in (200, 400):
        sums.clear()
        decoder.candidates(2 * torch.randn(1, words + 1, 11, 11), torch.tensor([words + 1]), 0.05)
        work.append(sum(sums))
    assert 1.8 < work[1] / work[0] < 2.2


@pytest.mark.parametrize('entities', [
    [('X', 3 * n, 3 * n + 1 + n % 3) for n in range(300)], [('X', 0, 900)], []])
def test_the_work_for_given_entities_is_that_of_their_words(sums, entities):
    """In a sentence of 900 words, even where all of them may well be one entity."""
    tag_map = make_tag_map('iobes')
    decoder, scores = ViterbiDecoder(tag_map, 'iobes'), torch.zeros(1, 901, 11, 11)
    scores[..., tag_map['I-X']], lengths = 9, torch.tensor([901])
    summed_up = decoder.forward_backward(scores, lengths)
    sums.clear()
    (found,) = decoder.entity_probabilities(scores, lengths, [entities], summed_up)
    assert len(found) == len(entities)
    assert sum(sums) <= sum(end - first for _, first, end in entities)


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


@pytest.fixture
def calls(monkeypatch):
    """How often each of the decoder's methods that take time is called."""
    def watch(name, method):
        def counted(*arguments, **options):
            calls[name] += 1
            return method(*arguments, **options)

        monkeypatch.setattr(ViterbiDecoder, name, counted)

    calls = Counter()
    for name in ('decode', 'forward_backward', 'candidates'):
        watch(name, getattr(ViterbiDecoder, name))
    return calls


@pytest.mark.parametrize('probabilities', [False, True])
@pytest.mark.parametrize('threshold', [None, 0.3])
@pytest.mark.parametrize('least', [None, 0.05])
def test_nothing_of_a_batch_is_computed_twice(tagger, calls, probabilities, threshold, least):
    list(tagger.tag(['Oslo', 'Dunston checks in'], probabilities, 9, threshold, least))
    searched = threshold is not None or least is not None
    # Viterbi's entities need not be among those that were searched for
    given = probabilities and threshold is None
    assert calls == Counter(decode=1, forward_backward=int(searched or probabilities),
                            candidates=searched + given)


def test_evaluation_with_a_threshold_searches_once(path, calls, tmp_path):
    file = write_conll(tmp_path / 'gold.txt', PEOPLE)
    tag(path, '--evaluate', file, '--threshold', 0.3)
    assert calls == Counter(decode=1, forward_backward=1, candidates=1)


def random_sentences(number, most):
    """Different sentences of 1 to so many words that the model knows, however senseless."""
    generator = random.Random(0)
    words = sorted({word for words, _ in PEOPLE for word in words})
    sentences = set()
    while len(sentences) < number:
        sentences.add(' '.join(generator.choices(words, k=generator.randint(1, most))))
    return sorted(sentences)


@pytest.mark.parametrize('scale, people', [(30, 0), (1, 100)])
def test_the_probabilities_of_a_model_that_is_sure(path, scale, people):
    """Sure of everything, as longer training makes it, or that all words are of people's names."""
    tagger = load_tagger(path)
    emission, tag_map = tagger.model.crf.emission, tagger.maps['tag_map']
    with torch.no_grad():
        emission.weight *= scale
        emission.bias *= scale
        emission.bias += people * torch.tensor([name.endswith('PER') for name in tag_map])
    sentences = random_sentences(100, most=40)
    rows = list(tagger.tag(sentences, probabilities=True, least=0.0001))
    shown = [p for row in rows for p in [row['probability'], *row['probabilities']]]
    shown += [entity['probability'] for row in rows for entity in row['entities']]
    assert 0 <= min(shown) and 0.999 < max(shown) <= 1
    for row in rows:
        scores, lengths = tagger.score([row['tokens']])
        marginals = tagger.decoder.marginals(scores, lengths)[0]
        assert marginals.max() <= 1
        for name, first, end, p in tagger.decoder.candidates(scores, lengths, 1e-9)[0]:
            begin = f'S-{name}' if end - first == 1 else f'B-{name}'
            assert p <= min(1, marginals[first, tag_map[begin]].item() + 1e-9)


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
                 '\x07\x1b \ud800 \u202e', '\u5317' * 9]
    tagged = list(tagger.tag(sentences, probabilities=True))
    assert [len(row['tags']) for row in tagged] == [0, 0, 1, 5003, 2, 9]
    assert tagged[2]['tokens'] == ['x' * 100_000]


def test_candidates_are_as_probable_as_asked_for_beside_any_threshold(tagger):
    sentences = random_sentences(20, most=6)
    expected = [row['candidates'] for row in tagger.tag(sentences, least=0.3)]
    for threshold in (0.05, 0.3, 0.6):
        rows = tagger.tag(sentences, threshold=threshold, least=0.3)
        assert [row['candidates'] for row in rows] == expected
    assert any(expected)


def test_loading_draws_no_random_numbers_and_asks_for_no_default(path):
    expected = load_tagger(path).model.state_dict()
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        weights = load_tagger(path).model.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.dtype == torch.float32 and torch.equal(weight, expected[name])
               for name, weight in weights.items())


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
        tagger.tag(sentence)


@pytest.mark.parametrize('sentence', [None, math.nan, 7, b'Oslo', ['Oslo', None], {'Oslo': 1}])
def test_what_is_no_sentence_is_named_by_its_number(tagger, sentence):
    expected = f'sentence 3: expected str or a list of str, found {sentence!r}'
    with pytest.raises(TypeError, match=f'^{re.escape(expected)}$'):
        list(tagger.tag(['Oslo', ['Oslo'], sentence]))


def test_arguments_from_python_are_refused_at_once(tagger):
    with pytest.raises(ValueError, match='expected a batch_size of 1 or more, found 0'):
        tagger.tag(['Oslo'], batch_size=0)
    with pytest.raises(ValueError, match="'iobes', 'iob2' or None, found 'bio'$"):
        ViterbiDecoder(make_tag_map('iob2'), 'bio')


def test_what_is_hardly_possible_is_no_candidate(tagger):
    """There would be very many; so the lowest threshold is as fast as others."""
    (lowest,) = tagger.tag(['Oslo saw Amara'], threshold=0, least=0)
    assert lowest['candidates'] and min(one[3] for one in lowest['candidates']) >= 0.0001
    assert all(one['probability'] >= 0.0001 for one in lowest['entities'])


@pytest.mark.parametrize('sentence', ['a\0b', '\0'])
def test_a_zero_in_a_sentence_is_refused(tagger, sentence):
    with pytest.raises(ValueError, match='^sentence 2: expected text, found a zero in it$'):
        list(tagger.tag(['Oslo', sentence]))


# Composed letters, and the same ones with their marks apart
COMPOSED = ['Vi\u1ec7t', '\u00e9t\u00e9', '\uc11c\uc6b8']
APART = ['Vie\u0323\u0302t', 'e\u0301te\u0301', '\u1109\u1165\u110b\u116e\u11af']


def test_marks_that_are_apart_change_no_tag_and_their_places_are_those_of_the_text():
    tagger = untrained(sentences=[(COMPOSED, ['B-PER', 'I-PER', 'B-LOC'])])
    lines = [f'  {", ".join(words)} \u200e{words[0]}.' for words in (COMPOSED, APART)]
    one, other = tagger.tag(lines, probabilities=True, threshold=0.01)
    assert one['text'] != other['text'] == lines[1] and one['tokens'] != other['tokens']
    assert one['tags'] == other['tags'] and one['probabilities'] == other['probabilities']
    assert one['entities'] and len(one['entities']) == len(other['entities'])
    for first, second in zip(one['entities'], other['entities']):
        assert unicodedata.normalize('NFC', second['text']) == first['text']
        assert lines[1][second['start']:second['end']] == second['text']


@pytest.mark.parametrize('batch_size', [1, 3])
def test_no_more_sentences_are_read_than_are_tagged_together(tagger, batch_size):
    read = []
    tagged = tagger.tag((read.append(i) or 'Oslo' for i in range(10)), batch_size=batch_size)
    assert read == []
    for i, _ in enumerate(tagged):
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


@given(st.lists(st.text(st.characters(exclude_characters='\0'), max_size=40), max_size=4))
def test_any_text_is_tagged(tagger, texts):
    tagged = list(tagger.tag(texts))
    assert [row['text'] for row in tagged] == texts
    assert all(visible(''.join(row['tokens'])) == visible(row['text']) for row in tagged)
    assert all(len(row['tokens']) == len(row['tags']) for row in tagged)


# --- Lines that are tagged in pieces ---


def untrained(*arguments, favored='', sentences=PEOPLE):
    """A tagger whose model has learned nothing, but likes tags with such an ending."""
    words, tags = zip(*sentences)
    every = ['O', *(f'{prefix}-{name}' for prefix in 'BIES' for name in ('PER', 'LOC'))]
    maps = dict(zip(('word_map', 'char_map', 'tag_map'), create_maps(words, [every], 1, 1)))
    _, run = make_run(*arguments, maps=maps, sentences=sentences)
    with torch.no_grad():
        run.model.crf.emission.bias += 20 * torch.tensor(
            [favored != '' and name.endswith(favored) for name in run.maps['tag_map']])
    return inference.Tagger(run.model, run.maps, run.arguments)


def assert_sound(tagged, words):
    """Every word has a tag, entities are in the text, and both say the same."""
    assert len(tagged['tags']) == len(tagged['tokens']) == words
    assert is_legal(tagged['tags'], 'iob2')
    assert [(one['type'], one['text']) for one in tagged['entities']] == [
        (name, ' '.join(tagged['tokens'][first:end]))
        for name, first, end in find_entities(tagged['tags'])]
    assert all(tagged['text'][one['start']:one['end']] == one['text']
               for one in tagged['entities'])


class Dictionary(torch.nn.Module):
    """A model of names that it knows by heart: a word, and the tags that it likes for it."""

    def __init__(self, maps, liked):
        super().__init__()
        self.scores = torch.zeros(len(maps['word_map']), len(maps['tag_map']))
        self.scores[:, maps['tag_map']['O']] = 9
        for word, tags in liked.items():
            for tag, score in tags.items():
                self.scores[maps['word_map'][word], maps['tag_map'][tag]] = score

    def forward(self, wmaps, **_):
        scores = self.scores[wmaps].unsqueeze(2)
        return scores.expand(-1, -1, scores.size(3), -1), None, None


@pytest.mark.parametrize('threshold', [None, 0.3])
@pytest.mark.parametrize('border', [900, 950, 1000, 1900])
def test_a_name_around_the_thousandth_word_is_found_whole(border, threshold):
    tagger, places = untrained(), range(border - 5, border + 4)
    # A part of the name alone would be a place
    tagger.model = Dictionary(tagger.maps, {'Amara': {'B-PER': 20, 'S-LOC': 15}, 'in': {},
                                            'Okafor': {'E-PER': 20, 'S-LOC': 15},
                                            'saw': {'I-PER': 20}})
    for place, tagged in zip(places, tagger.tag(
            [['Rain'] * place + ['Amara', 'saw', 'saw', 'Okafor'] + ['to'] * (2010 - place)
             for place in places], threshold=threshold), strict=True):
        assert_sound(tagged, 2014)
        assert [(one['type'], one['text'], one['start']) for one in tagged['entities']] == [
            ('PER', 'Amara saw saw Okafor', 5 * place)]


@pytest.mark.parametrize('favored', ['', 'PER', 'B-PER', 'I-PER', 'S-PER', 'O'])
@pytest.mark.parametrize('threshold', [None, 0.1])
def test_a_long_line_of_any_tags_is_sound(favored, threshold):
    generator, tagger = random.Random(0), untrained('--tag_scheme', 'iobes', favored=favored)
    known = [word for word in tagger.maps['word_map'] if word[0] not in '<.']
    for words in (1000, 1001, 1100, 1101, 2950):
        line = ' '.join(generator.choices(known, k=words))
        (tagged,) = tagger.tag([line], probabilities=True, threshold=threshold, least=0.2)
        assert_sound(tagged, words)
        assert len(tagged['probabilities']) == words and 0 <= tagged['probability'] <= 1
        assert tagged['entities'] or favored in ('', 'O')
        assert len({one[:3] for one in tagged['candidates']}) == len(tagged['candidates'])


def test_a_long_line_of_parts_of_speech_has_as_many_tags_as_words(path, tmp_path):
    tagger = load_tagger(variant(path, tmp_path, task='pos'))
    line = ' '.join(['Oslo', 'saw', 'Rain'] * 700)
    (tagged,) = tagger.tag([line], probabilities=True)
    assert len(tagged['tokens']) == len(tagged['tags']) == len(tagged['probabilities']) == 2100
    assert not tagged['entities'] and not tagged['candidates']


@pytest.mark.parametrize('stop', [True, False])
def test_the_probability_of_a_long_line_is_the_product_of_its_pieces(tagger, stop):
    words = ['Rain', 'in', 'Oslo', 'saw'] * 260
    words[949] = '.' if stop else words[949]
    (whole,) = tagger.tag([words], probabilities=True)
    pieces = [words[:950], words[950:]] if stop else [words[:1000], words[900:]]
    parts = [row['probability'] for row in tagger.tag(pieces, probabilities=True)]
    assert whole['probability'] == pytest.approx(math.prod(parts), rel=1e-3)


def test_each_word_of_a_long_line_is_explained(tagger):
    words = [f'w{n}' for n in range(2950)]
    rows = read_table(inference.explain(tagger, ' '.join(words)))
    assert {word for word, _, _ in rows} == {*words}


# --- Batches and choices ---


def test_batches_have_every_sentence_once_and_are_bounded(rounds):
    generator = random.Random(0)
    for _ in range(rounds):
        words = generator.choices([0, 1, 9, 30, 200, 1000], k=generator.randrange(150))
        sizes = [(n, n * generator.choice([2, 6, 101]) + 2) for n in words]
        tags = generator.choice([5, 19, 52, 300])
        batches = list(inference.make_batches(sizes, tags))
        assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
        for batch in batches:
            longest, chars = (max(sizes[i][k] for i in batch) for k in (0, 1))
            assert len(batch) == 1 or (
                len(batch) <= 32 and len(batch) * chars <= 20_000
                and len(batch) * longest * tags**2 <= inference.MOST_CELLS)
    for number in (0, 1, 32, 33, 65):
        batches = list(inference.make_batches([(9, 50)] * number, 19))
        assert sorted(i for batch in batches for i in batch) == list(range(number))
        assert max(map(len, batches), default=0) == min(number, 32)


def test_validation_is_in_bounded_batches_of_all_sentences():
    sentences = [*PEOPLE * 20, (['x' * 90] * 100, ['O'] * 100), (['Oslo'] * 900, ['B-LOC'] * 900)]
    _, run = make_run()
    words, tags = zip(*sentences)
    tags = [convert_tags(row, 'iobes') for row in tags]
    batches = list(train.make_loader(words, tags, run.maps, run.args))
    lengths = [length for batch in batches for length in batch.wmap_lengths.tolist()]
    assert sorted(lengths) == sorted(len(row) + 1 for row in words)
    assert all(len(batch.wmaps) == 1 or batch.cmaps_f.numel() <= 20_000 for batch in batches)
    assert max(len(batch.wmaps) for batch in batches) == 32


def test_choosing_takes_time_and_memory_in_proportion():
    candidates = [('X', 3 * n, 3 * n + 2, 0.9) for n in range(20_000)]
    short, long = (seconds(choose, candidates[:number], 0.5) for number in (5_000, 20_000))
    assert long < 8 * short + 0.05, f'{short:.3f} and {long:.3f} seconds'
    tracemalloc.start()
    assert choose(candidates, 0.5) == candidates
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


@pytest.mark.parametrize('wrong', [math.nan, 1e9, math.inf])
def test_scores_that_the_mask_cannot_outweigh_are_refused(wrong):
    tag_map = make_tag_map('iobes')
    decoder, lengths = ViterbiDecoder(tag_map, 'iobes'), torch.tensor([4, 2])
    scores = torch.zeros(2, 4, 11, 11)
    scores[0, 2, 3, 4] = wrong
    for find in (decoder.decode, decoder.marginals, lambda *_: decoder.candidates(*_, least=0.1),
                 lambda *_: decoder.entities(*_, threshold=0.1)):
        with pytest.raises(ValueError, match='^expected scores far below 1000000, found'):
            find(scores, lengths)


# --- The command line ---

TEXT = 'Amara Okafor flew to Oslo.\n\nDunston  checks in\n'


def tag(path, *arguments, stdin=TEXT):
    return call(inference.main, path, *arguments, stdin=stdin.encode())


def jsonl(path, *arguments, **options):
    output = tag(path, '--output_format', 'jsonl', *arguments, **options)
    return [json.loads(line) for line in output.splitlines()]


def test_text_is_an_argument_a_file_or_standard_input(path, tmp_path):
    expected = '[PER Amara Okafor] flew to [LOC Oslo].\n\n[PER Dunston]  checks in\n'
    (tmp_path / 'text.txt').write_text(TEXT)
    assert tag(path, '--text', TEXT.removesuffix('\n')) == expected
    assert tag(path, tmp_path / 'text.txt') == expected
    assert tag(path, stdin=TEXT) == expected


@pytest.mark.parametrize('end', ['\r', '\r\n'])
def test_the_ends_of_lines_may_be_of_any_system(path, tmp_path, end):
    text = TEXT.replace('\n', end)
    (tmp_path / 'text.txt').write_bytes(text.encode())
    assert tag(path, tmp_path / 'text.txt') == tag(path, stdin=text) == tag(path)
    assert tag(path, '--text', text.removesuffix(end)) == tag(path)


@pytest.mark.parametrize('tokenizer, tokens', [
    ('words', "U.S.-led Amara 's ( Oslo ) 3-4 , Jan. 5 ."),
    ('spaces', "U.S.-led Amara's(Oslo) 3-4, Jan. 5."),
    ('fine', "U . S . - led Amara ' s ( Oslo ) 3 - 4 , Jan . 5 .")])
def test_text_is_split_alike_however_it_comes(path, tmp_path, tokenizer, tokens):
    path, line = variant(path, tmp_path, tokenizer=tokenizer), "U.S.-led Amara's(Oslo) 3-4, Jan. 5."
    tokens = tokens.split(' ')
    file = tmp_path / 'text.txt'
    file.write_text(line)
    found = [jsonl(path, '--text', line), jsonl(path, file), jsonl(path, stdin=line + '\r\n'),
             list(load_tagger(path).tag([line]))]
    assert [row['tokens'] for (row,) in found] == [tokens] * 4
    columns = tag(path, '--text', line, '--output_format', 'conll')
    assert [row.split(' ')[0] for row in columns.split('\n')[:-2]] == tokens
    explained = read_table(tag(path, '--text', line, '--explain').rstrip('\n'))
    assert [word for word, _, _ in explained] == tokens
    (row,) = jsonl(path, '--tokenized', '--text', line)
    assert row['tokens'] == line.split(' ')


@pytest.mark.parametrize('data', [
    'Oslo\n'.encode('utf-16'), 'Oslo\n'.encode('utf-16-le'), 'Oslo\n'.encode('utf-16-be'),
    '\ufeff\u5317\u4eac'.encode('utf-16-be'), b'Oslo\0\n', b'Oslo\nRain \0\n'])
def test_utf_16_and_zeros_are_refused(path, tmp_path, data, capsys):
    file = tmp_path / 'text.txt'
    file.write_bytes(data)
    for arguments, name in (([file], str(file)), ([], 'standard input'),
                            (['--output_format', 'html'], 'standard input'),
                            ([file, '--evaluate'], str(file)), (['-', '--evaluate'], '-')):
        with pytest.raises(InputError) as error:
            call(inference.main, path, *arguments, stdin=data)
        message = str(error.value)
        assert message.startswith(name) and 'expected UTF-8, found' in message
        assert '\n' not in message and len(message) < 60 + len(name)
    assert capsys.readouterr().out == ''


def test_evaluate_reads_standard_input(path, gold_file):
    output = call(inference.main, path, '--evaluate', '-', stdin=gold_file.read_bytes())
    assert output == tag(path, '--evaluate', gold_file).replace(f'{gold_file}:', '-:')


def test_nothing_is_printed_if_a_second_labeled_file_is_bad(path, gold_file, tmp_path, capsys):
    (tmp_path / 'bad.txt').write_text('Oslo\n')
    with pytest.raises(InputError, match='bad.txt, line 1: expected at least'):
        inference.main([str(path), '--evaluate', str(gold_file), str(tmp_path / 'bad.txt')])
    assert capsys.readouterr().out == ''


def test_doccano(path):
    text = f'{TEXT}  Oslo\u2028Rain \U0001f600 Dunston "x"'
    output = tag(path, '--output_format', 'doccano', stdin=text)
    rows = list(map(json.loads, output.splitlines()))
    assert '\n'.join(row['text'] for row in rows) == text
    assert rows == [{'text': row['text'], 'label': [[one['start'], one['end'], one['type']]
                                                    for one in row['entities']]}
                    for row in jsonl(path, stdin=text)]
    assert rows[0]['label'] == [[0, 12, 'PER'], [21, 25, 'LOC']] and rows[1]['label'] == []


def test_what_is_tagged_becomes_a_corpus_with_the_same_entities(path, tmp_path):
    """The circle: a model's doccano, which people correct, and data/prepare.py jsonl."""
    lines = [f'Amara Okafor flew to Oslo ({n}), Dunston checks in.' for n in range(40)]
    (tmp_path / 'tagged.jsonl').write_text(tag(path, '--output_format', 'doccano',
                                               stdin='\n'.join(lines)))
    result = run_script('data/prepare.py', 'jsonl', tmp_path / 'tagged.jsonl', '--name', 'mine',
                        '--output_dir', tmp_path)
    assert result.returncode == 0, result.stderr
    found = Counter()
    for file in sorted((tmp_path / 'mine').glob('*.txt')):
        for words, tags in zip(*read_corpus(file, 'ner', -1, 'iob2')):
            found.update((name, ' '.join(words[first:end]))
                         for name, first, end in find_entities(tags))
    assert found == Counter((one['type'], one['text']) for row in load_tagger(path).tag(lines)
                            for one in row['entities']) and len(found) > 1


@pytest.mark.skipif(sys.platform == 'win32', reason='has no such terminals')
@pytest.mark.parametrize('arguments', [[], ['--explain'], ['--output_format', 'html']])
def test_a_terminal_is_prompted_in_any_case(path, monkeypatch, capsys, arguments):
    import pty
    master, terminal = pty.openpty()
    os.write(master, b'Oslo\n\x04')
    with open(terminal) as stdin:
        monkeypatch.setattr(sys, 'stdin', stdin)
        inference.main([str(path), *arguments])
    os.close(master)
    output, prompt = capsys.readouterr()
    assert 'Oslo' in output and prompt == 'Type a sentence, or Ctrl-D to end.\n'


def test_standard_input_is_a_file_among_others(path, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).write_text(f'{name} 1\n{name} 2')
    # The second time it is at its end
    output = tag(path, tmp_path / 'a', '-', tmp_path / 'b', '-', '--output_format', 'jsonl',
                 stdin='one\ntwo\n')
    assert [json.loads(line)['text'] for line in output.splitlines()] == [
        'a 1', 'a 2', 'one', 'two', 'b 1', 'b 2']


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


# What can't stand beside what, and arguments that say nothing, or what would be so anyway
PAIRS = ['text files', 'mistakes output_format', 'explain evaluate', 'explain inline',
         'explain conll', 'explain jsonl', 'explain doccano', 'explain probabilities',
         'explain batch_size', 'explain threshold', 'evaluate text', 'evaluate tokenized',
         'evaluate probabilities',
         'evaluate batch_size', 'evaluate inline', 'evaluate jsonl', 'evaluate doccano',
         'evaluate html', 'probabilities doccano', 'probabilities html']
STATED = {'text': ['--text', ''], 'files': ['FILE'], 'mistakes': ['--mistakes', 0],
          'output_format': ['--output_format', 'inline'], 'batch_size': ['--batch_size', 2048],
          'threshold': ['--threshold', 0.5],
          **{name: ['--output_format', name]
             for name in ('conll', 'inline', 'jsonl', 'doccano', 'html')}}


@pytest.mark.parametrize('pair', PAIRS)
def test_arguments_that_exclude_one_another_are_refused(path, pair):
    arguments = [word for name in pair.split() for word in STATED.get(name, [f'--{name}'])]
    if 'evaluate' in pair:
        arguments += ['FILE']
    if 'mistakes' in pair:
        arguments += ['FILE', '--evaluate', '--output_format', 'conll']
    with pytest.raises(InputError) as caught:
        tag(path, *arguments)
    named = re.match(r'--(\w+): expected no (?:--)?(\w+)[^\n]*$', str(caught.value)).groups()
    assert ' '.join(named) in PAIRS and {*named} <= {*pair.split(), 'files'}


def test_all_arguments_that_exclude_one_another_are_tested():
    pairs = [f'{name} {other}' for name, others in EXCLUDED.items() for other in others]
    assert sorted(PAIRS) == sorted(pairs)


@pytest.mark.parametrize('arguments, message', [
    (['--evaluate'], '--evaluate: expected labeled files'),
    (['--evaluate', '--text', 'Oslo'], '--evaluate: expected labeled files'),
    (['FILE', '--tag_column', 1], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['FILE', '--tag_column', 0], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['--word_column', 0], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['--batch_size', 0], '--batch_size: invalid int from 1'),
    (['--batch_size', 'all'], '--batch_size: invalid int from 1'),
    (['--threshold', -0.01], '--threshold: invalid float from 0'),
    (['--threshold', 1.01], '--threshold: invalid float from 0'),
    (['--threshold', 'nan'], '--threshold: invalid float from 0'),
    (['--threshold', 'worst'], '--threshold: invalid float from 0'),
    (['--mistakes', 3], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['--mistakes', 0], '--tag_column, --word_column, --mistakes: expected --evaluate'),
    (['FILE', '--evaluate', '--mistakes', -1], '--mistakes: invalid int from 0'),
])
def test_arguments_without_effect_are_refused(path, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        tag(path, *arguments)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('threshold', [None, 0.71])
def test_formats_agree(path, tagger, threshold):
    options = () if threshold is None else ('--threshold', threshold)
    rows = jsonl(path, *options)
    assert [row['text'] for row in rows] == TEXT.splitlines()
    assert [{**row, 'candidates': []} for row in rows] == list(
        tagger.tag(TEXT.splitlines(), probabilities=True, threshold=threshold))
    assert all(0 < e['probability'] <= 1 for row in rows for e in row['entities'])

    lines = tag(path, *options, '--probabilities').splitlines()
    plain = tag(path, *options).splitlines()
    for line, without, row in zip(lines, plain, rows, strict=True):
        assert line.count('[') == without.count('[') == len(row['entities'])
        for entity in row['entities']:
            assert f'[{entity["type"]} {entity["probability"]:.2f} {entity["text"]}]' in line
            assert f'[{entity["type"]} {entity["text"]}]' in without
    assert lines[1] == '' and len(lines) == 3

    for extra in ([], ['--probabilities']):
        columns = [[word, name, f'{p:.4f}'][:3 if extra else 2] for row in rows
                   for word, name, p in zip(row['tokens'], row['tags'], row['probabilities'])]
        # A blank line ends each sentence, the empty one, too
        columns.insert(len(rows[0]['tokens']), [])
        columns.insert(len(rows[0]['tokens']), [])
        expected = '\n'.join(' '.join(row) for row in [*columns, [], []])
        assert tag(path, *options, '--output_format', 'conll', *extra) == expected


def test_each_row_of_jsonl_is_a_line_for_every_reader(path):
    text = 'Oslo\u2028is\u2029far\x85away'
    output = tag(path, '--output_format', 'jsonl', stdin=f'{text}\nOslo\n')
    first, _ = output.splitlines()
    assert json.loads(first)['text'] == text


def test_tokenized(path):
    output = tag(path, '--tokenized', '--output_format', 'jsonl', stdin="Oslo,  (in) don't\n")
    assert json.loads(output)['tokens'] == ['Oslo,', '(in)', "don't"]


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
    words = ['Oslo', 'checks', 'in', 'Amara', 'Okafor', 'saw', 'Rain', '.'] * 125
    (tagged,) = tagger.tag([' '.join(words)], probabilities=True)
    # All tags, instead of the most likely ones
    rows = read_table(inference.explain(tagger, ' '.join(words), most=100))
    assert [word for word, _, _ in rows] == words and len(words) == 1000
    for (_, best, column), name, p in zip(rows, tagged['tags'], tagged['probabilities']):
        assert best.replace('S-', 'B-').replace('E-', 'I-') == name
        alike = {name, name.replace('B-', 'S-'), name.replace('I-', 'E-')}
        # Each is rounded to four places
        assert sum(column.get(tag, 0) for tag in alike) == pytest.approx(p, abs=1.1e-4)
        assert sum(column.values()) == pytest.approx(1, abs=1e-3)


def test_the_starred_tags_are_the_best_sequence_of_their_columns(path, tmp_path):
    """Each comes from the one before, and no sequence has a higher score than theirs."""
    tagger = load_tagger(variant(path, tmp_path, task='pos'))
    tagger.model.crf.emission.weight.data *= 0.05
    words = [word for one in random_sentences(120, most=15) for word in one.split()][:700]
    table = inference.explain(tagger, ' '.join(words))
    starred = [line[22:].split() for line in table.split('\n')[1:] if line[21] == '*']
    assert len(starred) == 701
    assert [previous for _, _, previous, _ in starred] == [
        '<start>', *(name for name, *_ in starred[:-1])]
    scores, tag_map = tagger.score([words])[0][0].double(), tagger.maps['tag_map']
    total = previous = 0
    for at_word, (name, score, *_) in zip(scores.tolist(), starred):
        total += at_word[previous][tag_map[name]]
        previous = tag_map[name]
        assert float(score) == pytest.approx(total, abs=0.0051)
    assert total == pytest.approx(best_score(scores, tag_map), abs=1e-9)


@pytest.mark.parametrize('text', ['Oslo', 'Dunston checks in ' * 700])
def test_the_explained_probabilities_of_a_word_add_up_to_1_at_most(path, text):
    rows = read_table(tag(path, '--explain', '--text', text).rstrip('\n'))
    assert {word for word, _, _ in rows} == {*text.split()} and len(rows) >= len(text.split())
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


# --- Entities by a threshold ---

THRESHOLDS = [None, 0.05, 0.2, 0.45, 0.8]


@pytest.fixture(scope='module')
def short(tagger):
    """Short sentences, and for each all sets of entities with their probabilities."""
    return {sentence: entity_sets(tagger.score([sentence.split()])[0][0],
                                  len(sentence.split()) + 1, tagger.maps['tag_map'], 'iobes')
            for sentence in random_sentences(25, most=4)}


def iob2(entities, length):
    """The tags of a sentence with such entities."""
    tags = ['O'] * length
    for name, first, end in entities:
        tags[first:end] = [f'B-{name}'] + [f'I-{name}'] * (end - first - 1)
    return tags


@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_what_is_tagged_is_the_enumerated_answer(path, short, threshold):
    options = () if threshold is None else ('--threshold', threshold)
    rows = jsonl(path, '--tokenized', *options, stdin='\n'.join(short))
    for row, (sentence, sets) in zip(rows, short.items(), strict=True):
        words, p = sentence.split(), entity_probabilities(sets)
        viterbi = max(sets, key=sets.get)
        entities = viterbi if threshold is None else worth_most(sets, threshold)
        tags = iob2(entities, len(words))
        assert (row['text'], row['tokens'], row['tags']) == (sentence, words, tags)
        assert [(one['type'], one['start'], one['text']) for one in row['entities']] == [
            (name, len(' '.join([*words[:first], ''])), ' '.join(words[first:end]))
            for name, first, end in entities]
        assert all(sentence[one['start']:one['end']] == one['text'] for one in row['entities'])
        assert [one['probability'] for one in row['entities']] == pytest.approx(
            [p[entity] for entity in entities], rel=1e-4)
        assert row['probability'] == pytest.approx(sets[viterbi], rel=1e-4)
        # The marginals of the tags that are shown
        assert row['probabilities'] == pytest.approx([
            sum(q for one, q in sets.items() if iob2(one, len(words))[t] == name)
            for t, name in enumerate(tags)], rel=1e-4)


def test_each_threshold_believes_others(path, short):
    found = [[row['tags'] for row in jsonl(path, '--tokenized', '--threshold', threshold,
                                           stdin='\n'.join(short))]
             for threshold in THRESHOLDS[1:]]
    assert all(one != other for one, other in itertools.pairwise(found))


def test_the_best_threshold_is_the_checkpoints(path, tmp_path):
    # Its name is less probable than that, and its place more
    path = variant(path, tmp_path, threshold=0.71)
    output = tag(path, '--threshold', 'best')
    assert output == tag(path, '--threshold', 0.71)
    assert output == 'Amara Okafor flew to [LOC Oslo].\n\nDunston  checks in\n' != tag(path)


@pytest.mark.parametrize('arguments', [
    ['--threshold', 'best'], ['--threshold', 0.0001], ['--threshold', 0.5],
    ['FILE', '--evaluate', '--mistakes', 5], ['--output_format', 'doccano']])
def test_parts_of_speech_have_no_threshold(path, tmp_path, arguments):
    path = variant(path, tmp_path, task='pos', threshold=0.5)
    with pytest.raises(InputError) as caught:
        tag(path, *arguments)
    assert str(caught.value) == '--threshold, --mistakes, doccano: expected a model of entities'
    (row,) = jsonl(path, stdin='Dunston checks in')
    assert row['entities'] == [] and len(row['probabilities']) == 3 and row['probability'] < 1


def test_no_best_threshold_before_training_has_ended(trained):
    # The latest checkpoint is all that a killed run leaves
    with pytest.raises(InputError, match='--threshold best: expected the best checkpoint of a run'):
        tag(trained / LATEST, '--threshold', 'best')
    assert tag(trained / LATEST, '--threshold', 0.5)


@pytest.mark.parametrize('threshold', [0.05, 0.45])
def test_entities_of_a_long_sentence_are_in_their_places(tagger, threshold):
    words = [word for sentence in random_sentences(300, most=15) for word in sentence.split()]
    # Without stops, pieces overlap: each knows the words around its middle best
    words = [word for word in words if word != '.'][:2020]
    options = {'probabilities': True, 'threshold': threshold, 'least': 0.05}
    (whole,) = tagger.tag([words], **options)
    pieces = list(tagger.tag([words[:1000], words[900:1900], words[1800:]], **options))
    assert whole['probability'] == pytest.approx(
        math.prod(piece['probability'] for piece in pieces), rel=1e-3)
    starts = word_starts(words)
    for piece, first, begin, stop in zip(pieces, (0, 900, 1800), (0, 960, 1860), (940, 1840, 2020)):
        found, expected = [], []
        for tagged, offset, places in ((whole, 0, found), (piece, starts[first], expected)):
            places += [(one['type'], offset + one['start'], offset + one['end'], one['text'])
                       for one in tagged['entities']]
            places += [(name, offset + start, offset + end, '')
                       for name, start, end, _ in tagged['candidates']]
        found, expected = ({one for one in places if starts[begin] <= one[1] < starts[stop - 9]}
                           for places in (found, expected))
        assert found == expected and len({one[1] for one in found}) > 9
    assert all(whole['text'][one['start']:one['end']] == one['text'] for one in whole['entities'])


# --- What thresholds give, and calibration ---

@pytest.fixture(scope='module')
def gold(short):
    """The sentences with entities as often as the model thinks: [(words, set of entities), ...]."""
    generator = random.Random(0)
    return [(sentence.split(), generator.choices(list(sets), sets.values())[0])
            for sentence, sets in short.items()]


@pytest.fixture(scope='module')
def gold_file(gold, tmp_path_factory):
    return write_conll(tmp_path_factory.mktemp('gold') / 'gold.txt', [
        (words, iob2(entities, len(words))) for words, entities in gold])


def evaluate(path, file, *options):
    """The sections of what --evaluate prints, as lists of lines."""
    output = tag(path, '--evaluate', file, *options)
    return [section.split('\n') for section in output.rstrip('\n').split('\n\n')]


def test_the_table_of_thresholds_is_seqevals(path, gold, gold_file):
    _, (header, *table), _ = evaluate(path, gold_file)
    assert header.split() == ['threshold', 'precision', 'recall', 'F1']
    text = '\n'.join(' '.join(words) for words, _ in gold)
    labeled = [iob2(entities, len(words)) for words, entities in gold]
    expected, all_f1 = [], []
    for n in range(1, 20):
        columns = tag(path, '--tokenized', '--threshold', n / 20, '--output_format', 'conll',
                      stdin=text)
        found = [[row.split(' ')[1] for row in sentence.split('\n')]
                 for sentence in columns.rstrip('\n').split('\n\n')]
        figures = [getattr(seqeval.metrics, f'{name}_score')(labeled, found, zero_division=0)
                   for name in ('precision', 'recall', 'f1')]
        expected.append([f'{n / 20:.2f}', *(f'{figure:.4f}' for figure in figures)])
        all_f1.append(figures[-1])
    expected[all_f1.index(max(all_f1))].append('best')
    assert [row.split() for row in table] == expected
    assert not any(row.endswith(' ') for row in table)
    assert len(set(all_f1)) > 5


def test_calibration_is_that_of_the_enumerated_entities(path, short, gold, gold_file):
    _, _, (header, *table) = evaluate(path, gold_file)
    assert header.split() == ['probability', 'candidates', 'mean', 'right']
    ranges = [[] for _ in range(10)]
    for sets, (_, labeled) in zip(short.values(), gold):
        for entity, p in entity_probabilities(sets).items():
            if p >= 0.05:
                ranges[int(10 * p)].append((p, entity in labeled))
    for n, (row, some) in enumerate(zip(table, ranges, strict=True)):
        low, to, high, number, mean, right = row.split()
        assert (low, to, high) == (f'{max(n / 10, 0.05):.2f}', 'to', f'{(n + 1) / 10:.2f}')
        assert (int(number), int(right)) == (len(some), sum(ok for _, ok in some))
        assert float(mean) == pytest.approx(sum(p for p, _ in some) / max(len(some), 1), abs=1e-4)
    assert 10 < sum(ok for some in ranges for _, ok in some) < sum(map(len, ranges)) - 10


def test_what_is_certain_is_in_the_last_range(capsys):
    sentence = {'text': 'Oslo', 'entities': [], 'candidates': [('LOC', 0, 4, 1.0)]}
    inference.print_probabilities([{**sentence, 'labeled': [('LOC', 0, 4)]}], mistakes=0)
    assert capsys.readouterr().out.endswith('\n0.90 to 1.00          1  1.0000      1\n')


@pytest.mark.parametrize('threshold', THRESHOLDS)
@pytest.mark.parametrize('number', [1, 3, 999])
def test_the_surest_mistakes(path, short, gold, gold_file, threshold, number):
    options = () if threshold is None else ('--threshold', threshold)
    *_, wrong, missed = evaluate(path, gold_file, *options, '--mistakes', number)
    mistakes = {True: [], False: []}
    for (sentence, sets), (words, labeled) in zip(short.items(), gold):
        found = max(sets, key=sets.get) if threshold is None else worth_most(sets, threshold)
        for entity, p in entity_probabilities(sets).items():
            if p >= 0.05 and (entity in found) != (entity in labeled):
                name, first, end = entity
                reading = f'{name} {" ".join(words[first:end])}: {sentence}'
                mistakes[entity in found].append((p, reading))
    for (header, *rows), expected, of_all in ((wrong, 'found, but not labeled:', mistakes[True]),
                                              (missed, 'labeled, but not found:', mistakes[False])):
        assert header == expected and (of_all or threshold == 0.8)
        of_all.sort(reverse=True)
        assert [row.split(' ', 1)[1] for row in rows] == [reading for _, reading in of_all[:number]]
        assert [float(row.split()[0]) for row in rows] == pytest.approx(
            [p for p, _ in of_all[:number]], abs=1e-4)


def test_no_mistakes_unless_asked_for(path, gold_file, tmp_path):
    assert 'labeled' not in tag(path, '--evaluate', gold_file)
    assert len(evaluate(variant(path, tmp_path, task='pos'), gold_file)) == 1
