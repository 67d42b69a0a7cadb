"""Training and decoding on PyTorch's meta device, which stands for a GPU where there is none.

Its tensors have shapes, but no values, so an operation that waits for a GPU's value fails here.
Most operations that mix it with the CPU fail, too; Watch notes the others.
"""

from collections import Counter

import pytest
import torch
from conftest import PEOPLE, make_run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from inference import ViterbiDecoder

aten = torch.ops.aten


class Watch(TorchDispatchMode):
    """Counts the values that Python asks for, by device, and notes what a GPU would wait for."""

    def __init__(self):
        super().__init__()
        self.values, self.waits = Counter(), set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        devices = [tensor.device.type for tensor in tensors]
        if operation is aten._local_scalar_dense.default:
            self.values.update(devices)
        # The device is told how long the sentences of a packed batch are
        mixed = len({*devices}) > 1 and operation is not aten._pack_padded_sequence.default
        moved = operation is aten._to_copy.default and torch.device(
            kwargs.get('device') or devices[0]).type != devices[0]
        if mixed or moved and not (devices == ['cpu'] and kwargs.get('non_blocking')):
            self.waits.add(str(operation))
        return operation(*args, **kwargs)


@pytest.mark.parametrize('arguments', [
    (), ('--no-language_models',), ('--no-language_models', '--no-characters', '--no-crf')])
def test_an_epoch_of_training_waits_for_no_value(arguments):
    """Also where sentences of different lengths have to be sorted and packed."""
    loader, run = make_run(*arguments, '--batch_size', 2, '--dropout', 0.5, device='meta',
                           emb_file='vectors', sentences=[*PEOPLE, PEOPLE[1]])
    assert {len(set(batch.wmap_lengths.tolist())) for batch in loader} == {1, 2}
    for group in run.optimizer.param_groups:
        group['fused'] = False  # The meta device has no such kernel
    with Watch() as watch:
        losses = train.train(loader, run)
    assert isinstance(losses[0], torch.Tensor) != bool(arguments)
    assert losses[1].device.type == 'meta' and not run.model.word_embeds.sparse
    assert watch.values['cpu'] > 0 and watch.values['meta'] == 0 and not watch.waits
    # All steps were made, and averaged after every second one
    assert len(run.optimizer.state) == sum(p.requires_grad for p in run.model.parameters())
    assert run.average.updates == 2


@pytest.fixture
def scores():
    """Scores, (N, L_w, m, m), and lengths of three sentences, and a decoder for them."""
    names = ['<start>', 'O', *(f'{prefix}-{name}' for prefix in 'BIES' for name in 'XY'), '<end>']
    decoder = ViterbiDecoder({name: i for i, name in enumerate(names)}, 'iobes').to('meta')
    return torch.empty(3, 6, 11, 11, device='meta'), torch.tensor([6, 2, 4]), decoder


def test_decoding_waits_for_no_value(scores):
    scores, lengths, decoder = scores
    with Watch() as watch:
        found = [decoder.decode(scores, lengths), decoder.marginals(scores, lengths),
                 *decoder.forward_backward(scores, lengths)]
        steps, backpointers = decoder.trellis(scores, lengths)
    assert [tuple(tensor.shape) for tensor in found] == [
        (3, 6), (3, 6, 11), (3, 6, 11), (3, 6, 11), (3,)]
    assert {tuple(step.shape) for step in steps + backpointers} == {(3, 11)}
    assert len(steps) == len(backpointers) == 6
    assert watch.values['meta'] == 0 and not watch.waits


def test_candidates_need_no_value_before_they_choose(scores):
    """Which runs of words to extend is the first thing that depends on probabilities."""
    scores, lengths, decoder = scores
    entities = [[('X', 0, 5)], [], [('Y', 1, 3)]]
    for find, more in ((decoder.candidates, 0.1), (decoder.entity_probabilities, entities)):
        with Watch() as watch, pytest.raises(NotImplementedError, match='nonzero') as error:
            find(scores, lengths, more)
        reached = [entry for entry in error.traceback if entry.path.name == 'inference.py'][-1]
        assert reached.name == 'candidates' and '[kept]' in str(reached.statement)
        assert watch.values['meta'] == 0 and not watch.waits
