"""The exercises' checker: what is right passes, and each mistake gets the hint that names it."""

import io
import re
import runpy
from contextlib import redirect_stdout
from unittest.mock import patch

import exercises
import pytest
import torch
from conftest import ROOT, run_script
from worked_example import FILM_SCORES, FILM_TAG_MAP, LENGTHS

import train
from inference import ViterbiDecoder
from models import ViterbiLoss
from utils import InputError

RIGHT = '''import torch

def crf_scores(emissions, transitions):
    return emissions.unsqueeze(1) + transitions

def sequence_score(scores, tags):
    total, previous = 0, 0
    for t, tag in enumerate(tags):
        total = total + scores[t, previous, tag]
        previous = tag
    return total

def forward_algorithm(scores):
    cumulative = scores[0, 0]
    for t in range(1, len(scores)):
        cumulative = (cumulative.unsqueeze(1) + scores[t]).logsumexp(0)
    return cumulative[-1]

def viterbi_loss(scores, tags):
    return forward_algorithm(scores) - sequence_score(scores, tags)

def viterbi(scores):
    best, backpointers = scores[0, 0], []
    for t in range(1, len(scores)):
        best, previous = (best.unsqueeze(1) + scores[t]).max(0)
        backpointers.append(previous)
    tags = [len(best) - 1]
    for previous in reversed(backpointers):
        tags.insert(0, previous[tags[0]].item())
    return tags

def marginals(scores):
    leaf = scores.clone().requires_grad_()
    forward_algorithm(leaf).backward()
    return leaf.grad.sum(1)
'''
STEP = '(cumulative.unsqueeze(1) + scores[t]).logsumexp(0)'
BEST = '(best.unsqueeze(1) + scores[t]).max(0)'
GREEDY = '''tags = [0]
    for at_word in scores[:-1]:
        tags.append(at_word[tags[-1]].argmax().item())
    return [*tags[1:], scores.size(1) - 1]
'''
LEFT = '''sums = [scores[0, 0]]
    for at_word in scores[1:]:
        sums.append((sums[-1].unsqueeze(1) + at_word).logsumexp(0))
    return torch.stack(sums).softmax(1)
'''
# Functions, their lines, what these are with a mistake, and what the hint says
MISTAKES = [
    ('crf_scores', 'emissions.unsqueeze(1)', 'emissions.unsqueeze(2)',
     'emissions belong to the current tags'),
    ('crf_scores', '+ transitions', '+ transitions.T', 'the transitions are turned'),
    ('crf_scores', 'emissions.unsqueeze(1)', 'emissions.detach().unsqueeze(1)',
     'cuts the gradient'),
    ('sequence_score', 'return total', 'return total - scores[0, 0, tags[0]]',
     'the step from <start> is forgotten'),
    ('sequence_score', 'previous = 0, 0', 'previous = 0, tags[-1]', 'tags[-1] is the last'),
    ('sequence_score', 'enumerate(tags)', 'enumerate(tags[:-1])',
     'the step into <end> is forgotten'),
    ('sequence_score', 'previous, tag]', 'tag, previous]', 'rows are previous tags'),
    ('sequence_score', 'return total', 'return total.item()', 'found 7.0, no tensor, no'),
    ('sequence_score', 'return total', 'return torch.tensor(total.item())', 'cuts the gradient'),
    ('sequence_score', 'return total', 'return total.unsqueeze(0)', 'a dimension too many'),
    ('sequence_score', 'return total', 'return total.long()', 'expected a tensor of floats'),
    ('sequence_score', 'total, previous = 0, 0',
     'total, previous = 0, 0\n    if isinstance(tags, list):\n        tags.insert(0, 0)\n'
     '        tags = tags[1:]', 'work on a copy'),
    ('forward_algorithm', STEP, STEP.replace('logsumexp(0)', 'max(0).values'),
     'the maximum over the sequences'),
    ('forward_algorithm', STEP, STEP.replace('logsumexp(0)', 'logsumexp(1)'),
     'not over the current ones'),
    ('forward_algorithm', 'cumulative.unsqueeze(1)', 'cumulative', 'unsqueeze(1)'),
    ('forward_algorithm', STEP, STEP.replace('logsumexp(0)', 'exp().sum(0).log()'), 'overflows'),
    ('forward_algorithm', 'return cumulative[-1]', 'return cumulative[-1].exp()',
     'its log is missing'),
    ('forward_algorithm', 'return cumulative[-1]', 'return cumulative.logsumexp(0)',
     '<end> is forgotten'),
    ('forward_algorithm', 'return cumulative[-1]', 'return cumulative', 'the one of <end>'),
    ('forward_algorithm', 'return cumulative[-1]', 'return cumulative[-1:]',
     'a dimension too many'),
    ('forward_algorithm', '= scores[0, 0]', '= scores[0].logsumexp(0)', '<start> is forgotten'),
    ('forward_algorithm', '= scores[0, 0]', '= torch.zeros(len(scores[0]))',
     'the step from <start> is forgotten'),
    ('forward_algorithm', '(1, len(scores))', '(1, len(scores) - 1)',
     'the step into <end> is forgotten'),
    ('forward_algorithm', 'return cumulative[-1]',
     'return cumulative[-1] + (0 * scores[0, 0, 0]).sqrt()', 'NaN'),
    ('forward_algorithm', 'cumulative = scores[0, 0]',
     'scores[0, 0] += 0.1\n    cumulative = scores[0, 0] - 0.1', 'work on a copy'),
    ('viterbi_loss', 'return forward_algorithm(scores) - sequence_score(scores, tags)',
     'return sequence_score(scores, tags) - forward_algorithm(scores)', 'its sign is turned'),
    ('viterbi_loss', ' - sequence_score(scores, tags)', '', 'that is log Z'),
    ('viterbi_loss', 'forward_algorithm(scores) -', '-', 'log Z is missing'),
    ('viterbi_loss', ') - seq', ') + seq', 'do not add it'),
    ('viterbi_loss', 'return forward_algorithm(scores) - sequence_score(scores, tags)',
     'return (sequence_score(scores, tags) - forward_algorithm(scores)).exp()',
     'take minus its log'),
    ('viterbi', BEST, BEST.replace('max(0)', 'max(1)'), 'not over the current ones'),
    ('viterbi', 'best.unsqueeze(1)', 'best', 'unsqueeze(1)'),
    ('viterbi', 'return tags', 'return tags[::-1]', 'backward'),
    ('viterbi', 'return tags', 'return tags[:-1]', 'lacks <end>'),
    ('viterbi', 'return tags', 'return [0, *tags]', '<start> is no part of the path'),
    ('viterbi', 'return tags', 'return best[-1]', 'found a tensor of floats of shape ()'),
    ('viterbi', 'return tags', 'return [float(tag) for tag in tags]', 'whole numbers'),
    ('viterbi', '= scores[0, 0], []', '= scores[0].max(0).values, []', '<start> is forgotten'),
    ('viterbi', '[len(best) - 1]', '[best.argmax().item()]', '<end> is forgotten'),
    ('viterbi', 'return tags', 'return scores.max(1).values.argmax(1)', 'on its own'),
    ('viterbi', 'best, backpointers = scores[0, 0], []\n', GREEDY, 'that is greedy'),
    ('marginals', 'sum(1)', 'sum(2)', 'that is the tag before'),
    ('marginals', '.sum(1)', '', 'add these up over the previous tags'),
    ('marginals', 'leaf.grad.sum(1)', 'leaf.grad.sum(1).log()', 'exp is missing'),
    ('marginals', 'leaf.grad.sum(1)', '3 * leaf.grad.sum(1)', 'do not add up to 1'),
    ('marginals', 'leaf.grad.sum(1)', 'leaf.grad.sum(1) ** 2', 'add up to 0.7440'),
    ('marginals', 'leaf = scores.clone().requires_grad_()\n', LEFT, 'those after it'),
]


