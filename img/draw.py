"""Draw the README's pictures from the code's own tensors.

    python img/draw.py                  all of them, into this folder
    python img/draw.py --run FOLDER     those of a run of train.py, into its folder
    python img/draw.py --record FOLDER  img/run.json, what the README's pictures of a run show

Lengths are in points, y grows downwards. COLORS mean the same things in all pictures. Not drawn but
taken is page.png, a screenshot of inference.py's page, 720 pixels wide.
"""

import csv
import io
import json
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import matplotlib
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / 'tests')]

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from worked_example import (  # noqa: E402
    EMISSIONS, FILM_SCORES, FILM_TAG_MAP, FILM_TAGS, LENGTHS, TRANSITIONS, WORDS)

from datasets import SimilarLengthSampler  # noqa: E402
from inference import (  # noqa: E402
    ViterbiDecoder, judge, load_tagger, score_ranges, score_thresholds, tag_labeled)
from models import Highway, lm_targets  # noqa: E402
from train import (  # noqa: E402
    BEST_CHECKPOINT, LOG, SAMPLE, finish, list_files, parse_arguments)
from utils import (  # noqa: E402
    ArgumentParser, InputError, create_input_tensors, create_maps, file_errors, find_entities,
    load_checkpoint, read_corpus, read_words_tags, run_main)

# Fill and edge of what the pictures show
COLORS = {
    'word': ('#dbe9f8', '#2f6db5'),        # words, their embeddings, the word BiLSTM
    'char': ('#fdebcd', '#c77d0a'),        # characters
    'forward': ('#d3efe8', '#14806a'),     # the forward character LSTM and language model
    'backward': ('#e9e0f5', '#7a4fb0'),    # the backward ones
    'tag': ('#dff0d3', '#4c8a1f'),         # tags, the CRF
    'highway': ('#f6d9dd', '#b83a4b'),     # highway networks
    'plain': ('#f0efeb', '#77736a'),       # pads, <start>, what is no layer
    'gold': ('#ffe08a', '#a87900'),        # the gold or the best sequence
    'pale': ('#fcfbf8', '#a09b90'),        # what is not looked at
}
INK, PAPER, PALE = '#24221d', *COLORS['pale']
plt.rcParams.update({
    'svg.hashsalt': 'lm-lstm-crf', 'svg.fonttype': 'none', 'font.family': 'sans-serif',
    'font.sans-serif': ['DejaVu Sans', 'Verdana', 'sans-serif'], 'font.size': 10,
    'text.color': INK, 'axes.labelcolor': INK, 'xtick.color': INK, 'ytick.color': INK,
    'axes.edgecolor': PALE, 'axes.facecolor': PAPER,
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
    # A tag may well have a $, which begins no formula
    ax.text(x, y, text, color=color, fontsize=size, ha=ha, va=va, parse_math=False, **style)


def box(ax, x, y, width, height, text='', kind='plain', size=10, **style):
    """A box around (x, y) with text in it, in the color of what it stands for."""
    fill, edge = COLORS[kind]
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, linewidth=1,
                                boxstyle='round,pad=0,rounding_size=3', facecolor=fill,
                                edgecolor=edge))
    write(ax, x, y, text, size=size, **style)


def arrow(ax, start, end, kind=None, width=1.1, head='-|>'):
    """An arrow from point to point."""
    ax.add_patch(FancyArrowPatch(
        start, end, arrowstyle=head, mutation_scale=8, linewidth=width, shrinkA=0, shrinkB=0,
        color=COLORS[kind][1] if kind else INK))


def matrix(ax, x, y, values, rows=(), columns=(), cell=(34, 17), kinds=None):
    """A matrix whose first cell has its upper left corner at (x, y).

    Args:
        values: (rows, columns).
        rows, columns: names that stand to the left and above.
        kinds: for a cell (i, j), the color of its fill; others have none.
    """
    width, height = cell
    for i, row in enumerate(torch.as_tensor(values).tolist()):
        for j, value in enumerate(row):
            kind = (kinds or {}).get((i, j))
            fill = COLORS[kind][0] if kind else PAPER
            ax.add_patch(Rectangle((x + j * width, y + i * height), width, height, linewidth=0.6,
                                   facecolor=fill, edgecolor=PALE))
            write(ax, x + (j + 0.5) * width, y + (i + 0.5) * height, f'{round(value, 2):g}',
                  size=8.5, weight='bold' if kind == 'gold' else 'normal')
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

