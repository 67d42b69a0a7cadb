"""Prepare real corpora and word vectors for train.py; `python data/prepare.py --help` lists them.

A corpus goes to data/NAME, as train.txt, val.txt and test.txt in CoNLL-2003's four columns: word,
part of speech, chunk, entity tag, with - where a corpus has none. Downloads are verified.
"""

import csv
import hashlib
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import (  # noqa: E402
    ArgumentParser, InputError, file_errors, find_entities, read_lines, read_words_tags, run_main)

# Where a corpus is published, its license, what to cite, and the files to download, if any
SOURCES = {
    'ewt': ('https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/'
            '15d613d8447b3478787d4c278730a1e48a945efb', 'CC BY-SA 4.0',
            'Silveira et al. (2014), A gold standard dependency corpus for English, LREC',
            ('en_ewt-ud-train.conllu', 'en_ewt-ud-dev.conllu', 'en_ewt-ud-test.conllu')),
    'wnut17': ('https://raw.githubusercontent.com/leondz/emerging_entities_17/'
               'e52a2d2a71ac1a051ca2d532eef28653c5c02603', 'CC BY 4.0',
               'Derczynski et al. (2017), Results of the WNUT2017 shared task on novel and '
               'emerging entity recognition, W-NUT',
               ('wnut17train.conll', 'emerging.dev.conll', 'emerging.test.annotated')),
    'gmb': ('https://www.kaggle.com/datasets/abhinavwalia95/entity-annotated-corpus',
            'texts in the public domain', 'Bos et al. (2017), The Groningen Meaning Bank, '
            'Handbook of Linguistic Annotation', ()),
    'glove': ('https://nlp.stanford.edu/data', 'PDDL 1.0', 'Pennington et al. (2014), GloVe: '
              'Global vectors for word representation, EMNLP', ('glove.6B.zip',)),
    'treebank': ('https://www.nltk.org/nltk_data', 'for non-commercial use', 'Marcus et al. (1993),'
                 ' Building a large annotated corpus of English: the Penn Treebank, Computational '
                 'Linguistics', ()),
}
SHA256 = {
    'en_ewt-ud-train.conllu': '3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b',
    'en_ewt-ud-dev.conllu': '531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6',
    'en_ewt-ud-test.conllu': 'e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd',
    'wnut17train.conll': '731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5',
    'emerging.dev.conll': 'e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8',
    'emerging.test.annotated': '2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0',
    'ner_dataset.csv': '83257dd94ed59596809dc9f5b28f1f035c9d925d5a647f266db43a2f098e8f1a',
    'glove.6B.zip': '617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb',
}
# Two names for each file, and its sentences, tokens and entities (Tjong Kim Sang and De Meulder,
# 2003, tables 1 and 2, where sentences exclude the lines that begin a document)
CONLL2003 = {('eng.train', 'train.txt'): ('14,041 sentences', '203,621 tokens', '23,499 entities'),
             ('eng.testa', 'val.txt'): ('3,250 sentences', '51,362 tokens', '5,942 entities'),
             ('eng.testb', 'test.txt'): ('3,453 sentences', '46,435 tokens', '5,648 entities')}
BRACKETS = {'-LRB-': '(', '-RRB-': ')', '-LSB-': '[', '-RSB-': ']', '-LCB-': '{', '-RCB-': '}'}
SPLITS = ('train.txt', 'val.txt', 'test.txt')


def fetch(args, folder):
    """Print what to know about a source; download its files, if it has any; return their paths."""
    address, license_name, citation, names = SOURCES[args.command]
    print(f'{address}\nlicense: {license_name}\nto cite: {citation}', flush=True)
    for name in names:
        download(f'{args.mirror or address}/{name}', folder / f'{name}.part', SHA256[name])
    return [folder / f'{name}.part' for name in names]


