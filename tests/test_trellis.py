"""img/trellis.html computes in a browser what inference.py and models.py compute, and shows it."""

import html
import json
import math
import random
import re

import pytest
import torch
from conftest import ROOT
from test_page import PIECES, TITLE, browse
from worked_example import EMISSIONS, FILM_TAG_MAP, TRANSITIONS, crf_scores

from inference import ViterbiDecoder
from models import ViterbiLoss

PAGE = (ROOT / 'img' / 'trellis.html').read_text(encoding='utf-8')
SHORT = {'iobes': 'BIES', 'iob2': 'BI'}

# What the page shows, to be read after each action
KEEP = """<script>
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const texts = (selector, root) => all(selector, root).map(one => one.textContent);
const views = [];
const by = label => document.querySelector(`[aria-label=${JSON.stringify(label)}]`);
function keep() {
  views.push({
    title: [document.title, find('h1').textContent], starts: texts('option'),
    rules: form.rules.checked, step: find('#step').textContent, back: find('#back').disabled,
    marked: find('#formula b').textContent, formula: find('#formula code').textContent,
    note: find('#formula small').textContent,
    probability: find('#formula').childNodes[1].textContent,
    answers: Object.fromEntries(all('aside h2').map(title => [title.textContent,
      all('tr', title.nextSibling).map(row => texts('td', row))])),
    words: texts('#trellis tr:first-child th').slice(1), output: find('output').value,
    rows: all('#trellis tr:not([hidden]) th:first-child').slice(1).map(one => one.textContent),
    cells: all('#trellis tr:not([hidden])').slice(1).map(row => all('.cell', row).map(cell => [
      cell.querySelector('b').textContent, cell.querySelector('small').textContent,
      cell.classList.contains('traced'), parseFloat(cell.style.getPropertyValue('--share'))])),
    lines: all('#trellis tr:not([hidden])').slice(1).map(row => all('path', row).map(
      path => path.getAttribute('d'))),
    tabbable: all('#trellis [type=number]').filter(one => one.tabIndex === 0).length
  });
  document.querySelector('pre').textContent = JSON.stringify(views);
}
const press = id => { find(`#${id}`).click(); keep(); };
const pick = (name, value) => {
  form[name].value = value;
  find(`[name=${name}]`).dispatchEvent(new Event('change', {bubbles: true}));
  keep();
};
const type = (label, value) => {
  const number = by(label);
  number.value = value;
  number.dispatchEvent(new Event('input', {bubbles: true}));
  keep();
};
document.body.append(document.createElement('pre'));
keep();
"""


def filled(model=None, sentences=()):
    """The page with a model's sentences in it, as inference.py fills it."""
    page = PAGE
    if model:
        page = page.replace('/* settings */ null', json.dumps(model).replace('<', '\\u003c'))
    rows = [json.dumps(one).replace('<', '\\u003c') + ',\n' for one in sentences]
    before, after = page.split('/* sentences */\n')
    return before + ''.join(rows) + after


def views(folder, actions='', page=PAGE):
    """What the page shows, first and after each action."""
    return browse(folder, page + KEEP + actions + '</script>')


# --- Its arithmetic ---

def random_problem(generator, number):
    """Tags of one of the schemes, random scores, small or large, and gold tags."""
    scheme = ('iobes', 'iob2', None)[number % 3]
    if scheme:
        types = ['PER', 'LOC', 'X-Y'][:generator.randint(1, 3)]
        inside = sorted(f'{sign}-{kind}' for sign in SHORT[scheme] for kind in types) + ['O']
    else:
        inside = ['DT', 'B-side', 'NN', 'I-', 'O', 'VBZ'][:generator.randint(1, 6)]
    tags = ['<start>', *inside, '<end>']
    size = generator.choice([0.1, 1, 3, 10, 60])

    def numbers(count):
        return [generator.gauss(0, size) for _ in range(count)]

    words = 1 + number % 12
    gold = [generator.randrange(1, len(tags) - 1) for _ in range(words)] + [len(tags) - 1]
    return {'tags': tags, 'scheme': scheme, 'gold': gold,
            'words': [f'w{t}' for t in range(words)] + ['<end>'],
            'transitions': [numbers(len(tags)) for _ in tags],
            'emissions': [numbers(len(tags)) for _ in range(words + 1)]}