def run(file, *arguments):
    """What main prints, and its exit status or last words."""
    output = io.StringIO()
    with redirect_stdout(output):
        try:
            status = exercises.main([str(file), *arguments])
        except SystemExit as error:
            status = error.code
    return output.getvalue(), status


def save(folder, source):
    """A reader's file."""
    file = folder / 'crf.py'
    file.write_text(source, encoding='utf-8')
    return file


def variant(name, line, wrong):
    """The right solution with a mistake in one function."""
    begin = RIGHT.index(f'def {name}(')
    end = RIGHT.find('\ndef ', begin) if '\ndef ' in RIGHT[begin:] else len(RIGHT)
    assert RIGHT[begin:end].count(line) >= 1
    return RIGHT[:begin] + RIGHT[begin:end].replace(line, wrong) + RIGHT[end:]


@pytest.mark.parametrize('name, line, wrong, hint', MISTAKES)
def test_hint(name, line, wrong, hint, tmp_path):
    file = save(tmp_path, variant(name, line, wrong))
    told = exercises.check(name, runpy.run_path(str(file))[name], file)
    print(told)
    assert told.startswith('not yet. For the ') and 'error' not in told
    assert hint in told.split('\n')[0]


# What else a function may do, in place of sequence_score's last line, and what is said
ODDITIES = {
    'return': 'found None (no return?)',
    "return 'seven'": "found 'seven'",
    'return [total, total]': 'expected a tensor of floats of shape (), found',
    'import sys; sys.exit(0)': 'SystemExit: 0',
    'return sequence_score(scores, tags)': 'RecursionError',
    'return total + torch.ones(2) @ torch.ones(3)': 'RuntimeError',
    'raise BaseException': 'BaseException',
    'raise KeyboardInterrupt': 'KeyboardInterrupt',
    'return marginals(scores)': 'marginals is not written yet',
}


