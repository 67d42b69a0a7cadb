"""data/prepare.py, against a server on the loopback address and with small files."""

import contextlib
import gzip
import hashlib
import http.server
import importlib.util
import io
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import ROOT

from utils import InputError, read_words_tags

specification = importlib.util.spec_from_file_location('prepare', ROOT / 'data' / 'prepare.py')
prepare = importlib.util.module_from_spec(specification)
specification.loader.exec_module(prepare)

SHARED = ROOT.parent / 'shared' / 'data'
needs_shared = pytest.mark.skipif(not (SHARED / 'raw').exists(), reason='needs the real files')

CONLLU = """\
# text = I can't.
1\tI\tI\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\tcan\tAUX\tMD\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
4\t#\t#\tSYM\t#\t_\t2\tpunct\t_\t_

# text = 1 000
1\t1 000\t1 000\tNUM\tCD\t_\t0\troot\t_\t_

"""
CONLL = "I PRP - -\nca MD - -\nn't RB - -\n# # - -\n\n1000 CD - -\n\n"


EWT = ('en_ewt-ud-train.conllu', 'en_ewt-ud-dev.conllu', 'en_ewt-ud-test.conllu')


class Server:
    """A server of files; it goes on with a download from any byte unless told not to."""

    def __init__(self):
        self.files, self.sent, self.ranges, self.cut, self.pause = {}, 0, True, None, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.http.server_address[1]}'
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        data = self.files.get(handler.path.lstrip('/'))
        begin = int((handler.headers['Range'] or 'bytes=0-')[len('bytes='):-1]) * self.ranges
        if data is None:
            return handler.send_error(404)
        if begin >= len(data):
            return handler.send_error(416)
        handler.send_response(206 if begin else 200)
        handler.send_header('Content-Length', str(len(data) - begin))
        handler.end_headers()
        sent = data[begin:self.cut]
        self.sent += len(sent)
        handler.wfile.write(sent)
        handler.wfile.flush()
        time.sleep(self.pause)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of a small EWT and of two word vectors, taken for the published ones."""
    server = Server()
    for name in EWT:
        server.files[name] = CONLLU.encode()
    with zipfile.ZipFile(tmp_path / 'glove.6B.zip', 'w') as archive:
        archive.writestr('glove.6B.50d.txt', 'the 1 2\n')
        archive.writestr('glove.6B.100d.txt', 'the 1 2 3 4\n')
    server.files['glove.6B.zip'] = (tmp_path / 'glove.6B.zip').read_bytes()
    (tmp_path / 'glove.6B.zip').unlink()
    for name, data in server.files.items():
        monkeypatch.setitem(prepare.SHA256, name, hashlib.sha256(data).hexdigest())
    yield server
    server.http.shutdown()
    server.http.server_close()


def run(*arguments):
    """What a command says is wrong, or None."""
    try:
        return prepare.main([str(argument) for argument in arguments])
    except InputError as error:
        assert '\n' not in str(error)
        return f'error: {error}'


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


# --- Downloads ---

@needs_shared
@pytest.mark.parametrize('corpus', ['ewt', 'wnut17'])
def test_the_published_files_become_the_real_corpora(corpus, tmp_path, capsys):
    server = Server()
    for name in prepare.SOURCES[corpus][3:]:
        path = SHARED / 'raw' / name
        server.files[name] = (path.read_bytes() if path.exists()
                              else gzip.decompress((SHARED / 'raw' / f'{name}.gz').read_bytes()))
    assert run(corpus, '--mirror', server.address, '--output_dir', tmp_path) is None
    output = capsys.readouterr().out
    assert 'license: CC BY' in output and 'to cite: ' in output
    sentences = {'ewt': '12,544 sentences, 204,577', 'wnut17': '3,394 sentences, 62,730'}[corpus]
    assert f'train.txt: {sentences} tokens' in output
    for ours, theirs in zip(prepare.SPLITS, ('train', 'dev', 'test')):
        expected = (SHARED / corpus / f'{theirs}.txt').read_bytes()
        assert (tmp_path / corpus / ours).read_bytes() == expected
    assert names(tmp_path) == [f'{corpus}/test.txt', f'{corpus}/train.txt', f'{corpus}/val.txt']


def glove(server, folder):
    """What is wrong with a download of the word vectors."""
    return run('glove', '--mirror', server.address, '--output_dir', folder)


PART = 'glove/glove.6B.zip.part'
VECTORS = 'glove/glove.6B.100d.txt'


def test_glove(server, tmp_path, capsys):
    assert glove(server, tmp_path) is None
    assert names(tmp_path) == [VECTORS]
    assert (tmp_path / VECTORS).read_text() == 'the 1 2 3 4\n'
    output = capsys.readouterr().out
    assert 'license: PDDL' in output and output.endswith(f'--emb_file {tmp_path / VECTORS}\n')
    server.sent = 0
    assert glove(server, tmp_path).endswith('glove.6B.100d.txt is there already')
    assert server.sent == 0


def test_a_download_that_was_cut_off_continues(server, tmp_path):
    size = len(server.files['glove.6B.zip'])
    server.cut = 100
    assert glove(server, tmp_path).endswith(
        f'glove.6B.zip: cannot be downloaded: found 100 of {size} bytes; try again')
    assert names(tmp_path) == [PART]
    server.cut, server.sent = None, 0
    assert glove(server, tmp_path) is None
    assert server.sent == size - 100
    assert names(tmp_path) == [VECTORS]


def test_a_server_that_cannot_continue_begins_anew(server, tmp_path):
    (tmp_path / 'glove').mkdir()
    (tmp_path / PART).write_bytes(b'something else')
    server.ranges = False
    assert glove(server, tmp_path) is None
    assert names(tmp_path) == [VECTORS]


def test_a_whole_download_is_not_fetched_again(server, tmp_path):
    (tmp_path / 'glove').mkdir()
    (tmp_path / PART).write_bytes(server.files['glove.6B.zip'])
    assert glove(server, tmp_path) is None
    assert server.sent == 0
    assert names(tmp_path) == [VECTORS]


@pytest.mark.parametrize('kept', [0, 10, 1000])
def test_a_wrong_sum_leaves_nothing(kept, server, tmp_path):
    server.files['glove.6B.zip'] += b'more'
    if kept:
        (tmp_path / 'glove').mkdir()
        (tmp_path / PART).write_bytes(kept * b'x')
    assert re.fullmatch(r'error: http:.*zip: expected SHA-256 \w{64}, found \w{64}; it is deleted',
                        glove(server, tmp_path))
    assert names(tmp_path) == []


def ewt(server, folder, *arguments):
    """What is wrong with a download of EWT."""
    return run('ewt', '--mirror', server.address, '--output_dir', folder, *arguments)


def test_ewt(server, tmp_path):
    # What a download that was interrupted has left is in nobody's way
    (tmp_path / 'ewt').mkdir()
    (tmp_path / 'ewt' / 'en_ewt-ud-train.conllu.part').write_text('1\t')
    assert ewt(server, tmp_path) is None
    (tmp_path / 'ewt' / 'en_ewt-ud-train.conllu.part').unlink()
    assert names(tmp_path) == ['ewt/test.txt', 'ewt/train.txt', 'ewt/val.txt']
    for name in prepare.SPLITS:
        assert (tmp_path / 'ewt' / name).read_text() == CONLL
    assert ewt(server, tmp_path, '--column', 'upos', '--name', 'upos') is None
    assert (tmp_path / 'upos' / 'val.txt').read_text().startswith('I PRON - -\nca AUX - -\n')


def test_a_bad_download_of_ewt_leaves_nothing(server, tmp_path):
    server.cut = 100
    assert 'cannot be downloaded: found 100 of ' in ewt(server, tmp_path)
    server.cut, server.files['en_ewt-ud-test.conllu'] = None, b'something else'
    assert ewt(server, tmp_path).endswith('it is deleted')
    assert names(tmp_path) == []


def test_no_file_and_no_network(server, tmp_path):
    del server.files['en_ewt-ud-train.conllu']
    assert ewt(server, tmp_path).endswith(
        'train.conllu: cannot be downloaded: HTTP Error 404: Not Found')
    server.http.shutdown()
    server.http.server_close()
    assert 'Connection refused' in ewt(server, tmp_path)
    assert 'unknown url type' in run('ewt', '--mirror', 'here', '--output_dir', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_a_download(server, tmp_path):
    server.cut, server.pause = 100, 30
    process = subprocess.Popen(
        [sys.executable, ROOT / 'data' / 'prepare.py', 'glove', '--mirror', server.address,
         '--output_dir', tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # In a shell's background job Ctrl-C would be ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.time() + 60
    while not server.sent and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, 'interrupted\n')
    assert names(tmp_path) in ([], [PART])


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 1,000 bytes, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_nothing_half_made(tmp_path):
    (tmp_path / 'xx_small-ud-train.conllu').write_text(CONLLU * 100)
    with full_disk():
        message = run('conllu', tmp_path / 'xx_small-ud-train.conllu', '--output_dir',
                      tmp_path / 'data')
    assert message == f'error: {tmp_path}/data/xx_small: cannot be written: File too large'
    assert names(tmp_path / 'data') == []


def test_a_disk_that_is_too_full_for_the_vectors(server, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('glove.6B.100d.txt', 1000 * 'the 1 2 3 4\n')
    server.files['glove.6B.zip'] = packed.getvalue()
    monkeypatch.setitem(prepare.SHA256, 'glove.6B.zip',
                        hashlib.sha256(packed.getvalue()).hexdigest())
    with full_disk():
        message = glove(server, tmp_path)
    assert message == f'error: {tmp_path / VECTORS}: cannot be written: File too large'
    assert names(tmp_path) == [PART]


# --- Files that the user brings ---

GMB = ('Sentence #,Word,POS,Tag\nSentence: 1,Thousands,NNS,O\n,in,IN,O\n,London,NNP,B-geo\n'
       ',"""",``,O\n,"10,000",CD,O\nSentence: 2,5\xa0storm,NN,O\n')