# B, I and O are short for B-FILM, I-FILM and O
SHORT = [tag.removesuffix('-FILM') for tag in FILM_TAG_MAP]
START, END = FILM_TAG_MAP['<start>'], FILM_TAG_MAP['<end>']
TITLES = [*WORDS, '<end>']


def example():
    """The Batch of `dunston checks in`, and the maps."""
    words, tags = [WORDS], [FILM_TAGS]
    word_map, char_map, _ = create_maps(words, tags, min_word_freq=1)
    maps = {'word_map': word_map, 'char_map': char_map, 'tag_map': FILM_TAG_MAP}
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
        width = 6.2 * len(token) + 7
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
    """Three tasks share the character LSTMs; what has been read at `checks`."""
    batch, maps = example()
    following, preceding = (
        names(targets[0, 1:2], maps['word_map'])[0]
        for targets in lm_targets(batch.wmaps, batch.wmap_lengths, len(maps['word_map'])))
    ax = paper(460, 250)
    for x, kind, cmaps, marker, side, title, word in (
            (115, 'forward', batch.cmaps_f, batch.cmarkers_f, 62, 'next word', following),
            (345, 'backward', batch.cmaps_b, batch.cmarkers_b, 398, 'word before', preceding)):
        read = names(cmaps[0, :marker[0, 1] + 1], maps['char_map'])
        box(ax, x, 224, 206, 24, ' '.join(read), 'char')
        arrow(ax, (x, 211), (x, 191))
        box(ax, x, 177, 206, 26, f'{kind} character LSTM', kind)
        arrow(ax, (side, 163), (side, 134), kind)
        box(ax, side, 121, 108, 24, 'language model', kind, size=9.5)
        arrow(ax, (side, 108), (side, 82), kind)
        write(ax, side, 70, word, weight='bold')
        write(ax, side, 50, f'the {title}', size=9.5)
        arrow(ax, (230 + (x - 230) * 0.45, 163), (230 + (x - 230) * 0.17, 134), kind)
    box(ax, 230, 121, 136, 24, 'word BiLSTM and CRF', 'tag', size=9.5)
    arrow(ax, (230, 108), (230, 82), 'tag')
    write(ax, 230, 70, ' '.join(FILM_TAGS), size=9, weight='bold')
    write(ax, 230, 50, 'the tags of all words', size=9.5)
    write(ax, 230, 20, 'what the LSTMs have read at "checks", and what is predicted', size=9.5)
    return ax


def multitask():
    """The losses are added up; which of their gradients change which layers."""
    ax = paper(460, 312)
    box(ax, 230, 26, 428, 26, 'loss = the sum of the three', weight='bold')
    for x, kind, title, layers in (
            (78, 'forward', 'forward LM loss', 'its highway,\nlinear layer'),
            (230, 'tag', 'Viterbi loss', 'highway, word vectors,\nBiLSTM, CRF'),
            (382, 'backward', 'backward LM loss', 'its highway,\nlinear layer')):
        arrow(ax, (x, 40), (x, 69), kind)
        box(ax, x, 82, 124, 24, title, kind, weight='bold', size=9.5)
        arrow(ax, (x, 95), (x, 121), kind)
        box(ax, x, 139, 124, 34, layers, kind, size=9.5)
    for x, side, kind in ((112, 78, 'forward'), (348, 382, 'backward')):
        arrow(ax, (side, 157), (side, 189), kind)
        arrow(ax, (230 + (x - 230) * 0.25, 157), (230 + (x - 230) * 0.7, 189), 'tag')
        box(ax, x, 207, 192, 34, f'{kind} character LSTM:\nchanged by {kind} LM and Viterbi',
            kind, size=9.5)
        arrow(ax, (x - 7, 225), (x - 7, 253), kind)
        arrow(ax, (x + 7, 225), (x + 7, 253), 'tag')
    box(ax, 230, 267, 428, 26, 'character embeddings: changed by all three', 'char', size=9.5)
    write(ax, 230, 298, 'arrows: gradients, in the color of the loss that they come from', size=9)
    return ax


