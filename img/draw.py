"""Draw the README's pictures from the code's own tensors.

    python img/draw.py                  all of them, into this folder
    python img/draw.py --run FOLDER     those of a run of train.py, into its folder
    python img/draw.py --record FOLDER  img/run.json, what the README's pictures of a run show

Lengths are in points, y grows downwards. COLORS mean the same things in all pictures.
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / 'tests')]

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from worked_example import LENGTHS, SCORES, TAG_MAP, TAGS, WORDS  # noqa: E402

from datasets import SimilarLengthSampler  # noqa: E402
from inference import (  # noqa: E402
    ViterbiDecoder, judge, load_tagger, score_ranges, score_thresholds, tag_labeled)
from models import CRF, Highway, lm_targets  # noqa: E402
from train import BEST_CHECKPOINT, LOG, SAMPLE  # noqa: E402
from utils import (  # noqa: E402
    ArgumentParser, InputError, create_input_tensors, create_maps, file_errors, find_entities,
    load_checkpoint, read_words_tags, run_main)

# Fill and edge of what the pictures show
COLORS = {
    'word': ('#dbe9f8', '#2f6db5'),        # words, their embeddings, the word LSTM
    'char': ('#fdebcd', '#c77d0a'),        # characters
    'forward': ('#d3efe8', '#14806a'),     # the forward character LSTM and language model
    'backward': ('#e9e0f5', '#7a4fb0'),    # the backward ones
    'tag': ('#dff0d3', '#4c8a1f'),         # tags, the CRF
    'highway': ('#f6d9dd', '#b83a4b'),     # highway networks
    'plain': ('#f0efeb', '#77736a'),       # pads, <start>, <end>, what is left out
    'gold': ('#ffe08a', '#a87900'),        # the gold or the best sequence
}
INK, PALE, PAPER = '#24221d', '#a09b90', '#fcfbf8'
plt.rcParams.update({
    'svg.hashsalt': 'lm-lstm-crf', 'svg.fonttype': 'none', 'font.family': 'DejaVu Sans',
    'font.size': 10, 'text.color': INK, 'axes.labelcolor': INK, 'xtick.color': INK,
    'ytick.color': INK, 'axes.edgecolor': PALE, 'axes.facecolor': PAPER,
    'figure.facecolor': PAPER, 'savefig.facecolor': PAPER})


# --- The pen ---

def paper(width, height):
    """A sheet of the given size."""
    figure = plt.figure(figsize=(width / 72, height / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis('off')
    return ax


def write(ax, x, y, text, color=INK, size=10, ha='center', va='center_baseline', **style):
    """Text whose middle is at height y, unless va says otherwise."""
    ax.text(x, y, text, color=color, fontsize=size, ha=ha, va=va, **style)


def box(ax, x, y, width, height, text='', kind='plain', size=10, **style):
    """A box around (x, y) with text in it, in the color of what it stands for."""
    fill, edge = COLORS[kind]
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, linewidth=1,
                                boxstyle='round,pad=0,rounding_size=3', facecolor=fill,
                                edgecolor=edge))
    write(ax, x, y, text, size=size, **style)


def arrow(ax, start, end, kind=None, bend=0, dashed=False, width=1.1):
    """An arrow from point to point."""
    ax.add_patch(FancyArrowPatch(
        start, end, arrowstyle='-|>', mutation_scale=8, linewidth=width, shrinkA=0, shrinkB=0,
        color=COLORS[kind][1] if kind else INK, connectionstyle=f'arc3,rad={bend}',
        linestyle='--' if dashed else '-'))


def matrix(ax, x, y, values, rows=(), columns=(), cell=(34, 17), kinds=None, pale=None, digits=2):
    """A matrix whose first cell has its upper left corner at (x, y).

    Args:
        values: (rows, columns).
        rows, columns: names that stand to the left and above.
        kinds: for a cell (i, j), the color of its fill; others have none.
        pale: a function of (i, j) that says which cells do not count.
    """
    width, height = cell
    for i, row in enumerate(torch.as_tensor(values).tolist()):
        for j, value in enumerate(row):
            kind = (kinds or {}).get((i, j))
            fill = COLORS[kind][0] if kind else PAPER
            ax.add_patch(Rectangle((x + j * width, y + i * height), width, height, linewidth=0.6,
                                   facecolor=fill, edgecolor=PALE))
            write(ax, x + (j + 0.5) * width, y + (i + 0.5) * height, f'{value:.{digits}f}',
                  PALE if pale and pale(i, j) else INK, 8.5,
                  weight='bold' if kind == 'gold' else 'normal')
    for i, name in enumerate(rows):
        write(ax, x - 4, y + (i + 0.5) * height, name, size=8.5, ha='right')
    for j, name in enumerate(columns):
        write(ax, x + (j + 0.5) * width, y - 8, name, size=8.5)


def shade(value, kind):
    """A color between paper and the edge color of a kind, for a value from 0 to 1."""
    paper_rgb = torch.tensor(matplotlib.colors.to_rgb(PAPER))
    rgb = torch.tensor(matplotlib.colors.to_rgb(COLORS[kind][1]))
    return matplotlib.colors.to_hex((paper_rgb + value * (rgb - paper_rgb)).clamp(0, 1).tolist())


# --- The running example ---

def example():
    """The Batch of `dunston checks in`, and the maps."""
    words, tags = [WORDS], [TAGS]
    word_map, char_map, _ = create_maps(words, tags, min_word_freq=1)
    maps = {'word_map': word_map, 'char_map': char_map, 'tag_map': TAG_MAP}
    return create_input_tensors(words, tags, **maps), maps


def names(indices, name_map):
    """What stands behind indices; a space shows as an open box."""
    by_index = {index: name for name, index in name_map.items()}
    return ['␣' if by_index[i] == ' ' else by_index[i] for i in indices.tolist()]


def recorded():
    """What --record has written down of a trained model."""
    return json.loads((HERE / 'run.json').read_text(encoding='utf-8'))


# --- Pictures of the idea ---

def task():
    """A sentence with its entities, as the trained model tags it."""
    tagged = recorded()['tagged']
    ax = paper(460, 88)
    x, places = 14, []
    for token in tagged['tokens']:
        width = 6.4 * len(token) + 9
        places.append((x, x + width))
        x += width + 3
    inside = {}
    for entity in tagged['entities']:
        for i in range(*entity['tokens']):
            inside[i] = entity['type']
        left, right = places[entity['tokens'][0]][0], places[entity['tokens'][1] - 1][1]
        box(ax, (left + right) / 2, 66, 44, 18, entity['type'], 'tag', weight='bold')
        ax.plot((left, right), (50, 50), color=COLORS['tag'][1], linewidth=2)
    for i, (token, (left, right)) in enumerate(zip(tagged['tokens'], places)):
        kind = 'word' if i in inside else 'plain'
        box(ax, (left + right) / 2, 30, right - left, 24, token, kind)
    return ax


def framework():
    """Three tasks share the character LSTMs."""
    ax = paper(460, 262)
    for x, kind, title in ((120, 'forward', 'forward character LSTM'),
                           (340, 'backward', 'backward character LSTM')):
        box(ax, x, 186, 180, 26, title, kind)
        arrow(ax, (x, 224), (x, 201))
        box(ax, x, 236, 180, 22, 'd u n s t o n ␣ c h e c k s ␣ …' if kind == 'forward'
            else '… ␣ n o t s n u d ␣', 'char')
    for x, kind, word, title in ((62, 'forward', 'next', 'the next word: checks'),
                                 (398, 'backward', 'previous', 'the word before: dunston')):
        arrow(ax, (x, 171), (x, 139), kind)
        box(ax, x, 126, 108, 24, f'{word}-word model', kind, size=9)
        arrow(ax, (x, 112), (x, 81), kind)
        write(ax, x, 70, title.split(': ')[0] + ':', size=9)
        write(ax, x, 56, title.split(': ')[1], size=10, weight='bold')
    arrow(ax, (180, 171), (212, 139), 'forward')
    arrow(ax, (280, 171), (248, 139), 'backward')
    box(ax, 230, 126, 130, 24, 'word BiLSTM, CRF', 'tag')
    arrow(ax, (230, 112), (230, 81), 'tag')
    write(ax, 230, 70, 'the tags:', size=9)
    write(ax, 230, 56, 'tag_2 tag_3 tag_3', weight='bold')
    write(ax, 62, 22, 'language model', COLORS['forward'][1])
    write(ax, 230, 22, 'sequence labeling', COLORS['tag'][1])
    write(ax, 398, 22, 'language model', COLORS['backward'][1])
    return ax


def multitask():
    """The losses are added, and every task's gradient changes the shared layers."""
    ax = paper(460, 216)
    losses = ((86, 'forward', 'forward LM loss'), (230, 'tag', 'Viterbi loss'),
              (374, 'backward', 'backward LM loss'))
    box(ax, 230, 30, 190, 26, 'loss = the sum of the three', 'gold', weight='bold')
    for x, kind, title in losses:
        box(ax, x, 104, 124, 26, title, kind)
        # Values go up on the left of each pair of arrows, gradients come down on the right
        sum_x, shared_x = 230 + (x - 230) * 0.42, 230 + (x - 230) * 0.75
        arrow(ax, (x - 7, 90), (sum_x - 7, 45))
        arrow(ax, (sum_x + 7, 44), (x + 7, 89), kind, dashed=True)
        arrow(ax, (shared_x - 7, 168), (x - 7, 119))
        arrow(ax, (x + 7, 118), (shared_x + 7, 167), kind, dashed=True)
    box(ax, 230, 182, 320, 26, 'shared character embeddings and character LSTMs', 'char')
    arrow(ax, (12, 208), (36, 208))
    write(ax, 42, 208, 'values', size=9, ha='left')
    arrow(ax, (130, 208), (106, 208), dashed=True)
    write(ax, 136, 208, 'gradients: those of all three tasks change the shared layers', size=9,
          ha='left')
    return ax


