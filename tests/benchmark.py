"""How fast each stage is, against what the machine can do.

    python tests/benchmark.py --threads 1
    python tests/benchmark.py --device cuda --batch_size 64
    python tests/benchmark.py --file train.txt

It trains and tags a corpus that it makes itself, with the lengths of news and the word frequencies
of Zipf, or the first sentences of a file. Useful FLOPs are counted from the model's sizes and the
sentences' lengths, without pads, and compared with matrix multiplication in the same run.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from inference import CANDIDATE, Tagger, ViterbiDecoder  # noqa: E402
from models import LM_LSTM_CRF, ViterbiLoss  # noqa: E402
from train import average_weights, make_loader, make_optimizer, train, validate  # noqa: E402
from utils import (  # noqa: E402
    convert_tags,
    create_input_tensors,
    create_maps,
    load_embeddings,
    read_words_tags,
)

VOCABULARY = 20_000
IN_CORPUS = 5_000
TYPES = ['LOC', 'MISC', 'ORG', 'PER']
TAGS = ['O', *(f'{prefix}-{name}' for name in TYPES for prefix in 'BIES')]
SIZES = {
    'char_emb_dim': 30,
    'char_rnn_dim': 300,
    'char_rnn_layers': 1,
    'word_emb_dim': 100,
    'word_rnn_dim': 300,
    'word_rnn_layers': 1,
    'dropout': 0.3,
}


# --- What is measured ---


def make_corpus(sentences, seed=0):
    """Words and tags with CoNLL-2003's mean lengths: 14.5 words, each of 4.4 characters."""
    random = np.random.default_rng(seed)
    letters = np.array(list('etaoinshrdlcumwfgypbvkjxqzETAS0123'))
    frequency = 1 / np.arange(1, len(letters) + 1) ** 0.7
    sizes = np.clip(random.gamma(2.2, 2, VOCABULARY).round().astype(int) + 1, 1, 20)
    vocabulary = [
        ''.join(random.choice(letters, size, p=frequency / frequency.sum())) for size in sizes
    ]
    frequency = 1 / np.arange(3, VOCABULARY + 3)
    lengths = np.clip(random.gamma(1.5, 9.3, sentences).round().astype(int) + 1, 1, 120)
    places = random.choice(VOCABULARY, lengths.sum(), p=frequency / frequency.sum())
    words = [vocabulary[place] for place in places]
    # A word is always a name of one type or none, which can be learned; frequent ones are no names
    kinds = ['O', *(f'I-{name}' for name in TYPES)]
    names = random.choice(kinds, VOCABULARY, p=[0.76, *[0.06] * 4])
    names[:50] = 'O'
    tags = names[places].tolist()
    ends = lengths.cumsum().tolist()
    starts = [0, *ends[:-1]]
    sentences = [words[a:b] for a, b in zip(starts, ends)]
    return (sentences, [convert_tags(tags[a:b], 'iobes') for a, b in zip(starts, ends)]), vocabulary


def useful_flops(model, wmap_lengths, cmap_lengths, training):
    """The FLOP that the sentences need; the backward pass needs twice the forward pass's."""

    def linear(layer):
        return 2 * layer.in_features * layer.out_features

    def lstm(layer):
        return 2 * sum(p.numel() for name, p in layer.named_parameters() if 'weight' in name)

    def highway(layer):
        return sum(map(linear, [*layer.transform, *layer.gate]))

    steps, chars = int(wmap_lengths.sum()), int(cmap_lengths.sum())
    flops = chars * (lstm(model.forw_char_lstm) + lstm(model.back_char_lstm))
    flops += steps * (
        highway(model.subword_hw) + lstm(model.word_blstm) + linear(model.crf.emission)
    )
    if training:
        predicted = steps - len(wmap_lengths)
        flops += predicted * sum(map(highway, (model.forw_lm_hw, model.back_lm_hw)))
        flops += predicted * sum(map(linear, (model.forw_lm_out, model.back_lm_out)))
    return flops * (3 if training else 1)