def char_lstm(direction):
    """A character LSTM over the sentence, what it has read at its markers, and predicts there."""
    batch, maps = example()
    targets = lm_targets(batch.wmaps, batch.wmap_lengths, len(maps['word_map']))
    cmaps, cmarkers, targets = {
        'forward': (batch.cmaps_f, batch.cmarkers_f, targets[0][0]),
        'backward': (batch.cmaps_b, batch.cmarkers_b, targets[1][0])}[direction]
    characters, markers = names(cmaps[0], maps['char_map']), cmarkers[0].tolist()
    ax = paper(460, 284)
    write(ax, 6, 13, 'reads the text, predicts the next word' if direction == 'forward'
          else 'reads the reversed text, predicts the word before', size=9.5, ha='left')
    places = [14 + 23.3 * i + (6 if i == 18 else 0) for i in range(len(characters))]
    for i, (character, x) in enumerate(zip(characters, places)):
        marked = i in markers
        box(ax, x, 111, 21 if character != '<end>' else 33, 20, character, 'char',
            size=10 if len(character) == 1 else 8, weight='bold' if marked else 'normal')
        write(ax, x, 151, str(i), size=8.5, weight='bold' if marked else 'normal')
        arrow(ax, (x, 100), (x, 87))
        box(ax, x, 77, 16, 16, '', direction)
        if i + 1 < len(characters):
            arrow(ax, (x + 8, 77), (places[i + 1] - 8, 77), direction)
    for i, (word, marker, target) in enumerate(zip(TITLES, markers, targets)):
        x, y = places[marker], 172 + 24 * i
        # Nothing is predicted at <end>
        if target >= 0:
            box(ax, x, 34, 54, 18, names(target[None], maps['word_map'])[0], direction, size=9.5)
            arrow(ax, (x, 69), (x, 45), direction)
            text = f'{word} →' if direction == 'forward' else f'← {word}'
            width = 23.3 * len(word)
            box(ax, x - 11.7 - width / 2, 131, width - 3, 14, text, 'word', size=8.5)
        right, read = x + (10 if marker < 18 else 16), ''.join(characters[:marker + 1])
        box(ax, (right + 4) / 2, y, right - 4, 18, '', direction)
        text = f'{word}: {marker}, the state after "{read}"'
        write(ax, 11 if right > 190 else right + 6, y, text, size=9, ha='left')
    write(ax, 6, 270, f'markers, in the order of the words: {markers};  ␣ is a space', size=9.5,
          ha='left')
    return ax


def features():
    """What meets at each word."""
    ax = paper(460, 254)
    batch, _ = example()
    for i, word in enumerate(TITLES):
        x = 62 + 112 * i
        box(ax, x, 214, 96, 22, word, 'word', weight='bold')
        box(ax, x, 182, 96, 20, f'forward, at {batch.cmarkers_f[0, i]}', 'forward', size=9)
        box(ax, x, 160, 96, 20, f'backward, at {batch.cmarkers_b[0, i]}', 'backward', size=9)
        arrow(ax, (x, 149), (x, 133), 'highway')
        box(ax, x, 122, 96, 20, 'highway', 'highway', size=9)
        box(ax, x, 100, 96, 20, 'word embedding', 'word', size=9)
        arrow(ax, (x, 89), (x, 53), 'word')
        box(ax, x, 40, 96, 24, 'word BiLSTM', 'word')
        if i < 3:
            arrow(ax, (x + 48, 36), (x + 64, 36), 'word')
            arrow(ax, (x + 64, 44), (x + 48, 44), 'word')
        arrow(ax, (x, 27), (x, 8), 'tag')
        write(ax, x + 6, 14, 'to the CRF', size=8.5, ha='left')
    write(ax, 230, 242, 'boxes that touch: vectors that are joined', size=9)
    return ax


def highway():
    """A gate says how much is transformed and how much passes."""
    torch.manual_seed(391)
    layer = Highway(3)
    x = torch.tensor([[0.9, -0.6, 1.4]])
    # Gates that are nearly shut, half open and nearly open
    torch.nn.init.zeros_(layer.gate[0].weight)
    layer.gate[0].bias.data = torch.tensor([0.05, 0.5, 0.95]).logit()
    gate, transformed = torch.sigmoid(layer.gate[0](x)), torch.relu(layer.transform[0](x))
    ax = paper(460, 246)
    for left, y, title, value, kind in (
            (170, 204, 'x', x, 'plain'), (320, 122, 'g', gate, 'highway'),
            (20, 122, 't(x)', transformed, 'highway'),
            (170, 34, 'g · t(x) + (1 - g) · x', layer(x), 'word')):
        kinds = {(0, j): kind for j in range(3)}
        matrix(ax, left, y, value.detach(), cell=(40, 20), kinds=kinds)
        write(ax, left + 60, y - 10 if kind == 'word' else y + 32, title, size=10, weight='bold')
    write(ax, 80, 170, 'a linear layer, then ReLU', size=9)
    write(ax, 380, 170, 'a linear layer, then sigmoid', size=9)
    for j, text in enumerate(('≈ x', 'halfway', '≈ t(x)')):
        write(ax, 190 + 40 * j, 64, text, size=9)
    for side in (-1, 1):
        arrow(ax, (230 + 40 * side, 200), (230 + 120 * side, 178), 'highway')
        arrow(ax, (230 + 150 * side, 118), (230 + 66 * side, 50), 'highway')
    arrow(ax, (230, 200), (230, 76))
    return ax


