"""The trained models in data/: they are small, and answer what the documents show."""

import re
import shlex

import pytest
import torch
from conftest import FENCE, LATEST, ROOT, call
from test_prepare import SHARED

import inference
import train
from utils import InputError, load_checkpoint, read_corpus, score_task

MODELS = {name: ROOT / 'data' / f'{name}.pth.tar' for name in ('news', 'pos')}
PAGE = (ROOT / 'data' / 'MODELS.md').read_text(encoding='utf-8')
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def shown(text):
    """Commands that tag with one of the models, and the output that stands beneath each."""
    blocks = FENCE.findall(text)
    for (language, command), (_, output) in zip(blocks, blocks[1:]):
        line = command.splitlines()[-1] if language == 'bash' else ''
        if 'inference.py data/' in line:
            yield line, output


@pytest.mark.parametrize('command, output', [*shown(README), *shown(PAGE)])
def test_what_is_shown_is_what_they_answer(command, output, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, script, *arguments = shlex.split(command)
    assert script == 'inference.py' and call(inference.main, *arguments) == output


def test_something_is_shown_of_each():
    assert len([*shown(README)]) > 0
    for name in MODELS:
        assert any(f'data/{name}.pth.tar' in command for command, _ in shown(PAGE))


def test_sentences_of_all_kinds():
    """What the page shows of its sentences is what the model of names answers."""
    rows = re.findall(r'^\| ([a-z ]+) \| `(.+)` \|$', PAGE, re.MULTILINE)
    assert len(rows) >= 10
    tagger = inference.load_tagger(MODELS['news'])
    marked = [row for _, row in rows]
    sentences = [re.sub(r'\[[a-z]+ (.+?)\](?!\])', r'\1', row) for row in marked]
    assert [inference.inline(one, 'ner') for one in tagger.tag(sentences)] == marked


def test_they_are_small():
    sizes = [path.stat().st_size for path in MODELS.values()]
    assert max(sizes) <= 8_000_000 and sum(sizes) <= 14_000_000
    for path in MODELS.values():
        # Whatever a version of PyTorch may add to a file, this is all that is asked of it
        saved = torch.load(path, weights_only=True)
        assert set(saved) <= {'format', 'model', 'maps', 'arguments', 'scores', 'threshold'}
        assert {weight.dtype for weight in saved['model'].values()} == {torch.float16}
        assert not any('lm_' in name for name in saved['model'])
        # Where somebody trained it is nobody's business
        files = [value for name, value in saved['arguments'].items() if name.endswith('_file')]
        assert not any(file.startswith('/') for file in files)


def test_the_page_names_every_type_and_the_threshold():
    tag_map = load_checkpoint(MODELS['news'])['maps']['tag_map']
    types = {tag[2:] for tag in tag_map if '-' in tag}
    assert types == set(re.findall(r'^\| \*\*([a-z]+)\*\* \|', PAGE, re.MULTILINE))
    threshold = load_checkpoint(MODELS['news'])['threshold']
    assert f'threshold, {threshold:.2f}' in PAGE


@pytest.mark.parametrize('path', MODELS.values(), ids=list(MODELS))
def test_training_does_not_continue_from_them(path):
    with pytest.raises(InputError, match=f'expected {LATEST}, found a model for tagging'):
        train.main(['--checkpoint', str(path)])


@pytest.mark.skipif(not (SHARED / 'gmb').exists(), reason='needs the corpora')
def test_scores(request):
    """Those of the page; a processor may round a few tags in another way."""
    if not request.config.getoption('--long'):
        pytest.skip('takes a minute: --long')
    renamed = {'geo': 'place', 'gpe': 'nationality', 'per': 'person', 'org': 'organization',
               'tim': 'time', 'art': 'product', 'eve': 'event', 'nat': 'nature', 'O': 'O'}
    for name, corpus, least in (('news', 'gmb', 0.845), ('pos', 'ewt', 0.953)):
        tagger = inference.load_tagger(MODELS[name])
        column = tagger.arguments['tag_column']
        words, gold = read_corpus(SHARED / corpus / 'test.txt', tagger.task, column, 'iob2')
        if name == 'news':
            gold = [[tag[:2].rstrip('O') + renamed[tag[2:] or tag] for tag in row] for row in gold]
        tagged = inference.tag_labeled(tagger, words, gold)
        rows, scores = score_task(gold, [one['tags'] for one in tagged], tagger.task)
        found = scores['entity_f1' if name == 'news' else 'accuracy']
        assert found >= least
        figures = [found]
        if name == 'news':
            (_, _, _, with_threshold), = inference.score_thresholds(tagged, [tagger.threshold])
            assert with_threshold >= found
            figures += [with_threshold, *(row[3] for row in rows)]
        else:
            assert abs(100 * found - float(re.search(r'test file: ([\d.]+)%', PAGE)[1])) < 0.05
        for figure in figures if name == 'news' else ():
            near = [f'{100 * figure + change:.1f}' for change in (-0.1, 0, 0.1)]
            assert any(f'| {one} |' in PAGE for one in near), figure