def expected(problem):
    """What inference.py and models.py make of a problem, in double precision."""
    emissions, transitions = (torch.tensor(problem[name], dtype=torch.float64)
                              for name in ('emissions', 'transitions'))
    scores = (emissions.unsqueeze(1) + transitions).unsqueeze(0)
    lengths = torch.tensor([len(emissions)])
    tag_map = {tag: n for n, tag in enumerate(problem['tags'])}
    decoder = ViterbiDecoder(tag_map, problem['scheme']).double()
    cumulative, _ = decoder.trellis(scores, lengths)
    _, _, log_z = decoder.forward_backward(scores, lengths)
    gold = problem['gold']
    cells = torch.tensor([[a * len(tag_map) + b for a, b in zip([0, *gold], gold)]])
    loss = ViterbiLoss(tag_map)(scores, cells, lengths).item()
    total = sum(scores[0, t].flatten()[cell].item() for t, cell in enumerate(cells[0]))
    cross = torch.nn.functional.cross_entropy(
        emissions[:-1], torch.tensor(gold[:-1]), reduction='sum')
    return {'path': decoder.decode(scores, lengths)[0].tolist(), 'logZ': log_z.item(),
            'score': cumulative[-1][0, decoder.end].item(), 'logZOfAll': loss + total,
            'loss': loss, 'crossEntropy': cross.item(),
            'marginals': decoder.marginals(scores, lengths)[0].tolist(),
            'entities': decoder.candidates(scores, lengths, 0.05)[0]}


def test_the_page_computes_what_the_code_computes(tmp_path):
    generator = random.Random(0)
    problems = [random_problem(generator, number) for number in range(252)]
    found, = browse(tmp_path, PAGE + f"""<script>
        const results = {json.dumps(problems)}.map(problem => {{
          const {{scores, ...rest}} = solve(problem, true), free = solve(problem, false);
          return {{...rest, score: total(scores, rest.path), freely: free.best.at(-1).at(-1),
            freeScore: total(free.scores, free.path), freeSum: free.sum.at(-1).at(-1)}};
        }});
        document.body.append(Object.assign(document.createElement('pre'),
          {{textContent: JSON.stringify([results])}}));
        </script>""")
    candidates = 0
    for problem, page in zip(problems, found, strict=True):
        code = expected(problem)
        assert page['path'] == code['path']
        for name in ('score', 'logZ', 'logZOfAll', 'loss', 'crossEntropy'):
            assert page[name] == pytest.approx(code[name], rel=1e-12, abs=1e-9), name
        assert page['freeSum'] == pytest.approx(code['logZOfAll'], rel=1e-12, abs=1e-9)
        assert page['freely'] == pytest.approx(page['freeScore'], rel=1e-12, abs=1e-9)
        assert page['probability'] == pytest.approx(
            math.exp(code['score'] - code['logZ']), abs=1e-9)
        for ours, theirs in zip(page['marginals'], code['marginals'], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9)
        places = {tuple(one[:3]): one[3] for one in page['entities']}
        assert places == pytest.approx({one[:3]: one[3] for one in code['entities']}, abs=1e-9)
        assert len(places) == len(page['entities'])
        assert [one[3] for one in page['entities']] == sorted(places.values(), reverse=True)
        candidates += len(places)
    assert candidates > 200


# --- The example ---