def model():
    """All of it, from the bottom to the top, with the sizes of what the layers give."""
    args, _ = parse_arguments([])
    both, words = 2 * args.char_rnn_dim, args.word_emb_dim or 100
    ax = paper(460, 338)
    box(ax, 230, 298, 424, 24, f'character embeddings (one table), {args.char_emb_dim}', 'char',
        size=9.5)
    for x, side, kind, word in ((100, 58, 'forward', 'the next word'),
                                (360, 402, 'backward', 'the word before')):
        arrow(ax, (x, 285), (x, 261))
        write(ax, x + 7, 273, 'the text' if kind == 'forward' else 'the text reversed',
              size=9, ha='left')
        box(ax, x, 248, 176, 24, f'{kind} character LSTM, {args.char_rnn_dim}', kind, size=9.5)
        arrow(ax, (side, 235), (side, 183), kind)
        box(ax, side, 170, 84, 24, f'highway, {args.char_rnn_dim}', 'highway', size=9.5)
        arrow(ax, (side, 157), (side, 125), kind)
        box(ax, side, 112, 84, 24, 'linear', kind, size=9.5)
        arrow(ax, (side, 99), (side, 50), kind)
        write(ax, side, 38, word, size=9.5, weight='bold')
        write(ax, side, 20, 'in training', size=9)
    write(ax, 194, 218, 'states at\nthe markers', size=9)
    arrow(ax, (130, 235), (153, 183), 'forward')
    arrow(ax, (330, 235), (179, 183), 'backward')
    box(ax, 163, 170, 84, 24, f'highway, {both}', 'highway', size=9.5)
    box(ax, 280, 170, 136, 24, f'word embeddings, {words}', 'word', size=9.5)
    arrow(ax, (163, 157), (200, 125), 'highway')
    arrow(ax, (280, 157), (260, 125), 'word')
    box(ax, 230, 112, 132, 24, f'word BiLSTM, {args.word_rnn_dim}', 'word', size=9.5)
    arrow(ax, (230, 99), (230, 83), 'word')
    box(ax, 230, 70, 132, 24, 'CRF', 'tag', weight='bold')
    arrow(ax, (230, 57), (230, 50), 'tag')
    write(ax, 230, 32, 'scores of each tag\nafter each tag', size=9.5, weight='bold')
    write(ax, 230, 326, 'numbers: the size of the vectors that a layer gives', size=9)
    return ax


def configurations():
    """The full model, and what the configurations (a), (b) and (c) leave out of it."""
    ax = paper(460, 222)
    layers = (('transition scores', 'tag', 48), ('word BiLSTM', 'word', 76),
              ('word embeddings', 'word', 104), ('language models', 'forward', 140),
              ('character LSTMs', 'char', 168))
    for i, (title, missing, name) in enumerate((
            ('full', (), 'LM-LSTM-CRF'), ('(a)', (3,), 'BiLSTM-CRF\nwith characters'),
            ('(b)', (3, 4), 'BiLSTM-CRF'), ('(c)', (3, 4, 0), 'BiLSTM'))):
        x = 62 + 112 * i
        write(ax, x, 18, title, weight='bold', size=11)
        for j, (layer, kind, y) in enumerate(layers):
            if j in missing:
                ax.add_patch(Rectangle((x - 51, y - 12), 102, 24, linewidth=0.8, facecolor=PAPER,
                                       edgecolor=INK, linestyle=(0, (2, 3))))
                write(ax, x, y, f'no {layer}', size=8.5)
            else:
                box(ax, x, y, 102, 24, layer, kind, size=9)
        write(ax, x, 202, name, size=9.5)
    return ax


# --- Pictures of the scores ---