def synchronize(device):
    """Wait for a GPU to finish."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()


def seconds(function, device='cpu', repeat=1):
    """The shortest time that a function takes."""
    times = []
    for _ in range(repeat):
        synchronize(device)
        began = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def timed_beside_matmul(function, model, device):
    """Time a function, and the multiplication of 1,024 x 1,024 matrices in the midst of it.

    A machine's speed changes, so that they are multiplied before every fourth batch of the model;
    on a GPU, which is not to wait, before the first one.

    Returns:
        The seconds that the function took by itself, and the rate of multiplication, in FLOP/s.
    """
    matrix = torch.randn(1024, 1024, device=device)
    product = torch.empty_like(matrix)
    calls, times = count(), []

    def multiply(*_):
        if next(calls) % (4 if device == 'cpu' else sys.maxsize) == 0:
            for _ in range(3):
                times.append(seconds(lambda: torch.mm(matrix, matrix, out=product), device))

    hook = model.register_forward_pre_hook(multiply)
    whole = seconds(function, device) - sum(times)
    hook.remove()
    # The first of three only warms up
    del times[::3]
    return whole, 2 * 1024**3 * len(times) / sum(times)


# --- The stages ---


def write_files(folder, words, tags, vocabulary, vectors):
    """Write the corpus in CoNLL's columns and word vectors in GloVe's format."""
    rows = [
        '\n'.join(f'{word} - - {tag}' for word, tag in zip(*sentence))
        for sentence in zip(words, tags)
    ]
    (folder / 'corpus.txt').write_text('\n\n'.join(rows) + '\n', encoding='utf-8')
    values = np.random.default_rng(0).normal(scale=0.4, size=(1000, 100))
    texts = [' '.join(f'{value:.5g}' for value in row) for row in values]
    with open(folder / 'vectors.txt', 'w', encoding='utf-8') as file:
        for i, word in zip(range(vectors), chain(vocabulary, map(str, range(vectors)))):
            file.write(f'{word} {texts[i % 1000]}\n')


def make_maps(words, tags):
    """Maps with the same number of words for any number of sentences, and lm_vocab_size."""
    _, char_map, tag_map = create_maps(words, [*tags, TAGS], min_word_freq=1)
    counts = Counter(word.lower() for word in chain.from_iterable(words))
    kept = [word for word, _ in counts.most_common(IN_CORPUS)]
    filler = [f'no word {i}' for i in range(IN_CORPUS - len(kept))]
    in_corpus = ['<pad>', *kept, *filler, '<end>', '<unk>']
    rare = [word for word, _ in counts.most_common()[IN_CORPUS:]]
    word_map = {word: i for i, word in enumerate([*in_corpus, *rare])}
    return {'word_map': word_map, 'char_map': char_map, 'tag_map': tag_map}, len(in_corpus)


def measure_reading(folder, maps, sentences, vectors, table):
    """Reading and encoding a corpus, and loading embeddings."""
    file = folder / 'corpus.txt'
    took = seconds(
        lambda: create_input_tensors(*read_words_tags(file, 3, False), **maps), repeat=3
    )
    table['reading and encoding, sentences/s'] = sentences / took
    word_map = {'<pad>': 0, '<end>': 1, '<unk>': 2}
    with redirect_stdout(None):
        took = seconds(lambda: load_embeddings(folder / 'vectors.txt', word_map), repeat=3)
    table['loading embeddings, words/s'] = vectors / took


def kernel_seconds(function):
    """The time that a GPU spends in kernels while a function runs."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def measure_training(model, loader, maps, args, table):
    """A training epoch and what its parts take."""
    crf_criterion = ViterbiLoss(maps['tag_map'])
    optimizer = make_optimizer(model, args)
    sentences, device = loader.dataset.sentences, args.device
    averaged = average_weights(model, loader, args)

    def epoch():
        train(loader, model, crf_criterion, optimizer, averaged, args, 0)

    whole, rate = timed_beside_matmul(epoch, model, device)
    flops = useful_flops(model, sentences.wmap_lengths, sentences.cmap_lengths, training=True)
    table['training, sentences/s'] = len(loader.dataset) / whole
    table['  useful GFLOP/s'] = flops / whole / 1e9
    table['  matmul beside it, GFLOP/s'] = rate / 1e9
    table['  share of that rate, %'] = 100 * flops / whole / rate
    data_path = seconds(lambda: [batch.to(device) for batch in loader], device)
    table['  data path, % of the time'] = 100 * data_path / whole
    m, total = len(maps['tag_map']), 0
    for batch in loader:
        batch = batch.to(device)
        scores = torch.randn(*batch.wmaps.shape, m, m, device=device, requires_grad=True)
        total += seconds(lambda s=scores, b=batch: crf_criterion(
            s, b.tmaps, b.wmap_lengths).backward(), device)
    table['  Viterbi loss and backward, %'] = 100 * total / whole
    if torch.device(device).type == 'cuda':
        table['  in GPU kernels, % of the time'] = 100 * kernel_seconds(epoch) / whole