def char_lstm(direction):
    """A character LSTM over the sentence, its markers, and what is predicted at each."""
    batch, maps = example()
    following, preceding = lm_targets(batch.wmaps, batch.wmap_lengths, len(maps['word_map']))
    if direction == 'forward':
        cmaps, cmarkers, targets = batch.cmaps_f, batch.cmarkers_f, following[0]
    else:
        cmaps, cmarkers, targets = batch.cmaps_b, batch.cmarkers_b, preceding[0]
    characters, markers = names(cmaps[0], maps['char_map']), cmarkers[0].tolist()
    ax = paper(470, 172)
    places = [15 + 23.6 * i + (7 if i == 18 else 0) for i in range(len(characters))]
    for i, (character, x) in enumerate(zip(characters, places)):
        marked = i in markers
        box(ax, x, 124, 21 if character != '<end>' else 32, 20, character, 'char',
            size=10 if len(character) == 1 else 8.5, weight='bold' if marked else 'normal')
        write(ax, x, 146, str(i), size=8.5, color=INK if marked else PALE,
              weight='bold' if marked else 'normal')
        arrow(ax, (x, 113), (x, 100))
        box(ax, x, 90, 16, 16, '', direction)
        if i + 1 < len(characters):
            arrow(ax, (x + 8, 90), (places[i + 1] - 8, 90), direction)
    for word, marker, target in zip(WORDS + ['<end>'], markers, targets):
        # Nothing is predicted at <end>
        if target >= 0:
            x = places[marker]
            write(ax, x, 22, f'after {word}', size=9)
            box(ax, x, 43, 56, 18, names(target[None], maps['word_map'])[0], direction, size=9.5)
            arrow(ax, (x, 82), (x, 54), direction)
    write(ax, 10, 164, f'markers, in the order of the words: {markers}', size=9, ha='left')
    return ax