def test_the_example(tmp_path):
    decoder = ViterbiDecoder(FILM_TAG_MAP, 'iob2')
    view, ruled = views(tmp_path, 'find("[name=rules]").click(); keep();')
    assert view['words'] == ['dunston', 'checks', 'in', '<end>'] and not view['rules']
    assert view['rows'] == ['<start>', 'B', 'I', 'O', '<end>']
    assert view['answers'] == {
        'Sequences and their scores': [
            ['best sequence', 'B I I ', '7.0'],
            ['best tag of each word, by emissions', 'O I O ', '1.5'],
            ['greedy', 'O O O ', '5.5'],
            ['most probable tags', 'B I I ', '7.0'],
            ['gold', 'B I I ', '7.0']],
        'Probabilities': [['best sequence', '0.514'], ['log Z over all sequences', '7.6657'],
                          ['log Z over legal sequences', '7.6574']],
        'Loss of the gold sequence': [
            ['over all sequences, as in training', '7.6657 - 7.0 = 0.6657'],
            ["sum of the words' cross entropies", '2.6137']],
        'Entities of 0.05 or more': [['FILM', 'dunston checks in', '0.518'],
                                     ['FILM', 'dunston checks', '0.315']]}
    # Under rules, O I O is illegal, and the best sequence more probable; the loss is the same
    assert ruled['answers']['Sequences and their scores'][1][2] == 'illegal'
    assert ruled['answers']['Probabilities'][0] == ['best sequence', '0.518']
    assert ruled['answers']['Loss of the gold sequence'] == (
        view['answers']['Loss of the gold sequence'])
    # The color's strength is the marginal, with rules or without
    scores, lengths = crf_scores(EMISSIONS, TRANSITIONS), torch.tensor([4])
    marginals = decoder.marginals(scores, lengths)[0].T
    for shown in (view, ruled):
        shares = torch.tensor([[cell[3] / 65 for cell in row] for row in shown['cells']])
        assert torch.allclose(shares, marginals.float(), atol=1e-4)
    assert [round(p, 3) for p in marginals[[1, 2, 2], [0, 1, 2]].tolist()] == [.849, .833, .544]


def test_a_walk(tmp_path):
    *_, end, again, checks, inside, last, trace, _, whole, back = [{}, *views(
        tmp_path, "press('step');" * 7 + "press('back');")]
    assert end['formula'] == 'max(2 + 0, 7 + 0, 6.5 + 0) = 7, from I'
    assert end['note'] == 'Left out: 2 smaller terms. Traced back: B I I <end>'
    assert end['step'] == 'again' and not end['back']
    assert again['marked'] == 'B at dunston' and again['formula'] == 'max(0 + 1) = 1, from <start>'
    assert again['back'] and again['probability'] == ' (probability 0.849)'
    assert [row[1][0] for row in again['cells']] == [''] * 5
    assert checks['marked'] == 'I at checks' and checks['probability'] == ' (probability 0.833)'
    assert checks['formula'] == 'max(1 + 4, -4 + 3, 2 - 2) = 5, from B'
    assert [row[1][:2] for row in checks['cells']] == [
        ['-6', 'from O'], ['1', 'from O'], ['5', 'from B'], ['3', 'from O'], ['-2', 'from O']]
    assert [row[2][0] for row in checks['cells']] == [''] * 5
    # A line for each previous tag: from B, one row up, to I
    assert checks['lines'][2][1] == 'M 0 0 L 1 1' and checks['lines'][2][2] == ''
    assert inside['formula'] == 'max(1 + 3, 5 + 2, 3 - 3) = 7, from I'
    assert [row[2][0] for row in inside['cells']] == ['-3', '2', '7', '6.5', '1']
    assert last['formula'] == end['formula'] and trace['note'] == (
        'Left out: 2 smaller terms. Traced back: I <end>')

    def path(view):
        return [(row, t) for row, cells in enumerate(view['cells'])
                for t, cell in enumerate(cells) if cell[2]]
    assert [path(view) for view in (inside, last, trace, whole)] == [
        [], [(4, 3)], [(2, 2), (4, 3)], [(1, 0), (2, 1), (2, 2), (4, 3)]]
    assert path(back) == [(2, 1), (2, 2), (4, 3)]


