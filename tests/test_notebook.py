"""img/tutorial.ipynb: it is the README, its links hold, and with --long it runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import notebook
import pytest
from conftest import FENCE, ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')
STORED = notebook.NOTEBOOK.read_text(encoding='utf-8') if notebook.NOTEBOOK.exists() else '{}'
LINE = "Set REPOSITORY to the project's address, and run this cell again\n"


def select(made, kind):
    """The cells of a kind."""
    return [cell for cell in made['cells'] if cell['cell_type'] == kind]


def source(cell):
    return ''.join(cell['source'])


def output(cell):
    """What a code cell printed, or None."""
    texts = [''.join(shown['text']) for shown in cell['outputs'] if shown.get('name') == 'stdout']
    return ''.join(texts) if cell['outputs'] else None


def texts(text):
    """The markdown cells of a text, without the first, which is the notebook's own."""
    return [source(cell) for cell in select(notebook.make(text), 'markdown')[1:]]


def codes(text):
    """(source, output, whether it is hidden) of a text's code cells, without the first."""
    folded = {'jupyter': {'source_hidden': True, 'outputs_hidden': True}}
    cells = select(notebook.make(text), 'code')[1:]
    assert all(cell['metadata'] in ({}, folded) for cell in cells)
    return [(source(cell), output(cell), cell['metadata'] == folded) for cell in cells]


# --- img/tutorial.ipynb ---

def test_the_notebook_is_that_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, 'NOTEBOOK', tmp_path / 'tutorial.ipynb')
    notebook.main([])
    written = notebook.NOTEBOOK.read_text(encoding='utf-8')
    assert written == json.dumps(notebook.make(README), indent=1, ensure_ascii=False) + '\n'
    assert written == STORED, 'expected the notebook of README.md; run python tests/notebook.py'


def test_the_notebook_is_valid():
    nbformat = pytest.importorskip('nbformat')
    nbformat.validate(json.loads(STORED))
    assert json.loads(STORED)['nbformat_minor'] == 5


def readme_blocks():
    """(language, text, output or None, start, end) of the README's blocks, with their outputs."""
    blocks = list(FENCE.finditer(README))
    for block, following in zip(blocks, [*blocks[1:], None]):
        follows = following and following[1] == '' and following.start() == block.end() + 1
        yield (block[1], block[2], following[2] if follows else None, block.start(),
               following.end() if follows else block.end())


def test_every_python_block_is_a_cell_with_its_output():
    expected = [(text.rstrip('\n'), printed) for language, text, printed, *_ in readme_blocks()
                if language == 'python']
    found = [(source(cell), output(cell)) for cell in select(json.loads(STORED), 'code')[1:]
             if not re.search('^!', source(cell), re.MULTILINE)]
    assert found == expected and len(found) > 8


def prose(text):
    """The words of a text, without targets of links and what makes an answer fold."""
    text = re.sub(r'\]\([^)\s]*\)', ']', text)
    return re.sub(r'</?(details|summary)>|<a id=[^>]*></a>|\*\*', ' ', text).split()


def test_no_word_of_the_readme_is_lost():
    pieces, last = [], 0
    for language, _, _, start, end in readme_blocks():
        if language in ('python', 'bash'):
            pieces.append(README[last:start])
            last = end
    expected = prose(''.join([*pieces, README[last:]]))
    found = prose('\n'.join(source(cell) for cell in select(json.loads(STORED), 'markdown')[1:]))
    assert found == expected and len(found) > 1000


def test_links_hold_from_img():
    text = '\n'.join(source(cell) for cell in select(json.loads(STORED), 'markdown'))
    targets = re.findall(r'(?:\]\(|src="|href=")([^)\s"]*)', re.sub(r'(?s)(`+).+?\1', '', text))
    files = {target.partition('#')[0] for target in targets if not target.startswith('http')} - {''}
    assert any(file.startswith('../') for file in files)
    assert any(file.endswith('.svg') for file in files)
    assert [file for file in files if not (ROOT / 'img' / file).exists()] == []


# --- The rules ---