def forward_lstm():
    """See char_lstm."""
    return char_lstm('forward')


def backward_lstm():
    """See char_lstm."""
    return char_lstm('backward')


def features():
    """What meets at each word."""
    ax = paper(460, 196)
    batch, _ = example()
    for i, word in enumerate(WORDS + ['<end>']):
        x = 62 + 112 * i
        box(ax, x, 172, 96, 22, word, 'word', weight='bold')
        box(ax, x, 138, 96, 20, 'word embedding', 'word', size=9)
        box(ax, x, 114, 96, 20, f'forward, at {batch.cmarkers_f[0, i]}', 'forward', size=9)
        box(ax, x, 90, 96, 20, f'backward, at {batch.cmarkers_b[0, i]}', 'backward', size=9)
        arrow(ax, (x, 79), (x, 53), 'word')
        box(ax, x, 40, 96, 24, 'word BiLSTM', 'word')
        if i < 3:
            arrow(ax, (x + 48, 36), (x + 64, 36), 'word')
            arrow(ax, (x + 64, 44), (x + 48, 44), 'word')
        arrow(ax, (x, 27), (x, 8), 'tag')
    return ax


def highway():
    """A gate says how much is transformed and how much passes."""
    torch.manual_seed(1)
    layer = Highway(4)
    x = torch.tensor([[0.9, -0.6, 0.2, 1.4]])
    gate = torch.sigmoid(layer.gate[0](x))
    transformed = torch.relu(layer.transform[0](x))
    ax = paper(460, 206)
    cells = {'cell': (40, 18)}

    def row(x0, y0, title, value, kind):
        matrix(ax, x0, y0, value.detach(), **cells, kinds={(0, j): kind for j in range(4)})
        write(ax, x0 + 80, y0 - 9, title, size=9.5)

    row(20, 104, 'input x', x, 'plain')
    row(270, 30, 't(x): a linear layer, then ReLU', transformed, 'highway')
    row(270, 104, 'g: a linear layer, then sigmoid', gate, 'gold')
    row(270, 178, 'g · t(x) + (1 − g) · x', layer(x), 'word')
    arrow(ax, (184, 106), (264, 42), 'highway', bend=-0.15)
    arrow(ax, (184, 113), (264, 113), 'gold')
    arrow(ax, (184, 120), (264, 187), bend=0.15)
    write(ax, 178, 168, 'the input passes', size=9)
    arrow(ax, (436, 50), (436, 172), 'highway', bend=-0.35)
    arrow(ax, (350, 124), (350, 158), 'gold')
    return ax


