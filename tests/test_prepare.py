"""data/prepare.py, against a server on the loopback address and with small files."""

import gzip
import hashlib
import http.server
import importlib.util
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from conftest import ROOT, run_script

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
def server(monkeypatch):
    """A server of a small EWT."""
    server = Server()
    for name in prepare.SOURCES['ewt'].files:
        server.files[name] = CONLLU.encode()
    publish(server, monkeypatch, 'ewt')
    yield server
    server.http.shutdown()


def publish(server, monkeypatch, source):
    """Take the server's files for the published ones."""
    sums = {name: hashlib.sha256(server.files[name]).hexdigest()
            for name in prepare.SOURCES[source].files}
    monkeypatch.setitem(prepare.SOURCES, source, prepare.SOURCES[source]._replace(files=sums))


def run(*arguments):
    return prepare.main([str(argument) for argument in arguments])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


# --- Downloads ---

@needs_shared
@pytest.mark.parametrize('corpus', ['ewt', 'wnut17'])
def test_the_published_files_become_the_real_corpora(corpus, tmp_path, capsys):
    server = Server()
    for name in prepare.SOURCES[corpus].files:
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
        assert (tmp_path / corpus / f'{ours}.txt').read_bytes() == expected
    assert names(tmp_path) == [f'{corpus}/test.txt', f'{corpus}/train.txt', f'{corpus}/val.txt']


def test_a_download_that_was_cut_off_goes_on(server, tmp_path, capsys):
    server.cut = 100
    message = run('ewt', '--mirror', server.address, '--output_dir', tmp_path)
    assert message.endswith(f'expected {len(CONLLU)} bytes, found 100 before the connection was '
                            'cut off; the same command goes on')
    assert names(tmp_path) == ['ewt/en_ewt-ud-train.conllu.part']

    server.cut, server.sent = None, 0
    assert run('ewt', '--mirror', server.address, '--output_dir', tmp_path) is None
    assert server.sent == 3 * len(CONLLU) - 100
    assert names(tmp_path) == ['ewt/test.txt', 'ewt/train.txt', 'ewt/val.txt']
    for name in prepare.SPLITS:
        assert (tmp_path / 'ewt' / f'{name}.txt').read_text() == CONLL


def test_a_server_that_cannot_go_on_begins_anew(server, tmp_path):
    (tmp_path / 'ewt').mkdir()
    (tmp_path / 'ewt' / 'en_ewt-ud-train.conllu.part').write_bytes(b'something else')
    server.ranges = False
    assert run('ewt', '--mirror', server.address, '--output_dir', tmp_path) is None
    assert (tmp_path / 'ewt' / 'train.txt').read_text() == CONLL


def test_a_whole_download_is_not_fetched_again(server, tmp_path):
    (tmp_path / 'ewt').mkdir()
    (tmp_path / 'ewt' / 'en_ewt-ud-train.conllu.part').write_text(CONLLU)
    (tmp_path / 'ewt' / 'en_ewt-ud-dev.conllu').write_text(CONLLU)
    assert run('ewt', '--mirror', server.address, '--output_dir', tmp_path) is None
    assert server.sent == len(CONLLU)


@pytest.mark.parametrize('kept', [b'', b'not its beginning', CONLLU.encode() + b'more'])
def test_a_wrong_sum_leaves_nothing(kept, server, tmp_path):
    server.files['en_ewt-ud-train.conllu'] = CONLLU.replace('PRP', 'NNP').encode()
    if kept:
        (tmp_path / 'ewt').mkdir()
        (tmp_path / 'ewt' / 'en_ewt-ud-train.conllu.part').write_bytes(kept)
    message = run('ewt', '--mirror', server.address, '--output_dir', tmp_path)
    assert re.fullmatch(r'error: http:.*train.conllu: expected SHA-256 \w{64}, found \w{64}; '
                        'it is deleted', message)
    assert names(tmp_path) == []