def test_a_block_directly_beneath_is_the_output():
    block, shown = '```python\nprint(1)\n```\n', '```\n1\n\n2\n```\n'
    assert codes(block + shown) == [('print(1)', '1\n\n2\n', False)]
    assert texts(f'a\n{block}{shown}b') == ['a', 'b']
    assert codes(f'{block}\n{shown}') == [('print(1)', None, False)]
    assert texts(f'a\n{block}\n{shown}b') == ['a', f'{shown}b']
    assert codes(f'{block}{block}{shown}') == [('print(1)', None, False),
                                               ('print(1)', '1\n\n2\n', False)]
    assert codes('```bash\npython a.py\n```\n' + shown) == [('!python a.py', '1\n\n2\n', False)]


def test_blocks_of_other_languages_are_text():
    for block in ('```sh\npython a.py\n```', '```\n1\n```', '```json\n{}\n```'):
        text = f'one\n\n{block}\n```\noutput\n```\n\ntwo'
        assert codes(text) == [] and texts(text) == [text]


def test_commands():
    text = """```bash
python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
.venv/bin/python inference.py --text "a, .venv/bin/b" > c.txt
source .venv/bin/activate

# A comment
python data/prepare.py ewt     # the English Web Treebank
torchrun --standalone \\
train.py
```
"""
    assert codes(text) == [(
        '!python inference.py --text "a, .venv/bin/b" > c.txt\n\n# A comment\n'
        '!python data/prepare.py ewt     # the English Web Treebank\n'
        '!torchrun --standalone  train.py', None, False)]


@pytest.mark.parametrize('command', [
    'python -m venv .venv', '. .venv/bin/activate', 'python -m pip install nltk',
    'pip3 install nltk', '# Nothing to do', 'pip install -r a.txt && python -m pytest', ''])
def test_a_block_that_only_installs_is_left_out(command):
    assert notebook.make(f'one\n```bash\n{command}\n```\n```\noutput\n```\ntwo')['cells'][2:] == [
        {'id': 'cell-3', 'cell_type': 'markdown', 'metadata': {}, 'source': ['one\n', 'two']}]
    assert texts(f'one\n```bash\n{command}\n```\ntwo\n```python\na\n```') == ['one\ntwo']


def test_headings_begin_cells():
    text = '# a\n\nb\n## c #\n\n### d\ne'
    assert texts(text) == ['<a id="a"></a>\n\n# a\n\nb', '<a id="c"></a>\n\n## c #',
                           '<a id="d"></a>\n\n### d\ne']
    for block in ('```sh\n# comment\n## another\n```', '```\n# comment\n```'):
        assert texts(f'a\n{block}\n# b\n{block}') == [f'a\n{block}',
                                                     f'<a id="b"></a>\n\n# b\n{block}']
    assert texts('#1 is no heading\n#') == ['#1 is no heading\n#']


def test_links_lead_to_the_same_files_from_img():
    assert texts('![a\nb](img/c.svg) [`d`](models.py#L10) [e](tests/README.md#f) [g](img)') == [
        '![a\nb](c.svg) [`d`](../models.py#L10) [e](../tests/README.md#f) [g](../img)']
    assert texts('<img src="img/a.svg"> <a href="LICENSE">') == [
        '<img src="a.svg"> <a href="../LICENSE">']
    for text in ('[a](#b)', '[a](https://b.org/img/c.svg)', '[a](http://b.org)', '`[a](b)`',
                 '``[`a`](b)``', '`a\n](b)`', '```\n[a](b)\n```', '```sh\n`](img/b)\n```'):
        assert texts(text) == [text]
    assert texts('`[a](b)` [a](b) `](b)`') == ['`[a](b)` [a](../b) `](b)`']


def test_sections_are_found_by_their_anchors():
    """Those that GitHub makes of headings, which the README's links lead to."""
    text = '\n'.join(source(cell) for cell in select(json.loads(STORED), 'markdown'))
    targets = set(re.findall(r'\]\(#([^)]*)\)', text))
    assert len(targets) > 10 and targets <= set(re.findall('<a id="([^"]*)"></a>', text))


