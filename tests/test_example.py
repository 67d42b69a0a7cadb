"""Every figure of the tutorial's worked example comes out of the code."""

import pytest
import torch
from worked_example import LENGTHS, SCORES, TAG_MAP, TAGS, WORDS

from inference import ViterbiDecoder
from models import ViterbiLoss
from train import lm_targets
from utils import create_input_tensors, create_maps


@pytest.fixture
def maps():
    word_map, char_map, _ = create_maps([WORDS], [TAGS], min_word_freq=1)
    return word_map, char_map, TAG_MAP


@pytest.fixture
def tensors(maps):
    return create_input_tensors([WORDS], [TAGS], *maps)


def test_maps(maps):
    word_map, char_map, _ = maps
    assert word_map == {'<pad>': 0, 'dunston': 1, 'checks': 2, 'in': 3, '<end>': 4, '<unk>': 5}
    assert list(char_map)[0] == '<pad>' and list(char_map)[-2:] == ['<end>', '<unk>']
    assert create_maps([WORDS], [['tag_3', 'tag_1', 'tag_2']])[2] == TAG_MAP


def test_characters(maps, tensors):
    _, cmaps_f, cmaps_b, *_ = tensors
    names = list(maps[1])
    assert ''.join(names[i] for i in cmaps_f[0]) == 'dunston checks in <end>'
    assert ''.join(names[i] for i in cmaps_b[0]) == 'ni skcehc notsnud <end>'
    assert cmaps_f.shape == cmaps_b.shape == (1, 19)


def test_words_markers_tags_and_lengths(tensors):
    wmaps, _, _, cmarkers_f, cmarkers_b, tmaps, wmap_lengths, cmap_lengths = tensors
    assert wmaps.tolist() == [[1, 2, 3, 4]]
    assert cmarkers_f.tolist() == [[7, 14, 17, 18]]
    assert cmarkers_b.tolist() == [[17, 9, 2, 18]]
    assert tmaps.tolist() == [[2, 13, 18, 19]]
    assert (tmaps % 5).tolist() == [[2, 3, 3, 4]]
    assert wmap_lengths.tolist() == [4]
    assert cmap_lengths.tolist() == [19]


def test_language_model_targets(maps, tensors):
    names = {i: name for name, i in maps[0].items()} | {-100: None}
    forward, backward = lm_targets(tensors[0], LENGTHS, lm_vocab_size=len(maps[0]))
    assert [names[i] for i in forward[0].tolist()] == ['checks', 'in', '<end>', None]
    assert [names[i] for i in backward[0].tolist()] == ['<end>', 'dunston', 'checks', None]


def test_loss(tensors):
    gold_score = 4.85 + 6.79 + 3.85 + 3.52
    loss = ViterbiLoss(TAG_MAP)(SCORES, tensors[5], LENGTHS).item()
    assert gold_score == pytest.approx(19.01, abs=1e-9)
    assert loss == pytest.approx(0.0403, abs=5e-5)
    assert loss + gold_score == pytest.approx(19.0503, abs=5e-5)


def test_viterbi_steps():
    decoder = ViterbiDecoder(TAG_MAP)
    cumulative = SCORES[:, 0, 0]
    assert cumulative[0].tolist() == pytest.approx([0.28, -3.44, 4.85, 1.21, -4.42])

    cumulative, backpointers = decoder.step(cumulative, SCORES[:, 1])
    assert cumulative[0].tolist() == pytest.approx([7.92, 6.87, 12.34, 11.64, 6.07])
    assert backpointers[0].tolist() == [2, 1, 3, 2, 2]

    cumulative, backpointers = decoder.step(cumulative, SCORES[:, 2])
    assert cumulative[0].tolist() == pytest.approx([11.20, 14.89, 17.23, 15.49, 15.72])
    assert backpointers[0].tolist() == [3, 2, 2, 3, 3]

    cumulative, backpointers = decoder.step(cumulative, SCORES[:, 3])
    assert cumulative[0, 4].item() == pytest.approx(19.01)
    assert backpointers[0, 4].item() == 3


def test_decoded_sequence():
    assert ViterbiDecoder(TAG_MAP).decode(SCORES, LENGTHS).tolist() == [[2, 3, 3, 4]]


def test_log_z_over_legal_sequences(tensors):
    legal = ViterbiDecoder(TAG_MAP).mask(SCORES)
    loss = ViterbiLoss(TAG_MAP)(legal, tensors[5], LENGTHS)
    assert loss.item() + 19.01 == pytest.approx(19.0341, abs=5e-5)
    assert torch.isfinite(loss)
