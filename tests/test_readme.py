"""The README: every snippet runs, and prints what stands beneath it; every link leads somewhere."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter

import pytest
from conftest import FENCE, ROOT, SMALL

README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = FENCE.findall(README)
SCRIPTS = ('models.py', 'datasets.py', 'utils.py', 'train.py', 'inference.py', 'dynamic_rnn.py')


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the project, with files of one's own and a small model that train.py has left."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in (*SCRIPTS, 'data/sample', 'data/prepare.py', 'data/annotations.py',
                 'data/news.pth.tar', 'img/page.html', 'img/trellis.html', 'tests'):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, folder / name)
    (folder / 'my').mkdir()
    for name in ('train', 'val', 'test'):
        shutil.copy(ROOT / 'data' / 'sample' / 'val.txt', folder / 'my' / f'{name}.txt')
    (folder / 'my' / 'vectors.txt').write_text('the 0 1 2 3 4 5\nin 5 4 3 2 1 0\n')
    (folder / 'my' / 'news.txt').write_text('Dunston checks in.\n\nAmara Okafor flew to Oslo.\n')
    # As doccano writes them
    entries = [json.dumps({'text': f'Amara Okafor flew to Oslo on day {n}.',
                           'label': [[0, 12, 'PER'], [21, 25, 'LOC']]}) for n in range(30)]
    (folder / 'my' / 'annotations.jsonl').write_text('\n'.join(entries) + '\n')
    run([*small('python train.py'), '--output_dir', '.'], folder)
    return folder


def run(command, folder):
    """Run a command; it has to succeed. Returns what it printed."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, f'{command}\n{result.stdout}\n{result.stderr}'
    return result.stdout


def shell_lines():
    """The README's shell commands, one by one; `sh` needs a download or files of one's own."""
    return [line for language, text in BLOCKS if language in ('bash', 'sh')
            for line in re.sub(r'\s+#.*|\\\n', '', text).splitlines() if line]


def small(line):
    """The same command at sizes that take seconds, without network and for this machine.

    Returns:
        Its words, or None if the tests run it in another way: installing (CI), all of the tests and
        tables, and the exercises (test_exercises.py).
    """
    if re.search('pytest|^python3 -m venv|exercises.py', line):
        return None
    # What is printed is looked at, not written to a file
    line = re.sub(r' > \S+$', '', line)
    # What comes after making an environment
    line = re.sub(r'^.*\.venv/bin/python', 'python', line)
    line = line.replace('torchrun', 'python -m torch.distributed.run')
    # Two machines become one
    line = re.sub(r'--nnodes=2 .* train.py', '--standalone --nproc_per_node=2 train.py', line)
    text = re.search(r' --text "(.*)"', line)
    # The real corpora and vectors are not here
    line = re.sub('data/(wnut17|gmb|ewt)/', 'my/', line)
    for name, mine in (('train', 'train'), ('testa', 'val'), ('testb', 'test')):
        line = re.sub(rf'\beng\.{name}\b', f'my/{mine}.txt', line)
    line = re.sub(r'(data/glove/)?glove\.6B\.100d', 'my/vectors', line)
    words = line.replace(text.group(), '').split() if text else line.split()
    assert words[0] == 'python', line
    if 'train.py' in line:
        epochs = '2' if '--checkpoint' in line else '1'
        words += [*map(str, SMALL), '--epochs', epochs]
        # Each run in a folder of its own, where no other run of the same second is in the way
        if '--checkpoint' not in line and '--output_dir' not in line:
            words += ['--output_dir', f'runs/{zlib.crc32(line.encode())}']
    if 'prepare.py' in line and 'jsonl' not in line:
        # Tested with a server of its own
        words = [*words[:3], '--help']
    return [sys.executable, *words[1:], *(['--text', text.group(1)] if text else [])]


# Runs commands one after the other in this process, which imports PyTorch only once
RUNNER = """
import json, runpy, sys

for sys.argv in json.loads(sys.argv[1]):
    print(sys.argv)
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as ended:
        if ended.code:
            raise
"""


def test_shell_commands(checkout):
    commands = [command for command in map(small, shell_lines()) if command is not None]
    assert len(commands) > 8
    scripts = [command[1:] for command in commands if command[1] != '-m']
    run([sys.executable, '-c', RUNNER, json.dumps(scripts)], checkout)
    for command in commands:
        if command[1] == '-m':
            run(command, checkout)


def test_python_snippets(checkout):
    """All of them in one session, from top to bottom."""
    script, expected = '', []
    for (language, text), (following, output) in zip(BLOCKS, [*BLOCKS[1:], ('bash', '')]):
        if language == 'python':
            script += f'{text}\nprint("=====")\n'
            # Output stands in a block of its own, right beneath
            follows = following == '' and f'{text}```\n```\n{output}' in README
            expected.append(output if follows else None)
    assert len(expected) > 8
    printed = run([sys.executable, '-c', script], checkout).split('=====\n')
    for wanted, found in zip(expected, printed):
        if wanted is not None:
            assert found == wanted