def test_gmb(tmp_path, capsys):
    table = GMB + ''.join(f'Sentence: {i},…,NN,O\n' for i in range(3, 21))
    (tmp_path / 'ner_dataset.csv').write_text(table, encoding='cp1252')
    assert run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path) is None
    train = (tmp_path / 'gmb' / 'train.txt').read_text(encoding='utf-8')
    assert train.startswith('Thousands NNS - O\nin IN - O\nLondon NNP - B-place\n" `` - O\n'
                            '10,000 CD - O\n\n5storm NN - O\n\n… NN - O\n\n')
    assert [(tmp_path / 'gmb' / name).read_text().count('\n\n')
            for name in prepare.SPLITS] == [16, 2, 2]
    output = capsys.readouterr().out
    assert 'note: the published file has another SHA-256 sum, 83257dd9' in output
    assert 'train.txt: 16 sentences, 20 tokens\n  1 entities: place 1\n  20 POS tags: NN' in output


@needs_shared
def test_all_of_gmb(tmp_path, capsys):
    with zipfile.ZipFile(SHARED / 'raw' / 'ner_dataset.csv.zip') as archive:
        archive.extract('ner_dataset.csv', tmp_path)
    assert run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path) is None
    output = capsys.readouterr().out
    assert '38,367 sentences, 839,237 tokens' in output and 'note:' not in output
    names = {b'-geo': b'-place', b'-gpe': b'-nationality', b'-per': b'-person',
             b'-org': b'-organization', b'-tim': b'-time', b'-art': b'-product',
             b'-eve': b'-event', b'-nat': b'-nature'}
    for ours, theirs in zip(prepare.SPLITS, ('train', 'dev', 'test')):
        expected = (SHARED / 'gmb' / f'{theirs}.txt').read_bytes()
        expected = re.sub(rb'(?m)(?<= [BI])-\w+$', lambda name: names[name[0]], expected)
        assert (tmp_path / 'gmb' / ours).read_bytes() == expected


