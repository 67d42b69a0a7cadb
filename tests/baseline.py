"""A CRF on hand-made features, for comparison: what could be had before neural networks.

    python tests/baseline.py ner data/wnut17/train.txt data/wnut17/val.txt data/wnut17/test.txt
    python tests/baseline.py pos data/ewt/train.txt data/ewt/val.txt data/ewt/test.txt

It learns from the first file with python-crfsuite and the usual features, and is scored on the
others. It uses no word vectors. Its settings were the best of four on wnut17's validation file.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import pycrfsuite

sys.path.insert(0, str(Path(__file__).parent.parent))
from utils import print_scores, read_corpus  # noqa: E402


def shape(word):
    """The shape of a word: `Dunston` is Xx, `U.S.` is X.X., `1996` is 0."""
    for pattern, letter in (('[A-Z]+', 'X'), ('[a-z]+', 'x'), ('[0-9]+', '0')):
        word = re.sub(pattern, letter, word)
    return word


def features(words):
    """The features of each word: its spelling and that of its neighbors."""
    padded = ['<start>', '<start>', *words, '<end>', '<end>']
    rows = []
    for i in range(2, len(words) + 2):
        word = padded[i].lower()
        row = ['bias', *(f'prefix={word[:n]}' for n in range(1, 5)),
               *(f'suffix={word[-n:]}' for n in range(1, 5))]
        for offset in range(-2, 3):
            neighbor = padded[i + offset]
            row += [f'{offset}:word={neighbor.lower()}', f'{offset}:shape={shape(neighbor)}']
        for offset in (-1, 0):
            row.append(f'{offset}:words={padded[i + offset].lower()} '
                       f'{padded[i + offset + 1].lower()}')
        rows.append(row)
    return rows


def main(task, train_file, *other_files):
    """Learn from the first file, score on the others."""
    column = 3 if task == 'ner' else 1
    trainer = pycrfsuite.Trainer(verbose=False)
    for words, tags in zip(*read_corpus(train_file, task, column, 'iobes')):
        trainer.append(features(words), tags)
    trainer.set_params({'c2': 0.1, 'max_iterations': 100, 'feature.possible_transitions': True})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trainer.train(f'{folder}/model')
        print(f'trained in {time.perf_counter() - began:.0f} s')
        tagger = pycrfsuite.Tagger()
        tagger.open(f'{folder}/model')
        for file in other_files:
            words, gold = read_corpus(file, task, column, 'iobes')
            print(f'{file}:')
            predicted = [tagger.tag(features(sentence)) for sentence in words]
            print_scores(gold, predicted, task)


if __name__ == '__main__':
    main(*sys.argv[1:])
