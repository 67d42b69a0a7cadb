"""Write a CRF yourself, in six functions, and train a tagger with them.

    python tests/exercises.py my/crf.py             writes the file, or checks what you wrote
    python tests/exercises.py my/crf.py --train     trains with your loss and your Viterbi algorithm
"""

import io
import runpy
import sys
from contextlib import redirect_stdout, suppress
from copy import deepcopy
from itertools import accumulate, product
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import TracebackException
from unittest.mock import patch

import torch
from torch.nn.functional import one_hot, pad

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
import train  # noqa: E402
from utils import ArgumentParser, InputError, file_errors, load_checkpoint, run_main  # noqa: E402
from worked_example import EMISSIONS, TRANSITIONS  # noqa: E402

HEADER = '''"""The six functions of a CRF, for you to write; tests/exercises.py checks them.

A sentence has L words, the last of them <end>. Of the m tags, 0 is <start> and m - 1 is <end>.
scores[t, i, j] is the score of tag j at word t after tag i; before the first word, i is <start>.
A sequence is L tags, a list or a LongTensor, the last of them <end>. Results of shape () are
tensors, too, which have a gradient. The examples are the tutorial's; B I I <end> is [1, 2, 2, 4].
"""

import torch
'''
# How far two results, and two entity F1, may differ for rounding alone; how --train trains
CLOSE, NOISE = {'rtol': 1e-4, 'atol': 1e-3}, 0.05
SETTINGS = '--no-language_models --char_rnn_dim 50 --word_rnn_dim 200 --epochs 11 --ema 0'

# --- What is right, from the definition: all sequences are tried ---
def every(scores, any_first=False, any_last=False):
    """All sequences from <start> to <end>, (S, L), or from and to any tag; their scores, (S,)."""
    tags = torch.arange(scores.size(1))
    first, last = tags if any_first else tags[:1], tags if any_last else tags[-1:]
    paths = torch.cartesian_prod(first, *[tags] * (len(scores) - 1), last)
    return paths[:, 1:], scores[torch.arange(len(scores)), paths[:, :-1], paths[:, 1:]].sum(dim=1)

def log_z(scores, *ends):
    """The log of the sum of exp(score)."""
    return every(scores, *ends)[1].logsumexp(dim=0)

def score(scores, tags):
    """The sum of a sequence's cells."""
    return scores[torch.arange(len(tags)), [0, *tags[:-1]], tags].sum()

def best(scores, *ends):
    """The sequence with the highest score, (L,)."""
    paths, totals = every(scores, *ends)
    return paths[totals.argmax()]

def share(scores, *ends):
    """The probability of each tag at each word, (L, m): that of all sequences that have it."""
    paths, totals = every(scores, *ends)
    return (one_hot(paths) * totals.softmax(dim=0)[:, None, None]).sum(dim=0)

# Parameters, what is right, and a docstring
FUNCTIONS = {
    'crf_scores': ('emissions, transitions', lambda e, t: e.unsqueeze(1) + t,
        """Score every tag at every word, after every tag: (L, m) and (m, m) -> (L, m, m).
    Example: (4, 5) and (5, 5) -> (4, 5, 5); at checks, I after B, [1, 1, 2], has 2 + 2 = 4."""),
    'sequence_score': ('scores, tags', score,
        """Add up a sequence's cells: (L, m, m) and L tags -> (). Example: 1 + 4 + 2 + 0 = 7."""),
    'forward_algorithm': ('scores', log_z,
        """Find log Z; Z sums exp(score) over all sequences: (L, m, m) -> (). Example: 7.6657."""),
    'viterbi_loss': ('scores, tags', lambda s, tags, *ends: log_z(s, *ends) - score(s, tags),
        """Find -log of a sequence's probability: (L, m, m) and L tags -> (). Example: 0.6657."""),
    'viterbi': ('scores', best,
        """Find the sequence with the best score: (L, m, m) -> L tags. Example: [1, 2, 2, 4]."""),
    'marginals': ('scores', share,
        """Compute the probability of each tag at each word: (L, m, m) -> (L, m).
    Example, with -1,000,000 added to all that is illegal: dunston has [0, 0.849, 0, 0.151, 0]."""),
}

# --- Hints, and what is found, or what makes it right, if they are true ---
def walk(scores, tag):
    """From a tag on to the best cell in its row, word by word: all these tags."""
    return torch.tensor([*accumulate(scores, lambda i, at: int(at[i].argmax()), initial=tag)])

