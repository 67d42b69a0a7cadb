"""The figures in the README's prose: each comes from the code, a recorded run or a cited source."""

import json
import re

import pytest
import torch
from conftest import FENCE, ROOT
from worked_example import (
    EMISSIONS, FILM_SCORES, FILM_TAG_MAP, FILM_TAGS, LENGTHS, SCORES, TAG_MAP, TRANSITIONS, WORDS)

import inference
import models
import reproduce
import train
import utils

TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')
MEASURED = (ROOT / 'tests' / 'README.md').read_text(encoding='utf-8')
RUN = json.loads((ROOT / 'img' / 'run.json').read_text(encoding='utf-8'))
B, I, O, END = 1, 2, 3, 4  # noqa: E741


def prose():
    """The README without blocks, tables, link targets and formulas, as one long line."""
    text = re.sub(r'^\|.*$|^\$\$.*\$\$$', '', FENCE.sub('', TEXT), flags=re.MULTILINE)
    return ' '.join(re.sub(r'\]\([^)]*\)', ']', text).split())


def listed(values):
    """17, 9, 2 and 18."""
    *others, last = values.flatten().tolist()
    return f'{", ".join(map(str, others))} and {last}'


def example_claims():
    """What the prose says of the worked example."""
    word_map, char_map, _ = utils.create_maps([WORDS], [FILM_TAGS], min_word_freq=1)
    batch = utils.create_input_tensors([WORDS], [FILM_TAGS], word_map, char_map, FILM_TAG_MAP)
    forward, backward = batch.cmarkers_f, batch.cmarkers_b
    yield f'markers {listed(forward)}'
    yield f'(The last marker, {forward[0, -1]}, is'
    yield f'markers {listed(backward)}'
    yield '({} for `dunston`, {} for `checks`, {} for `in`)'.format(*backward[0].tolist())
    previous, current = [0, B, I, I], [B, I, I, END]
    cells = list(zip(previous, current))
    m = len(FILM_TAG_MAP)
    assert batch.tmaps[0].tolist() == [i * m + j for i, j in cells]
    yield f'`B-FILM` after `<start>` is cell {cells[0]}'
    yield (f'`I-FILM` after `B-FILM` is {cells[1]}, then {cells[2]}, and finally `<end>` after '
           f'`I-FILM`, {cells[3]}')
    yield f'previous · {m} + current'
    yield f'{batch.wmap_lengths[0]} words and {batch.cmap_lengths[0]} characters with `<end>`'

    scores = FILM_SCORES[0]
    emission, transition, both = EMISSIONS[0, 1, I], TRANSITIONS[B, I], scores[1, B, I]
    yield f'the tag I at `checks` scores {emission:g} + {transition:g} = {both:g}'
    gold = sum(scores[t, i, j] for t, (i, j) in enumerate(cells)).item()
    yield f'So B I I scores {gold:g}'
    yield f'B, I, I, end add up to {gold}'
    yield f'the best total is {gold}'
    yield f'5³ = {m ** 3} here'
    loss = models.ViterbiLoss(FILM_TAG_MAP)(FILM_SCORES, batch.tmaps, LENGTHS).item()
    yield f'The loss is {loss:.4f}'
    yield f'exp(-{loss:.4f}) = {torch.tensor(-loss).exp():.2f}'
    greedy = [scores[0, 0, O], scores[1, O, O], scores[2, O, O], scores[3, O, END]]
    for t, before in enumerate((0, O, O)):
        assert scores[t, before].argmax() == O
    yield 'O O O, for {:g} + {:g} + {:g} + {:g}'.format(*greedy) + f' = {sum(greedy):g}'
    yield f'a sequence with {gold}'
    yield f'by {scores[0, 0, O]:g} to {scores[0, 0, B]:g}'
    yield f'I at `checks` scores {scores[1, O, I]:g} instead of {scores[1, B, I]:g}'

    decoder = inference.ViterbiDecoder(FILM_TAG_MAP, 'iob2')
    cumulative, backpointers = decoder.trellis(FILM_SCORES, LENGTHS)
    for t, word in enumerate(WORDS[1:], 1):
        yield f'After {word}: ' + ', '.join(
            f'{name} {cumulative[t][0, tag]:g} from {"_BIO"[backpointers[t][0, tag]]}'
            for tag, name in ((B, 'B'), (I, 'I'), (O, 'O')))
    *_, legal = decoder.forward_backward(FILM_SCORES, LENGTHS)
    yield f'log Z is now {legal.item():.4f} instead of {gold + loss:.4f}'
    (two_words, three_words), = decoder.candidates(FILM_SCORES, LENGTHS, least=0.2)
    yield (f'the whole title has probability {three_words[-1]:.2f}, and `dunston checks` alone '
           f'{two_words[-1]:.2f}')
    b_i_o = [scores[0, 0, B], scores[1, B, I], scores[2, I, O], scores[3, O, END]]
    yield ('{:g} + {:g} + {:g} + {:g}'.format(*b_i_o)
           + f' = {sum(b_i_o):g}, so it is exp({sum(b_i_o):g} - {legal.item():.4f}) = '
           f'{(sum(b_i_o) - legal).exp().item():.3f}')
    yield f'a little more probable, {two_words[-1]:.3f}'

    gold_2018 = (SCORES[0, 0, 0, 2] + SCORES[0, 1, 2, 3] + SCORES[0, 2, 3, 3] + SCORES[0, 3, 3, 4])
    loss = models.ViterbiLoss(TAG_MAP)(SCORES, torch.tensor([[2, 13, 18, 19]]), LENGTHS)
    yield (f'The score is {gold_2018:.2f}, log Z {gold_2018 + loss:.4f} and the loss {loss:.4f}')