@pytest.mark.parametrize('table, message', [
    ('Word,Tag\nLondon,B-geo\n', "line 1: expected Sentence #,Word,POS,Tag in UTF-8, found "
                                 "'Word,Tag'"),
    (GMB + ',in,IN\n', "line 8: expected Sentence #,Word,POS,Tag in UTF-8, found ',in,IN'"),
    (GMB + ',in,,O\n', "line 8: expected Sentence #,Word,POS,Tag in UTF-8, found ',in,,O'"),
    (GMB + f',{200_000 * "x"},NN\n', "line 8: expected Sentence #,Word,POS,Tag in UTF-8, found "
                                     f"',{79 * 'x'}'"),
    (GMB, 'ner_dataset.csv: expected at least 10 sentences, found 2'),
    ('', "line 1: expected Sentence #,Word,POS,Tag in UTF-8, found ''"),
])
def test_a_bad_gmb_is_refused(table, message, tmp_path):
    (tmp_path / 'ner_dataset.csv').write_text(table, encoding='cp1252')
    found = run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path)
    assert found.startswith('error: ') and found.endswith(message)
    assert not (tmp_path / 'gmb').exists()


def test_a_gmb_in_another_encoding_is_refused(tmp_path):
    (tmp_path / 'ner_dataset.csv').write_bytes(GMB.encode('cp1252') + b',a\x81,NN,O\n')
    assert 'line 8: expected ' in run('gmb', tmp_path / 'ner_dataset.csv', '--name', 'x',
                                      '--output_dir', tmp_path)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'cp1252'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_a_gmb_that_was_saved_again(encoding, end, tmp_path):
    table = GMB.replace('London', 'Zo\u00eb\u2019s').replace('Thousands', 'na\u00efve')
    table += ''.join(f'Sentence: {i},a,NN,O\n' for i in range(3, 21))
    (tmp_path / 'x.csv').write_bytes(table.replace('\n', end).encode(encoding))
    assert run('gmb', tmp_path / 'x.csv', '--output_dir', tmp_path) is None
    assert (tmp_path / 'gmb' / 'train.txt').read_text(encoding='utf-8').startswith(
        'na\u00efve NNS - O\nin IN - O\nZo\u00eb\u2019s NNP - B-place\n')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_a_gmb_in_utf16_is_refused(encoding, tmp_path):
    (tmp_path / 'x.csv').write_bytes(GMB.encode(encoding))
    assert run('gmb', tmp_path / 'x.csv', '--output_dir', tmp_path).startswith(
        f'error: {tmp_path}/x.csv, line 1: expected Sentence #,Word,POS,Tag in UTF-8, found ')