def square(ax, x, y, values, title, **options):
    """A matrix of scores, with what its rows and columns are."""
    write(ax, x + 75, y - 40, title, size=9.5, weight='bold')
    write(ax, x + 75, y - 24, 'current tag', size=8.5)
    write(ax, x - 50, y + 42, 'previous tag', size=8.5, rotation=90, va='center')
    matrix(ax, x, y, values, SHORT, SHORT, cell=(30, 17), **options)


def scores():
    """Emission scores, broadcast, and transition scores add up to the scores of a word."""
    word, emission, m = WORDS[1], EMISSIONS[0, 1:2], len(SHORT)
    i, j = (FILM_TAG_MAP[tag] for tag in FILM_TAGS[:2])
    ax = paper(460, 412)
    write(ax, 133, 18, f'emission scores of {word}, (1, m)', size=9.5, weight='bold')
    matrix(ax, 58, 46, emission, columns=SHORT, cell=(30, 17),
           kinds={(0, k): 'word' for k in range(m)})
    arrow(ax, (133, 68), (133, 88))
    square(ax, 58, 146, emission.expand(m, m), 'broadcast: once for each row', kinds={
        (row, k): 'word' for row in range(m) for k in range(m)})
    write(ax, 228, 188, '+', size=16)
    square(ax, 304, 146, TRANSITIONS, 'transition scores, (m, m)')
    square(ax, 58, 306, FILM_SCORES[0, 1], f'= scores of {word}, (m, m)',
           kinds={(i, j): 'gold'})
    write(ax, 236, 316, f'{SHORT[j]} after {SHORT[i]}:', size=9.5, ha='left')
    write(ax, 236, 334, f'{emission[0, j]:g} + {TRANSITIONS[i, j]:g} = '
          f'{FILM_SCORES[0, 1, i, j]:g}', weight='bold', ha='left')
    write(ax, 236, 371, 'The transition scores are the same\nfor all words.', size=9, ha='left')
    return ax