@pytest.mark.parametrize('line', ODDITIES)
def test_whatever_a_function_does_ends_with_a_clear_line(line, tmp_path):
    source = variant('sequence_score', 'return total', line)
    file = save(tmp_path, source[:source.index('def viterbi_loss')] + (
        'def marginals(scores):\n    raise NotImplementedError\n'))
    printed, status = run(file)
    told = printed + str(status)
    assert ODDITIES[line] in told and status
    # From the reader's line on, and nothing of the checker or of torch
    assert 'exercises.py' not in told.replace(str(file), '') and 'torch/' not in told
    if 'Error' in told and 'NotImpl' not in told:
        assert f'File "{file}", line' in told
    if 'Interrupt' not in line and 'Base' not in line:
        assert '3. forward_algorithm: right\n' in printed
        assert '4. viterbi_loss: not found\n' in printed and status == '2 of 6 are right.'


FILES = {
    'def crf_scores(:': 'SyntaxError',
    'import no_such_module': 'ModuleNotFoundError',
    'import sys\nsys.exit(0)': 'SystemExit',
    'raise KeyboardInterrupt': 'KeyboardInterrupt',
    '\0': 'null bytes',
    'def f():\n    raise NotImplementedError\nf()': 'f is not written yet',
    '': '6. marginals: not found',
    'def viterbi():\n    pass': 'TypeError: viterbi() takes 0',
    'viterbi = 3': "'int' object is not callable",
}


@pytest.mark.parametrize('source', FILES, ids=FILES.values())
def test_whatever_a_file_does_ends_with_a_clear_line(source, tmp_path):
    printed, status = run(save(tmp_path, source))
    assert FILES[source] in printed + str(status) and status


def test_right_whatever_else_it_does(tmp_path):
    """Print, draw random numbers, switch gradients off; what it prints for the example is shown."""
    source = RIGHT.replace('import torch\n', 'import torch\ntorch.set_grad_enabled(False)\n')
    source = source.replace('total, previous = 0, 0', 'print(len(scores))\n    torch.manual_seed(0)'
                            '\n    total, previous = 0, 0')
    source = source.replace('return cumulative[-1]', 'return cumulative.double()[-1]')
    source = source.replace('return tags', 'return torch.tensor(tags)')
    torch.manual_seed(1)
    before = torch.get_rng_state()
    try:
        printed, status = run(save(tmp_path, source))
    finally:
        torch.set_grad_enabled(True)
    assert status is None and printed.count('right') == 7
    assert printed.split('\n')[1:3] == ['4', '2. sequence_score: right']
    assert torch.equal(before, torch.get_rng_state())


def test_only_what_is_right_for_small_scores_is_said_to_overflow(tmp_path):
    file = save(tmp_path, variant('forward_algorithm', 'return cumulative[-1]',
                                  "return cumulative[-1] * float('inf')"))
    function = runpy.run_path(str(file))['forward_algorithm']
    told = exercises.check('forward_algorithm', function, file)
    assert told.endswith('yours is inf')


def test_cases():
    """The example and 200 sentences; tags are lists and tensors, scores small and then large."""
    cases = list(exercises.make_cases('sequence_score'))
    assert len(cases) == 201 and {type(tags) for _, tags in cases} == {list, torch.Tensor}
    assert all(len(tags) == len(scores) and tags[-1] == scores.size(1) - 1
               for scores, tags in cases)
    assert [scores.abs().max() > 50 for scores, _ in cases] == [False] * 101 + [True] * 100


def test_any_of_several_best_sequences_is_right():
    scores = torch.zeros(3, 4, 4)
    for tags in ([0, 0, 3], [3, 1, 3]):
        assert exercises.examine('viterbi', lambda _, tags=tags: tags, [scores])[1] is None
    for tags in ([0, 0, 2], [4, 0, 3], [-1, 0, 3]):
        assert exercises.examine('viterbi', lambda _, tags=tags: tags, [scores])[1] is not None