@pytest.mark.parametrize('files, made', [
    (['en_ewt-ud-dev.conllu', 'en_ewt-ud-test.conllu', 'en_ewt-ud-train.conllu'], 'vtT'),
    (['a.TEST.conllu', 'Train_a.conllu'], 'tT'), (['test.conllu', 'valid.conllu'], 'tv'),
    (['devel-x.conllu', 'x-train-y.conllu'], 'vT'), (['validation.txt', 'train.txt'], 'vT'),
    (['trains.conllu', 'dev.conllu'], None), (['x.conllu', 'y.conllu'], None),
    (['x-dev.conllu', 'x-val.conllu'], None), (['train-dev.conllu', 'x-test.conllu'], None),
    (['attest.conllu', 'train.conllu', 'dev.conllu'], None)])
def test_the_files_of_conllu_are_what_their_names_say(files, made, tmp_path):
    """In whatever order the shell has them."""
    paths = [tmp_path / name for name in files]
    for path, letter in zip(paths, made or 'vtT'):
        path.write_text(f'1\t{letter}\t_\tX\tX\t_\t0\troot\t_\t_\n')
    found = run('conllu', *paths, '--name', 'made', '--output_dir', tmp_path)
    if made is None:
        assert found == ('error: expected one name with train, one with dev or val, and one with '
                         f'test, found {" ".join(files)}')
    else:
        assert found is None
        assert {name: (tmp_path / 'made' / name).read_text()[0]
                for name in names(tmp_path / 'made')} == {
            {'T': 'train.txt', 'v': 'val.txt', 't': 'test.txt'}[letter]: letter for letter in made}


