"""Prepare real corpora and word vectors for train.py.

    python data/prepare.py ewt                      UD English-EWT: parts of speech
    python data/prepare.py wnut17                   WNUT 2017: emerging entities in tweets and posts
    python data/prepare.py gmb ner_dataset.csv      Groningen Meaning Bank, a file from Kaggle
    python data/prepare.py glove                    GloVe 6B word vectors, 100 dimensions
    python data/prepare.py treebank                 NLTK's sample of the Penn Treebank
    python data/prepare.py conllu FILE...           any Universal Dependencies corpus
    python data/prepare.py conll2003 FOLDER         checks your own copy of CoNLL-2003

A corpus goes to data/NAME, as train.txt, val.txt and test.txt in CoNLL-2003's four columns: word,
part of speech, chunk, entity tag, with - where a corpus has none. Downloads are verified, and
one that was cut off goes on when the same command is given again.
"""

import argparse
import csv
import hashlib
import http.client
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

SPLITS = ('train', 'val', 'test')
GITHUB = 'https://raw.githubusercontent.com'


class Source(NamedTuple):
    """Where a corpus is published: its files with their SHA-256 sums, and what to know and cite."""

    address: str
    files: dict
    license: str
    citation: str


SOURCES = {
    'ewt': Source(
        f'{GITHUB}/UniversalDependencies/UD_English-EWT/15d613d8447b3478787d4c278730a1e48a945efb',
        {'en_ewt-ud-train.conllu':
         '3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b',
         'en_ewt-ud-dev.conllu':
         '531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6',
         'en_ewt-ud-test.conllu':
         'e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd'},
        'CC BY-SA 4.0',
        'Silveira et al. (2014), A gold standard dependency corpus for English, LREC'),
    'wnut17': Source(
        f'{GITHUB}/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603',
        {'wnut17train.conll':
         '731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5',
         'emerging.dev.conll':
         'e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8',
         'emerging.test.annotated':
         '2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0'},
        'CC BY 4.0',
        'Derczynski et al. (2017), Results of the WNUT2017 shared task on novel and emerging '
        'entity recognition, W-NUT'),
    'gmb': Source(
        'https://www.kaggle.com/datasets/abhinavwalia95/entity-annotated-corpus',
        {'ner_dataset.csv': '83257dd94ed59596809dc9f5b28f1f035c9d925d5a647f266db43a2f098e8f1a'},
        'texts in the public domain',
        'Bos et al. (2017), The Groningen Meaning Bank, Handbook of Linguistic Annotation'),
    'glove': Source(
        'https://nlp.stanford.edu/data',
        {'glove.6B.zip': '617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb'},
        'PDDL 1.0',
        'Pennington et al. (2014), GloVe: Global vectors for word representation, EMNLP'),
}
GLOVE = 'glove.6B.100d.txt'

# Sentences, tokens and entities (Tjong Kim Sang and De Meulder, 2003, tables 1 and 2, where
# sentences exclude the lines that begin a document), and the names under which copies go about
CONLL2003 = {'train': ((14_041, 203_621, 23_499), ('eng.train', 'train.txt', 'train.conll')),
             'val': ((3_250, 51_362, 5_942),
                     ('eng.testa', 'val.txt', 'valid.txt', 'dev.txt', 'testa.txt', 'valid.conll')),
             'test': ((3_453, 46_435, 5_648),
                      ('eng.testb', 'test.txt', 'testb.txt', 'test.conll'))}

BRACKETS = {'-LRB-': '(', '-RRB-': ')', '-LSB-': '[', '-RSB-': ']', '-LCB-': '{', '-RCB-': '}'}


class PrepareError(Exception):
    """Something is wrong with what was given or fetched; the message is one clear line."""


# --- Downloads ---

