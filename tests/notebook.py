"""Write img/tutorial.ipynb, the README as a notebook.

    python tests/notebook.py

Blocks of `python` and `bash` become code cells, and a block without a language directly beneath
one is its output. All else is text. By convention, blocks of `sh` need files of the reader's own or
a download, so the notebook only shows them.
"""

import argparse
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / 'img' / 'tutorial.ipynb'
# Where git finds the project; empty as long as it has no public address
REPOSITORY = ''
# What only the notebook says
NOTE = '''
This notebook is the project's README. Run the first cell below in any case; it takes the place of
the commands that install and activate an environment. Lines that begin with `!` are commands of
the shell. Those that stand in the text need files of your own or a download: to run one, put `!`
before it. To write a file such as `my/crf.py`, begin a cell with `%%writefile my/crf.py`.
'''
# The first cell of code, with ADDRESS for REPOSITORY
SETUP = '''
# Goes to the project's folder (fetches it if it isn't here), and installs what is missing
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = ADDRESS
folders = ['.', '..', 'sequence-labeling']
found = [folder for folder in folders
         if Path(folder, 'models.py').exists() and Path(folder, 'data/news.pth.tar').exists()]
if REPOSITORY and not found:
    subprocess.run(['git', 'clone', REPOSITORY, folders[-1]], check=True)
    found = folders[-1:]
if found:
    os.chdir(found[0])
    missing = [package for package in Path('requirements.txt').read_text().splitlines()
               if find_spec(package.split('==')[0]) is None]
    if missing:
        subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', *missing], check=True)
    os.environ['PATH'] = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
    sys.path.insert(0, os.getcwd())
else:
    print("Set REPOSITORY to the project's address, and run this cell again")
'''

# What becomes a code cell: its language, its text, and its output or None
BLOCK = re.compile(r'(?ms)^```(python|bash)\n(.*?)^```$\n?(?:^```\n(.*?)^```$\n?)?')
# Commands in whose place the first cell of code is
INSTALLING = re.compile(r'-m venv |/activate\b|\bpip3? install ')
# Code, which stays as it is, or what stands before a relative target, and its img/ or None
LINK = re.compile(r'(?s)(`+).+?\1|(\]\(|(?:src|href)=")(?![#/]|\w+:)(img/)?')
# <details> without code cells, or the beginning or the end of one that has some
DETAILS = re.compile(
    r'(?s)(<details>.*?</details>)|<details>\s*<summary>(.*?)</summary>|</details>\n?')
# A block, in which # begins a comment, or a heading and its title
HEADING = re.compile(r'(?ms)^```.*?^```$|^#+ ([^\n]*)')


def commands(text):
    """The source of a block of shell commands; empty if they only install."""
    lines = [line.removeprefix('.venv/bin/') for line in text.replace('\\\n', ' ').splitlines()
             if not INSTALLING.search(line)]
    source = [f'!{line}' if line and not line.startswith('#') else line for line in lines]
    return '\n'.join(source) if source != lines else ''


def relink(part):
    """What replaces a match of LINK, so that the link holds from img/."""
    code, before, img = part.groups()
    return part[0] if code else before + ('' if img else '../')


def unfold(part):
    """What replaces a match of DETAILS: a cell can't fold other cells."""
    whole, summary = part.groups()
    return whole or (f'**{summary.strip()}**' if summary else '')


def anchor(part):
    """What replaces a match of HEADING: notebooks make other anchors of headings than GitHub."""
    if part[1] is None:
        return part[0]
    name = re.sub(r'[^\w -]', '', part[1]).strip().lower().replace(' ', '-')
    return f'<a id="{name}"></a>\n\n{part[0]}'


def make_cell(kind, source, **fields):
    """A cell, with its text as notebooks store it."""
    return {'cell_type': kind, 'metadata': {}, 'source': source.strip('\n').splitlines(True),
            **fields}


def text_cells(text):
    """The text between two code cells, with a new cell for each heading, so that readers fold."""
    text = DETAILS.sub(unfold, LINK.sub(relink, text))
    starts = [part.start() for part in HEADING.finditer(text) if part[0].startswith('#')]
    sections = [text[start:end] for start, end in pairwise([0, *starts, len(text)])]
    return [make_cell('markdown', HEADING.sub(anchor, section))
            for section in sections if section.strip()]


def code_cell(source, output=None, hidden=False):
    """A code cell, with its output as if it had been run."""
    stream = {'output_type': 'stream', 'name': 'stdout', 'text': (output or '').splitlines(True)}
    metadata = {'jupyter': {'source_hidden': True, 'outputs_hidden': True}} if hidden else {}
    return make_cell('code', source, metadata=metadata, execution_count=None,
                     outputs=[stream] if output else [])


def make(text):
    """The notebook of a text such as the README's."""
    setup = code_cell(SETUP.replace('ADDRESS', repr(REPOSITORY)))
    cells, waiting, end = [make_cell('markdown', NOTE), setup], '', 0
    for block in BLOCK.finditer(text):
        before = text[:block.start()]
        waiting, end = waiting + before[end:], block.end()
        source = commands(block[2]) if block[1] == 'bash' else block[2]
        if source:
            hidden = before.count('<details>') > before.count('</details>')
            cells += [*text_cells(waiting), code_cell(source, block[3], hidden)]
            waiting = ''
    cells += text_cells(waiting + text[end:])
    kernel = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}
    return {'cells': [{'id': f'cell-{n}', **cell} for n, cell in enumerate(cells, start=1)],
            'metadata': {'kernelspec': kernel, 'language_info': {'name': 'python'}},
            'nbformat': 4, 'nbformat_minor': 5}


def main(argv):
    """Write the notebook."""
    argparse.ArgumentParser(description='Write img/tutorial.ipynb from README.md.').parse_args(argv)
    notebook = make((ROOT / 'README.md').read_text(encoding='utf-8'))
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main(sys.argv[1:])