def gold_path():
    """The scores of the example, those of the gold tags among them, and their sum."""
    tags = [FILM_TAG_MAP[tag] for tag in ['<start>', *FILM_TAGS, '<end>']]
    cells, values = list(zip(tags, tags[1:])), []
    ax = paper(460, 346)
    for t, (i, j) in enumerate(cells):
        values.append(FILM_SCORES[0, t, i, j].item())
        square(ax, (58, 304)[t % 2], (58, 210)[t // 2], FILM_SCORES[0, t], TITLES[t],
               kinds={(i, j): 'gold'})
    write(ax, 230, 324, ' + '.join(f'{value:g}' for value in values) + f' = {sum(values):.1f}',
          weight='bold', size=11)
    return ax


def column(t):
    """The tags of the trellis's column t, with their places: <start>, the three words, <end>."""
    tags = {0: [START], len(TITLES): [END]}.get(t, [1, 2, 3])
    return {tag: (34 + 98 * t, 112 if tag in (START, END) else 112 + 64 * (tag - 2))
            for tag in tags}


def trellis(values, kinds, height=236, bold=()):
    """A sheet with a box for each column and tag; values are texts, (columns - 1, m).

    Kinds are the colors of boxes at (column, tag), where they are not 'tag'.
    """
    ax = paper(460, height)
    for t, row in enumerate([[''] * len(SHORT), *values]):
        for tag, (x, y) in column(t).items():
            kind = kinds.get((t, tag), 'tag' if t else 'plain')
            box(ax, x, y, 56, 34, '', kind)
            write(ax, x, y - 8 if t else y, SHORT[tag], size=9)
            write(ax, x, y + 7, row[tag], weight='bold' if (t, tag) in bold else 'normal')
    for t, title in enumerate(TITLES[:-1], 1):
        write(ax, column(t)[1][0], 14, title, weight='bold')
    return ax


def forward():
    """The forward algorithm: the log-sum-exp of all sequences that end in each tag."""
    decoder = ViterbiDecoder(FILM_TAG_MAP)
    # The loss rules nothing out
    decoder.mask.zero_()
    sums = decoder.forward_backward(FILM_SCORES, LENGTHS)[0][0].tolist()
    ax = trellis([[f'{x:.4f}' if x % 1 else f'{x:g}' for x in row] for row in sums], {}, 252)
    for t in range(1, len(TITLES) + 1):
        for x1, y1 in column(t).values():
            for x0, y0 in column(t - 1).values():
                arrow(ax, (x0 + 28, y0), (x1 - 28, y1), width=0.8, head='-')
    write(ax, 426, 142, 'log Z', weight='bold')
    terms = ' + '.join(f'exp({sums[0][i]:g} + {FILM_SCORES[0, 1, i, 2]:g})'.replace('+ -', '- ')
                       for i in (1, 2, 3))
    write(ax, 230, 216, f'I at {WORDS[1]}: log({terms} + …) = {sums[1][2]:.4f}', size=9)
    write(ax, 230, 236, '…: <start> and <end> as previous tags, which are improbable', size=9)
    return ax


def viterbi(number):
    """Viterbi's trellis after so many steps; the fifth traces back."""
    cumulative, backpointers = ViterbiDecoder(FILM_TAG_MAP).trellis(FILM_SCORES, LENGTHS)
    path = [START, *ViterbiDecoder(FILM_TAG_MAP, 'iob2').decode(FILM_SCORES, LENGTHS)[0].tolist()]
    last = min(number, len(TITLES))
    kinds = {(t, tag): 'gold' for t, tag in enumerate(path)} if number > last else {}
    leaders = {(t + 1, 1 + cumulative[t][0, 1:4].argmax().item()) for t in range(min(last, 3))}
    values = [[f'{value:g}' for value in row[0].tolist()] for row in cumulative[:last]]
    ax = trellis(values, kinds, bold=leaders | {(4, END)})
    for t in range(last):
        for tag, (x1, y1) in column(t + 1).items():
            best = backpointers[t][0, tag].item()
            for before, (x0, y0) in column(t).items():
                on_path = number > last and path[t:t + 2] == [before, tag]
                if before == best:
                    arrow(ax, (x1 - 28, y1), (x0 + 28, y0), 'gold' if on_path else 'tag',
                          width=2.4 if on_path else 1.8)
                elif t + 1 == number:
                    arrow(ax, (x1 - 28, y1), (x0 + 28, y0), 'pale', width=0.7, head='-')
            if 0 < t == number - 1:
                added = FILM_SCORES[0, t, best, tag].item()
                write(ax, x1, y1 + 25, f'{cumulative[t - 1][0, best]:g} {"-+"[added >= 0]} '
                      f'{abs(added):g} = {values[t][tag]}', size=8.5)
    caption = 'arrows: back to the best previous tag; bold: the leader'
    if number > last:
        caption = 'gold: traced back from <end>; bold: the leader at each word'
    write(ax, 230, 222, caption, size=8.5)
    return ax


# --- Pictures of the data ---

def packing():
    """Sorted rows, packed step by step into one strip, and the effective batch sizes."""
    sentences = [WORDS, ['who', 'called'], ['nobody']]
    maps = create_maps(sentences, [['O'] * len(words) for words in sentences], min_word_freq=1)
    batch = create_input_tensors(sentences, None, *maps)
    packed = pack_padded_sequence(batch.wmaps, batch.wmap_lengths, batch_first=True)
    sizes, strip = packed.batch_sizes.tolist(), names(packed.data, maps[0])
    ax = paper(460, 216)
    write(ax, 130, 14, 'rows, longest first', size=9.5, weight='bold')
    write(ax, 230, 134, 'packed: one step after the other', size=9.5, weight='bold')
    x = 8
    for t, size in enumerate(sizes):
        for x0, y0, width, height in ((11 + 56 * t, 26, 54, 28 * size), (x, 146, 48 * size, 28)):
            ax.add_patch(Rectangle((x0, y0), width, height, facecolor='none', edgecolor=INK))
        for i in range(size):
            box(ax, x + 24 + 48 * i, 160, 43, 20, strip.pop(0), 'word', size=8.5)
        write(ax, x + 24 * size, 186, str(size), weight='bold')
        x += 48 * size + 4
    for i, (row, length) in enumerate(zip(batch.wmaps, batch.wmap_lengths)):
        for t, word in enumerate(names(row, maps[0])):
            box(ax, 38 + 56 * t, 40 + 28 * i, 48, 20, word, 'word' if t < length else 'plain',
                size=8.5)
        write(ax, 244, 40 + 28 * i, f'length {length}', size=9, ha='left')
    write(ax, 230, 204, 'effective batch size of each step', size=9.5)
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
        write(ax, x, 153, f'{wasted / read:.0%} of an epoch is padding (gray)', size=9.5, ha='left')
    return ax


# --- Pictures of a run ---

LEGEND = {'fontsize': 8, 'frameon': False, 'handlelength': 1.6, 'columnspacing': 1.2}


def chart(ax, title, across, up=''):
    """Make a chart look like the other pictures."""
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(across, fontsize=9)
    ax.set_ylabel(up, fontsize=9)
    ax.tick_params(labelsize=8.5)
    ax.grid(color=COLORS['plain'][0])
    ax.spines[['top', 'right']].set_visible(False)


def legend(ax, columns):
    """What the lines are, below the chart."""
    ax.legend(ncols=columns, loc='upper center', bbox_to_anchor=(0.5, -0.2), **LEGEND)


def mark(ax, x, label):
    """A line at what was chosen, over the grid and under the curves."""
    ax.axvline(x, color=INK, linewidth=0.9, linestyle='--', label=label, zorder=1.7)


def learning(run):
    """The losses and scores of all epochs."""
    figure, axes = plt.subplots(1, 2, figsize=(460 / 72, 235 / 72))
    log, best = run['log'], run['best_epoch']
    losses = (('viterbi_loss', 'tag', 'Viterbi, training'),
              ('val_viterbi_loss', 'gold', 'Viterbi, validation'),
              ('lm_loss', 'backward', 'both LMs, training'))
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
    for ax, title, up in zip(axes, ('losses', 'validation scores'), ('loss', 'score')):
        chart(ax, title, 'epoch', up)
        legend(ax, columns=2)
    figure.subplots_adjust(0.1, 0.31, 0.98, 0.91, 0.25)
    return axes[0]


def transitions(run):
    """The transition scores that the CRF has learned: blue is above zero, red below."""
    tags, values = run['tags'], torch.tensor(run['transition'])
    room = 16 + 6 * max(map(len, tags))
    size = min(19, (450 - room) / len(tags))
    left, top = (460 + room - size * len(tags)) / 2, room + 20
    # Without a CRF all scores are zero
    most = values.abs().max().item() or 1

    def color(value):
        # By the root, since most scores are far smaller than the largest
        return shade((abs(value) / most) ** 0.5, 'word' if value > 0 else 'highway')

    ax = paper(460, top + size * len(tags) + 60)
    write(ax, 230, 14, 'transition scores; rows: previous tags, columns: current tags', size=9)
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
    write(ax, 230, bottom + 22,
          'The color deepens with the square root, so that small scores show.', size=9)
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
          'score')
    legend(ax, columns=4)
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
          'mean probability', 'share that is right')
    legend(ax, columns=2)
    figure.subplots_adjust(0.1, 0.23, 0.97, 0.92)
    return ax