def download(address, path, expected):
    """Download a file, or what is missing of it, and compare its SHA-256 sum with the expected."""
    begin = path.stat().st_size if path.exists() else 0
    try:
        request = Request(address, headers={'Range': f'bytes={begin}-'} if begin else {})
        with urlopen(request, timeout=60) as answer:
            # A server that can't continue sends all of it, with the status 200 instead of 206
            begin = begin if answer.status == 206 else 0
            size = begin + int(answer.headers['Content-Length'] or 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, 'ab' if begin else 'wb') as file, tqdm.wrapattr(
                    answer, 'read', size, initial=begin, desc=path.stem, leave=False,
                    disable=None) as source:
                shutil.copyfileobj(source, file)
        if path.stat().st_size < size:
            raise HTTPException(f'found {path.stat().st_size:,} of {size:,} bytes; try again')
    except (OSError, HTTPException, ValueError) as error:
        # The status 416 says that nothing is missing
        if getattr(error, 'code', None) != 416:
            raise InputError(f'{address}: cannot be downloaded: {error}') from None
    with open(path, 'rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != expected:
        path.unlink()
        raise InputError(f'{address}: expected SHA-256 {expected}, found {found}; it is deleted')


def plain_file(path):
    """The path as it is; InputError if the file is packed."""
    with file_errors(path):
        begin = path.read_bytes()[:3]
    if begin in (b'\x1f\x8b\x08', b'PK\x03'):
        raise InputError(f'{path}: expected text, found a .gz or .zip; unpack it first')
    return path


def read_conllu(path, column='xpos'):
    """Read (word, tag, '-') from a .conllu file."""
    index = {'upos': 3, 'xpos': 4}[column]
    sentences = [[]]
    for number, line in enumerate(read_lines(plain_file(path)), start=1):
        row = line.split('\t')
        if not line.strip():
            sentences.append([])
        elif not line.startswith('#'):
            # 3-4 is a word that is written as one and analyzed as two, and 8.1 is not written
            if len(row) != 10 or not re.fullmatch('[0-9]+([-.][0-9]+)?', row[0]) or (
                    row[0].isdigit() and row[index] in ('', '_')):
                raise InputError(f'{path}, line {number}: expected 10 columns, with a number '
                                 f'and a tag ({column}; see --column), found {line[:80]!r}')
            if row[0].isdigit():
                sentences[-1].append((row[1], row[index], '-'))
    return sentences


def read_wnut(path):
    """Read (word, '-', entity tag) from a file of WNUT 2017."""
    return [[(word, '-', tag) for word, tag in zip(words, tags)]
            for words, tags in zip(*read_words_tags(path, 1, caseless=False))]


def read_gmb(path):
    """Read (word, part of speech, entity tag) from Kaggle's table."""
    # A word may be longer than csv's limit, so that the error is about the line
    csv.field_size_limit(1 << 30)
    sentences, header = [[]], 'Sentence #,Word,POS,Tag'
    text = plain_file(path).read_text(encoding='cp1252', errors='replace')
    for number, line in enumerate(text.split('\n'), start=1):
        # What is between quotation marks may have a comma in it, but no end of line
        row = next(csv.reader([line]), [])
        right = line == header if number == 1 else not row or len(row) == 4 and all(row[1:])
        # U+FFFD is in the place of bytes that are not cp1252
        if not right or '\ufffd' in line:
            raise InputError(f'{path}, line {number}: expected {header!r}, in cp1252, found '
                             f'{line[:80]!r}')
        # Only the first word of a sentence has something in the first column
        if row and row[0]:
            sentences.append([])
        if row and number > 1:
            sentences[-1].append(tuple(row[1:]))
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256['ner_dataset.csv']:
        print(f'note: the published file has another SHA-256 sum, {SHA256["ner_dataset.csv"]}')
    return sentences


def read_nltk(name):
    """Read (word, tag, '-') from a corpus that comes with NLTK, without its empty elements."""
    try:
        import nltk.corpus
        return [[(BRACKETS.get(word, word), tag, '-') for word, tag in sentence if tag != '-NONE-']
                for sentence in getattr(nltk.corpus, name).tagged_sents()]
    except (ImportError, LookupError, OSError):
        raise InputError(f'expected nltk and its {name}: pip install nltk, then python -c '
                         f"'import nltk; nltk.download(\"{name}\")'") from None


def split(sentences):
    """Split a corpus without a split of its own: the first 80%, then 10% and 10%."""
    val = len(sentences) * 8 // 10
    test = val + (len(sentences) - val) // 2
    return sentences[:val], sentences[val:test], sentences[test:]


def corpus_folder(args):
    """The folder of a new corpus; InputError if it has a corpus, or no plain name."""
    # A file of Universal Dependencies is named after its corpus, as en_ewt-ud-train.conllu is
    default = args.command if args.command in SOURCES else re.sub(
        r'(-ud-|\.conllu).*', '', args.files[0].name)
    name = default if args.name is None else args.name
    if name in ('', '..', 'sample') or Path(name).name != name:
        raise InputError(f'--name: expected the name of one folder, not sample, found {name!r}')
    folder = args.output_dir / name
    if any((folder / file).exists() for file in SPLITS):
        raise InputError(f'{folder}: has a corpus already; give another --name, or delete it')
    return folder


def format_row(word, pos, tag):
    """The line of a word, its part of speech and entity tag, which reads back as one word."""
    # White space is left out, since some corpora have it in numbers, 1 000; and so is a byte order
    # mark, which would be lost where a file begins. -DOCSTART- would end the sentence
    word = ''.join(word.split()).lstrip('\ufeff')
    word = re.sub('^-DOCSTART-', '_DOCSTART_', word)
    return ' '.join('_'.join(column.split()) or '_' for column in (word, pos, '-', tag)) + '\n'


def write_corpus(folder, corpora):
    """Write lists of sentences as train.txt, val.txt and test.txt, all or none; print counts."""
    # A full disk has no file name in its error, which would then be standard output's
    with file_errors(folder, 'written'):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for name, sentences in zip(SPLITS, corpora):
                rows = [''.join(format_row(*row) for row in sentence) for sentence in sentences]
                Path(temporary, name).write_text(
                    ''.join(f'{row}\n' for row in rows), encoding='utf-8')
            for file in Path(temporary).iterdir():
                file.rename(folder / file.name)
    for name, sentences in zip(SPLITS, corpora):
        print(f'{folder / name}: {len(sentences):,} sentences, {sum(map(len, sentences)):,} tokens')
        entities = count_entities([row[2] for row in sentence] for sentence in sentences)
        parts = Counter(row[1] for sentence in sentences for row in sentence if row[1] != '-')
        for what, counts in ((f'{entities.total():,} entities', entities),
                             (f'{len(parts)} POS tags', parts)):
            if counts:
                shown = [f'{tag} {times:,}' for tag, times in counts.most_common(10)]
                print(f'  {what}:', ', '.join(shown + ['...'] * (len(counts) > 10)))


def count_entities(tags):
    """How many entities of each type there are in the tags of sentences, where - is no tag."""
    return Counter(entity_type for sentence in tags for entity_type, _, _ in
                   find_entities(['O' if tag == '-' else tag for tag in sentence]))


def convert(args):
    """Read a corpus, downloaded or the user's own, and write it in CoNLL-2003's columns."""
    files = args.files if 'files' in args else []
    if len({file.resolve() for file in files}) < len(files) or len(files) > 3:
        raise InputError(f'expected 1 to 3 different files, found {" ".join(map(str, files))}')
    folder = corpus_folder(args)
    read = {'wnut17': read_wnut, 'gmb': read_gmb, 'treebank': read_nltk}.get(
        args.command, read_conllu)
    options = {'column': args.column} if 'column' in args else {}
    with tempfile.TemporaryDirectory() as temporary:
        if args.command in SOURCES:
            files = fetch(args, Path(temporary)) or files or [args.command]
        corpora = [[sentence for sentence in read(file, **options) if sentence] for file in files]
    # A part of a corpus that is split has at least one sentence, too
    least = 10 if len(files) == 1 else 1
    for file, sentences in zip(files, corpora):
        if len(sentences) < least:
            raise InputError(f'{file}: expected at least {least} sentences, found {len(sentences)}')
    write_corpus(folder, split(*corpora) if len(files) == 1 else corpora)


def prepare_glove(args):
    """Download the archive of word vectors, and take out those of 100 dimensions."""
    path = args.output_dir / 'glove' / 'glove.6B.100d.txt'
    if path.exists():
        raise InputError(f'{path} is there already')
    archive, = fetch(args, path.parent)
    with (file_errors(path, 'written'), zipfile.ZipFile(archive) as zipped,
          tempfile.TemporaryDirectory(dir=path.parent) as folder):
        Path(zipped.extract(path.name, folder)).rename(path)
    archive.unlink()
    print(f'to use these vectors: --emb_file {path}')


def check_conll2003(args):
    """Compare the user's copy with the published counts."""
    wrong = 0
    for names, published in CONLL2003.items():
        paths = [args.folder / name for name in names if (args.folder / name).exists()]
        if not paths:
            raise InputError(f'{args.folder}: expected a file {" or ".join(names)}, found none')
        words, tags = read_words_tags(plain_file(paths[0]), 3, caseless=False)
        entities = count_entities(tags)
        found = (f'{len(words):,} sentences', f'{sum(map(len, words)):,} tokens',
                 f'{entities.total():,} entities', f'types {", ".join(sorted(entities))}')
        for what, right in zip(found, (*published, 'types LOC, MISC, ORG, PER')):
            wrong += what != right
            print(f'{paths[0]}: {what},', 'as published' if what == right else f'expected {right}')
    # If there is nobody to read the figures, that is the error
    sys.stdout.flush()
    if wrong:
        raise InputError(f'{args.folder}: {wrong} of these figures are not as published')


COMMANDS = {
    'ewt': (convert, 'UD English-EWT: parts of speech', '--mirror --name --output_dir'),
    'wnut17': (convert, 'WNUT 2017: emerging entities', '--mirror --name --output_dir'),
    'gmb': (convert, 'Groningen Meaning Bank, from ner_dataset.csv', 'files --name --output_dir'),
    'glove': (prepare_glove, 'GloVe 6B word vectors, 100 dimensions', '--mirror --output_dir'),
    'treebank': (convert, "NLTK's Penn Treebank sample (pip install nltk)", '--name --output_dir'),
    'conllu': (convert, 'any Universal Dependencies corpus', 'files --column --name --output_dir'),
    'conll2003': (check_conll2003, 'check your own copy of CoNLL-2003', 'folder'),
}
ARGUMENTS = {
    'files': {'type': Path, 'nargs': '+', 'metavar': 'FILE',
              'help': 'one to be split, or those to train, validate and test with'},
    'folder': {'type': Path, 'help': 'where eng.train, eng.testa and eng.testb are'},
    '--column': {'choices': ('xpos', 'upos'), 'default': 'xpos', 'help': 'tags (default: xpos)'},
    '--mirror': {'help': 'address of a folder that has the files of this source'},
    '--name': {'help': "folder of the corpus (default: CORPUS, or the file's name up to -ud-)"},
    '--output_dir': {'type': Path, 'default': Path(__file__).parent, 'help': 'instead of data/'},
}


def main(argv):
    """Prepare what the command line says."""
    parser = ArgumentParser(description='Prepare real corpora and word vectors for train.py.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='CORPUS')
    for name, (_, text, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        for argument in arguments.split():
            command.add_argument(argument, **ARGUMENTS[argument])
    args = parser.parse_args(argv)
    COMMANDS[args.command][0](args)


if __name__ == '__main__':
    run_main(main)
