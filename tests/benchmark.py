"""How fast each stage is, against what the machine can do.

    python tests/benchmark.py --threads 1
    python tests/benchmark.py --device cuda --batch_size 64
    python tests/benchmark.py --file train.txt

It trains and tags a corpus that it makes itself, with the lengths of news and the word frequencies
of Zipf, or the first sentences of a file. Useful FLOPs are counted from the model's sizes and the
sentences' lengths, without pads, and compared with matrix multiplication in the same run. A second
table tells how the time of the Viterbi loss grows with the sentences' length.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
import timeit
from collections import Counter
from contextlib import redirect_stdout
from itertools import chain, count
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from zlib import crc32

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import train  # noqa: E402
import utils  # noqa: E402
from inference import CANDIDATE, Tagger  # noqa: E402
from models import ViterbiLoss  # noqa: E402

VOCABULARY, IN_CORPUS = 20_000, 5_000
VITERBI = '  Viterbi loss and backward, %'


# --- A corpus and a model ---

def make_corpus(sentences):
    """Words and tags, with CoNLL-2003's mean lengths: 14.5 words, each of 4.4 characters."""
    random, letters = np.random.default_rng(0), list('etaoinshrdlcumwfgypbvkjxqzETAS0123')
    frequency = 1 / np.arange(1, len(letters) + 1) ** 0.7
    sizes = np.clip(random.gamma(2.2, 2, VOCABULARY).round().astype(int) + 1, 1, 20)
    vocabulary = [''.join(random.choice(letters, size, p=frequency / frequency.sum()))
                  for size in sizes]
    frequency = 1 / np.arange(3, VOCABULARY + 3)
    lengths = np.clip(random.gamma(1.5, 9.3, sentences).round().astype(int) + 1, 1, 120)
    places = random.choice(VOCABULARY, lengths.sum(), p=frequency / frequency.sum())
    rows = np.split(places, lengths.cumsum()[:-1])
    # A word is always a name of one type or none, which can be learned; frequent ones are no names
    kinds = ['O', 'I-LOC', 'I-MISC', 'I-ORG', 'I-PER']
    names = random.choice(kinds, VOCABULARY, p=[0.76, *[0.06] * 4])
    names[:50] = 'O'
    return [[vocabulary[place] for place in row] for row in rows], [names[row] for row in rows]


def prepare(words, tags, task, args):
    """A run with train.py's defaults, and its batches."""
    options, _ = train.parse_arguments(
        ['--task', task, '--device', args.device, '--batch_size', str(args.batch_size)])
    # A type of entities has all its tags, also those that the corpus lacks
    types = {tag[2:] for row in tags for tag in row if '-' in tag}
    complete = [f'{prefix}-{name}' for prefix in 'BIES' for name in types]
    _, char_map, tag_map = utils.create_maps(words, [*tags, complete])
    # The language models choose from as many words for any number of sentences: <unk> is the last
    # of them, and rarer words come after it
    ranked = [word for word, _ in Counter(map(str.lower, chain.from_iterable(words))).most_common()]
    filler = (f'no word {i}' for i in range(IN_CORPUS - len(ranked)))
    in_order = chain(['<pad>'], ranked[:IN_CORPUS], filler, ['<end>', '<unk>'], ranked[IN_CORPUS:])
    maps = {'word_map': dict(zip(in_order, count())), 'char_map': char_map, 'tag_map': tag_map}
    # The word embeddings stand for pre-trained ones, of which a batch's rows alone get a gradient
    options.emb_file = 'vectors.txt'
    loader = train.make_loader(words, tags, maps, options, training=True)
    return train.Run(options, maps, None, loader.dataset), loader


# --- Clocks and counters ---

def useful_flops(model, sentences, training):
    """The FLOP that the sentences need; the backward pass needs twice the forward pass's."""
    def flops(*layers):
        return sum(2 * weight.numel() for layer in layers
                   for name, weight in layer.named_parameters() if 'weight' in name)

    steps, chars = int(sum(sentences.wmap_lengths)), int(sum(sentences.cmap_lengths))
    forward = (chars * flops(model.forw_char_lstm, model.back_char_lstm)
               + steps * flops(model.subword_hw, model.word_blstm, model.crf.emission))
    predicted = steps - len(sentences.wmap_lengths)
    language_models = predicted * flops(model.forw_lm_hw, model.back_lm_hw,
                                        model.forw_lm_out, model.back_lm_out)
    return 3 * (forward + language_models) if training else forward


def seconds(function, device='cpu', repeat=1):
    """The shortest time that a function takes."""
    def clock():
        if device.startswith('cuda'):
            torch.cuda.synchronize()
        return time.perf_counter()

    return min(timeit.repeat(function, timer=clock, number=1, repeat=repeat))