def model():
    """All of it."""
    ax = paper(460, 330)
    for x, kind, title in ((110, 'forward', 'forward'), (350, 'backward', 'backward')):
        box(ax, x, 308, 150, 22, 'character embeddings', 'char', size=9.5)
        arrow(ax, (x, 296), (x, 281))
        box(ax, x, 268, 150, 24, f'{title} character LSTM', kind, size=9.5)
        arrow(ax, (x, 255), (x, 235), kind)
        write(ax, x + 7, 245, 'gather at the markers', size=8.5, ha='left', color=PALE)
    for x, kind in ((56, 'forward'), (404, 'backward')):
        source = 110 if kind == 'forward' else 350
        ax.plot((x, source), (233, 233), color=COLORS[kind][1], linewidth=1.1)
        arrow(ax, (x, 233), (x, 193), kind)
        box(ax, x, 181, 88, 22, 'highway', 'highway')
        arrow(ax, (x, 169), (x, 131), kind)
        box(ax, x, 118, 88, 24, 'linear', kind)
        arrow(ax, (x, 105), (x, 73), kind)
        write(ax, x, 58, 'the next word' if kind == 'forward' else 'the word before', size=9.5)
        write(ax, x, 44, '(in training)', PALE, 8.5)
        arrow(ax, (source, 233), (230 + (source - 230) * 0.25, 193), kind)
    box(ax, 230, 181, 96, 22, 'highway', 'highway')
    box(ax, 320, 144, 96, 22, 'word embedding', 'word', size=9)
    arrow(ax, (230, 169), (230, 131))
    arrow(ax, (271, 141), (243, 131), 'word')
    box(ax, 230, 118, 120, 24, 'word BiLSTM', 'word')
    arrow(ax, (230, 105), (230, 89), 'word')
    box(ax, 230, 76, 120, 24, 'CRF', 'tag', weight='bold')
    arrow(ax, (230, 63), (230, 44), 'tag')
    write(ax, 230, 32, 'scores of each tag after each tag', size=9.5)
    return ax


def configurations():
    """The full model, and what is left of it in the configurations (a), (b) and (c)."""
    ax = paper(460, 208)
    layers = (('language models', 'forward'), ('character LSTMs', 'char'),
              ('word embeddings', 'word'), ('word BiLSTM', 'word'), ('transition scores', 'tag'))
    for i, (title, missing) in enumerate((('full', 0), ('(a)', 1), ('(b)', 2), ('(c)', 3))):
        x = 62 + 112 * i
        write(ax, x, 18, title, weight='bold', size=11)
        for j, (layer, kind) in enumerate(layers):
            gone = j < min(missing, 2) or (j == 4 and missing == 3)
            y = 46 + 27 * j
            if gone:
                ax.add_patch(Rectangle((x - 51, y - 11), 102, 22, linewidth=0.8, facecolor=PAPER,
                                       edgecolor=PALE, linestyle=(0, (2, 3))))
            else:
                box(ax, x, y, 102, 22, layer, kind, size=9)
    texts = ('LM-LSTM-CRF', 'BiLSTM-CRF\nwith characters', 'BiLSTM-CRF', 'BiLSTM')
    for i, text in enumerate(texts):
        write(ax, 62 + 112 * i, 186, text, size=9.5)
    return ax


# --- Pictures of the scores ---

TITLES = ['dunston', 'checks', 'in', '<end>']
SHORT = list(TAG_MAP)


def scores():
    """Emission scores, broadcast, and transition scores add up to the CRF's scores."""
    torch.manual_seed(3)
    crf = CRF(8, 5)
    word = torch.randn(1, 1, 8)
    torch.nn.init.normal_(crf.transition)
    ax = paper(470, 344)
    with torch.no_grad():
        emission, result = crf.emission(word)[0], crf(word)[0, 0]
        write(ax, 137, 18, 'emission scores of one word', size=9.5)
        matrix(ax, 52, 44, emission, columns=SHORT, kinds={(0, j): 'word' for j in range(5)})
        write(ax, 137, 78, '… are the same after any tag', size=9.5)
        matrix(ax, 52, 104, emission.expand(5, 5), SHORT, SHORT, pale=lambda i, j: i > 0)
        write(ax, 238, 146, '+', size=16)
        write(ax, 367, 78, 'transition scores, the same at any word', size=9.5)
        matrix(ax, 282, 104, crf.transition, SHORT, SHORT)
        write(ax, 137, 218, '= a score for each tag after each tag', size=9.5)
        matrix(ax, 52, 244, result, SHORT, SHORT, kinds={(1, 2): 'gold'})
        write(ax, 264, 268, 'rows: the tag before', size=9.5, ha='left')
        write(ax, 264, 286, 'columns: the tag of this word', size=9.5, ha='left')
        write(ax, 264, 304, f'tag_2 after tag_1: {emission[0, 2]:.2f} + '
              f'{crf.transition[1, 2]:.2f} = {result[1, 2]:.2f}', size=9.5, ha='left')
    return ax


