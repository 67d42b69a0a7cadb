"""Prepare corpora, annotations and word vectors for train.py; --help lists them.

A corpus goes to data/NAME, in CoNLL-2003's columns: word, part of speech, -, entity tag (or -).
"""

import csv
import hashlib
import random
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

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
from annotations import NOTES, check, read_annotations  # noqa: E402
from inference import TOKENIZERS  # noqa: E402
from utils import (ArgumentParser, InputError, file_errors, find_entities,  # noqa: E402
                   in_range, read_lines, read_words_tags, run_main)

# Where a corpus is published, its license, what to cite, and the files to download, if any
SOURCES = {
    'ewt': ('https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/'
            '15d613d8447b3478787d4c278730a1e48a945efb', 'CC BY-SA 4.0', 'Silveira et al. (2014)',
            'en_ewt-ud-train.conllu', 'en_ewt-ud-dev.conllu', 'en_ewt-ud-test.conllu'),
    'wnut17': ('https://raw.githubusercontent.com/leondz/emerging_entities_17/'
               'e52a2d2a71ac1a051ca2d532eef28653c5c02603', 'CC BY 4.0', 'Derczynski et al. (2017)',
               'wnut17train.conll', 'emerging.dev.conll', 'emerging.test.annotated'),
    'gmb': ('https://www.kaggle.com/datasets/abhinavwalia95/entity-annotated-corpus',
            'texts in the public domain', 'Bos et al. (2017), The Groningen Meaning Bank'),
    'glove': ('https://nlp.stanford.edu/data', 'PDDL', 'Pennington et al. (2014)', 'glove.6B.zip'),
    'treebank': ('https://www.nltk.org/nltk_data', 'non-commercial use', 'Marcus et al. (1993)'),
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
# Files, and what is in them without -DOCSTART- (Tjong Kim Sang and De Meulder, 2003, tables 1, 2)
CONLL2003 = {('eng.train', 'train.txt'): '14,041 sentences, 203,621 tokens, 23,499 entities',
             ('eng.testa', 'val.txt'): '3,250 sentences, 51,362 tokens, 5,942 entities',
             ('eng.testb', 'test.txt'): '3,453 sentences, 46,435 tokens, 5,648 entities'}
# GMB's types in words: a country is a place, its people a nationality, a storm or disease nature
GMB_TYPES = {'per': 'person', 'org': 'organization', 'geo': 'place', 'gpe': 'nationality',
             'tim': 'time', 'art': 'product', 'eve': 'event', 'nat': 'nature'}
BRACKETS = {'-LRB-': '(', '-RRB-': ')', '-LSB-': '[', '-RSB-': ']', '-LCB-': '{', '-RCB-': '}'}
# The files of a corpus, and the words in the names of files that become them
SPLITS = {'train.txt': 'train', 'val.txt': 'dev devel val valid validation', 'test.txt': 'test'}
DOCUMENT = r'(?m)^(?=-DOCSTART-(?:\s|$))'

def fetch(args, folder):
    """Print what to know about a source; download its files, if it has any; return their paths."""
    address, license_name, citation, *names = SOURCES[args.command]
    print(f'{address}\nlicense: {license_name}\nto cite: {citation}', flush=True)
    for name in names:
        download(f'{args.mirror or address}/{name}', folder / f'{name}.part', SHA256[name])
    return [folder / f'{name}.part' for name in names]

def download(address, path, expected):
    """Download a file, or what is missing of it, and compare its SHA-256 sum with the expected."""
    begin = path.stat().st_size if path.exists() else 0
    try:
        with urlopen(Request(address, headers={'Range': f'bytes={begin}-'}), timeout=60) as answer:
            begin = begin if answer.status == 206 else 0  # A server that can't go on sends all
            size = begin + int(answer.headers['Content-Length'] or 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, 'ab' if begin else 'wb') as file, tqdm.wrapattr(
                    answer, 'read', size, initial=begin, leave=False, disable=None) as source:
                shutil.copyfileobj(source, file)
        if path.stat().st_size < size:
            raise HTTPException(f'found {path.stat().st_size:,} of {size:,} bytes; try again')
    except (OSError, HTTPException, ValueError) as error:
        if getattr(error, 'code', None) != 416:  # That nothing is missing
            raise InputError(f'{address}: cannot be downloaded: {error}') from None
    with open(path, 'rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != expected:
        path.unlink()
        raise InputError(f'{address}: expected SHA-256 {expected}, found {found}; it is deleted')

def read_conllu(path, column):
    """Read (word, tag, '-') from a .conllu file."""
    index, sentences = {'upos': 3, 'xpos': 4}[column], [[]]
    for n, line in enumerate(read_lines(path), start=1):
        row = line.split('\t')
        if not line.strip():
            sentences.append([])
        elif not line.startswith('#'):
            # 3-4 is a word that is written as one and analyzed as two, and 8.1 is not written
            if len(row) != 10 or not re.fullmatch('[0-9]+([-.][0-9]+)?', row[0]) or (
                    row[0].isdigit() and row[index] in ('', '_')):
                raise InputError(f'{path}, line {n}: expected 10 columns, with a number and a tag '
                                 f'({column}; see --column), found {line[:80]!r}')
            if row[0].isdigit():
                sentences[-1].append((row[1], row[index], '-'))
    return sentences

def read_wnut(path):
    """Read (word, '-', entity tag) from a file of WNUT 2017."""
    return [[(word, '-', tag) for word, tag in zip(words, tags)]
            for words, tags in zip(*read_words_tags(path, 1, caseless=False))]

def read_gmb(path):
    """Read (word, part of speech, entity tag) from Kaggle's table."""
    csv.field_size_limit(1 << 30)  # So that a longer word is an error of its line
    sentences, head, data, last = [[]], 'Sentence #,Word,POS,Tag', path.read_bytes(), ''
    try:
        text = data.decode('utf-8-sig')  # As other programs save the table
    except UnicodeDecodeError:
        text = data.decode('cp1252', errors='replace')
    for n, line in enumerate(re.split('\r\n|\r|\n', text), start=1):
        row = next(csv.reader([line]), [])  # Quotes may have a comma in them, but no end of line
        right = line == head if n == 1 else not row or len(row) == 4 and all(row[1:])
        if not right or '\ufffd' in line:  # In the place of bytes that are not cp1252
            raise InputError(f'{path}, line {n}: expected {head} in UTF-8, found {line[:80]!r}')
        if row and row[0] not in ('', last):  # The first word of a sentence has its number there
            sentences.append([])
            last = row[0]
        if row and n > 1:
            word, pos, tag = row[1:]
            sentences[-1].append((word, pos, tag[:2] + GMB_TYPES.get(tag[2:], tag[2:])))
    if hashlib.sha256(data).hexdigest() != SHA256['ner_dataset.csv']:
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

def corpus_folder(args):
    """The folder of a new corpus; InputError if it has one, or for files that can't be meant."""
    files, most = vars(args).get('files', []), {'jsonl': 999, 'conllu': 3}.get(args.command, 1)
    if len({file.resolve() for file in files}) < len(files) or len(files) > most:
        raise InputError(f'expected 1 to {most} different files, found {" ".join(map(str, files))}')
    for file in files:
        if file.is_file() and file.read_bytes()[:3] in (b'\x1f\x8b\x08', b'PK\x03'):
            raise InputError(f'{file}: expected text, found a .gz or .zip; unpack it first')
    # A file of Universal Dependencies is named after its corpus, as en_ewt-ud-train.conllu is
    default = args.command if args.command in SOURCES else files[0].name
    name = re.sub(r'-ud-.*|\.\w+$', '', default) if args.name is None else args.name
    if name in ('', '..', 'sample') or Path(name).name != name:
        raise InputError(f'--name: expected the name of one folder, not sample, found {name!r}')
    folder = args.output_dir / name
    if any((folder / file).exists() for file in (*SPLITS, 'all.txt')):
        raise InputError(f'{folder}: has a corpus already; give another --name, or delete it')
    return folder

def find_splits(files):
    """Which of train.txt, val.txt and test.txt files are, as their names say."""
    found = [[split for split, words in SPLITS.items()
              if {*words.split()} & {*re.split('[-_.]', file.name.lower())}] for file in files]
    if any(len(one) != 1 for one in found) or len(set(map(tuple, found))) < len(files):
        raise InputError('expected one name with train, one with dev or val, and one with test, '
                         f'found {" ".join(file.name for file in files)}')
    return [split for split, in found]

def draw(parts, args):
    """Draw parts for val.txt and test.txt by --seed: a dict of the files' names and parts."""
    # random() gives the same numbers on all machines and in all versions of Python
    generator = random.Random(args.seed)
    order = sorted(range(len(parts)), key=lambda _: generator.random())
    val, both = (round(share * len(parts)) for share in (args.val, args.val + args.test))
    drawn = zip(SPLITS, (1, args.val, args.test), (order[both:], order[:val], order[val:both]))
    return {name: [parts[i] for i in sorted(places)] for name, share, places in drawn if share}

def format_row(word, pos, tag):
    """The line of a word, its part of speech and entity tag, which reads back as one word."""
    # White space is left out, since some corpora have it in numbers, 1 000; and so are zeros and a
    # byte order mark, which would be lost where a file begins. -DOCSTART- would end the sentence
    word = ''.join(word.replace('\0', '').split()).lstrip('\ufeff')
    columns = (re.sub('^-DOCSTART-', '_DOCSTART_', word), pos, '-', tag)
    return ' '.join('_'.join(column.replace('\0', ' ').split()) or '_' for column in columns) + '\n'

def write_files(folder, corpora):
    """Write a dict of the files' names and parts, which end in a blank line: all or none."""
    # A full disk has no file name in its error, which would then be standard output's
    with file_errors(folder, 'written', ValueError):
        for name, parts in corpora.items():
            check(parts, f'texts for {name} (more, or other shares; see --val, --test)', parts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for name, parts in corpora.items():
                Path(temporary, name).write_text(''.join(parts), encoding='utf-8')
            for file in Path(temporary).iterdir():
                file.rename(folder / file.name)
    # Sentences without the last of their columns, the tags
    found = {name: [re.sub(r'(?m)[ \t]+\S+ *$', '', sentence)
                    for sentence in re.split(r'\n\s*\n', ''.join(parts).strip())
                    if not sentence.startswith('-DOCSTART-')] for name, parts in corpora.items()}
    train = set(found.pop('train.txt', ()))
    for name, sentences in found.items():
        if again := sum(sentence in train for sentence in sentences):
            print(f'{folder / name}: {again:,} sentences are also in train.txt')

def write_corpus(folder, corpora):
    """Write a dict of the files' names and sentences, lists of (word, pos, tag); print counts."""
    with file_errors(folder, 'written', ValueError):
        for words in ([row[0] for row in one] for part in corpora.values() for one in part):
            check(len(words) <= 1000 and sum(map(len, words)) <= 10_000, 'at most 1,000 words and '
                  '10,000 characters in a line or sentence', ' '.join(words[:20]))
    write_files(folder, {name: [''.join(format_row(*row) for row in sentence) + '\n'
                                for sentence in part] for name, part in corpora.items()})
    for name, sentences in corpora.items():
        print(f'{folder / name}: {len(sentences):,} sentences, {sum(map(len, sentences)):,} tokens')
        entities = Counter(entity[0] for sentence in sentences for entity in find_entities(
            [row[2] for row in sentence if row[2] != '-']))
        parts = Counter(row[1] for sentence in sentences for row in sentence if row[1] != '-')
        for what, counts in (('entities', entities), ('POS tags', parts)):
            if counts:
                shown = [f'{tag} {times:,}' for tag, times in counts.most_common(10)]
                print(f'  {counts.total():,} {what}:', ', '.join(shown))

def convert(args):
    """Read a corpus, downloaded or the user's own, and write it in CoNLL-2003's columns."""
    folder, files = corpus_folder(args), vars(args).get('files', [])
    read = {'wnut17': read_wnut, 'gmb': read_gmb, 'treebank': read_nltk}.get(args.command)
    splits = find_splits(files) if len(files) > 1 else SPLITS
    with tempfile.TemporaryDirectory() as temporary:
        if args.command in SOURCES:
            files = fetch(args, Path(temporary)) or files or [args.command]
        corpora = [[*filter(None, read(file) if read else read_conllu(file, args.column))]
                   for file in files]
    for file, sentences in zip(files, corpora):
        if len(sentences) < (least := 10 if len(files) == 1 else 1):
            raise InputError(f'{file}: expected at least {least} sentences, found {len(sentences)}')
    if len(files) == 1:  # The first 80%, then 10% and 10%
        corpora = [sentences[len(sentences) * begin // 10:len(sentences) * end // 10]
                   for begin, end in ((0, 8), (8, 9), (9, 10))]
    write_corpus(folder, dict(zip(splits, corpora)))

def convert_jsonl(args):
    """Read what annotation tools have written, and write it in CoNLL-2003's columns."""
    folder = corpus_folder(args)
    texts, notes = read_annotations(args.files, args)
    drawn = {'all.txt': texts} if args.no_split else draw(list(filter(None, texts)), args)
    write_corpus(folder, {name: [sentence for text in part for sentence in text]
                          for name, part in drawn.items()})
    for kind, text in NOTES.items():
        if notes[kind]:
            print(f'{len(notes[kind]):,}', text.format(', '.join(map(str, notes[kind][:3]))))

def split_file(args):
    """Draw three files from one in CoNLL format, whose rows stay as they are."""
    folder, file = corpus_folder(args), args.files[0]
    # Rows of other widths, and the like, are errors; any two columns will do to find them
    read_words_tags(file, 0, caseless=False, word_ind=-1)
    text = '\n'.join(read_lines(file))
    documents = len(re.findall(DOCUMENT, text))
    if 0 < documents < 10:
        print(f'{file}: {documents} documents are too few to draw from; sentences are drawn')
        text = re.sub(f'{DOCUMENT}.*', '', text)
    parts = re.split(DOCUMENT if documents >= 10 else r'\n\s*\n', text)
    drawn = draw([part.strip('\n') + '\n\n' for part in parts if part.strip()], args)
    write_files(folder, drawn)
    for name, part in drawn.items():
        print(f'{folder / name}: {len(part):,} sentences or documents')

def prepare_glove(args):
    """Download the archive of word vectors, and take out those of 100 dimensions."""
    path = args.output_dir / 'glove' / 'glove.6B.100d.txt'
    if path.exists():
        raise InputError(f'{path} is there already')
    archive, = fetch(args, path.parent)
    with (file_errors(path, 'written', KeyError, RuntimeError), zipfile.ZipFile(archive) as zipped,
          tempfile.TemporaryDirectory(dir=path.parent) as folder):
        Path(zipped.extract(path.name, folder)).rename(path)
    archive.unlink()
    print(f'to use these vectors: --emb_file {path}')

def check_conll2003(args):
    """Compare the user's copy with the published counts."""
    wrong = 0
    for names, published in CONLL2003.items():
        path, other = (args.folder / name for name in names)
        path = path if path.exists() else other
        words, tags = read_words_tags(path, 3, caseless=False)
        entities = Counter(entity[0] for row in tags for entity in find_entities(row))
        found = (f'{len(words):,} sentences, {sum(map(len, words)):,} tokens, '
                 f'{entities.total():,} entities, types {", ".join(sorted(entities))}')
        right = f'{published}, types LOC, MISC, ORG, PER'
        wrong += found != right
        print(f'{path}: {found},', 'as published' if found == right else f'expected {right}')
    sys.stdout.flush()  # If nobody can read the figures, that is the error
    if wrong:
        raise InputError(f'{args.folder}: {wrong} of the files are not as published')

COMMANDS = {
    'ewt': (convert, 'UD English-EWT: parts of speech', '--mirror --column --name --output_dir'),
    'wnut17': (convert, 'WNUT 2017: emerging entities', '--mirror --name --output_dir'),
    'gmb': (convert, 'Groningen Meaning Bank, from ner_dataset.csv', 'files --name --output_dir'),
    'glove': (prepare_glove, 'GloVe 6B word vectors, 100 dimensions', '--mirror --output_dir'),
    'treebank': (convert, "NLTK's Penn Treebank sample (pip install nltk)", '--name --output_dir'),
    'conllu': (convert, 'any Universal Dependencies corpus', 'files --column --name --output_dir'),
    'jsonl': (convert_jsonl, 'annotations of doccano, Prodigy, Label Studio, Argilla, brat (a '
              'folder), spaCy, Hugging Face, inference.py', 'files --tokenizer --text_field '
              '--tag_names --utf16 --overlaps --join_lines --yes_no --val --test --seed --no-split '
              '--name --output_dir'),
    'split': (split_file, 'split one CoNLL file by sentence, or document if it has ten or more',
              'files --val --test --seed --name --output_dir'),
    'conll2003': (check_conll2003, 'check your own copy of CoNLL-2003', 'folder'),
}
SHARE = {'type': in_range(float, 0, 1), 'default': 0.1, 'help': 'share to draw (default: 0.1)'}
ARGUMENTS = {
    'files': {'type': Path, 'nargs': '+', 'metavar': 'FILE', 'help': 'to read; one alone is split'},
    'folder': {'type': Path, 'help': 'where eng.train, eng.testa and eng.testb are'},
    '--column': {'choices': ('xpos', 'upos'), 'default': 'xpos', 'help': 'tags (default: xpos)'},
    '--join_lines': {'action': 'store_true', 'help': 'read each text as a single line'},
    '--mirror': {'help': 'address of a folder that has the files of this source'},
    '--name': {'help': "folder of the corpus (default: CORPUS, or the file's name up to -ud-)"},
    '--no-split': {'action': 'store_true', 'help': 'write one file, all.txt'},
    '--overlaps': {'choices': ('longest',), 'help': 'of entities that overlap keep the longest'},
    '--seed': {'type': int, 'default': 0, 'help': 'another one draws others (default: 0)'},
    '--tag_names': {'help': "names of tags that are numbers, as O,B-PER,I-PER, in their order"},
    '--text_field': {'help': "text's key (default: text, or a task's only string)"},
    '--tokenizer': {'choices': tuple(TOKENIZERS), 'default': 'words', 'help': "as train.py's"},
    '--utf16': {'action': 'store_true', 'help': 'offsets count as JavaScript does'},
    '--val': SHARE, '--test': SHARE,
    '--yes_no': {'action': 'store_true', 'help': "take what Prodigy's yes or no leaves open as O"},
    '--output_dir': {'type': Path, 'default': Path(__file__).parent, 'help': 'instead of data/'},
}

def main(argv):
    """Prepare what the command line says."""
    parser = ArgumentParser(description='Prepare corpora, annotations and vectors for train.py.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='CORPUS')
    for name, (_, text, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        for argument in arguments.split():
            command.add_argument(argument, **ARGUMENTS[argument])
    args = parser.parse_args(argv)
    COMMANDS[args.command][0](args)

if __name__ == '__main__':
    run_main(main)