def test_answers_without_code_cells_stay_as_they_are():
    answer = '<details><summary>1. <code>a</code>?</summary>\n\n```sh\nb\n```\n</details>'
    assert texts(f'a\n\n{answer}\n\n{answer}\n#b') == [f'a\n\n{answer}\n\n{answer}\n#b']
    # A block that gives no cell is none
    whole, = texts('<details><summary>1</summary>\n```bash\npip install a\n```\n2\n</details>')
    assert whole == '<details><summary>1</summary>\n2\n</details>'


def test_code_cells_in_answers_are_folded():
    code, shown = '```python\nprint(1)\n```\n', '```\n1\n```\n'
    plain = '<details><summary>3</summary>\n\nfour\n</details>'
    text = f"""{code}
{plain}

<details>
<summary> 1. <code>a</code>
b?</summary>

[c](d)

{code}{shown}
e

{code}
f
</details>

{plain}

<details><summary>2</summary>

{code}</details>

{code}"""
    assert codes(text) == [
        ('print(1)', None, False), ('print(1)', '1\n', True), ('print(1)', None, True),
        ('print(1)', None, True), ('print(1)', None, False)]
    assert texts(text) == [f'{plain}\n\n**1. <code>a</code>\nb?**\n\n[c](../d)', 'e',
                           f'f\n\n{plain}\n\n**2**']


def test_the_note_tells_how_to_use_a_notebook():
    first, second = notebook.make(README)['cells'][:2]
    assert (first['cell_type'], second['cell_type']) == ('markdown', 'code')
    for word in ('`!`', '`%%writefile my/crf.py`'):
        assert word in source(first)


def test_ids_and_kernel():
    made = notebook.make('a\n```python\nb\n```\n# c')
    assert [(cell['id'], cell['cell_type']) for cell in made['cells']] == [
        ('cell-1', 'markdown'), ('cell-2', 'code'), ('cell-3', 'markdown'), ('cell-4', 'code'),
        ('cell-5', 'markdown')]
    assert made['metadata']['kernelspec']['name'] == 'python3'
    assert made['metadata']['language_info'] == {'name': 'python'}


# --- The first cell ---

@pytest.fixture
def project(tmp_path):
    """A git repository with as much as the first cell looks at, and a pip that only prints."""
    folder = tmp_path / 'project'
    files = {'models.py': 'CRF = "ours"', 'data/news.pth.tar': '', 'img/tutorial.ipynb': '{}',
             'requirements.txt': 'torch==0.1\nno_such_package==1.0\n',
             # Found first, since python -m looks at the current folder
             'pip.py': 'import sys\n\nprint("pip", *sys.argv[1:])'}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for command in ('init -q', 'add .', '-c user.name=a -c user.email=a commit -q -m a'):
        subprocess.run(['git', *command.split()], cwd=folder, check=True)
    return folder


def set_up(folder, times=1):
    """Run the first cell in a folder: what it prints, the folder and CRF, and PATH's first."""
    cell = source(notebook.make(README)['cells'][1])
    # Only the cell puts the current folder on sys.path
    before = 'import sys\n\nsys.path.remove("")\n'
    after = ('from models import CRF\n'
             'print(os.getcwd(), CRF, os.environ["PATH"].split(os.pathsep)[0])\n')
    result = subprocess.run([sys.executable, '-c', before + times * f'{cell}\n' + after],
                            cwd=folder, text=True, capture_output=True, timeout=60)
    return result.stdout, result.stderr


INSTALLED = 'pip install -q no_such_package==1.0\n'


@pytest.mark.parametrize('times', [1, 2])
@pytest.mark.parametrize('start', ['.', 'img'])
def test_the_first_cell_finds_the_project(project, start, times):
    printed, _ = set_up(project / start, times)
    assert printed == INSTALLED * times + f'{project} ours {Path(sys.executable).parent}\n'


def test_the_first_cell_installs_only_what_is_missing(project):
    (project / 'requirements.txt').write_text('torch==0.1\n')
    assert set_up(project)[0] == f'{project} ours {Path(sys.executable).parent}\n'