def test_conllu(tmp_path, capsys):
    for name in ('train', 'dev'):
        (tmp_path / f'xx_small-ud-{name}.conllu').write_text(CONLLU)
    files = [tmp_path / 'xx_small-ud-train.conllu', tmp_path / 'xx_small-ud-dev.conllu']
    assert run('conllu', *files, '--output_dir', tmp_path) is None
    assert names(tmp_path / 'xx_small') == ['train.txt', 'val.txt']
    assert (tmp_path / 'xx_small' / 'train.txt').read_text() == CONLL
    other = ('conllu', files[0], '--column', 'upos', '--name', 'other', '--output_dir', tmp_path)
    assert run(*other) == f'error: {files[0]}: expected at least 10 sentences, found 2'
    files[0].write_bytes((CONLLU * 5).replace('\n', '\r\n').encode())
    assert run(*other) is None
    assert (tmp_path / 'other' / 'val.txt').read_text() == (
        "I PRON - -\nca AUX - -\nn't PART - -\n# SYM - -\n\n")
    assert '4 POS tags: ' in capsys.readouterr().out


@pytest.mark.parametrize('text, message', [
    (CONLLU.replace('\tMD\t', '\t_\t'), 'line 4: expected 10 columns, with a number and a tag '
     "(xpos; see --column), found '2\\tca\\tcan\\tAUX\\t_\\t_\\t0\\troot\\t_\\t_'"),
    (CONLLU.replace('\troot\t', '\t'), 'line 4: expected 10 columns, with a number and a tag '
     "(xpos; see --column), found '2\\tca\\tcan\\tAUX\\tMD\\t_\\t0\\t_\\t_'"),
    (CONLLU.replace('\n4\t', '\nx\t'), 'line 7: expected 10 columns, with a number and a tag '
     "(xpos; see --column), found 'x\\t#\\t#\\tSYM\\t#\\t_\\t2\\tpunct\\t_\\t_'"),
    (100 * 'I\t', 'line 1: expected 10 columns, with a number and a tag (xpos; see --column), '
     'found ' + repr(40 * 'I\t')),
    ('', ': expected at least 1 sentences, found 0'),
    ('# a comment\n\n', ': expected at least 1 sentences, found 0'),
    ('\udcff', 'line 1: expected UTF-8, found the byte 0xff'),
])
def test_a_bad_conllu_is_refused(text, message, tmp_path):
    bad, good = tmp_path / 'bad-dev.conllu', tmp_path / 'good-train.conllu'
    bad.write_text(text, errors='surrogateescape')
    good.write_text(CONLLU)
    found = run('conllu', good, bad, '--output_dir', tmp_path)
    assert found.startswith(f'error: {bad}') and found.endswith(message)
    assert names(tmp_path) == ['bad-dev.conllu', 'good-train.conllu']


def test_a_long_sentence_is_refused(tmp_path):
    path = tmp_path / 'x-dev.conllu'
    for line, end in (('1\tRain\tRain\tNOUN\tNN\t_\t0\troot\t_\t_\n' * 1001, f'{"Rain " * 15}Rain'),
                      (f'1\t{"x" * 10_001}\tx\tNOUN\tNN\t_\t0\troot\t_\t_\n', 'x' * 79)):
        path.write_text(CONLLU * 10 + line)
        assert run('conllu', path, '--output_dir', tmp_path) == (
            f'error: {tmp_path}/x-dev: cannot be written: expected at most 1,000 words and 10,000 '
            f"characters in a line or sentence, found '{end}")
    assert names(tmp_path) == ['x-dev.conllu']


def test_the_files_of_conllu(tmp_path):
    good = tmp_path / 'good.conllu'
    good.write_text(CONLLU)
    other = tmp_path / 'here' / '..' / 'good.conllu'
    (tmp_path / 'here').mkdir()
    assert run('conllu', good, other, '--output_dir', tmp_path) == (
        f'error: expected 1 to 3 different files, found {good} {other}')
    assert 'expected 1 to 3 different files' in run('conllu', 'a', 'b', 'c', 'd')
    for file, message in (('none', 'No such file or directory'), ('here', 'Is a directory')):
        assert run('conllu', tmp_path / file, '--output_dir', tmp_path) == (
            f'error: {tmp_path / file}: cannot be read: {message}')
    assert names(tmp_path) == ['good.conllu']


def pack(data, path):
    """Write a file as .gz or .zip."""
    if path.suffix == '.gz':
        path.write_bytes(gzip.compress(data))
    else:
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.stem, data)
    return path