def reading_path():
    """The lines of models.py, datasets.py, and what stands first in the other scripts."""
    parts = {'models.py': (None, None), 'datasets.py': (None, None),
             'utils.py': ('# --- Maps', '# --- CoNLL'), 'train.py': (None, '# --- What main'),
             'inference.py': ('class ViterbiDecoder', '# --- Tagging')}
    lines = 0
    for name, (first, end) in parts.items():
        text = (ROOT / name).read_text(encoding='utf-8')
        lines += text[text.index(first or ''):text.index(end) if end else None].count('\n')
    return lines


def other_claims():
    """What the prose says of settings, of the code and of the recorded run."""
    args, _ = train.parse_arguments([])
    yield f'the state of an LSTM ({args.char_rnn_dim} numbers)'
    yield f'third highway (2 · {args.char_rnn_dim} numbers)'
    words = {5: 'five', 10: 'ten', 1000: 'a thousand'}
    yield f'fewer than {words[args.min_word_freq]} times'
    yield f'at least {words[args.min_word_freq]} times in the training file'
    yield f'not improved for {words[args.patience]} epochs (`--patience`)'
    yield f'in a direction that suits its {words[args.batch_size]} sentences'
    # An average that forgets 0.2% after every second step
    yield f'moving average over about {words[round(2 / (1 - args.ema))]} steps'
    yield f'Batches of {args.batch_size}, '
    yield f'momentum {args.momentum} and a learning rate of {args.lr}'
    yield f'divided by 1 + {args.lr_decay} · epoch, and dropout of {args.dropout}'
    most_negative = inference.ViterbiDecoder(FILM_TAG_MAP, 'iob2').mask.min().item()
    yield f'{most_negative:,.0f} at each illegal cell'
    yield f'Why is {most_negative:,.0f} used'
    following, _ = models.lm_targets(torch.tensor([[1, 2]]), torch.tensor([2]), lm_vocab_size=9)
    yield f'the target is {following[0, 1]}'
    yield f'The core is about {round(reading_path(), -2)} lines'
    run = reproduce.TABLES['sizes'][0]
    yield f'after {words[run.epochs]} epochs on {int(run.corpus[3:]):,} sentences of EWT'
    sizes = {size: (without, having) for size, having, without in re.findall(
        r'^\| (\d+) \| (\d\d\.\d\d)[^|]*\|[^|]*\| (\d\d\.\d\d) \|', MEASURED, re.MULTILINE)}
    yield ('from {} to {} with LSTMs of 50, and from {} to {} with 300'
           ).format(*sizes['50'], *sizes['300'])
    pairs = {tags: row for tags, *row in re.findall(
        r'^\| (\d+) \| ([\d.,]+) \| ([\d.]+) \| \d+ \|$', MEASURED, re.MULTILINE)}
    yield ('ten sentences of 40 words then take {} ms, but {} with 267 tags. (As scores are sums, '
           'matrix products could do it: {} ms.)').format(pairs['102'][0], *pairs['267'])
    yield (f'reads {inference.WINDOW:,} lines before it answers (a program that waits for each '
           f'needs `--batch_size 1`), {utils.MOST_CHARS} letters of a word at most, and lines of '
           f'over {inference.MOST_WORDS:,} words in pieces')
    yield f'in {len(RUN["log"])} epochs; a line marks the best epoch, {RUN["best_epoch"]}'
    yield f"the sample run's, {RUN['threshold']}"
    yield f'the model reaches about {float(RUN["end"][-1].split()[-1]):.2f} here'
    gmb, wnut, best = (float(re.search(pattern, TEXT, re.MULTILINE)[1]) for pattern in (
        r'^\| \*\*GMB\*\*.*?\| ([\d.]+)', r'^\| \*\*WNUT 2017\*\*.*?\| ([\d.]+)',
        r'Here ([\d.]+) would have been better'))
    yield f'{gmb / 100:.2f} on a large corpus of news, and {wnut / 100:.2f} on posts'
    rows = re.findall(r'^\| ([\d.]+) \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|$', TEXT, re.MULTILINE)
    assert best == float(max(rows, key=lambda row: float(row[1]))[0])
    yield f'Here {best:.2f} would have been better'
    picture = (ROOT / 'img' / 'highway.svg').read_text()
    gates = [gate for gate in ('0.05', '0.95', '0.5') if f'>{gate}<' in picture]
    yield ('With a gate of {} the input passes, with {} its transformation, with {} half of '
           'each').format(*gates)