TURNED = 'rows are previous tags and columns current tags, not the other way around'
OVER_CURRENT = 'each step must go over the previous tags (dim=0), not over the current ones'
AS_COLUMNS = 'what you have so far belongs to the previous tags, the rows: unsqueeze(1)'
CHANGES = [
    ('the step from <start> is forgotten', lambda s: [torch.cat((0 * s[:1], s[1:]))]),
    ('the step into <end> is forgotten', lambda s: [torch.cat((s[:-1], 0 * s[-1:]))]),
    ('the step into <end> is forgotten', lambda s: [s[:-1]]),
    ('<start> is forgotten: at the first word, only row 0 counts', lambda s: [s, True]),
    ('<end> is forgotten: the last tag is <end>, not any tag', lambda s: [s, False, True]),
    (TURNED, lambda s: [s.mT])]
MISTAKES = {
    'crf_scores': [
        ('emissions belong to the current tags, the columns', lambda e, t: e.unsqueeze(2) + t),
        ('the transitions are turned: ' + TURNED, lambda e, t: e.unsqueeze(1) + t.T)],
    'sequence_score': [
        ('before the first word the tag is <start>, 0, and tags[-1] is the last one',
         lambda s, tags: score(s, tags) - s[0, 0, tags[0]] + s[0, tags[-1], tags[0]])],
    'forward_algorithm': [
        ('that is the maximum over the sequences, not the log of their sum',
         lambda s: every(s)[1].max()),
        (OVER_CURRENT, lambda s: s[0, 0, -1] + s[1:, -1].logsumexp(dim=1).sum()),
        (AS_COLUMNS, lambda s: s[0, 0, -1] + s[1:, :, -1].logsumexp(dim=1).sum())],
    'viterbi_loss': [
        ("that is log Z; subtract the sequence's score", lambda s, tags: log_z(s)),
        ('log Z is missing', lambda s, tags: -score(s, tags)),
        ('subtract the score; do not add it', lambda s, tags: log_z(s) + score(s, tags))],
    'viterbi': [
        ('the path lacks <end>, its last tag', lambda s: best(s)[:-1]),
        ('that is the best tag at each word on its own', lambda s: s.amax(dim=1).argmax(dim=1)),
        ('that is greedy: it chooses a tag before it has seen the next words',
         lambda s: pad(walk(s[:-1], 0)[1:], (0, 1), value=s.size(1) - 1)),
        (OVER_CURRENT, lambda s: walk(s[1:].flip(0), s.size(1) - 1).flip(0)),
        (AS_COLUMNS, lambda s: walk(s[1:].flip(0).mT, s.size(1) - 1).flip(0))],
    'marginals': [
        ('only words up to this one count; those after it must, too', lambda s: torch.stack(
            [share(s[:t], False, True)[-1] for t in range(1, len(s) + 1)])),
        ('that is the tag before; add up over the previous tags (dim=1)',
         lambda s: torch.cat((one_hot(s[0, 0, 0].long() * 0, s.size(1))[None], share(s)[:-1])))]}
REPAIRS = [
    ('its sign is turned', lambda found: -found),
    ('it has a dimension too many: index with a number', lambda found: found.squeeze(0)),
    ('the path is backward', lambda found: found.flip(0)),
    ('<start> is no part of the path', lambda found: found[1:]),
    ('add these up', lambda found: found.sum()),
    ('these are for every last tag; take the one of <end>, m - 1', lambda found: found[-1]),
    ('that is Z; its log is missing', lambda found: found.log()),
    ('these are logs; exp is missing', lambda found: found.exp()),
    ('that is the probability; take minus its log', lambda found: -found.log()),
    ('add these up over the previous tags (dim=1)', lambda found: found.sum(dim=1)),
    ('they do not add up to 1: divide by Z', lambda found: found / found.sum(dim=1, keepdim=True))]