@pytest.mark.parametrize('suffix', ['gz', 'zip'])
def test_a_packed_file_is_named(suffix, tmp_path):
    conllu = pack(CONLLU.encode() * 5, tmp_path / f'x.conllu.{suffix}')
    table = pack(GMB.encode('cp1252'), tmp_path / f'ner_dataset.csv.{suffix}')
    for path, command in ((conllu, 'conllu'), (table, 'gmb'), (conllu, 'split'), (table, 'jsonl')):
        assert run(command, path, '--output_dir', tmp_path) == (
            f'error: {path}: expected text, found a .gz or .zip; unpack it first')


# --- What is written ---

def test_words_and_tags_read_back(tmp_path, capsys):
    rows = [('-DOCSTART-', 'NN', 'O'), ('New York', 'NNP NNP', 'B- big\tplace'), ('\t', ' ', ' '),
            ('\ufeff', 'NN', 'O'), ('a\u3000b\x85', 'x\xa0y', '-'), ('-DOCSTART-s', 'NN', 'O')]
    prepare.write_corpus(tmp_path, {'train.txt': [rows, rows[:1]], 'val.txt': [rows[3:]]})
    words, parts = read_words_tags(tmp_path / 'train.txt', 1, caseless=False)
    assert words == [['_DOCSTART_', 'NewYork', '_', '_', 'ab', '_DOCSTART_s'], ['_DOCSTART_']]
    assert parts == [['NN', 'NNP_NNP', '_', 'NN', 'x_y', 'NN'], ['NN']]
    assert read_words_tags(tmp_path / 'train.txt', 3)[1][0] == [
        'O', 'B-_big_place', '_', 'O', '-', 'O']
    assert read_words_tags(tmp_path / 'val.txt', 1, caseless=False)[0] == [
        ['_', 'ab', '_DOCSTART_s']]
    capsys.readouterr()


COLUMN = st.text(st.characters(blacklist_categories=['Cs']) | st.sampled_from(' \t\n\r\ufeff-'),
                 max_size=5)


@hypothesis.given(st.lists(st.lists(st.tuples(COLUMN, COLUMN, COLUMN), min_size=1, max_size=3),
                           min_size=1, max_size=3))
def test_whatever_is_written_reads_back(sentences):
    # Not all words may be numbers
    sentences = [*sentences, [('a', 'DT', 'O')]]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepare.write_corpus(Path(folder), {'train.txt': sentences})
        for column in (1, 2, 3):
            words, tags = read_words_tags(Path(folder) / 'train.txt', column, caseless=False)
            assert list(map(len, words)) == list(map(len, tags)) == list(map(len, sentences))
        assert set(itertools.chain(*read_words_tags(Path(folder) / 'train.txt', 2)[1])) == {'-'}


@pytest.mark.parametrize('name', ['sample', './sample', '', '.', '..', '../x', 'a/b', 'a/'])
def test_a_name_is_one_folder_other_than_sample(name, tmp_path):
    for file in ('x.conllu', 'y.conllu'):
        (tmp_path / file).write_text(CONLLU)
    assert run('conllu', tmp_path / 'x.conllu', tmp_path / 'y.conllu', f'--name={name}',
               '--output_dir', tmp_path / 'data') == (
        f'error: --name: expected the name of one folder, not sample, found {name!r}')
    assert names(tmp_path) == ['x.conllu', 'y.conllu']


@pytest.mark.parametrize('file', ['sample.conllu', 'sample-ud-train.conllu', '.conllu',
                                  '-ud-train.conllu', '..conllu'])
def test_a_name_that_a_file_gives_is_no_other(file, tmp_path):
    (tmp_path / file).write_text(CONLLU * 5)
    found = run('conllu', '--output_dir', tmp_path / 'data', '--', tmp_path / file)
    assert found.startswith('error: --name: expected the name of one folder, not sample, found ')
    assert names(tmp_path) == [file]


