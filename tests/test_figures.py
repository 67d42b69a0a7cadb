"""The figures in the README's prose: each comes from the code, a recorded run or a cited source."""

import json
import re

import pytest
import torch
from conftest import FENCE, ROOT
from test_prepare import SHARED
from worked_example import (
    EMISSIONS, FILM_SCORES, FILM_TAG_MAP, FILM_TAGS, LENGTHS, SCORES, TAG_MAP, TRANSITIONS, WORDS)

import inference
import models
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
    yield f'The last marker, {forward[0, -1]}, is at `<end>`'
    yield f'markers {listed(backward)}'
    yield '{} for `dunston`, {} for `checks`, {} for `in`'.format(*backward[0].tolist())
    yield f'Does it bother you that `<end>` is at {backward[0, -1]}'
    maps = utils.create_maps([['in', 'oslo']], [['O', 'O']], min_word_freq=1)
    oslo = utils.create_input_tensors([['in', 'oslo']], None, *maps)
    yield f'At {listed(oslo.cmarkers_f)}, and at {listed(oslo.cmarkers_b)}, as'
    previous, current = [0, B, I, I], [B, I, I, END]
    cells = list(zip(previous, current))
    m = len(FILM_TAG_MAP)
    assert batch.tmaps[0].tolist() == [i * m + j for i, j in cells]
    yield f'previous · {m} + current'

    scores = FILM_SCORES[0]
    emission, transition, both = EMISSIONS[0, 1, I], TRANSITIONS[B, I], scores[1, B, I]
    yield f'the tag I at `checks` scores {emission:g} + {transition:g} = {both:g}'
    gold = sum(scores[t, i, j] for t, (i, j) in enumerate(cells)).item()
    yield f'So B I I scores {gold:g}'
    yield f'a sequence that scores {gold:g}'
    yield f'B, I, I, end add up to {gold}'
    yield f'the best total is {gold:g}'
    yield f'only 5³ = {m ** 3}'
    loss = models.ViterbiLoss(FILM_TAG_MAP)(FILM_SCORES, batch.tmaps, LENGTHS).item()
    yield f'here {loss:.4f}'
    yield f'exp(-{loss:.4f}) = {torch.tensor(-loss).exp():.2f}'
    greedy = [scores[0, 0, O], scores[1, O, O], scores[2, O, O], scores[3, O, END]]
    for t, before in enumerate((0, O, O)):
        assert scores[t, before].argmax() == O
    yield 'O O O, for {:g} + {:g} + {:g} + {:g}'.format(*greedy) + f' = {sum(greedy):g}'
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
    changed = scores.clone()
    changed[:, O, I] += 2 - TRANSITIONS[O, I]
    cumulative, _ = inference.ViterbiDecoder(FILM_TAG_MAP).trellis(changed[None], LENGTHS)
    assert inference.ViterbiDecoder(FILM_TAG_MAP).decode(changed[None], LENGTHS).tolist() == [
        [O, I, I, END]]
    assert decoder.decode(changed[None], LENGTHS).tolist() == [[B, I, I, END]]
    yield f'O I I wins with {cumulative[-1][0, END]:g}'

    gold_2018 = (SCORES[0, 0, 0, 2] + SCORES[0, 1, 2, 3] + SCORES[0, 2, 3, 3] + SCORES[0, 3, 3, 4])
    loss = models.ViterbiLoss(TAG_MAP)(SCORES, torch.tensor([[2, 13, 18, 19]]), LENGTHS)
    yield (f'The score is {gold_2018:.2f}, as that tutorial says. Log Z is '
           f'{gold_2018 + loss:.4f} and the loss {loss:.4f}')


