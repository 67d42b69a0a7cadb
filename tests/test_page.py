"""The page of img/page.html shows in a browser what a choice of this file's own says it should."""

import contextlib
import html
import io
import json
import random
import re
import shutil
import subprocess
from itertools import combinations
from types import SimpleNamespace

import pytest
from conftest import BEST, ROOT, call, variant

import inference
from utils import InputError

TEMPLATE = ROOT / 'img' / 'page.html'
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
TYPES = 'PER', 'LOC', 'a "type" of </b>', 'geo-loc', "O'", 'ü', '__proto__', 'constructor', '\\'
# What a page has to escape, what UTF-16 counts differently, and what runs from right to left
PIECES = ('</script>', '<b>bold</b>', '&amp;', '&', '"', "'", '\\', '${1}', '<!--', '\u2028',
          '🙂', '\U0001f469\U0001f3fd\u200d\U0001f680', '𝔘nicode', '\u05e9\u05dc\u05d5\u05dd',
          '\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645', 'e\u0301', '/* sentences */',
          '/* settings */ null', 'and')
TITLE = '</script> & </title> /* settings */ null'

# Writes down what the page shows, once or, with steps, more often
KEEP = """<script>
const all = selector => [...document.querySelectorAll(selector)];
const read = node => [node.nodeName, node.textContent, Object.fromEntries(
  [...node.attributes ?? []].map(attribute => [attribute.name, attribute.value]))];
const views = [];

function keep() {
  views.push({
    titles: [document.title, find('h1').textContent], address: location.hash,
    slider: find('input')?.value, threshold: find('output')?.value,
    counts: all('li').map(item => [item.dataset.type, item.textContent]),
    paragraphs: all('p').map(paragraph => [...paragraph.childNodes].map(read)),
    labels: all('mark, p > span').map(one => JSON.parse(getComputedStyle(one, '::after').content))
  });
  find('pre').textContent = JSON.stringify(views);
}

document.body.append(document.createElement('pre'));
keep();
</script>"""
STEPS = """<script>
const go = address => new Promise(followed => {
  addEventListener('hashchange', followed, {once: true});
  location.hash = address;
});
find('input').value = '0.3';
find('input').dispatchEvent(new Event('input'));
keep();
(async () => {
  for (const address of ['#0.65', '#nothing', '#0.23', '#0.001']) { await go(address); keep(); }
})();
</script>"""


def printed(sentences, task='ner'):
    """The page that inference.py prints if this is what a model has tagged."""
    tagger = SimpleNamespace(task=task, threshold=0.35, tag=lambda *_, **__: sentences)
    args = SimpleNamespace(text=TITLE, files=[], threshold=None, batch_size=None)
    with contextlib.redirect_stdout(io.StringIO()) as page:
        inference.print_page(tagger, [], args)
    return page.getvalue()