@pytest.mark.parametrize('command', ['ewt', 'wnut17', 'gmb', 'treebank', 'conllu'])
@pytest.mark.parametrize('name', [None, 'other'])
@pytest.mark.parametrize('held', ['train.txt', 'val.txt', 'test.txt'])
def test_a_corpus_is_never_overwritten(command, name, held, server, tmp_path):
    (tmp_path / 'mine-ud-train.conllu').write_text(CONLLU * 5)
    (tmp_path / 'ner_dataset.csv').write_text(GMB)
    folder = tmp_path / (name or {'conllu': 'mine'}.get(command, command))
    folder.mkdir()
    (folder / held).write_text('mine')
    before = names(tmp_path)
    arguments = {'gmb': [tmp_path / 'ner_dataset.csv'],
                 'conllu': [tmp_path / 'mine-ud-train.conllu']}.get(
        command, ['--mirror', server.address] * (command != 'treebank'))
    assert run(command, *arguments, '--output_dir', tmp_path,
               *(['--name', name] if name else [])) == (
        f'error: {folder}: has a corpus already; give another --name, or delete it')
    assert names(tmp_path) == before and (folder / held).read_text() == 'mine'
    assert server.sent == 0


def test_a_corpus_under_another_name(server, tmp_path):
    assert ewt(server, tmp_path, '--name', 'mine') is None
    assert names(tmp_path) == ['mine/test.txt', 'mine/train.txt', 'mine/val.txt']


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'x.conllu').write_text(CONLLU * 5)
    for folder in (tmp_path / 'x.conllu', '/proc/nowhere'):
        found = run('conllu', tmp_path / 'x.conllu', '--output_dir', folder)
        assert found.startswith(f'error: {folder}')