def other_claims():
    """What the prose says of settings, of the code and of the recorded run."""
    args, _ = train.parse_arguments([])
    words = {5: 'five', 10: 'ten', 1000: 'a thousand'}
    yield f'occur fewer than {words[args.min_word_freq]} times'
    yield f'at least {words[args.min_word_freq]} times in the training file'
    yield f'in a direction that suits its {words[args.batch_size]} sentences'
    # An average that forgets 0.2% after every second step
    yield f'moving average over about {words[round(2 / (1 - args.ema))]} steps'
    most_negative = inference.ViterbiDecoder(FILM_TAG_MAP, 'iob2').mask.min().item()
    yield f'adds {most_negative:,.0f} to each illegal cell'
    following, _ = models.lm_targets(torch.tensor([[1, 2]]), torch.tensor([2]), lm_vocab_size=9)
    yield f'the target is {following[0, 1]}'
    yield f"ignores the pads' targets, {following[0, 1]}"
    yield f'in {len(RUN["log"])} epochs; a line marks the best epoch, {RUN["best_epoch"]}'
    yield f"the sample run's, {RUN['threshold']}"
    _, recall, _, entities = re.search(
        r'^all +(\S+) +(\S+) +(\S+) +(\d+)', '\n'.join(RUN['end']), re.MULTILINE).groups()
    recall = float(recall)
    assert abs(recall - 2 / 3) < 0.03
    yield 'about two out of three names'
    yield f'on {entities} entities, such a difference is noise'
    page = (ROOT / 'data' / 'MODELS.md').read_text(encoding='utf-8')
    recall = float(re.search(r'^\| all \| \| \| \S+ \| (\S+) \|', page, re.MULTILINE)[1])
    assert abs(recall / 100 - 5 / 6) < 0.02
    yield 'it finds five out of six'
    rows = re.findall(r'^\| ([\d.]+) \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|$', TEXT, re.MULTILINE)
    best = float(max(rows, key=lambda row: float(row[1]))[0])
    yield f'Here {best:.2f} would have been better'
    viterbi, chosen = (float(re.search(rf'^\| {row}.*?\| ([\d.]+) ±', TEXT, re.MULTILINE)[1])
                       for row in (r'\*\*WNUT 2017\*\*', 'the same with `--threshold best`'))
    yield f'where `best` adds {chosen - viterbi:.1f} points on average'
    bert = re.search(r"([\d,]+), at BERT-base's size", TEXT)[1]
    small = re.search(r"^\| this page's small model.* ([\d,]+) to", TEXT, re.MULTILINE)[1]
    assert round(int(small.replace(',', '')) / int(bert), -1) == 70
    yield 'about seventy times as many words'
    lower, = re.findall(r'^\| characters in lower case.*\| 1 \| ([\d.]+)', MEASURED, re.MULTILINE)
    usual, = re.findall(r'^\| the small model \| 3 \| ([\d.]+) ± 1.2', MEASURED, re.MULTILINE)
    yield f'one run lost {float(usual) - float(lower):.1f} points in validation'
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


def test_recorded_outputs():
    blocks = [' '.join(block.split()) for _, block in FENCE.findall(TEXT)]
    for output in recorded_outputs():
        assert any(' '.join(output.split()) in block for block in blocks), output


def section(title):
    """The text under a heading of the README."""
    return re.search(rf'^## {re.escape(title)}\n(.*?)^## ', TEXT, re.MULTILINE | re.DOTALL)[1]


def cells(title):
    """The cells of the tables in a section of the README."""
    return [cell.strip() for row in re.findall(r'^\|(.*)\|$', section(title), re.MULTILINE)
            for cell in row.split('|')]


@pytest.mark.parametrize('title', [
    'Why learn this now?', 'Part 2: the network', 'Part 3: using it and training it'])
def test_measured_figures(title):
    """Every figure of a table stands in tests/README.md, or is a setting."""
    text = re.sub(r'\]\([^)]*\)', ']', ' '.join(cells(title)))
    figures = re.findall(r'(?<![\w.,-])\d+\.\d+(?: ± \d+\.\d+)?|(?<![\w.])\d+,\d+', text)
    args, _ = train.parse_arguments([])
    settings = {str(one) for one in (args.lr, args.lr_decay, args.momentum, args.dropout)}
    settings |= {'1,000', '2,048', '90.95', '91.24'}  # limits of tagging; the authors' figures
    assert len(figures) > 8
    for figure in figures:
        found = re.search(rf'(?<![\d.]){re.escape(figure)}(?![\d.])', MEASURED)
        assert found or figure in settings, figure


def test_settings():
    args, _ = train.parse_arguments([])
    row = (f'| of {args.batch_size} sentences | {args.lr}, divided by 1 + {args.lr_decay} · epoch '
           f'| {args.momentum} | {args.dropout} | clipped to ±{args.grad_clip:g} '
           f'| times {args.lm_weight:g} (`--lm_weight`) |')
    assert row in TEXT
    assert (f'it reads {utils.MOST_CHARS} letters of a word, lines of over '
            f'{inference.MOST_WORDS:,} words in overlapping pieces, and {inference.WINDOW:,} lines '
            f'before it answers') in TEXT
    assert args.patience == 10 and 'when it has not improved for ten epochs' in TEXT