RUN_PICTURES = {'learning': learning, 'transitions': transitions, 'thresholds': thresholds,
                'calibration': calibration}


# --- The picture of all corpora ---

def parts():
    """How good a model becomes with each part, over the minutes that it has been trained."""
    curves = json.loads((HERE / 'parts.json').read_text(encoding='utf-8'))
    figure, (axes,) = plt.subplots(1, len(curves), figsize=(460 / 72, 240 / 72), squeeze=False)
    titles = {'wnut17': 'WNUT 2017, F1', 'ewt': 'EWT, accuracy', 'gmb': 'GMB, F1'}
    kinds = {'the full model': 'tag', '(a) no language models': 'highway',
             '(b) no characters either': 'word', '(c) no CRF either': 'plain',
             'the small model': 'char'}
    for ax, corpus in zip(axes, curves):
        best = [100 * max(curve['scores']) for curve in curves[corpus].values()]
        for variant, curve in curves[corpus].items():
            minutes = [curve['seconds'] * (i + 1) / 60 for i in range(len(curve['scores']))]
            ax.plot(minutes, [100 * score for score in curve['scores']], linewidth=1.3,
                    color=COLORS[kinds[variant]][1], label=variant)
        # Where they differ: the first epochs of all are far lower
        span = max(best) - min(best)
        ax.set_ylim(min(best) - 1.5 * span, max(best) + 0.3 * span)
        ax.set_xscale('log')
        ax.xaxis.set_major_formatter('{x:g}')
        chart(ax, titles[corpus], 'minutes')
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=3, loc='lower center', **LEGEND)
    figure.subplots_adjust(0.07, 0.33, 0.98, 0.91, 0.25)
    return axes[0]


# --- Pictures of what the sample's model tags ---