def stop(arguments, stream, monkeypatch):
    """With what a script ends that writes to a stream; its descriptor is then of no more use."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as error, stream:
        patch.setattr(sys, 'stdout', stream)
        patch.setattr(sys, 'argv', ['prepare.py', *map(str, arguments)])
        patch.setattr('torch.set_float32_matmul_precision', lambda _: None)
        prepare.run_main(prepare.main)
    return error.value.code


@pytest.mark.parametrize('command, unbuffered', [
    ('ewt', False), ('glove', False), ('conllu', False), ('conllu', True), ('conll2003', False)])
def test_standard_output_that_is_full(command, unbuffered, server, tmp_path, monkeypatch):
    (tmp_path / 'x.conllu').write_text(CONLLU * 5)
    for name in ('eng.train', 'eng.testa', 'eng.testb'):
        (tmp_path / name).write_text('U.N. NNP I-NP I-ORG\n')
    arguments = {'conllu': [tmp_path / 'x.conllu'], 'conll2003': [tmp_path]}.get(
        command, ['--mirror', server.address])
    if command != 'conll2003':
        arguments += ['--output_dir', tmp_path / 'data']
    full = io.TextIOWrapper(open('/dev/full', 'wb', buffering=0 if unbuffered else -1),
                            write_through=unbuffered)
    assert stop([command, *arguments], full, monkeypatch) == (
        'error: standard output: No space left on device')
    # All or nothing
    made = [f'x/{name}' for name in ('test.txt', 'train.txt', 'val.txt')]
    assert names(tmp_path / 'data') == (made if command == 'conllu' else [])


def test_a_process_with_a_full_standard_output(tmp_path):
    (tmp_path / 'x.conllu').write_text(CONLLU * 5)
    with open('/dev/full', 'w') as full:
        result = subprocess.run(
            [sys.executable, ROOT / 'data' / 'prepare.py', 'conllu', tmp_path / 'x.conllu',
             '--output_dir', tmp_path], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == 'error: standard output: No space left on device\n'


def test_a_reader_that_has_seen_enough(tmp_path, monkeypatch):
    (tmp_path / 'x.conllu').write_text(CONLLU * 5)
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ['conllu', tmp_path / 'x.conllu', '--output_dir', tmp_path]
    assert stop(arguments, open(writer, 'w'), monkeypatch) == 1
    assert names(tmp_path / 'x') == ['test.txt', 'train.txt', 'val.txt']


def test_treebank(tmp_path, monkeypatch, capsys):
    corpus = Mock()
    corpus.treebank.tagged_sents.return_value = 10 * [
        [('Stop', 'VB'), ('*', '-NONE-'), ('-LRB-', '-LRB-'), ('.', '.')]]
    monkeypatch.setitem(sys.modules, 'nltk', Mock(corpus=corpus))
    monkeypatch.setitem(sys.modules, 'nltk.corpus', corpus)
    assert run('treebank', '--output_dir', tmp_path) is None
    assert (tmp_path / 'treebank' / 'test.txt').read_text() == (
        'Stop VB - -\n( -LRB- - -\n. . - -\n\n')
    # A corpus that is not there is a LookupError; None in the place of a module, an ImportError
    corpus.treebank.tagged_sents.side_effect = LookupError
    for module in (corpus, None):
        monkeypatch.setitem(sys.modules, 'nltk.corpus', module)
        assert run('treebank', '--output_dir', tmp_path / 'other').startswith(
            'error: expected nltk and its treebank: pip install nltk')
    capsys.readouterr()
    for arguments in (['--help'], ['treebank', '--help']):
        with pytest.raises(SystemExit):
            prepare.main(arguments)
        assert 'pip install nltk' in capsys.readouterr().out


def test_conll2003(tmp_path, monkeypatch, capsys):
    text = ('-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\nofficial NN I-NP O\n'
            'Ekeus NNP I-NP I-PER\nSmith NNP I-NP B-PER\n\nBonn NNP I-NP I-LOC\n')
    for name in ('eng.train', 'eng.testa', 'eng.testb'):
        (tmp_path / name).write_text(text)
    assert run('conll2003', tmp_path) == (
        f'error: {tmp_path}: 3 of the files are not as published')
    output = capsys.readouterr().out
    assert ('eng.train: 2 sentences, 5 tokens, 4 entities, types LOC, ORG, PER, expected 14,041 '
            in output)
    assert output.count('entities, types LOC, MISC, ORG, PER\n') == 3

    # The scheme does not matter: this is IOB1, with two persons side by side
    (tmp_path / 'eng.testa').rename(tmp_path / 'val.txt')
    text = text.replace('\n\nBonn', '\nBayern NNP I-NP I-MISC\n\nBonn')
    for name in ('eng.train', 'val.txt', 'eng.testb'):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(prepare, 'CONLL2003', {
        names: '2 sentences, 6 tokens, 5 entities' for names in prepare.CONLL2003})
    assert run('conll2003', tmp_path) is None
    output = capsys.readouterr().out
    for name in ('eng.train', 'val.txt', 'eng.testb'):
        assert (f'{name}: 2 sentences, 6 tokens, 5 entities, types LOC, MISC, ORG, PER, as '
                'published\n' in output)

    (tmp_path / 'val.txt').write_text(text.replace('I-LOC', 'I-GPE'))
    assert run('conll2003', tmp_path).endswith(': 1 of the files are not as published')
    assert 'types GPE, MISC, ORG, PER, expected 2 sentences, 6 ' in capsys.readouterr().out
    (tmp_path / 'val.txt').write_text('U.N. I-ORG\n')
    assert run('conll2003', tmp_path).endswith(
        "val.txt, line 1: expected at least 4 columns, found 'U.N. I-ORG'")
    (tmp_path / 'eng.testb').unlink()
    (tmp_path / 'val.txt').write_text(text)
    assert run('conll2003', tmp_path) == (
        f'error: {tmp_path}/test.txt: cannot be read: No such file or directory')


def test_a_mistake_on_the_command_line():
    assert "invalid choice: 'conll2004'" in run('conll2004')


def test_a_gmb_whose_first_column_was_filled_in(tmp_path):
    """As pandas does it with fillna; line ends of any kind are the same."""
    rows = [f'Sentence: {n},{word},NN,O' for n in range(10) for word in ('a', 'b')]
    for end in ('\n', '\r'):
        (tmp_path / 'table.csv').write_bytes(end.join(
            ['Sentence #,Word,POS,Tag', *rows, '']).encode())
        assert run('gmb', tmp_path / 'table.csv', '--name', f'x{ord(end)}',
                   '--output_dir', tmp_path) is None
        words, _ = read_words_tags(tmp_path / f'x{ord(end)}' / 'train.txt', 1, caseless=False)
        assert words == [['a', 'b']] * 8