def browse(folder, page, address=''):
    """Open a page in a headless browser: the views that KEEP has written down."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'skipped because there is no browser: none of {", ".join(BROWSERS)}')
    (folder / 'page.html').write_text(page, encoding='utf-8')
    done = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom',
         f'--user-data-dir={folder / "profile"}', '--virtual-time-budget=1000',
         (folder / 'page.html').as_uri() + address],
        capture_output=True, encoding='utf-8', timeout=120)
    written = re.search('<pre>(.*)</pre>', done.stdout)
    assert written, done.stdout[-2000:] + done.stderr
    return json.loads(html.unescape(written[1]))


def random_sentence(generator):
    """Text to be escaped, and candidates at any places of it, overlapping ones, too."""
    text = ' '.join(generator.choices(PIECES, k=generator.randint(1, 8)))
    candidates = []
    for _ in range(generator.randint(0, 8)):
        start, end = sorted(generator.sample(range(len(text) + 1), 2))
        candidates.append([generator.choice(TYPES), start, end, generator.uniform(0.05, 1)])
    return {'text': text, 'candidates': candidates}


@pytest.fixture(scope='module')
def sentences():
    generator = random.Random(0)
    # Of those that are worth as much at 0.5, the first is shown; what is worth nothing is not
    ties = [['LOC', 0, 1, 0.75], ['PER', 0, 1, 0.75], ['ORG', 0, 3, 0.75], ['LOC', 2, 3, 0.5]]
    empty = {'text': '', 'candidates': []}
    return [{'text': '🙂-🙂', 'candidates': ties}, empty,
            *(random_sentence(generator) for _ in range(60))]


def best_set(candidates, threshold):
    """Of all sets of candidates that do not overlap, the one that is worth most."""
    sets = [chosen for size in range(len(candidates) + 1)
            for chosen in combinations(candidates, size)
            if all(a[2] <= b[1] or b[2] <= a[1] for a, b in combinations(chosen, 2))]
    best = max(sets, key=lambda chosen: sum(p - threshold for *_, p in chosen))
    return sorted(best, key=lambda candidate: candidate[1])


def expected(text, entities):
    """The nodes of a paragraph: text, and marks with their attributes."""
    position, nodes = 0, []
    for kind, start, end, number in entities:
        words, p = text[start:end], f'{number:.2f}'
        nodes += [['#text', text[position:start], {}], ['MARK', words, {
            'data-type': kind, 'data-probability': p, 'role': 'note', 'tabindex': '0',
            'aria-label': f'{words}: {kind}, probability {p}'}]]
        position = end
    return [*nodes, ['#text', text[position:], {}]]


def assert_shows(view, sentences, threshold):
    """A view has the texts and the marks of a threshold, and counts them."""
    counts = dict.fromkeys(sorted(kind for one in sentences for kind, *_ in one['candidates']), 0)
    assert len(view['paragraphs']) == len(sentences)
    for nodes, sentence in zip(view['paragraphs'], sentences):
        entities = best_set(sentence['candidates'], threshold)
        wanted = expected(sentence['text'], entities)
        assert [node for node in nodes if node[1]] == [node for node in wanted if node[1]]
        for kind, *_ in entities:
            counts[kind] += 1
    assert view['counts'] == [[kind, f'{kind} {count}'] for kind, count in counts.items()]
    assert view['threshold'] == f'{threshold:.2f}'


@pytest.mark.parametrize('threshold', [0.05, 0.2, 0.5])
def test_the_entities_are_those_of_the_threshold_in_the_address(threshold, sentences, tmp_path):
    page = printed(sentences) + KEEP
    view, = browse(tmp_path, page, f'#{threshold}')
    assert view['titles'] == [TITLE, TITLE]
    assert view['slider'] == str(threshold)
    assert_shows(view, sentences, threshold)
    # The type stands beside each, though it is no part of the text
    assert view['labels'] == [node[2]['data-type'] for nodes in view['paragraphs']
                              for node in nodes if node[0] == 'MARK']


def test_the_slider_and_the_address_follow_each_other(sentences, tmp_path):
    page = printed(sentences) + KEEP + STEPS
    views = browse(tmp_path, page, '#0.9')
    # What is no number is the settings' threshold, and the page knows nothing below 0.05; between
    # the slider's steps the address is right
    steps = [('#0.9', 0.9, '0.9'), ('#0.3', 0.3, '0.3'), ('#0.65', 0.65, '0.65'),
             ('#nothing', 0.35, '0.35'), ('#0.23', 0.23, '0.25'), ('#0.001', 0.05, '0.05')]
    for view, (address, threshold, slider) in zip(views, steps, strict=True):
        assert (view['address'], view['slider']) == (address, slider)
        assert_shows(view, sentences, threshold)


def test_parts_of_speech_are_under_their_words(tmp_path):
    tags = [f'{n}$' for n in range(len(PIECES))]
    sentences = [{'tokens': PIECES, 'tags': tags}, {'tokens': [], 'tags': []}]
    view, = browse(tmp_path, printed(sentences, task='pos') + KEEP)
    assert view['titles'] == [TITLE, TITLE]
    words, nothing = view['paragraphs']
    assert words[::2] == [['SPAN', word, {'data-tag': tag}] for word, tag in zip(PIECES, tags)]
    assert words[1::2] == [['#text', ' ', {}]] * len(PIECES) and nothing == []
    assert view['labels'] == tags
    assert 'slider' not in view and view['counts'] == []


# --- What a model tags ---

LINES = ['<b>Amara Okafor</b> flew to "Oslo"</script>&amp;', '',
         '🙂 Dunston \U0001f469\U0001f3fd\u200d\U0001f680 saw Rain in Oslo .',
         "Amara's /* settings */ null \\ Oslo",
         '  Okafor\tOslo\u2028𝔘nicode Amara ${1} <!-- Dunston']


@pytest.fixture
def file(tmp_path):
    file = tmp_path / '<i>&.txt'
    file.write_text('\n'.join(LINES), encoding='utf-8')
    return file


@pytest.fixture
def believed(trained, file):
    """What --threshold says of the file, for three of them: lists of sentences."""
    rows = {threshold: call(inference.main, trained / BEST, file, '--output_format', 'jsonl',
                            '--threshold', threshold) for threshold in (0.1, 0.25, 0.6)}
    assert len(set(rows.values())) == 3
    return {threshold: list(map(json.loads, text.rstrip('\n').split('\n')))
            for threshold, text in rows.items()}


@pytest.mark.parametrize('threshold', [0.1, 0.25, 0.6])
def test_a_page_shows_the_entities_of_its_threshold(
        threshold, trained, file, believed, tmp_path):
    page = call(inference.main, trained / BEST, file, '--output_format', 'html')
    view, = browse(tmp_path, page + KEEP, f'#{threshold}')
    assert view['titles'] == [str(file)] * 2
    kinds = []
    for nodes, line, row in zip(view['paragraphs'], LINES, believed[threshold], strict=True):
        entities = [(one['type'], one['start'], one['end'], one['probability'])
                    for one in row['entities']]
        assert [node for node in nodes if node[1]] == [
            node for node in expected(line, entities) if node[1]]
        kinds += [kind for kind, *_ in entities]
    assert view['counts'] == [[kind, f'{kind} {kinds.count(kind)}'] for kind in ('LOC', 'PER')]


def test_a_page_of_parts_of_speech_shows_all_tags(trained, file, tmp_path):
    checkpoint = variant(trained / BEST, tmp_path, task='pos')
    columns = call(inference.main, checkpoint, file, '--output_format', 'conll')
    page = call(inference.main, checkpoint, file, '--output_format', 'html')
    view, = browse(tmp_path, page + KEEP)
    shown = [''.join(f'{text} {attributes["data-tag"]}\n' for name, text, attributes in nodes
                     if name == 'SPAN') for nodes in view['paragraphs']]
    assert ''.join(sentence + '\n' for sentence in shown) == columns


@pytest.mark.parametrize('kept, arguments, start', [
    (0.35, (), 0.35), (None, (), 0.5), (0.35, ('--threshold', 0.2), 0.2),
    (0.35, ('--threshold', 'best'), 0.35), (0.35, ('--threshold', 0.001), 0.001)])
def test_what_is_in_a_page(trained, file, tmp_path, kept, arguments, start):
    checkpoint = variant(trained / BEST, tmp_path, threshold=kept)
    page = call(inference.main, checkpoint, file, '--output_format', 'html', *arguments)
    settings = json.loads(re.search('const settings = (.*);', page)[1])
    assert settings == {'title': str(file), 'task': 'ner', 'threshold': start}
    rows = re.search(r'(?s)const sentences = \[\n(.*),\n\];', page)[1]
    tagged = inference.load_tagger(checkpoint).tag(LINES, least=min(start, 0.05))
    wanted = [{name: row[name] for name in ('text', 'candidates')} for row in tagged]
    assert json.loads(f'[{rows}]') == json.loads(json.dumps(wanted))
    # Nothing ends the script but its own end
    assert page.count('</script') == 1 and '<!--' not in page


def test_a_page_has_every_entity_of_a_low_threshold(trained, file):
    options = (trained / BEST, file, '--threshold', 0.001, '--output_format')
    rows = call(inference.main, *options, 'jsonl').rstrip('\n').split('\n')
    page = call(inference.main, *options, 'html')
    assert json.loads(re.search('const settings = (.*);', page)[1])['threshold'] == 0.001
    shown = json.loads('[' + re.search(r'(?s)const sentences = \[\n(.*),\n\];', page)[1] + ']')
    improbable = 0
    for row, sentence in zip(map(json.loads, rows), shown, strict=True):
        entities = [[one[name] for name in ('type', 'start', 'end', 'probability')]
                    for one in row['entities']]
        assert all(entity in sentence['candidates'] for entity in entities)
        # The page chooses as inference.py does
        assert [one[:3] for one in inference.choose(sentence['candidates'], 0.001)] == [
            one[:3] for one in entities]
        improbable += sum(p < 0.05 for *_, p in entities)
    assert improbable > 0


def test_a_file_that_cannot_be_read_leaves_no_half_page(trained, file, tmp_path, capsys):
    with pytest.raises(InputError, match='missing: cannot be read'):
        inference.main([str(trained / BEST), str(file), str(tmp_path / 'missing'),
                        '--output_format', 'html'])
    assert capsys.readouterr().out == ''


def test_the_template_is_small_and_needs_nothing_else():
    text = TEMPLATE.read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 120
    assert text.splitlines().count('/* sentences */') == text.count('/* sentences */') == 1
    assert text.count('/* settings */ null') == 1
    # Nothing from elsewhere, and no text as HTML
    assert not re.search(r'https?:|[\'"(]//|\bsrc\b|@import|url\(|<link|fetch\(|\bimport\b', text)
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b', text)
