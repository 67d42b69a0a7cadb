"""Every figure of the worked example of 2018 comes out of the code; README.md prints today's."""

import pytest
import torch
from oracle import legal_sequences
from worked_example import LENGTHS, SCORES, TAG_MAP, TAGS, WORDS

from inference import ViterbiDecoder, name_tags
from models import ViterbiLoss
from utils import create_input_tensors, create_maps


def close(*figures, places=1e-5):
    """What the tutorial says, to be compared with what the code says."""
    return pytest.approx(list(figures), abs=places)


@pytest.fixture
def cells():
    """The tags as cells, previous * 5 + current."""
    word_map, char_map, tag_map = create_maps([WORDS], [['tag_3', 'tag_1', 'tag_2']])
    assert tag_map == TAG_MAP
    return create_input_tensors([WORDS], [TAGS], word_map, char_map, tag_map).tmaps


def test_loss(cells):
    gold_score = 4.85 + 6.79 + 3.85 + 3.52
    assert cells.tolist() == [[2, 13, 18, 19]]
    loss = ViterbiLoss(TAG_MAP)(SCORES, cells, LENGTHS).item()
    assert [gold_score, loss, loss + gold_score] == close(19.01, 0.0403, 19.0503, places=5e-5)


def test_viterbi_steps():
    cumulative, backpointers = ViterbiDecoder(TAG_MAP).trellis(SCORES, LENGTHS)
    # Nothing leads to <start>, the first tag
    assert cumulative[0][0, 1:].tolist() == close(-3.44, 4.85, 1.21, -4.42)
    assert cumulative[1][0, 1:].tolist() == close(6.87, 12.34, 11.64, 6.07)
    assert backpointers[1][0].tolist() == [2, 1, 3, 2, 2]
    assert cumulative[2][0, 1:].tolist() == close(14.89, 17.23, 15.49, 15.72)
    assert backpointers[2][0].tolist() == [3, 2, 2, 3, 3]
    assert [cumulative[3][0, 4].item()] == close(19.01) and backpointers[3][0, 4].item() == 3


def test_decoded_sequence():
    decoded = ViterbiDecoder(TAG_MAP).decode(SCORES, LENGTHS)
    assert decoded.tolist() == [[2, 3, 3, 4]]
    assert name_tags(decoded, LENGTHS, TAG_MAP) == [TAGS]


def test_log_z_over_legal_sequences(cells):
    decoder = ViterbiDecoder(TAG_MAP)
    loss = ViterbiLoss(TAG_MAP)(SCORES + decoder.mask, cells, LENGTHS)
    assert [loss.item() + 19.01] == close(19.0341, places=5e-5)
    totals = [score for _, score in legal_sequences(SCORES[0], 4, TAG_MAP, None)]
    assert [torch.tensor(totals).logsumexp(dim=0).item()] == close(19.0341, places=5e-5)