def test_the_file_that_is_written(tmp_path):
    file = tmp_path / 'my' / 'crf.py'
    printed, status = run(file)
    assert status == f'{file} is written. Fill in its six functions, and run this again after each.'
    text = file.read_text(encoding='utf-8')
    printed, status = run(file)
    assert printed.count(': not written yet\n') == 6 and status == '0 of 6 are right.'
    assert run(file, '--train')[1] == '0 of 6 are right. Training waits until all are.'
    assert file.read_text(encoding='utf-8') == text and list(file.parent.iterdir()) == [file]
    # Its figures come from the code of the project
    lengths, cells = LENGTHS, torch.tensor([[1, 7, 12, 14]])
    decoder = ViterbiDecoder(FILM_TAG_MAP, 'iob2')
    loss = ViterbiLoss(FILM_TAG_MAP)(FILM_SCORES, cells, lengths).item()
    [path] = decoder.decode(FILM_SCORES, lengths).tolist()
    gold = FILM_SCORES[0].flatten(1).gather(1, cells.T).flatten().tolist()
    first = [round(p, 3) for p in decoder.marginals(FILM_SCORES, lengths)[0, 0].tolist()]
    assert FILM_SCORES[0, 1, 1, 2] == 2 + 2 and 'I after B, [1, 1, 2], has 2 + 2 = 4.' in text
    assert gold == [1, 4, 2, 0] and 'Example: 1 + 4 + 2 + 0 = 7.' in text
    assert f'Example: {loss + sum(gold):.4f}.' in text and f'Example: {loss:.4f}.' in text
    assert f'Example: {path}.' in text and f'B I I <end> is {path}.' in text
    assert ', '.join(f'{p:g}' for p in first) in text


@pytest.mark.parametrize('name', ['crf', 'crf.txt', 'folder.py', 'file.py/crf.py'])
def test_a_path_that_cannot_be_used(name, tmp_path):
    (tmp_path / 'folder.py').mkdir()
    (tmp_path / 'file.py').touch()
    with pytest.raises(InputError, match='expected the name of a Python file|cannot be written'):
        exercises.main([str(tmp_path / name)])


def test_as_a_process(tmp_path):
    result = run_script('tests/exercises.py', save(tmp_path, RIGHT))
    assert result.returncode == 0 and result.stderr == ''
    assert re.findall(r'^\d\. (\w+): right$', result.stdout, re.MULTILINE) == [*exercises.FUNCTIONS]
    assert result.stdout.endswith('Add --train to this command to train a tagger with them.\n')


def test_train(tmp_path):
    """Both runs train on a few sentences, once with ours and once with the reader's functions."""
    file = save(tmp_path, RIGHT)
    small = ('--no-language_models --no-characters --word_rnn_dim 20 --epochs 2 --ema 0 --lr 0.1 '
             f'--train_file {ROOT}/data/sample/val.txt --val_file {ROOT}/data/sample/val.txt')
    with patch.object(exercises, 'SETTINGS', small), patch.object(exercises, 'check') as check:
        check.return_value = None  # all are right
        printed, status = run(file, '--train')
    assert status is None and list(tmp_path.iterdir()) == [file]
    first, second = printed.split('Now the same with your functions:')
    losses = [re.findall(r'Viterbi loss (\S+);', half) for half in (first, second)]
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    ours, yours = re.search(r'F1: (\S+) with ours, (\S+) with these', second).groups()
    assert ours == yours


def test_training_uses_the_readers_functions(tmp_path):
    """On sentences of their own lengths, with the mask; the results are those of ours."""
    scores, lengths = torch.randn(3, 4, 5, 5), torch.tensor([4, 2, 3])
    cells = torch.tensor([[1, 7, 12, 14], [3, 19, 0, 0], [3, 16, 9, 0]])
    used, found = [], []

    def entity_f1():
        loss = train.ViterbiLoss(FILM_TAG_MAP)(scores, cells, lengths)
        tags = train.ViterbiDecoder(FILM_TAG_MAP, 'iob2').decode(scores, lengths)
        found.append((loss, [row[:length].tolist() for row, length in zip(tags, lengths)]))

    functions = runpy.run_path(str(save(tmp_path, RIGHT)))
    for name in ('viterbi_loss', 'viterbi'):
        functions[name] = lambda *arguments, right=functions[name]: (
            used.append([len(argument) for argument in arguments]) or right(*arguments))
    with patch.object(exercises, 'entity_f1', entity_f1):
        exercises.train_with(functions)
    assert used == [[4, 4], [2, 2], [3, 3], [4], [2], [3]]
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_train_says_when_the_runs_differ(tmp_path):
    with (patch.object(exercises, 'entity_f1', side_effect=[0.6, 0.54]),
          patch.object(exercises, 'check', return_value=None)):
        printed, status = run(save(tmp_path, RIGHT), '--train')
    assert 'Entity F1: 0.600 with ours, 0.540 with these: your functions.' in printed
    assert status == 'They should differ by 0.05 at most, so something is wrong.'