def test_the_first_cell_fetches_the_project(project, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, 'REPOSITORY', str(project))
    (tmp_path / 'empty').mkdir()
    clone = tmp_path / 'empty' / 'sequence-labeling'
    expected = f'{clone} ours {Path(sys.executable).parent}\n'
    assert set_up(tmp_path / 'empty', times=2)[0] == 2 * INSTALLED + expected
    # Another kernel, which begins in the notebook's folder again, leaves it as it is
    (clone / 'mine.txt').write_text('')
    assert set_up(tmp_path / 'empty')[0] == INSTALLED + expected
    assert os.listdir(tmp_path / 'empty') == ['sequence-labeling']
    assert (clone / 'mine.txt').exists()


@pytest.mark.parametrize('name', [None, 'models.py', 'news.pth.tar'])
def test_the_first_cell_asks_for_an_address(project, tmp_path, monkeypatch, name):
    """Half of what it knows the project by is not enough."""
    monkeypatch.setattr(notebook, 'REPOSITORY', '')
    folder = tmp_path / 'empty' / 'empty'
    (folder / 'data').mkdir(parents=True)
    if name is not None:
        path = next(project.rglob(name))
        shutil.copy(path, folder / path.relative_to(project))
    printed, error = set_up(folder)
    assert printed == LINE and "No module named 'models'" in error
    assert os.listdir(folder.parent) == ['empty']


def test_the_first_cell_is_short():
    cell = notebook.make(README)['cells'][1]['source']
    assert len(cell) < 25 and cell[0].startswith('# ') and max(map(len, cell)) <= 100


# --- All cells ---

def screen(text):
    """What a terminal shows of a text: a carriage return goes back and writes over the line."""
    return '\n'.join(line.split('\r')[-1] for line in text.replace('\r\n', '\n').split('\n'))


def shows(printed, stored):
    """Whether a cell printed what is stored, where a line of dots stands for any lines."""
    pieces = re.split(r'(?m)^\.\.\.\n', stored)
    return re.fullmatch('(?s:.*)'.join(map(re.escape, pieces)), printed or '') is not None


@pytest.mark.parametrize('printed, stored, same', [
    ('a\nb\n', 'a\nb\n', True), ('a\nb\n', 'a\n', False), (None, 'a\n', False),
    ('a\nb\nc\nd\n', 'a\n...\nd\n', True), ('a\nd\n', 'a\n...\nd\n', True),
    ('a\nb\n', 'a\n...\nd\n', False), ('...\n', '...\n', True), ('b...\n', 'a...\n', False)])
def test_dots_stand_for_any_lines(printed, stored, same):
    assert shows(printed, stored) == same


def test_progress_is_not_seen():
    assert screen('a\r\n 5%\r10%\r   \rb\r\nc\n') == 'a\nb\nc\n'


def copy_project(folder):
    """The project's own files, without those of training and without corpora."""
    for pattern in ('*.py', 'requirements.txt', 'data/*.py', 'data/news.pth.tar',
                    'data/pos.pth.tar', 'data/sample/*', 'img/*.*', 'tests/*.*'):
        for path in ROOT.glob(pattern):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def test_all_cells_run(request, tmp_path):
    """They print what is stored, in a copy of the project."""
    if not request.config.getoption('--long'):
        pytest.skip('trains a model; pytest --long does it')
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    copy_project(tmp_path)
    stored = nbformat.reads(STORED, as_version=4)
    cells = nbformat.reads(STORED, as_version=4)
    for cell in select(cells, 'code'):
        # A command that fails raises nothing by itself; exercises fail until they are done
        cell.source = re.sub(
            '(?m)^!(?!python tests/exercises).*', r'\g<0>\nassert _exit_code == 0', cell.source)
    client = nbclient.NotebookClient(cells, timeout=1800, kernel_name='python3',
                                     resources={'metadata': {'path': str(tmp_path / 'img')}})
    client.execute()
    for cell, run in zip(select(stored, 'code'), select(cells, 'code')):
        if output(cell) is not None:
            printed = output(run)
            if cell.source.startswith('!'):
                printed = screen(printed or '')
            assert shows(printed, output(cell)), f'{cell.source}\nprinted:\n{printed}'