def gold_path():
    """The CRF scores of the example, those of the gold tags among them, and their sum."""
    tags = [TAG_MAP[tag] for tag in ['<start>', *TAGS, '<end>']]
    ax = paper(470, 308)
    for t, pair in enumerate(zip(tags, tags[1:])):
        x, y = (52, 282)[t % 2], (44, 176)[t // 2]
        write(ax, x + 85, y - 26, TITLES[t], size=10.5, weight='bold')
        matrix(ax, x, y, SCORES[0, t], SHORT, SHORT, kinds={pair: 'gold'})
    values = [SCORES[0, t, i, j].item() for t, (i, j) in enumerate(zip(tags, tags[1:]))]
    write(ax, 235, 290, ' + '.join(f'{value:.2f}' for value in values) + f' = {sum(values):.2f}',
          weight='bold')
    return ax


def steps():
    """The cumulative scores before and after each word, and the backpointers.

    Nothing is masked, as in the pictures of 2018.
    """
    cumulative, backpointers = ViterbiDecoder(TAG_MAP).trellis(SCORES, LENGTHS)
    return list(zip([None, *cumulative], cumulative, backpointers))


def outside(t):
    """Cells that our decoder rules out at word t: <start> and <end> within the sentence."""
    def pale(i, j):
        current = j != TAG_MAP['<end>'] if t == 3 else j in (TAG_MAP['<start>'], TAG_MAP['<end>'])
        before = i != 0 if t == 0 else i in (TAG_MAP['<start>'], TAG_MAP['<end>'])
        return current or before
    return pale


def cumulative_row(ax, x, y, t, title):
    """The cumulative scores after word t, with their backpointers below."""
    _, cumulative, backpointers = steps()[t]
    write(ax, x + 85, y - 26, title, size=9.5)
    best = backpointers[0]
    kinds = {(0, j): 'tag' for j in range(5) if not outside(t)(1 if t else 0, j)}
    matrix(ax, x, y, cumulative, columns=SHORT, kinds=kinds, pale=lambda i, j: (0, j) not in kinds)
    for j in range(5):
        write(ax, x + 34 * (j + 0.5), y + 27, SHORT[best[j]], size=8,
              color=INK if (0, j) in kinds else PALE)
    write(ax, x - 4, y + 27, 'from', size=8, ha='right')


def viterbi_1():
    """The first word: only the row of <start> counts."""
    ax = paper(470, 168)
    write(ax, 137, 18, 'scores of dunston', size=9.5)
    matrix(ax, 52, 44, SCORES[0, 0], SHORT, SHORT, kinds={(0, j): 'tag' for j in range(1, 4)},
           pale=lambda i, j: i > 0 or j in (0, 4))
    arrow(ax, (232, 52), (288, 70))
    cumulative_row(ax, 294, 70, 0, 'cumulative scores')
    return ax


def viterbi_step(t):
    """A later word: broadcast, add, and keep the maximum of each column."""
    previous, cumulative, backpointers = steps()[t]
    ax = paper(470, 318)
    write(ax, 126, 18, 'cumulative scores so far, broadcast', size=9.5)
    matrix(ax, 52, 44, previous.t().expand(5, 5), SHORT, SHORT, pale=outside(t))
    write(ax, 238, 86, '+', size=16)
    write(ax, 367, 18, f'scores of {TITLES[t]}', size=9.5)
    matrix(ax, 282, 44, SCORES[0, t], SHORT, SHORT, pale=outside(t))
    write(ax, 137, 160, '= scores of all sequences that are one word longer', size=9.5)
    kinds = {(backpointers[0, j].item(), j): 'gold' for j in range(5)
             if not outside(t)(1, j)}
    matrix(ax, 52, 184, previous.t() + SCORES[0, t], SHORT, SHORT, kinds=kinds, pale=outside(t))
    arrow(ax, (232, 226), (288, 226))
    write(ax, 260, 214, 'max', size=8.5)
    cumulative_row(ax, 294, 222, t, 'the best of each column')
    write(ax, 235, 300, 'pale: what our decoder rules out, <start> and <end> inside the sentence'
          if t < 3 else 'pale: what does not count at <end>', PALE, 8.5)
    return ax


def viterbi_2():
    """See viterbi_step."""
    return viterbi_step(1)


def viterbi_3():
    """See viterbi_step."""
    return viterbi_step(2)


def viterbi_4():
    """<end>: only its column counts."""
    return viterbi_step(3)


def viterbi_5():
    """Tracing back: each word's tags with their cumulative scores, and the best path."""
    decoded = ViterbiDecoder(TAG_MAP).decode(SCORES, LENGTHS)[0].tolist()
    path = [TAG_MAP['<start>'], *decoded]
    all_steps = steps()
    ax = paper(470, 214)
    xs = [44 + 96 * t for t in range(5)]

    def place(t, tag):
        return (xs[t], 106 if t in (0, 4) else 58 + 48 * (tag - 1))

    for t in range(1, 5):
        _, _, backpointers = all_steps[t - 1]
        for tag in (range(1, 4) if t < 4 else (4,)):
            before = backpointers[0, tag].item()
            on_path = path[t] == tag and path[t - 1] == before
            (x1, y1), (x0, y0) = place(t, tag), place(t - 1, before)
            arrow(ax, (x1 - 32, y1), (x0 + 32, y0), 'gold' if on_path else 'plain',
                  width=2.2 if on_path else 0.9)
    for t, title in enumerate(['', *TITLES]):
        write(ax, xs[t], 20, title, size=10.5, weight='bold')
        for tag in ((0,) if t == 0 else (4,) if t == 4 else range(1, 4)):
            x, y = place(t, tag)
            on_path = path[t] == tag
            best = t and tag == all_steps[t - 1][1][0, 1:4].argmax().item() + 1 and t < 4
            text = SHORT[tag] + (f'\n{all_steps[t - 1][1][0, tag]:.2f}' if t else '')
            box(ax, x, y, 64, 30, text, 'gold' if on_path else 'tag' if best else 'plain', size=9)
    write(ax, 235, 198, 'green: the leader at that word, not on the best path', size=9)
    return ax


# --- Pictures of the data ---

def packing():
    """Sorted rows, packed column by column, and the effective batch sizes."""
    words, _ = read_words_tags(SAMPLE / 'train.txt', 3, caseless=False)
    short = [sentence for sentence in words if max(map(len, sentence)) < 9]
    sentences = [next(s for s in short if len(s) == length) for length in (8, 6, 5, 4)]
    lengths = torch.tensor([len(s) for s in sentences])
    packed = pack_padded_sequence(torch.zeros(4, 8, 1), lengths, batch_first=True)
    ax = paper(460, 176)
    for i, sentence in enumerate(sentences):
        for t in range(8):
            inside = t < len(sentence)
            box(ax, 36 + 55.5 * t, 30 + 28 * i, 48, 20, sentence[t] if inside else '',
                'word' if inside else 'plain', size=8.5)
    for t, size in enumerate(packed.batch_sizes.tolist()):
        ax.add_patch(FancyBboxPatch((9 + 55.5 * t, 16), 54, 28 * size, linewidth=1.2,
                                    boxstyle='round,pad=0,rounding_size=4', facecolor='none',
                                    edgecolor=COLORS['tag'][1]))
        write(ax, 36 + 55.5 * t, 142, str(size), weight='bold')
    write(ax, 230, 162, 'effective batch size at each step', size=9.5)
    return ax


def padding():
    """Ten sentences at random and ten of similar length: the typical batches of an epoch."""
    words, tags = read_words_tags(SAMPLE / 'train.txt', 3, caseless=False)
    maps = create_maps(words, tags, 5, 2)
    batch = create_input_tensors(words, None, *maps)
    w_lengths, c_lengths = batch.wmap_lengths, batch.cmap_lengths
    ax = paper(460, 170)
    for x, title, sorted_by in (
            (14, 'random batches', [torch.zeros_like(w_lengths)] * 2),
            (240, 'batches of similar length', (w_lengths, c_lengths))):
        batches = [c_lengths[rows].sort(descending=True).values
                   for rows in SimilarLengthSampler(*sorted_by, 10)]
        read, wasted = (sum(int(f(batch)) for batch in batches) for f in (
            lambda batch: len(batch) * batch[0], lambda batch: (batch[0] - batch).sum()))
        typical = min(batches, key=lambda batch: (
            abs(1 - batch.sum() / (len(batch) * batch[0]) - wasted / read).item()))
        for i, length in enumerate(typical.tolist()):
            for width, kind in ((typical[0].item(), 'plain'), (length, 'char')):
                ax.add_patch(Rectangle((x, 30 + 11 * i), width * 206 / typical[0].item(), 9,
                                       linewidth=0.6, facecolor=COLORS[kind][0],
                                       edgecolor=COLORS[kind][1]))
        write(ax, x, 16, title, ha='left', weight='bold')
        write(ax, x, 153, f'in an epoch, {wasted / read:.0%} of the characters are pads', size=9.5,
              ha='left')
    return ax


# --- Pictures of a run ---

def chart(ax, title, across, up, columns):
    """Make a chart look like the other pictures; the legend, in columns, is below it."""
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(across, fontsize=9)
    ax.set_ylabel(up, fontsize=9)
    ax.tick_params(labelsize=8.5)
    ax.legend(fontsize=8, frameon=False, ncols=columns, loc='upper center',
              bbox_to_anchor=(0.5, -0.2), handlelength=1.6, columnspacing=1.2)
    ax.grid(color=COLORS['plain'][0])
    ax.spines[['top', 'right']].set_visible(False)


def mark(ax, x, label):
    """A line at what was chosen, over the grid and under the curves."""
    ax.axvline(x, color=INK, linewidth=0.9, linestyle='--', label=label, zorder=1.7)


def learning(run):
    """The losses and scores of all epochs."""
    figure, axes = plt.subplots(1, 2, figsize=(460 / 72, 235 / 72))
    log, best = run['log'], run['best_epoch']
    losses = (('viterbi_loss', 'tag', 'Viterbi, training'),
              ('val_viterbi_loss', 'gold', 'Viterbi, validation'),
              ('lm_loss', 'forward', 'both LMs, training'))
    scores = (('entity_f1', 'tag', 'entity F1'), ('macro_f1', 'word', 'macro F1'),
              ('accuracy', 'char', 'accuracy'))
    for ax, lines in zip(axes, (losses, scores)):
        for name, kind, label in lines:
            if name in log[0]:
                ax.plot([row['epoch'] for row in log], [row[name] for row in log], marker='.',
                        markersize=3, color=COLORS[kind][1], label=label)
        mark(ax, best, f'best epoch: {best}')
        ax.set(xlim=(-0.5, len(log) - 0.5), ylim=0)
        ax.locator_params('x', integer=True, min_n_ticks=1)
    axes[1].set_ylim(0, 1)
    chart(axes[0], 'losses', 'epoch', 'loss', columns=2)
    chart(axes[1], 'validation scores', 'epoch', 'score', columns=2)
    figure.subplots_adjust(0.1, 0.31, 0.98, 0.91, 0.25)
    return axes[0]


def transitions(run):
    """The transition scores that the CRF has learned: blue is above zero, red below."""
    tags, values = run['tags'], torch.tensor(run['transition'])
    room = 16 + 6 * max(map(len, tags))
    size = min(19, (460 - room) / len(tags))
    left, top = (470 + room - size * len(tags)) / 2, room + 20
    # Without a CRF all scores are zero
    most = values.abs().max().item() or 1

    def color(value):
        # By the root, since most scores are far smaller than the largest
        return shade((abs(value) / most) ** 0.5, 'word' if value > 0 else 'highway')

    ax = paper(470, top + size * len(tags) + 40)
    write(ax, 235, 14, 'transition scores; rows: the tag before, columns: the tag of this word',
          size=9)
    for i, tag in enumerate(tags):
        middle = size * (i + 0.5)
        write(ax, left - 6, top + middle, tag, size=min(8.5, size), ha='right')
        write(ax, left + middle, top - 6, tag, size=min(8.5, size), rotation=90, va='bottom')
        for j, value in enumerate(values[i].tolist()):
            ax.add_patch(Rectangle((left + size * j, top + size * i), size, size,
                                   facecolor=color(value), edgecolor=PAPER, linewidth=0.5))
    bottom = top + size * len(tags) + 20
    for i, value in enumerate((-most, -most / 4, 0, most / 4, most)):
        ax.add_patch(Rectangle((72 + 68 * i, bottom - 6), 12, 12, facecolor=color(value),
                               edgecolor=PALE, linewidth=0.5))
        write(ax, 88 + 68 * i, bottom, f'{value:+.2f}' if value else '0', size=9, ha='left')
    return ax


def thresholds(run):
    """Precision, recall and F1 of the entities that are believed at each threshold."""
    figure, ax = plt.subplots(figsize=(460 / 72, 235 / 72))
    at, *scores = zip(*run['thresholds'])
    for name, kind, values in zip(('precision', 'recall', 'F1'), ('word', 'char', 'tag'), scores):
        ax.plot(at, values, marker='.', markersize=4, color=COLORS[kind][1], label=name)
    if run['threshold'] is not None:
        mark(ax, run['threshold'], f"the run's threshold: {run['threshold']:.2f}")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    chart(ax, 'validation scores of the entities believed at each threshold', 'threshold',
          'score', columns=4)
    figure.subplots_adjust(0.1, 0.26, 0.97, 0.91)
    return ax


def calibration(run):
    """Whether as many candidates are right as their probabilities say."""
    figure, ax = plt.subplots(figsize=(460 / 72, 275 / 72))
    ranges = [(mean, right / number, number) for number, mean, right in run['calibration']
              if number > 0]
    ax.plot([mean for mean, _, _ in ranges], [share for _, share, _ in ranges], 'o', markersize=5,
            color=COLORS['tag'][1], label='candidates of a range of 0.1, and their number')
    ax.plot((0, 1), (0, 1), color=PALE, linewidth=0.9, linestyle='--',
            label='as the model expects')
    for mean, share, number in ranges:
        # Away from the diagonal
        ax.annotate(number, (mean, share), (0, 10 if share > mean else -10), ha='center',
                    va='center', fontsize=8.5, textcoords='offset points')
    ax.set(xlim=(0, 1.05), ylim=(-0.1, 1.1), yticks=[step / 5 for step in range(6)])
    chart(ax, "calibration: how many of the validation file's candidates are right",
          'mean probability', 'share that is right', columns=2)
    figure.subplots_adjust(0.1, 0.23, 0.97, 0.92)
    return ax


RUN_PICTURES = (learning, transitions, thresholds, calibration)


# --- Pictures of what the sample's model tags ---

def marginals():
    """The probability of each tag of each word of an ambiguous sentence."""
    record = recorded()['ambiguous']
    tokens, tags, values = record['tokens'], record['tags'], torch.tensor(record['marginals'])
    ax = paper(460, 44 + 22 * len(tags))
    step = min(380 / len(tokens), 70)
    for i, token in enumerate(tokens):
        x = 62 + step * (i + 0.5)
        write(ax, x, 18, token, weight='bold', size=9.5)
        for j, value in enumerate(values[i].tolist()):
            ax.add_patch(Rectangle((x - step / 2, 32 + 22 * j), step - 2, 20, linewidth=0,
                                   facecolor=shade(value * 0.8, 'tag')))
            if value >= 0.005:
                write(ax, x, 42 + 22 * j, f'{value:.2f}', size=8.5)
    for j, tag in enumerate(tags):
        write(ax, 56, 42 + 22 * j, tag, size=9, ha='right')
    return ax


PICTURES = (task, framework, multitask, forward_lstm, backward_lstm, features, highway, model,
            configurations, scores, gold_path, viterbi_1, viterbi_2, viterbi_3,
            viterbi_4, viterbi_5, packing, padding, marginals)


# --- Recording and drawing ---

TASK = 'Amara Okafor flew from Lagos to Oslo on Friday .'.split()
AMBIGUOUS = 'Jordan flew from Paris to Jordan .'.split()


def rounded(rows, digits):
    """Numbers as they are written down."""
    return [[round(value, digits) for value in row] for row in rows]


def read_run(folder):
    """What the pictures of a run show, from its folder: a dict."""
    path, log_path = Path(folder) / BEST_CHECKPOINT, Path(folder) / LOG
    tagger, best = load_tagger(path), load_checkpoint(path, 'cpu')
    # Without language models their loss is 0 in every epoch
    left_out = {'seconds'} if tagger.arguments['language_models'] else {'seconds', 'lm_loss'}
    with file_errors(log_path), open(log_path, newline='') as file:
        # As JSON, since float would make the epochs 0.0, 1.0, 2.0
        log = [{name: round(json.loads(value), 4) for name, value in row.items()
                if name not in left_out} for row in csv.DictReader(file)]
    if len(log) < best['epoch']:
        raise InputError(f'{log_path}: expected {best["epoch"]} epochs or more, found {len(log)}')
    run = {'log': log, 'best_epoch': best['epoch'] - 1, 'threshold': tagger.threshold,
           'tags': list(tagger.maps['tag_map']),
           'transition': rounded(tagger.model.crf.transition.tolist(), 3)}
    if tagger.task == 'ner':
        _, tagged = tag_labeled(tagger, tagger.arguments['val_file'])
        run['thresholds'] = rounded(score_thresholds(tagged), 4)
        run['calibration'] = rounded(score_ranges(judge(tagged)), 4)
    return run


def draw_run(folder):
    """Draw the pictures of a run into its folder."""
    run, pictures = read_run(folder), RUN_PICTURES
    if 'thresholds' not in run:
        print('only entities have thresholds and candidates to draw, not parts of speech')
        pictures = (learning, transitions)
    draw(folder, pictures, run)


def record(folder):
    """Write what the README's pictures of a run show to run.json."""
    run, tagger = read_run(folder), load_tagger(Path(folder) / BEST_CHECKPOINT)
    tags, tag_map = run['tags'], tagger.maps['tag_map']
    task_tags = next(tagger.tag([TASK]))['tags']
    scores, lengths = tagger.score([AMBIGUOUS])
    # The last row is that of <end>
    marginals = tagger.decoder.marginals(scores, lengths)[0, :-1]
    shown = [tag for tag in tags if marginals[:, tag_map[tag]].max() >= 0.02]
    shown_marginals = marginals[:, [tag_map[tag] for tag in shown]]
    run['tagged'] = {'tokens': TASK, 'entities': [
        {'type': name, 'tokens': [first, end]} for name, first, end in find_entities(task_tags)]}
    run['ambiguous'] = {'tokens': AMBIGUOUS, 'tags': shown,
                        'marginals': rounded(shown_marginals.tolist(), 3)}
    (HERE / 'run.json').write_text(json.dumps(run, ensure_ascii=False, indent=1) + '\n',
                                   encoding='utf-8')


def draw(folder, pictures, *run):
    """Draw pictures into a folder; the same files, byte for byte, each time."""
    for picture in pictures:
        path, figure = Path(folder) / f'{picture.__name__}.svg', picture(*run).figure
        figure.savefig(path, metadata={'Date': None})
        plt.close(figure)
        print(path)


def main(argv):
    """Draw or record."""
    parser = ArgumentParser(description="Draw the README's pictures, or those of a run.")
    add = parser.add_mutually_exclusive_group().add_argument
    add('--run', metavar='FOLDER', help="draw the run in train.py's --output_dir, into it")
    add('--record', metavar='FOLDER', help='write img/run.json anew, from a run')
    add('--folder', default=HERE, help="where the README's pictures go (default: here)")
    args = parser.parse_args(argv)
    if args.run:
        draw_run(args.run)
    elif args.record:
        record(args.record)
    else:
        draw(args.folder, PICTURES)
        draw(args.folder, RUN_PICTURES, recorded())


if __name__ == '__main__':
    run_main(main)