def sha256(path):
    """The SHA-256 sum of a file, in hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def open_address(address, begin):
    """Ask for a file from its byte `begin` on; None if it has no more than that."""
    headers = {'Range': f'bytes={begin}-'} if begin else {}
    try:
        return urlopen(Request(address, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise PrepareError(f'{address}: expected the file, found {error.code} {error.reason}'
                           ) from None
    except (URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise PrepareError(f'{address}: cannot be reached: {getattr(error, "reason", error)}'
                           ) from None


def blocks(answer):
    """What a server sends, block by block, up to where it ends or the connection is cut off."""
    while True:
        try:
            block = answer.read(1 << 16)
        except (http.client.HTTPException, OSError):
            return
        if not block:
            return
        yield block


def copy(source, path, file, size, done=0):
    """Write blocks to a file and show how far it is, of `size` bytes."""
    with tqdm(desc=path.name, total=size, initial=done, unit='B', unit_scale=True, leave=False,
              disable=None) as progress:
        for block in source:
            file.write(block)
            progress.update(len(block))


def download(address, path, expected):
    """Download a file whole and verified, or go on with a download that was cut off.

    Args:
        address: URL of the file.
        path: where it goes; until it is whole, what came is in a file beside it, *.part.
        expected: its SHA-256 sum.

    Raises:
        PrepareError: it can't be reached, is cut off, or has another sum.
    """
    part = path.with_name(f'{path.name}.part')
    if path.exists() and sha256(path) == expected:
        return
    begin = part.stat().st_size if part.exists() else 0
    answer = open_address(address, begin)
    if answer is not None:
        # A server that can't go on sends all of it, with status 200
        begin = begin if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        size = begin + int(answer.headers['Content-Length'] or 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with answer, open(part, 'ab' if begin else 'wb') as file:
            copy(blocks(answer), path, file, size, begin)
        if part.stat().st_size < size:
            raise PrepareError(f'{address}: expected {size:,} bytes, found {part.stat().st_size:,} '
                               'before the connection was cut off; the same command goes on')
    found = sha256(part)
    if found != expected:
        part.unlink()
        raise PrepareError(f'{address}: expected SHA-256 {expected}, found {found}; it is deleted')
    part.rename(path)


def fetch(name, folder, mirror):
    """Download the files of a source into a folder; return their paths."""
    source = SOURCES[name]
    print(f'{source.address}\nlicense: {source.license}\nto cite: {source.citation}', flush=True)
    paths = [folder / file for file in source.files]
    for path, expected in zip(paths, source.files.values()):
        download(f'{mirror or source.address}/{path.name}', path, expected)
    return paths


# --- Reading corpora ---

def read_lines(path, encoding='utf-8-sig'):
    """The lines of a file, numbered from 1."""
    try:
        with open(path, encoding=encoding) as file:
            yield from enumerate((line.rstrip('\r\n') for line in file), start=1)
    except OSError as error:
        raise PrepareError(f'{path}: cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise PrepareError(f'{path}: expected {error.encoding}, found the byte '
                           f'0x{error.object[error.start]:02x}') from None


def read_columns(path, sep=None, least=2):
    """Read sentences of rows in columns, with blank lines between them.

    Args:
        path: the file.
        sep: what stands between the columns; None is white space.
        least: number of columns that each row must have.

    Returns:
        A list of sentences, each a list of (line number, columns).
    """
    sentences = [[]]
    for number, line in read_lines(path):
        columns = line.split(sep)
        if not line.strip():
            sentences.append([])
        elif sep == '\t' and line.startswith('#'):
            # A comment of a .conllu file
            continue
        elif len(columns) < least:
            raise PrepareError(f'{path}, line {number}: expected {least} columns, found {line!r}')
        else:
            sentences[-1].append((number, columns))
    return [sentence for sentence in sentences if sentence]


def read_conllu(path, column):
    """Read words and tags, as (word, tag, '-'), from a .conllu file.

    Ranges (`3-4`, a word that is written as one and analysed as two) and empty nodes (`8.1`) are
    left out.
    """
    index = {'upos': 3, 'xpos': 4}[column]
    sentences = []
    for rows in read_columns(path, '\t', least=10):
        rows = [(number, row) for number, row in rows if row[0].isdigit()]
        for number, row in rows:
            if row[index] in ('_', ''):
                raise PrepareError(f'{path}, line {number}: expected a tag in column {column}, '
                                   f'found {row[index]!r}; see --column')
        sentences.append([(row[1], row[index], '-') for _, row in rows])
    return [sentence for sentence in sentences if sentence]


def read_wnut(path):
    """Read words and entity tags, as (word, '-', tag), from a file of WNUT 2017."""
    return [[(row[0], '-', row[-1]) for _, row in sentence] for sentence in read_columns(path)]


def read_gmb(path):
    """Read (word, part of speech, entity tag) from Kaggle's table, `Sentence #,Word,POS,Tag`."""
    sentences = []
    # A comma or a quotation mark stands between quotation marks, but no end of line
    for number, line in read_lines(path, 'cp1252'):
        row = next(csv.reader([line]), [])
        if len(row) != 4 or (number == 1 and row != ['Sentence #', 'Word', 'POS', 'Tag']):
            raise PrepareError(f"{path}, line {number}: expected 'Sentence #,Word,POS,Tag', "
                               f'found {line!r}')
        if row[0]:
            sentences.append([])
        sentences[-1].append(tuple(row[1:]))
    if not sentences:
        raise PrepareError(f'{path}: expected sentences, found an empty file')
    # The first row names the columns
    return [sentences[0][1:], *sentences[1:]] if sentences[0][1:] else sentences[1:]