def marginals():
    """The probability of each tag of each word of an ambiguous sentence."""
    record = recorded()['ambiguous']
    tokens, tags, values = record['tokens'], record['tags'], torch.tensor(record['marginals'])
    ax = paper(460, 62 + 22 * len(tags))
    step = min(380 / len(tokens), 70)
    for i, token in enumerate(tokens):
        x = 62 + step * (i + 0.5)
        write(ax, x, 36, token, weight='bold', size=9.5)
        for j, value in enumerate(values[i].tolist()):
            ax.add_patch(Rectangle((x - step / 2, 50 + 22 * j), step - 2, 20, linewidth=0,
                                   facecolor=shade(value * 0.8, 'tag')))
            if value >= 0.005:
                write(ax, x, 60 + 22 * j, f'{value:.2f}', size=8.5)
    for j, tag in enumerate(tags):
        write(ax, 56, 60 + 22 * j, tag, size=9, ha='right')
    write(ax, 230, 14, 'the probability of each tag at each word', size=9)
    return ax


PICTURES = {picture.__name__: picture for picture in (
    task, framework, multitask, features, highway, model, configurations, scores, gold_path,
    forward, packing, padding, parts, marginals)}
PICTURES |= {f'{way}_lstm': partial(char_lstm, way) for way in ('forward', 'backward')}
PICTURES |= {f'viterbi_{number}': partial(viterbi, number) for number in range(1, 6)}


# --- Recording and drawing ---

TASK = 'Amara Okafor of Lagos University wrote The Salt Road in Oslo .'.split()
AMBIGUOUS = 'Jordan flew from Paris to Jordan .'.split()


def rounded(rows, digits):
    """Numbers as they are written down."""
    return [[round(value, digits) for value in row] for row in rows]


def read_files(args):
    """The files of a run, whose arguments these are, and the words and the tags of each."""
    files = list_files(args)
    return files, [read_corpus(file, args.task, args.tag_column, 'iob2', args.word_column)
                   for file in files]


def read_run(folder):
    """What the pictures of a run show, from its folder: a dict."""
    path, log_path = Path(folder) / BEST_CHECKPOINT, Path(folder) / LOG
    tagger, best = load_tagger(path), load_checkpoint(path, 'cpu')
    # Without language models their loss is 0 in every epoch
    left_out = {'seconds'} if tagger.arguments['language_models'] else {'seconds', 'lm_loss'}
    with file_errors(log_path, 'read', TypeError, ValueError), open(log_path, newline='') as file:
        # As JSON, since float would make the epochs 0.0, 1.0, 2.0
        log = [{name: round(json.loads(value), 4) for name, value in row.items()
                if name not in left_out} for row in csv.DictReader(file)]
    epochs = best['scores']['epoch'] + 1
    if len(log) < epochs:
        raise InputError(f'{log_path}: expected {epochs} epochs or more, found {len(log)}')
    run = {'log': log, 'best_epoch': epochs - 1, 'threshold': tagger.threshold,
           'tags': list(tagger.maps['tag_map']),
           'transition': rounded(tagger.model.crf.transition.tolist(), 3)}
    if tagger.task == 'ner':
        _, corpora = read_files(Namespace(**tagger.arguments))
        tagged = tag_labeled(tagger, *corpora[1])
        run['thresholds'] = rounded(score_thresholds(tagged), 4)
        run['calibration'] = rounded(score_ranges(judge(tagged)), 4)
    return run


def draw_run(folder):
    """Draw the pictures of a run into its folder."""
    run, pictures = read_run(folder), RUN_PICTURES
    if 'thresholds' not in run:
        print('only entities have thresholds and candidates to draw, not parts of speech')
        pictures = {name: pictures[name] for name in ('learning', 'transitions')}
    draw(folder, pictures, run)


def printed(function, *arguments):
    """The lines that a function prints."""
    output = io.StringIO()
    with redirect_stdout(output):
        function(*arguments)
    return output.getvalue().splitlines()


def record(folder):
    """Write what the README shows of a run, in pictures and in text, to run.json."""
    path = Path(folder) / BEST_CHECKPOINT
    run, tagger = read_run(folder), load_tagger(path)
    # What training prints at its end, without the line that names its files (it also finds the
    # threshold again)
    arguments = Namespace(**{**tagger.arguments, 'output_dir': folder})
    run['end'] = printed(finish, arguments, *read_files(arguments))[1:]
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
    for name, picture in pictures.items():
        path, figure = Path(folder) / f'{name}.svg', picture(*run).figure
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
    if '' in (args.run, args.record, args.folder):
        raise InputError('expected the name of a folder, found none')
    if args.run:
        draw_run(args.run)
    elif args.record:
        record(args.record)
    else:
        draw(args.folder, PICTURES)
        draw(args.folder, RUN_PICTURES, recorded())


if __name__ == '__main__':
    run_main(main)