def measure_tagging(model, loader, maps, words, args, table):
    """Validation, what decoding takes of it, and tagging raw text."""
    criterion = ViterbiLoss(maps['tag_map'])
    decoder = ViterbiDecoder(maps['tag_map'], args.tag_scheme).to(args.device)
    sentences, device = loader.dataset.sentences, args.device
    flops = useful_flops(model, sentences.wmap_lengths, sentences.cmap_lengths, training=False)
    whole, rate = timed_beside_matmul(
        lambda: validate(loader, model, criterion, decoder, maps['tag_map'], args), model, device
    )
    table['validation, sentences/s'] = len(loader.dataset) / whole
    table['  share of the matmul rate, %'] = 100 * flops / whole / rate
    m, total = len(maps['tag_map']), 0
    for batch in loader:
        scores = torch.randn(*batch.wmaps.shape, m, m, device=device)
        total += seconds(lambda s=scores, b=batch: decoder.decode(s, b.wmap_lengths), device)
    table['  decoding, % of the time'] = 100 * total / whole

    # As inference.py does, for GPUs
    torch.set_float32_matmul_precision('high')
    tagger = Tagger(model, maps, vars(args), device)
    lines = [' '.join(sentence) for sentence in words]
    whole, rate = timed_beside_matmul(lambda: list(tagger.tag(lines)), model, device)
    table['tagging raw text, words/s'] = sum(map(len, words)) / whole
    table['  share of that matmul rate, %'] = 100 * flops / whole / rate
    measure_probabilities(tagger, lines[:1000], device, table)


def measure_probabilities(tagger, lines, device, table):
    """What entities by a threshold, and jsonl's probabilities, cost beside plain tagging.

    The three take turns, since a machine's speed changes. The flatter the probabilities are, the
    more candidates cost time; a model that has learned for long has about 15 in 100 words of news.
    """
    ways, times = ({}, {'threshold': CANDIDATE}, {'probabilities': True}), ([], [], [])
    for _ in range(3):
        for way, taken in zip(ways, times):
            taken.append(seconds(lambda options=way: list(tagger.tag(lines, **options)), device))
    plain, threshold, probabilities = map(min, times)
    table['  with a threshold, % of its time'] = 100 * threshold / plain
    table['  with probabilities, % of its time'] = 100 * probabilities / plain
    tagged = list(tagger.tag(lines, least=CANDIDATE))
    candidates = sum(len(sentence['candidates']) for sentence in tagged)
    words = sum(len(sentence['tokens']) for sentence in tagged)
    table['  candidates in 100 words'] = 100 * candidates / words


def measure(args, sentences):
    """All stages for a corpus of so many sentences: a dict from what is measured to the figure."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.file is None:
        (words, tags), vocabulary = make_corpus(sentences)
    else:
        words, tags = (rows[:sentences] for rows in read_words_tags(args.file, 3, caseless=False))
        vocabulary = list(dict.fromkeys(chain.from_iterable(words)))
    maps, lm_vocab_size = make_maps(words, tags)
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), words, tags, vocabulary, args.vectors)
        measure_reading(Path(folder), maps, len(words), args.vectors, table)
    model = LM_LSTM_CRF(
        tagset_size=len(maps['tag_map']),
        charset_size=len(maps['char_map']),
        vocab_size=len(maps['word_map']),
        lm_vocab_size=lm_vocab_size,
        **SIZES,
    ).to(args.device)
    train_loader = make_loader(words, tags, maps, args.batch_size)
    val_loader = make_loader(words, tags, maps, args.eval_batch_size)
    measure_training(model, train_loader, maps, args, table)
    measure_tagging(model, val_loader, maps, words, args, table)
    table['peak memory, MB'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return table


def measure_embedding_memory(rows):
    """Peak memory while loading so many vectors of 100, less that before, in matrix sizes."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), [['a']], [['O']], [], rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with redirect_stdout(None):
            load_embeddings(Path(folder) / 'vectors.txt', {'<pad>': 0, '<end>': 1, '<unk>': 2})
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (rows * 400)


def main():
    """Measure each size in a process of its own, so that peak memories are its own too."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--sentences', type=int, default=1000, help='of the smallest corpus')
    parser.add_argument('--growth', type=int, nargs='*', default=[1, 4, 16], help='times so many')
    parser.add_argument('--batch_size', type=int, default=10)
    parser.add_argument('--eval_batch_size', type=int, default=32)
    parser.add_argument('--file', help='CoNLL file to use instead of a synthetic corpus')
    parser.add_argument('--vectors', type=int, default=20_000, help='number of word vectors')
    args = parser.parse_args()
    args.task, args.tag_scheme = 'ner', 'iobes'
    args.lr, args.momentum, args.grad_clip, args.lm_weight, args.ema = 0.03, 0.9, 5.0, 1.0, 0.998
    # The word embeddings stand for pre-trained ones, which are fine-tuned
    args.emb_file = 'vectors.txt'

    columns = []
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        memory = pool.apply(measure_embedding_memory, (400_000,))
        for factor in args.growth:
            columns.append(pool.apply(measure, (args, factor * args.sentences)))
        pool.close()
        pool.join()
    print(
        f'{torch.__version__}, {args.device}, {args.threads} threads, batches of '
        f'{args.batch_size} in training and {args.eval_batch_size} in tagging'
    )
    print(f'{"":36}', *(f'{factor * args.sentences:>12,}' for factor in args.growth))
    for name in columns[0]:
        print(f'{name:36}', *(f'{column[name]:12,.1f}' for column in columns))
    print(f'loading 400,000 embeddings takes {memory:.2f} times their own size')


if __name__ == '__main__':
    main()