def test_the_sum_differs_in_one_operation(tmp_path):
    _, end, *steps = views(tmp_path, "pick('mode', 'sum');" + "press('step');" * 4)
    assert [view['marked'] for view in steps] == [
        'B at dunston', 'I at checks', 'I at in', '<end> at <end>']
    assert [view['formula'] for view in steps] == [
        'log(exp(0 + 1)) = 1', 'log(exp(1 + 4) + exp(-4 + 3) + exp(2 - 2) + …) = 5.0092',
        'log(exp(1.0068 + 3) + exp(5.0092 + 2) + exp(3.1277 - 3) + …) = 7.0586',
        'log(exp(2.2435 + 0) + exp(7.0586 + 0) + exp(6.8686 + 0) + …) = 7.6657']
    assert [row[1][:2] for row in steps[-1]['cells']] == [
        [value, ''] for value in ('-5.68', '1.01', '5.01', '3.13', '-1.68')]
    assert steps[-1]['step'] == 'again' == end['step']
    # <end> is reached from I and from O
    assert end['lines'][4][3] == 'M 0 -1 L 1 1 M 0 0 L 1 1'
    assert not any(cell[2] for row in end['cells'] for cell in row)


def test_rules_mask_what_is_illegal(tmp_path):
    actions = """find('[name=rules]').click(); press('step');
        all('.cell')[8].querySelector('input').click(); keep();"""
    *_, start, inside = views(tmp_path, actions)
    assert [row[0][0] for row in start['cells']] == ['–', '1', '–', '2', '-8']
    assert inside['marked'] == 'I at dunston'
    assert inside['formula'] == 'no legal sequence ends here'
    assert inside['probability'] == ' (probability 0.00)' and inside['tabbable'] == 1


def test_a_number_is_typed_or_dragged(tmp_path):
    def score(view):
        return view['answers']['Sequences and their scores'][0][1:]
    _, typed, nothing, transition, dragged, fresh = views(tmp_path, """
        type('emission of O at in', '3.5'); type('emission of O at in', '');
        type('transition from O to O', '4'); slider.value = 5; slider.oninput(); keep();
        all('button').at(-1).click(); keep();""")
    assert score(typed) == ['B I O ', '8.5'] and score(nothing) == ['B I O ', '8.5']
    assert typed['output'] == 'emission of O at in: 3.5'
    assert score(transition) == ['O O O ', '13.5']
    assert transition['output'] == 'transition from O to O: 4'
    assert score(dragged) == ['O O O ', '15.5']
    assert score(fresh) == ['B I I ', '7.0']


def test_gold_tags_are_chosen(tmp_path):
    _, chosen, = views(tmp_path, "by('gold: O at in').click(); keep();")
    assert chosen['answers']['Sequences and their scores'][4] == ['gold', 'B I O ', '6.5']
    assert chosen['answers']['Loss of the gold sequence'][0][1] == '7.6657 - 6.5 = 1.1657'


def test_what_one_can_start_from(tmp_path):
    first, zero, greedy, differ = views(tmp_path, ''.join(
        f"pick('start', {n});" for n in (1, 2, 3)))
    assert first['starts'][0] == 'dunston checks in'
    losses = [row[1] for row in zero['answers']['Loss of the gold sequence']]
    assert losses[0].endswith(' = 2.6137') and losses[1] == '2.6137'
    best, emission, greedily, likely, gold = (
        row[1] for row in greedy['answers']['Sequences and their scores'])
    assert best == greedily and 'greedy wins' in first['starts'][2]
    best, emission, greedily, likely, gold = (
        row[1] for row in differ['answers']['Sequences and their scores'])
    assert best == 'B I I ' and likely == 'B I O ' and 'differ' in first['starts'][3]
    for view in (zero, greedy, differ):
        assert view['words'] == first['words'] and not view['rules']


# --- What inference.py puts into it ---

def of_a_model(m, words, scheme):
    """A made-up model and a sentence: its tags, with random scores."""
    generator = random.Random(m)
    signs = SHORT.get(scheme, '')
    tags = [f'{sign}-{kind}' for sign in signs for kind in ('LOC', 'MISC', 'ORG', 'PER')] + ['O']
    tags = sorted(tags) if scheme else [f'T{n}' for n in range(m)]
    tags = ['<start>', *tags[:m], '<end>']
    model = {'title': TITLE, 'tags': tags, 'scheme': scheme,
             'transitions': [[generator.gauss(0, 1) for _ in tags] for _ in tags]}
    emissions = [[generator.gauss(0, 2) + 9 * (n == t % 8 + 1) for n in range(len(tags))]
                 for t in range(len(words) + 1)]
    return model, {'words': [*words, '<end>'], 'emissions': emissions}