def headings(path):
    """The anchors of a Markdown file."""
    return {re.sub(r'[^\w -]', '', heading).strip().lower().replace(' ', '-')
            for heading in re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)}


def definitions(path):
    """A script's functions and classes: name -> its lines, as a range."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {node.name: range(node.lineno, node.end_lineno + 1) for node in nodes}


@pytest.mark.parametrize('document', ['README.md', 'tests/README.md', 'data/MODELS.md'])
def test_links_and_names(document):
    """Files that are linked exist, headings exist; a function's link leads to its first line."""
    document = ROOT / document
    prose = FENCE.sub('', document.read_text(encoding='utf-8'))
    links = re.findall(r'\[([^\]]*)\]\(([^)\s]*)\)', prose)
    for text, target in links:
        if target.startswith('http'):
            continue
        file, _, anchor = target.partition('#')
        path = document.parent / file if file else document
        assert path.exists(), target
        name = text.strip('`').split('.')[-1]
        if file.endswith('.py') and text.startswith('`') and text.strip('`') != file:
            line = definitions(path)[name][0]
            assert target == f'{file}#L{line}', f'{text} is in line {line}, not {target}'
        else:
            assert not anchor or anchor in headings(path), target


def test_order_of_reading():
    """The table says about how many lines its functions have, and the text how many in all."""
    text = section('Reading the code')
    rows = re.findall(r'^\| [^|]+ \| (\[.*\)) \| (\d+) \|$', text, re.MULTILINE)
    assert len(rows) == 4
    for links, lines in rows:
        found = sum(len(definitions(ROOT / file)[name])
                    for name, file in re.findall(r'\[`(\w+)`\]\((\w+\.py)', links))
        assert int(lines) == round(found, -1), links
    total = round(sum(int(lines) for _, lines in rows), -2)
    assert f'The core of the six scripts is about {total} lines.' in text


def section(title):
    """The text under a heading, up to the next one of its level."""
    return re.search(rf'^## {re.escape(title)}\n(.*?)^## ', README, re.MULTILINE | re.DOTALL)[1]


def sections():
    """The README's sections, (marks of the heading, title, text without blocks and tables)."""
    prose = re.sub(r'^\|.*$', '', FENCE.sub('', README), flags=re.MULTILINE)
    return re.findall(r'^(#+) (.*)\n((?:(?!^#).*\n)*)', prose, re.MULTILINE)


def count(text):
    """The number of words."""
    return sum(any(c.isalnum() for c in word) for word in text.split())


def test_length():
    """It teaches in at most 5,600 words, and says how many each part has."""
    words = [(marks, title, count(title) + count(text)) for marks, title, text in sections()]
    assert sum(number for *_, number in words) <= 5600
    assert next(number for _, title, number in words if title == 'Why learn this now?') <= 300
    parts, part = Counter(), None
    for marks, title, number in words:
        # A part's sections are one level below it
        part = part if marks == '###' else title
        parts[part] += number
    said = dict(re.findall(r'^\| \*\*\[(Part.*?)\]\(.*?\| ([\d,]+) words', README, re.MULTILINE))
    assert len(said) == 3
    for part, number in said.items():
        assert f'{round(parts[part], -2):,}' == number, part


def test_contents():
    """The list of contents has every section, in order."""
    listed = re.findall(r'\[([^\]]*)\]\(#', section('How to read this page'))
    assert listed == [title for _, title, _ in sections()][2:]


def test_each_part_talks_to_its_reader():
    """Every section asks or addresses its reader; guesses are folded; key sentences are bold."""
    for marks, title, text in sections():
        if marks == '###':
            assert re.search(r'\?|\byou\b|\byour\b|\blet\'s\b', text, re.IGNORECASE), title
            assert '**' in text, title
    assert README.count('<details><summary>') == README.count('</details>') >= 9


def test_no_long_parentheses():
    for *_, text in sections():
        text = re.sub(r'^\$\$.*$', '', re.sub(r'\]\([^)]*\)', ']', text), flags=re.MULTILINE)
        for inside in re.findall(r'\(([^()]*)\)', re.sub('`[^`]*`', 'code', text)):
            assert len(inside.split()) <= 8, inside


def test_arguments_exist():
    """Every --argument of the README is one of some script."""
    scripts = [*SCRIPTS, 'data/prepare.py', 'tests/benchmark.py', 'tests/conftest.py',
               'tests/reproduce.py', 'tests/baseline.py', 'tests/exercises.py', 'img/draw.py']
    code = ''.join((ROOT / script).read_text() for script in scripts)
    others = {'--standalone', '--nproc_per_node', '--nnodes', '--rdzv-backend', '--rdzv-endpoint',
              '--help'}
    for argument in set(re.findall(r'(?<![-\w])--[a-z][\w-]*', README)) - others:
        assert f"'{argument}'" in code or f"'--{argument[5:]}'" in code, argument