def test_no_file_and_no_network(server, tmp_path):
    del server.files['en_ewt-ud-train.conllu']
    message = run('ewt', '--mirror', server.address, '--output_dir', tmp_path)
    assert message.endswith('train.conllu: expected the file, found 404 Not Found')
    server.http.shutdown()
    server.http.server_close()
    message = run('ewt', '--mirror', server.address, '--output_dir', tmp_path)
    assert message.endswith('train.conllu: cannot be reached: [Errno 111] Connection refused')
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_a_download(server, tmp_path):
    server.cut, server.pause = 100, 30
    process = subprocess.Popen(
        [sys.executable, ROOT / 'data' / 'prepare.py', 'ewt', '--mirror', server.address,
         '--output_dir', tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # In a shell's background job Ctrl-C would be ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.time() + 60
    while not server.sent and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == 'error: stopped; the same command goes on\n'
    assert names(tmp_path) in ([], ['ewt/en_ewt-ud-train.conllu.part'])


def test_a_full_disk_leaves_nothing_half_made(tmp_path):
    (tmp_path / 'xx_small-ud-train.conllu').write_text(CONLLU * 100)
    result = subprocess.run(
        [sys.executable, ROOT / 'data' / 'prepare.py', 'conllu',
         tmp_path / 'xx_small-ud-train.conllu', '--output_dir', tmp_path / 'data'],
        # No file may grow beyond 1,000 bytes, as if the disk were full
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == f'error: {tmp_path}/data: File too large\n'
    assert names(tmp_path / 'data') == []


def test_glove(server, monkeypatch, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / 'glove.6B.zip', 'w') as archive:
        archive.writestr('glove.6B.50d.txt', 'the 1 2\n')
        archive.writestr('glove.6B.100d.txt', 'the 1 2 3 4\n')
    server.files['glove.6B.zip'] = (tmp_path / 'glove.6B.zip').read_bytes()
    publish(server, monkeypatch, 'glove')
    assert run('glove', '--mirror', server.address, '--output_dir', tmp_path / 'data') is None
    assert names(tmp_path / 'data') == ['glove/glove.6B.100d.txt']
    assert (tmp_path / 'data/glove/glove.6B.100d.txt').read_text() == 'the 1 2 3 4\n'
    assert 'license: PDDL' in capsys.readouterr().out
    message = run('glove', '--mirror', server.address, '--output_dir', tmp_path / 'data')
    assert message.endswith('glove.6B.100d.txt is there already')


# --- Files that the user brings ---

GMB = ('Sentence #,Word,POS,Tag\nSentence: 1,Thousands,NNS,O\n,in,IN,O\n,London,NNP,B-geo\n'
       ',"""",``,O\n,"10,000",CD,O\nSentence: 2,5\xa0storm,NN,O\n')


def test_gmb(tmp_path, capsys):
    table = GMB + ''.join(f'Sentence: {i},…,NN,O\n' for i in range(3, 21))
    (tmp_path / 'ner_dataset.csv').write_text(table, encoding='cp1252')
    assert run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path) is None
    train = (tmp_path / 'gmb' / 'train.txt').read_text(encoding='utf-8')
    assert train.startswith('Thousands NNS - O\nin IN - O\nLondon NNP - B-geo\n" `` - O\n'
                            '10,000 CD - O\n\n5storm NN - O\n\n… NN - O\n\n')
    assert [(tmp_path / 'gmb' / f'{name}.txt').read_text().count('\n\n')
            for name in prepare.SPLITS] == [16, 2, 2]
    output = capsys.readouterr().out
    assert 'note: the published file has the SHA-256 sum 83257dd9' in output
    assert 'train.txt: 16 sentences, 20 tokens\n  1 entities: geo 1\n  6 POS tags: NN 15' in output


@needs_shared
def test_all_of_gmb(tmp_path, capsys):
    with zipfile.ZipFile(SHARED / 'raw' / 'ner_dataset.csv.zip') as archive:
        archive.extract('ner_dataset.csv', tmp_path)
    assert run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path) is None
    output = capsys.readouterr().out
    assert '38,367 sentences, 839,237 tokens' in output and 'note:' not in output
    for ours, theirs in zip(prepare.SPLITS, ('train', 'dev', 'test')):
        expected = (SHARED / 'gmb' / f'{theirs}.txt').read_bytes()
        assert (tmp_path / 'gmb' / f'{ours}.txt').read_bytes() == expected


@pytest.mark.parametrize('table, message', [
    ('Word,Tag\nLondon,B-geo\n', "line 1: expected 'Sentence #,Word,POS,Tag', found 'Word,Tag'"),
    (GMB + ',in,IN\n', "line 8: expected 'Sentence #,Word,POS,Tag', found ',in,IN'"),
    (GMB + '\n', "line 8: expected 'Sentence #,Word,POS,Tag', found ''"),
    (GMB, 'expected at least 10 sentences to split, found 2'),
    ('', 'expected sentences, found an empty file'),
])
def test_a_bad_gmb_is_refused(table, message, tmp_path):
    (tmp_path / 'ner_dataset.csv').write_text(table, encoding='cp1252')
    found = run('gmb', tmp_path / 'ner_dataset.csv', '--output_dir', tmp_path)
    assert found.startswith('error: ') and found.endswith(message)
    assert '\n' not in found and not (tmp_path / 'gmb').exists()


def test_conllu(tmp_path, capsys):
    for name in ('train', 'dev'):
        (tmp_path / f'xx_small-ud-{name}.conllu').write_text(CONLLU)
    files = [tmp_path / 'xx_small-ud-train.conllu', tmp_path / 'xx_small-ud-dev.conllu']
    assert run('conllu', *files, '--output_dir', tmp_path) is None
    assert names(tmp_path / 'xx_small') == ['train.txt', 'val.txt']
    assert (tmp_path / 'xx_small' / 'train.txt').read_text() == CONLL
    other = ('conllu', files[0], '--column', 'upos', '--name', 'other', '--output_dir', tmp_path)
    assert run(*other) == 'error: expected at least 10 sentences to split, found 2'
    files[0].write_text(CONLLU * 5)
    assert run(*other) is None
    assert (tmp_path / 'other' / 'val.txt').read_text() == (
        "I PRON - -\nca AUX - -\nn't PART - -\n# SYM - -\n\n")
    assert '4 POS tags' in capsys.readouterr().out
    # What an earlier corpus left beside these files goes
    assert run('conllu', files[0], files[1], *other[2:]) is None
    assert names(tmp_path / 'other') == ['train.txt', 'val.txt']
    assert run('conllu', files[0], '--name', 'sample').startswith('error: data/sample is this')


def test_a_bad_conllu_is_refused(tmp_path):
    bad = tmp_path / 'bad.conllu'
    bad.write_text(CONLLU.replace('\tMD\t', '\t_\t'))
    assert run('conllu', bad, '--output_dir', tmp_path) == (
        f"error: {bad}, line 4: expected a tag in column xpos, found '_'; see --column")
    bad.write_text('1\tI\n')
    assert run('conllu', bad) == f"error: {bad}, line 1: expected 10 columns, found '1\\tI'"
    bad.write_bytes(b'\xff\n')
    assert run('conllu', bad) == f'error: {bad}: expected utf-8, found the byte 0xff'
    assert run('conllu', tmp_path / 'none') == (
        f'error: {tmp_path}/none: cannot be read: No such file or directory')
    assert run('conllu', bad, bad, bad, bad) == 'error: expected 1 to 3 files, found 4'


def test_treebank(tmp_path):
    (tmp_path / 'nltk').mkdir()
    (tmp_path / 'nltk' / '__init__.py').touch()
    (tmp_path / 'nltk' / 'corpus.py').write_text(
        'class treebank:\n    tagged_sents = staticmethod(lambda: 10 * [[("Stop", "VB"), '
        '("*", "-NONE-"), ("-LRB-", "-LRB-"), (".", ".")]])\n')
    result = run_script('data/prepare.py', 'treebank', '--output_dir', tmp_path,
                        PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'treebank' / 'test.txt').read_text() == (
        'Stop VB - -\n( -LRB- - -\n. . - -\n\n')
    (tmp_path / 'nltk' / 'corpus.py').write_text('raise LookupError')
    result = run_script('data/prepare.py', 'treebank', '--output_dir', tmp_path,
                        PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr.count('\n')) == (1, 1)
    assert result.stderr.startswith('error: expected nltk and its treebank: pip install nltk')


def test_conll2003(tmp_path, monkeypatch, capsys):
    text = ('-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\nofficial NN I-NP O\n'
            'Ekeus NNP I-NP I-PER\nSmith NNP I-NP B-PER\n\nBonn NNP I-NP I-LOC\n')
    for name in ('eng.train', 'eng.testa', 'eng.testb'):
        (tmp_path / name).write_text(text)
    message = run('conll2003', tmp_path)
    assert message == f'error: {tmp_path}: 9 of these figures are not as published'
    assert 'eng.train: 2 sentences, expected 14,041\n' in capsys.readouterr().out

    # The scheme does not matter: this is IOB1, with two persons side by side
    monkeypatch.setattr(prepare, 'CONLL2003', {
        split: ((2, 5, 4), names) for split, (_, names) in prepare.CONLL2003.items()})
    assert run('conll2003', tmp_path) is None
    assert 'eng.testb: 4 entities, as published\n' in capsys.readouterr().out

    (tmp_path / 'eng.testa').write_text(text.replace('I-LOC', 'I-GPE'))
    assert run('conll2003', tmp_path).endswith(': 1 of these figures are not as published')
    assert 'expected the types LOC, MISC, ORG, PER, found ' in capsys.readouterr().out
    (tmp_path / 'eng.testa').write_text('U.N. I-ORG\n')
    assert run('conll2003', tmp_path).endswith(
        "eng.testa, line 1: expected 4 columns, found 'U.N. I-ORG'")
    os.remove(tmp_path / 'eng.testb')
    (tmp_path / 'eng.testa').write_text(text)
    assert run('conll2003', tmp_path).endswith('found none for test')


def test_a_mistake_on_the_command_line():
    result = run_script('data/prepare.py', 'conll2004')
    assert (result.returncode, result.stderr.count('\n')) == (1, 1)
    assert "invalid choice: 'conll2004'" in result.stderr
