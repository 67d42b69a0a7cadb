"""The sources: nothing in them is invisible, and no function is too long to be read."""

import ast
import unicodedata
from itertools import chain

import pytest
from conftest import ROOT

SCRIPTS = ['models.py', 'datasets.py', 'utils.py', 'train.py', 'inference.py', 'dynamic_rnn.py']
SOURCES = sorted(chain.from_iterable(ROOT.glob(f'{folder}*.py')
                                     for folder in ('', 'data/', 'img/', 'tests/')))


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.name)
def test_every_character_of_the_sources_can_be_seen(path):
    """Marks, odd spaces and what runs from right to left are written as escapes."""
    assert [(number, f'U+{ord(char):04X}')
            for number, line in enumerate(path.read_bytes().decode().split('\n'), start=1)
            for char in line.replace(' ', '')
            if unicodedata.category(char)[0] in 'CMZ'
            or unicodedata.bidirectional(char) in ('R', 'AL', 'AN')] == []


def functions(script):
    """All functions of a script, from its syntax."""
    return [node for node in ast.walk(ast.parse((ROOT / script).read_text(encoding='utf-8')))
            if isinstance(node, ast.FunctionDef)]


def lines(node):
    """How many lines a part of a script has."""
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize('script', SCRIPTS)
def test_no_function_is_longer_than_50_lines_without_its_docstring(script):
    for function in functions(script):
        words = lines(function.body[0]) if ast.get_docstring(function) is not None else 0
        assert lines(function) - words <= 50, function.name


def test_no_function_of_training_takes_more_than_five_parameters():
    for function in functions('train.py'):
        parameters = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        assert len(parameters) <= 5, function.name