def read_treebank():
    """Read NLTK's sample of the Penn Treebank, as (word, tag, '-'), without its empty elements."""
    try:
        from nltk.corpus import treebank
        sentences = treebank.tagged_sents()
        return [[(BRACKETS.get(word, word), tag, '-') for word, tag in sentence if tag != '-NONE-']
                for sentence in sentences]
    except (ImportError, LookupError):
        raise PrepareError("expected nltk and its treebank: pip install nltk, then python -c "
                           "'import nltk; nltk.download(\"treebank\")'") from None


def split(sentences):
    """Split a corpus without a split of its own: the first 80%, then 10% and 10%."""
    if len(sentences) < 10:
        raise PrepareError(f'expected at least 10 sentences to split, found {len(sentences)}')
    val = len(sentences) * 8 // 10
    test = val + (len(sentences) - val) // 2
    return sentences[:val], sentences[val:test], sentences[test:]


# --- Writing corpora ---

def entity_types(tags):
    """The types of a sentence's entities, whichever scheme the tags are in."""
    previous = 'O'
    for tag in tags:
        prefix, _, entity_type = tag.partition('-')
        if prefix in ('B', 'S') or (prefix in ('I', 'E') and (
                previous[0] in 'OES' or previous[2:] != entity_type)):
            yield entity_type
        previous = tag if tag != '-' else 'O'


def count(sentences):
    """Count sentences, tokens and entities; and what there is of each type or part of speech."""
    entities = Counter(entity_type for sentence in sentences
                       for entity_type in entity_types([row[-1] for row in sentence]))
    parts = Counter(row[1] for sentence in sentences for row in sentence if row[1] != '-')
    return (len(sentences), sum(map(len, sentences)), entities.total()), entities, parts


def show(path, sentences):
    """Print the counts of a file."""
    (number, tokens, total), entities, parts = count(sentences)
    print(f'{path}: {number:,} sentences, {tokens:,} tokens')
    for what, counts in ((f'{total:,} entities', entities), (f'{len(parts)} POS tags', parts)):
        if counts:
            shown = [f'{tag} {n:,}' for tag, n in counts.most_common(10)]
            print(f'  {what}:', ', '.join(shown + ['...'] * (len(counts) > 10)))


def write(path, write_to):
    """Write a file whole or not at all: write_to(file) writes a temporary one beside it."""
    part = path.with_name(f'{path.name}.part')
    try:
        with open(part, 'wb') as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(path)


def write_corpus(folder, corpora):
    """Write train.txt, val.txt and test.txt, and print their counts.

    White space within a word is left out, since it stands between columns here.

    Args:
        folder: where they go.
        corpora: one list of sentences for each, of (word, part of speech, entity tag).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, sentences in zip(SPLITS, corpora):
        text = ''.join(''.join(f'{"".join(word.split()) or "_"} {pos} - {tag}\n'
                               for word, pos, tag in sentence) + '\n' for sentence in sentences)
        write(folder / f'{name}.txt', lambda file, text=text: file.write(text.encode()))
    for name in SPLITS[len(corpora):]:
        # That of an earlier run would belong to another corpus
        (folder / f'{name}.txt').unlink(missing_ok=True)
    for name, sentences in zip(SPLITS, corpora):
        show(folder / f'{name}.txt', sentences)


# --- Commands ---

def prepare_download(args):
    """ewt and wnut17: download, convert."""
    folder = args.output_dir / args.corpus
    paths = fetch(args.corpus, folder, args.mirror)
    read = read_wnut if args.corpus == 'wnut17' else lambda path: read_conllu(path, 'xpos')
    write_corpus(folder, [read(path) for path in paths])
    for path in paths:
        path.unlink()


def prepare_glove(args):
    """glove: download the archive, take out the vectors of 100 dimensions."""
    folder = args.output_dir / 'glove'
    if (folder / GLOVE).exists():
        raise PrepareError(f'{folder / GLOVE} is there already')
    archive, = fetch('glove', folder, args.mirror)
    with zipfile.ZipFile(archive) as zipped, zipped.open(GLOVE) as vectors:
        size = zipped.getinfo(GLOVE).file_size
        source = iter(lambda: vectors.read(1 << 16), b'')
        write(folder / GLOVE, lambda file: copy(source, folder / GLOVE, file, size))
    archive.unlink()
    print(f'to use these vectors: --emb_file {folder / GLOVE}')


def prepare_gmb(args):
    """gmb: convert the file that the user brings."""
    source = SOURCES['gmb']
    print(f'{source.address}\nlicense: {source.license}\nto cite: {source.citation}')
    sentences = read_gmb(args.file)
    expected, found = source.files['ner_dataset.csv'], sha256(args.file)
    if found != expected:
        print(f'note: the published file has the SHA-256 sum {expected}, this one {found}')
    write_corpus(args.output_dir / 'gmb', split(sentences))


def prepare_treebank(args):
    """treebank: convert NLTK's sample."""
    sentences = read_treebank()
    print('license: for non-commercial use\nto cite: Marcus et al. (1993), Building a large '
          'annotated corpus of English: the Penn Treebank, Computational Linguistics')
    write_corpus(args.output_dir / 'treebank', split(sentences))