def make_cases(name):
    """Arguments: the tutorial's example, and 200 random sentences, the easy ones first."""
    mask, generator = torch.zeros(5, 5), torch.Generator().manual_seed(0)
    if name == 'marginals':  # <start> follows nothing, nothing follows <end>, I follows only B or I
        mask[:, 0] = mask[4, :] = mask[[0, 3], 2] = -1e6
    cases = [(EMISSIONS[0], TRANSITIONS + mask, [1, 2, 2, 4])]
    for scale, length, m, n in product((2, 200), range(2, 6), range(3, 8), range(5)):
        both = scale * torch.randn(length + m, m, generator=generator)
        both = both.round(decimals=2 if n else 0)  # whole numbers may have several best sequences
        tags = pad(torch.randint(m, (length - 1,), generator=generator), (0, 1), value=m - 1)
        cases.append((both[:length], both[length:], tags if n % 2 else tags.tolist()))
    for emissions, transitions, tags in cases:
        scores, count = emissions.unsqueeze(1) + transitions, 1 + ('tags' in FUNCTIONS[name][0])
        yield [emissions, transitions] if name == 'crf_scores' else [scores, tags][:count]

def kind(value):
    """What a result is, in words."""
    if not isinstance(value, torch.Tensor):
        return f'{value!r:.60}' + (' (no return?)' if value is None else ', no tensor, no gradient')
    numbers = 'floats' if value.is_floating_point() else 'whole numbers'
    return f'a tensor of {numbers} of shape {tuple(value.shape)}'

def examine(name, function, arguments):
    """The result of the reader's function, and what is wrong with it, or None."""
    leaf = arguments[0].clone().requires_grad_(name not in ('viterbi', 'marginals'))
    copies = [leaf.clone(), *deepcopy(arguments[1:])]
    found, right = function(*copies), FUNCTIONS[name][1](leaf, *arguments[1:])
    found = torch.as_tensor(found) if name == 'viterbi' and isinstance(found, list) else found
    if not all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(copies, arguments)):
        return found, 'what is given gets changed; work on a copy, and without +='
    if kind(found) != kind(right):
        return found, f'expected {kind(right)}, found {kind(found)}'
    if name == 'viterbi':
        inside = found.min() >= 0 and found.max() == found[-1] == right[-1]
        if inside and torch.isclose(score(leaf, found), score(leaf, right), **CLOSE):
            return found, None  # of several best sequences, any will do
        return found, f'the answer is {right.tolist()}, yours is {found.tolist()}'
    for place in (~torch.isclose(found.to(right.dtype), right, **CLOSE)).nonzero().tolist():
        at, place = f'at {place} ' if place else '', tuple(place)
        return found, f'the answer {at}is {right[place]:.4f}, yours is {found[place]:.4f}'
    if leaf.requires_grad:
        slope, = torch.autograd.grad(found.sum() + 0 * leaf.sum(), leaf)
        if slope.isnan().any():
            return found, 'the gradient is NaN, from inf - inf or 0 * inf; could an -inf be -1e6?'
        if not torch.allclose(slope, torch.autograd.grad(right.sum(), leaf)[0], **CLOSE):
            return found, 'the value is right, but .item(), .detach() or the like cuts the gradient'
    return found, None

def explains(wrong, repair, arguments, found, *_):
    """Whether a result, once it is repaired, is what a function gives."""
    with suppress(IndexError, TypeError, ValueError, RuntimeError):
        found, right = repair(torch.as_tensor(found).detach().float()), wrong(*arguments).float()
        return found.shape == right.shape and torch.allclose(found, right, **CLOSE)

def find_hint(name, one, small):
    """What explains a wrong value, and four in five of those for small scores; or ''."""
    right, found, same = FUNCTIONS[name][1], one[1], torch.as_tensor
    hints = [('', right, same), *((text, wrong, same) for text, wrong in MISTAKES[name])]
    for text, change in CHANGES if name != 'crf_scores' else []:
        hints.append((text, lambda s, *y, at=change: right(at(s)[0], *y, *at(s)[1:]), same))
    hints += [(text, right, repair) for text, repair in REPAIRS]
    for text, wrong, repair in hints:
        if explains(wrong, repair, *one):
            if sum(1 for two in small if explains(wrong, repair, *two)) >= 0.8 * len(small):
                return text
    right_if_small = all(explains(right, same, *two) for two in small)
    if right_if_small and isinstance(found, torch.Tensor) and not found.isfinite().all():
        return 'a sum of exponentials overflows, or is 0; use torch.logsumexp'
    if name == 'marginals' and getattr(found, 'ndim', 0) == 2 and abs(found[0].sum() - 1) > 1e-3:
        return f'those of the first word add up to {found[0].sum():.4f}'
    return ''