def recorded_outputs():
    """What the README shows of the recorded run's output, in blocks whose lines may be wrapped."""
    row = RUN['log'][-1]
    yield (f'epoch {row["epoch"]}: LM loss {row["lm_loss"]:.3f}, Viterbi loss '
           f'{row["viterbi_loss"]:.3f}; validation: Viterbi loss {row["val_viterbi_loss"]:.3f}, '
           f'macro F1 {row["macro_f1"]:.4f} (not averaged {row["plain_score"]:.4f}), entity F1 '
           f'{row["entity_f1"]:.4f}, accuracy {row["accuracy"]:.4f}; lr {row["lr"]:.4f}')
    # Two sentences and the line of the threshold
    yield from RUN['end'][-3:]
    first, last = RUN['explained'][:7], RUN['explained'][16:]
    yield ' '.join([*first, '...', *last])


def test_recorded_outputs():
    blocks = [' '.join(block.split()) for _, block in FENCE.findall(TEXT)]
    for output in recorded_outputs():
        assert any(' '.join(output.split()) in block for block in blocks), output


def section(title):
    """The text under a heading of the README."""
    return re.search(rf'^## {re.escape(title)}\n(.*?)^## ', TEXT, re.MULTILINE | re.DOTALL)[1]


def test_what_each_part_buys():
    """Every figure stands in tests/README.md; how fast the small model is, in the chart."""
    text = section('What did each part buy?')
    figures = re.findall(r'\d+\.\d+(?: ± \d+\.\d+)?', re.sub(r'\]\([^)]*\)', ']', text))
    assert len(figures) > 8
    for figure in figures:
        assert re.search(rf'(?<![\d.]){figure}(?![\d.])', MEASURED), figure
    curves = json.loads((ROOT / 'img' / 'parts.json').read_text())
    words = {5: 'five', 6: 'six', 7: 'seven', 8: 'eight', 9: 'nine', 17: 'seventeen'}
    pairs = {corpus: (curves[corpus]['the small model'], curves[corpus]['the full model'])
             for corpus in ('wnut17', 'ewt', 'gmb')}
    ratios = {round(full['seconds'] / small['seconds']) for small, full in pairs.values()}
    small, full = pairs['wnut17']
    reached = small['scores'][int(5 * 60 / small['seconds']) - 1]
    epochs = next(i for i, score in enumerate(full['scores'], 1) if score >= reached)
    assert (f'trains {words[min(ratios)]} to {words[max(ratios)]} times as fast: on WNUT 2017, '
            f'after five minutes, it is where the full model is after '
            f'{words[round(epochs * full["seconds"] / 60)]}') in ' '.join(text.split())


# What others measured, and what only illustrates
GIVEN = [
    'F1 falls from 91.24 to 90.79 without them', '90.95 with it on CoNLL-2003, instead of 91.24',
    "the paper's 91.24 ± 0.12", "That tutorial's F1 of 91.6 is a mean over batches",
    "the word's embedding (100)", 'all 400,000 words of a vector file',
    'believe every entity above 0.2, say', 'only those above 0.9',
    'With an F1 of 0.5, keep whatever is above 0.25', '--word_rnn_dim 200',
    'of a hundred candidates with 0.9, are about ninety right?', 'You need Python 3.11 or newer',
    'CC BY-SA 4.0',
    'if you have PyTorch 2.6 or newer']


@pytest.mark.parametrize('claims', [example_claims, other_claims, lambda: GIVEN])
def test_claims(claims):
    for claim in claims():
        assert claim in prose(), claim


def test_no_other_figures():
    """Whoever writes a new figure into the prose has to say above where it comes from."""
    text = prose()
    figures = re.findall(r'\d+\.\d+(?: ± \d+\.\d+)?', section('What did each part buy?'))
    claims = [*example_claims(), *other_claims(), *GIVEN, *figures]
    for claim in sorted(claims, key=len, reverse=True):
        text = text.replace(claim, ' ')
    # Years and the names of corpora are no figures
    text = re.sub(r'\b(19|20)\d\d\b', ' ', text)
    assert re.findall(r'.{0,30}(?<![\w.])(?:\d+\.\d+|\d[\d,]{2,}).{0,20}', text) == []