def unigram_loss(file, task, column):
    """The language models' loss if word frequencies are all they know, and the share of <unk>."""
    args, _ = train.parse_arguments([])
    words, tags = utils.read_corpus(file, task, column, 'iobes')
    maps = utils.create_maps(words, tags, args.min_word_freq, args.min_char_freq, args.caseless)
    batch, size = utils.create_input_tensors(words, tags, *maps), len(maps[0])
    # The entropy of each model's targets: the next words, and the previous ones
    counts = [torch.bincount(targets[targets >= 0], minlength=size).double()
              for targets in models.lm_targets(batch.wmaps, batch.wmap_lengths, size)]
    entropies = [torch.special.entr(count / count.sum()).sum().item() for count in counts]
    return sum(entropies), (sum(counts)[size - 1] / sum(counts).sum()).item()


def language_model_row(name):
    """Three figures of the README's table: the share of <unk>, two losses."""
    figures = re.search(rf'^\| {re.escape(name)} \| (\d+)% \| ([\d.]+) \| ([\d.]+) \|$', TEXT,
                        re.MULTILINE)
    return [float(figure) for figure in figures.groups()]


def test_language_models_on_the_sample():
    """They learn little more than how often each word occurs."""
    share, alone, trained = language_model_row('`data/sample`, 720 sentences')
    loss, unknown = unigram_loss(train.SAMPLE / 'train.txt', 'ner', -1)
    assert (share, alone) == (round(100 * unknown), round(loss, 2))
    assert trained == round(RUN['log'][-1]['lm_loss'], 2)


def test_language_models_on_ewt():
    share, alone, trained = language_model_row('EWT, 12,544 sentences, `data/pos.pth.tar`')
    saved = utils.load_checkpoint(ROOT / 'data' / 'pos.pth.tar')['scores']
    assert trained == round(saved['lm_loss'], 2)
    if not (SHARED / 'ewt').exists():
        pytest.skip('needs the corpora')
    loss, unknown = unigram_loss(SHARED / 'ewt' / 'train.txt', 'pos', 1)
    assert (share, alone) == (round(100 * unknown), round(loss, 2))


def test_the_small_model_is_fast():
    """Both figures come from the chart's curves."""
    curves = json.loads((ROOT / 'img' / 'parts.json').read_text())
    words = {6: 'six', 8: 'eight', 17: 'seventeen'}
    pairs = {corpus: (curves[corpus]['the small model'], curves[corpus]['the full model'])
             for corpus in ('wnut17', 'ewt', 'gmb')}
    ratios = {round(full['seconds'] / small['seconds']) for small, full in pairs.values()}
    small, full = pairs['wnut17']
    reached = small['scores'][int(5 * 60 / small['seconds']) - 1]
    epochs = next(i for i, score in enumerate(full['scores'], 1) if score >= reached)
    assert (f'its epochs are {words[min(ratios)]} to {words[max(ratios)]} times as fast.** It '
            f'needs more of them, but on WNUT 2017, after five minutes, it is where the full model '
            f'is after {words[round(epochs * full["seconds"] / 60)]}') in ' '.join(TEXT.split())


def test_no_paragraph_carries_three_measured_figures():
    """Tables do. Those of the worked example are computed."""
    text = re.sub(r'^\|.*$|^\$\$.*\$\$$|^!\[.*\)$', '', FENCE.sub('', TEXT), flags=re.MULTILINE)
    for paragraph in re.split(r'\n\s*\n', text):
        paragraph = ' '.join(paragraph.split())
        for claim in sorted(example_claims(), key=len, reverse=True):
            paragraph = paragraph.replace(claim, ' ')
        assert len(re.findall(r'(?<![\w.])\d+\.\d+', paragraph)) < 3, paragraph


# What others measured, and what only illustrates
GIVEN = [
    "the paper's F1 falls from 91.24 to 90.79 without them",
    'an embedding for each word, 100 numbers', 'all 400,000 words of a vector file',
    'believe every entity above 0.2, say', 'only those above 0.9',
    'Of a hundred possible entities with 0.9, about ninety should be right', 'Python 3.11 or newer',
    'CC BY-SA 4.0', 'If you have 2.6 or newer already', 'and 100 is perfect',
    'The core of the six scripts is about 700 lines', 'What comes out of 1, -2, 3 if *g* is 0, 0.5']


@pytest.mark.parametrize('claims', [example_claims, other_claims, lambda: GIVEN])
def test_claims(claims):
    for claim in claims():
        assert claim in prose(), claim


def test_no_other_figures():
    """Whoever writes a new figure into the prose has to say above where it comes from."""
    text = prose()
    claims = [*example_claims(), *other_claims(), *GIVEN]
    for claim in sorted(claims, key=len, reverse=True):
        text = text.replace(claim, ' ')
    # Years and the names of corpora are no figures
    text = re.sub(r'\b(19|20)\d\d\b', ' ', text)
    assert re.findall(r'.{0,30}(?<![\w.])(?:\d+\.\d+|\d[\d,]{2,}).{0,20}', text) == []