def kernel_seconds(function):
    """The time that a GPU spends in kernels while a function runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def seconds_beside_matmul(function, run):
    """Seconds of a function, and the FLOP/s at which 1,024 x 1,024 matrices are multiplied amid it.

    A machine's speed changes, so that they are multiplied before every fourth batch of the model;
    on a GPU, which is not to wait, before the first one. Their time is taken off the function's.
    """
    device, calls, times = run.args.device, count(), []
    matrix = torch.randn(1024, 1024, device=device)
    product = torch.empty_like(matrix)

    def multiply(*_):
        if next(calls) % (4 if device == 'cpu' else sys.maxsize) == 0:
            for _ in range(3):
                times.append(seconds(lambda: torch.mm(matrix, matrix, out=product), device))

    hook = run.model.register_forward_pre_hook(multiply)
    whole = seconds(function, device) - sum(times)
    hook.remove()
    del times[::3]  # The first of three only warms up
    return whole, 2 * 1024**3 * len(times) / sum(times)


def viterbi_seconds(m, targets, lengths, device, repeat=1):
    """What ViterbiLoss and its gradient take for random scores of m tags, and targets, (N, L_w)."""
    criterion, targets = ViterbiLoss({'<start>': 0, '<end>': m - 1}), targets.to(device)
    scores = torch.randn(*targets.shape, m, m, device=device, requires_grad=True)
    return seconds(lambda: torch.autograd.grad(criterion(scores, targets, lengths), scores),
                   device, repeat)


# --- The stages ---

def measure_reading(words, tags, maps):
    """The seconds of reading and encoding a corpus."""
    rows = ['\n'.join(map('{} - - {}'.format, *sentence)) for sentence in zip(words, tags)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'corpus.txt'
        file.write_text('\n\n'.join(rows) + '\n', encoding='utf-8')
        return seconds(lambda: utils.create_input_tensors(
            *utils.read_words_tags(file, 3, caseless=False), **maps), repeat=3)


def measure_embeddings(rows, repeat=1):
    """The seconds of loading so many vectors of 100, and the peak memory's growth in their size."""
    values = np.random.default_rng(0).normal(scale=0.4, size=(1000, 100))
    texts = [' '.join(f'{value:.5g}' for value in row) for row in values]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
        with open(f'{folder}/vectors.txt', 'w') as file:
            file.writelines(f'{i} {texts[i % 1000]}\n' for i in range(rows))
        before = getrusage(RUSAGE_SELF).ru_maxrss
        took = seconds(lambda: utils.load_embeddings(
            file.name, {'<pad>': 0, '<end>': 1, '<unk>': 2}), repeat=repeat)
    return took, (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024 / (rows * 400)


def measure_training(run, loader):
    """A training epoch and what its parts take: a dict from what is measured to the figure."""
    device, m = run.args.device, len(run.maps['tag_map'])
    whole, rate = seconds_beside_matmul(lambda: train.train(loader, run), run)
    flops = useful_flops(run.model, loader.dataset.sentences, training=True)
    data_path = seconds(lambda: [batch.to(device) for batch in loader], device)
    viterbi = sum(viterbi_seconds(m, batch.tmaps, batch.wmap_lengths, device) for batch in loader)
    table = {'training, sentences/s': len(loader.dataset) / whole,
             '  useful GFLOP/s': flops / whole / 1e9, '  matmul beside it, GFLOP/s': rate / 1e9,
             '  share of that rate, %': 100 * flops / whole / rate,
             '  data path, % of the time': 100 * data_path / whole}
    if device.startswith('cuda'):
        kernels = kernel_seconds(lambda: train.train(loader, run))
        table['  in GPU kernels, % of the time'] = 100 * kernels / whole
    return {**table, VITERBI: 100 * viterbi / whole}


def measure_tagging(run, loader, words):
    """Validation, what decoding takes of it, and tagging raw text: a dict, as above.

    Plain tagging takes turns with a threshold for entities and with jsonl's probabilities, since a
    machine's speed changes. The flatter the probabilities are, the more candidates cost time; a
    model that has learned for long has about 15 in 100 words of news.
    """
    device, m, decoding = run.args.device, len(run.maps['tag_map']), 0
    flops = useful_flops(run.model, loader.dataset.sentences, training=False)
    whole, rate = seconds_beside_matmul(lambda: train.validate(loader, run.model, run), run)
    for batch in loader:
        scores = torch.randn(*batch.wmaps.shape, m, m, device=device)
        decoding += seconds(lambda s=scores, b=batch: run.vb_decoder.decode(s, b.wmap_lengths),
                            device)
    tagger, lines = Tagger(run.model, run.maps, run.arguments, device), list(map(' '.join, words))
    tagging, tagging_rate = seconds_beside_matmul(lambda: list(tagger.tag(lines)), run)
    ways, some = ({}, {'threshold': CANDIDATE}, {'probabilities': True}), lines[:1000]
    times = [[seconds(lambda options=way: list(tagger.tag(some, **options)), device)
              for way in ways] for _ in range(3)]
    plain, threshold, probabilities = map(min, zip(*times))
    tagged = list(tagger.tag(some, least=CANDIDATE))
    candidates, tokens = (sum(len(sentence[name]) for sentence in tagged)
                          for name in ('candidates', 'tokens'))
    return {'validation, sentences/s': len(loader.dataset) / whole,
            '  share of the matmul rate, %': 100 * flops / whole / rate,
            '  decoding, % of the time': 100 * decoding / whole,
            'tagging raw text, words/s': sum(map(len, words)) / tagging,
            '  share of that matmul rate, %': 100 * flops / tagging / tagging_rate,
            '  with a threshold, % of its time': 100 * threshold / plain,
            '  with probabilities, % of its time': 100 * probabilities / plain,
            '  candidates in 100 words': 100 * candidates / tokens}


def measure(args, sentences):
    """All stages for a corpus of so many sentences: a dict, as above."""
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision('high')  # As run_main does, for GPUs
    torch.manual_seed(0)
    words, tags = (make_corpus(sentences) if args.file is None else
                   (rows[:sentences] for rows in utils.read_words_tags(args.file, 3, False)))
    tags = [utils.convert_tags(row, 'iobes') for row in tags]
    # About as many tags as for parts of speech, one a word; first, so that the memory is free again
    parts = [[f'T{crc32(word.encode()) % 50}' for word in row] for row in words]
    with_50_tags = measure_training(*prepare(words, parts, 'pos', args))[VITERBI]
    run, loader = prepare(words, tags, 'ner', args)
    reading = measure_reading(words, tags, run.maps)
    loading, _ = measure_embeddings(args.vectors, repeat=3)
    val_loader = train.make_loader(words, tags, run.maps, run.args)
    return {'reading and encoding, sentences/s': len(words) / reading,
            'loading embeddings, words/s': args.vectors / loading,
            **measure_training(run, loader),
            '  likewise with 50 tags, %': with_50_tags,
            **measure_tagging(run, val_loader, words),
            'peak memory, MB': getrusage(RUSAGE_SELF).ru_maxrss / 1024}


def measure_lengths(args):
    """Milliseconds of the Viterbi loss and its gradient without pads: a dict from (N, m, L_w)."""
    torch.set_num_threads(args.threads)
    shapes = [(10, m, length) for m in (19, 52) for length in (15, 50, 100, 200)]
    return {(n, m, length): 1000 * viterbi_seconds(
                m, torch.randint(m * m, (n, length)), torch.full((n,), length), args.device, 10)
            for n, m, length in [*shapes, (2, 52, 1000)]}


def main(argv):
    """Measure each size in a process of its own, so that peak memories are its own too."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('--device', default='cpu')
    add('--threads', type=int, default=torch.get_num_threads())
    add('--sentences', type=int, default=1000, help='of the smallest corpus')
    add('--growth', type=int, nargs='*', default=[1, 4, 16], help='times so many')
    add('--batch_size', type=int, default=10)
    add('--file', help='CoNLL file to use instead of a synthetic corpus')
    add('--vectors', type=int, default=20_000, help='number of word vectors')
    args = parser.parse_args(argv)

    sizes = [factor * args.sentences for factor in args.growth]
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        _, memory = pool.apply(measure_embeddings, (400_000,))
        lengths = pool.apply(measure_lengths, (args,))
        columns = [pool.apply(measure, (args, size)) for size in sizes]
    print(f'{torch.__version__}, {args.device}, {args.threads} threads, batches of '
          f'{args.batch_size} in training')
    print(f'{"":36}', *(f'{size:>12,}' for size in sizes))
    for name in columns[0]:
        print(f'{name:36}', *(f'{column[name]:12,.1f}' for column in columns))
    print(f'loading 400,000 embeddings takes {memory:.2f} times their own size')
    print('\nViterbi loss and backward\n   N    m   L_w       ms  times that of half of L_w')
    for (n, m, length), took in lengths.items():
        half = lengths.get((n, m, length / 2))
        print(f'{n:4} {m:4} {length:5} {took:8.2f}' + (f' {took / half:6.2f}' if half else ''))


if __name__ == '__main__':
    utils.run_main(main)