def explain(error, file, name=None):
    """What an error says, from the reader's own lines on."""
    told = TracebackException.from_exception(error)
    told.stack[:] = [frame for frame in told.stack if frame.filename == str(file)][-3:]
    if isinstance(error, NotImplementedError) and told.stack:
        return f'{told.stack[-1].name} is not written yet'.removeprefix(f'{name} is ')
    return 'it ends with an error:\n' + ''.join(told.format(chain=False)).rstrip()

def check(name, function, file):
    """Try one of the reader's functions on all cases; None if it is right, or what to say."""
    tried = []
    for arguments in make_cases(name):
        try:
            # It may print for the example, draw random numbers, and switch gradients off
            with (redirect_stdout(io.StringIO() if tried else sys.stdout), torch.enable_grad(),
                  torch.random.fork_rng(devices=[])):
                tried.append((arguments, *examine(name, function, arguments)))
        except (Exception, SystemExit) as error:
            tried.append((arguments, None, explain(error, file, name)))
            break
    # If a gradient alone is wrong, the values are right
    wrong = sorted((one for one in tried if one[2]), key=lambda one: 'the gradient' in one[2])
    if not wrong or wrong[0][2] == 'not written yet':
        return 'not written yet' if wrong else None
    hint = find_hint(name, wrong[0], [one for one in tried if one[0][0].abs().max() < 50])
    told = wrong[0][2] + (f': {hint}' if hint else '')
    if wrong[0] is tried[0]:
        return f"not yet. For the tutorial's example, {told}"
    given = ', '.join(map(str, wrong[0][0]))
    return f'not yet. For the sentence below, {told}\n{FUNCTIONS[name][0]} = {given}'

def entity_f1():
    """Train the small model; its entity F1 in validation."""
    with TemporaryDirectory() as folder, patch('train.finish'):
        train.main([*SETTINGS.split(), '--output_dir', folder])
        return load_checkpoint(Path(folder, train.CHECKPOINT))['log'][-1]['entity_f1']

def train_with(functions):
    """Train with our functions, then with the reader's; their entity F1."""
    def forward(_, scores, targets, lengths):
        sentences = zip(scores, targets % scores.size(2), lengths.tolist())
        return torch.stack([functions['viterbi_loss'](one[:length], tags[:length])
                            for one, tags, length in sentences]).mean()

    def decode(decoder, scores, lengths):
        return torch.nn.utils.rnn.pad_sequence([
            torch.as_tensor(functions['viterbi'](one[:length] + decoder.mask))
            for one, length in zip(scores, lengths.tolist())], batch_first=True)

    ours = entity_f1()
    print('Now the same with your functions:')
    with patch('train.ViterbiLoss.forward', forward), patch('train.ViterbiDecoder.decode', decode):
        return ours, entity_f1()

def main(argv):
    """Write the file, check it, or train with it."""
    parser = ArgumentParser(description='Write a CRF yourself, in six functions.')
    parser.add_argument('file', type=Path, help='is written, or checked if it is there')
    parser.add_argument('--train', action='store_true', help='train with it, if all is right')
    args = parser.parse_args(argv)
    file, right = args.file, 0
    if file.suffix != '.py' or file.is_dir():
        raise InputError(f'{file}: expected the name of a Python file, such as my/crf.py')
    if not file.exists():
        with file_errors(file, 'written'):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(HEADER + ''.join(
                f'\n\ndef {name}({given}):\n    """{text}\n    """\n    raise NotImplementedError\n'
                for name, (given, _, text) in FUNCTIONS.items()), encoding='utf-8')
        sys.exit(f'{file} is written. Fill in its six functions, and run this again after each.')
    sys.path.append(str(file.parent))
    try:
        functions = runpy.run_path(str(file))
        for number, name in enumerate(FUNCTIONS, start=1):
            problem = check(name, functions[name], file) if name in functions else 'not found'
            print(f'{number}. {name}: {problem or "right"}', flush=True)
            right += problem is None
        ours, yours = train_with(functions) if args.train and right == 6 else (0, 0)
    except BaseException as error:
        sys.exit(f'{file}: {explain(error, file)}')
    if right < 6:
        sys.exit(f'{right} of 6 are right.' + ' Training waits until all are.' * args.train)
    print(f'Entity F1: {ours:.3f} with ours, {yours:.3f} with these: your functions.' if args.train
          else 'All are right. Add --train to this command to train a tagger with them.')
    if abs(ours - yours) > NOISE:
        sys.exit(f'They should differ by {NOISE} at most, so something is wrong.')

if __name__ == '__main__':
    run_main(main)