def test_text_enters_the_page_as_text_only(tmp_path):
    names = [*PIECES, '__proto__', 'constructor', '$&', 'w' * 300]
    model, sentence = of_a_model(len(names), names, None)
    model['tags'][1:-1] = names
    other = {'words': ['<i>b</i>', '<end>'], 'emissions': sentence['emissions'][:2]}
    page = filled(model, [sentence, other])
    assert page.count('</script') == 1 and '<!--' not in page
    view, second = views(tmp_path, "pick('start', 1);", page)
    assert view['title'] == [re.sub(r'\s+', ' ', TITLE), TITLE] and view['rules']
    assert view['words'] == [*names, '<end>']
    assert view['starts'][:3] == [' '.join(names), '<i>b</i>', 'dunston checks in']
    assert set(view['rows']) <= set(model['tags']) and len(view['rows']) > 8
    assert second['words'] == other['words']
    # A word is part of its labels, too
    assert view['marked'] == '<end> at <end>' and 'Entities of 0.05 or more' in view['answers']


@pytest.mark.parametrize('m, scheme', [(17, 'iobes'), (50, None)])
def test_rows_are_the_probable_tags(m, scheme, tmp_path):
    model, sentence = of_a_model(m, [f'word{n}' for n in range(40)], scheme)
    view, = views(tmp_path, page=filled(model, [sentence]))
    code = expected({**model, **sentence, 'gold': [1] * 40 + [len(model['tags']) - 1]})
    wanted = set(code['path'])
    for row in torch.tensor(code['marginals'][:-1], dtype=torch.float64):
        wanted |= set(row.topk(5).indices.tolist())
    assert view['rows'] == [model['tags'][tag] for tag in sorted(wanted)]
    assert len(view['cells']) == len(wanted) < len(model['tags']) and len(view['words']) == 41
    path = ''.join(model['tags'][tag] + ' ' for tag in code['path'][:-1])
    assert view['answers']['Sequences and their scores'][0][1] == path
    # The gold tags begin as the best sequence's
    assert view['answers']['Sequences and their scores'][4][1] == path


def test_a_line_without_words(tmp_path):
    model, sentence = of_a_model(17, [], 'iobes')
    view, stepped = views(tmp_path, "press('step');", filled(model, [sentence]))
    assert view['words'] == ['<end>'] == stepped['words']
    assert view['answers']['Loss of the gold sequence'][1][1] == '0.0'


@pytest.mark.parametrize('page', [PAGE, filled(*(lambda model, sentence: (model, [sentence]))(
    *of_a_model(17, ['word', 'w' * 200, *'abcdefghij'], 'iobes')))], ids=['example', 'model'])
def test_a_phone_is_wide_enough(page, tmp_path):
    inner = html.escape(page + KEEP + "document.body.lastChild.remove();</script>")
    width, scrolls = browse(tmp_path, f"""<iframe width="390" height="9000" srcdoc="{inner}">
        </iframe><script>onload = () => {{
          const {{documentElement: page}} = document.querySelector('iframe').contentDocument;
          const box = page.querySelector('.scroll');
          document.body.append(Object.assign(document.createElement('pre'), {{textContent:
            JSON.stringify([page.scrollWidth, box.scrollWidth > box.clientWidth])}}));
        }}</script>""")
    # Only the trellis of a long sentence scrolls, inside itself
    assert width == 390 and (scrolls or page is PAGE)


def test_the_file_is_small_and_needs_nothing_else():
    lines = PAGE.splitlines()
    assert len(lines) <= 250 and max(map(len, lines)) <= 110
    assert lines.count('/* sentences */') == PAGE.count('/* sentences */') == 1
    assert lines.count('const model = /* settings */ null;') == PAGE.count('/* settings */') == 1
    # Nothing from elsewhere, and no text as HTML
    assert not re.search(r'http|[\'"(]//|\bsrc\b|@import|url\(|<link|fetch\(|\bimport\b', PAGE)
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b', PAGE)