def prepare_conllu(args):
    """conllu: convert one file, which is split, or two or three, which are the splits."""
    if len(args.files) > 3:
        raise PrepareError(f'expected 1 to 3 files, found {len(args.files)}')
    name = args.name or Path(args.files[0]).name.split('-ud-')[0].removesuffix('.conllu')
    if name == 'sample':
        raise PrepareError("data/sample is this project's corpus; see --name")
    corpora = [read_conllu(path, args.column) for path in args.files]
    write_corpus(args.output_dir / name, split(corpora[0]) if len(corpora) == 1 else corpora)


def check_conll2003(args):
    """conll2003: compare the user's copy with the published counts."""
    wrong = 0
    for split_name, (expected, names) in CONLL2003.items():
        path = next((args.folder / name for name in names if (args.folder / name).exists()), None)
        if path is None:
            raise PrepareError(f'{args.folder}: expected a file {names[0]}, or '
                               f'{", ".join(names[1:])}, found none for {split_name}')
        sentences = [[row for _, row in sentence if row[0] != '-DOCSTART-']
                     for sentence in read_columns(path, least=4)]
        found, entities, _ = count([sentence for sentence in sentences if sentence])
        for what, number, right in zip(('sentences', 'tokens', 'entities'), found, expected):
            wrong += number != right
            print(f'{path}: {number:,} {what}' + (
                ', as published' if number == right else f', expected {right:,}'))
        if set(entities) - {'LOC', 'MISC', 'ORG', 'PER'}:
            wrong += 1
            print(f'{path}: expected the types LOC, MISC, ORG, PER, found {", ".join(entities)}')
    if wrong:
        raise PrepareError(f'{args.folder}: {wrong} of these figures are not as published')


def parse_arguments(argv):
    """Read the command line."""
    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise PrepareError(f'{message}; see {self.prog} --help')

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--output_dir', type=Path, default=Path(__file__).parent,
                        help='folder of the corpora (default: the one of this script)')
    online = argparse.ArgumentParser(add_help=False)
    online.add_argument('--mirror', help='address of a folder that has the files of this source')

    parser = Parser(usage='%(prog)s CORPUS [arguments]',
                    description='Prepare real corpora and word vectors for train.py.')
    corpora = parser.add_subparsers(dest='corpus', required=True, metavar='CORPUS')

    def add(name, function, text, *parents):
        command = corpora.add_parser(name, help=text, parents=parents)
        command.set_defaults(function=function)
        return command.add_argument

    add('ewt', prepare_download, 'UD English-EWT: parts of speech', common, online)
    add('wnut17', prepare_download, 'WNUT 2017: emerging entities', common, online)
    add('glove', prepare_glove, 'GloVe 6B word vectors, 100 dimensions', common, online)
    add('gmb', prepare_gmb, "Groningen Meaning Bank, from Kaggle's file", common)(
        'file', type=Path, help='path of ner_dataset.csv')
    add('treebank', prepare_treebank, "NLTK's sample of the Penn Treebank", common)
    argument = add('conllu', prepare_conllu, 'any Universal Dependencies corpus', common)
    argument('files', type=Path, nargs='+', metavar='FILE',
             help='one file, to be split, or those to train, validate and test with')
    argument('--column', choices=('xpos', 'upos'), default='xpos', help='tags (default: xpos)')
    argument('--name', help="folder (default: the first file's name up to -ud-)")
    add('conll2003', check_conll2003, 'check your own copy of CoNLL-2003')(
        'folder', type=Path, help='where eng.train, eng.testa and eng.testb are')
    return parser.parse_args(argv)


def main(argv=None):
    """Prepare what the command line says."""
    try:
        args = parse_arguments(argv)
        args.function(args)
    except PrepareError as error:
        return f'error: {error}'
    except OSError as error:
        return f'error: {error.filename or args.output_dir}: {error.strerror}'
    except KeyboardInterrupt:
        print('error: stopped; the same command goes on', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
