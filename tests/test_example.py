"""Every figure of the tutorial's worked example, and of that of 2018, comes out of the code."""

import pytest
import torch
from oracle import is_legal, legal_sequences
from worked_example import (EMISSIONS, FILM_SCORES, FILM_TAG_MAP, FILM_TAGS, LENGTHS, SCORES,
                            TAG_MAP, TAGS, TRANSITIONS, WORDS, crf_scores)

from inference import ViterbiDecoder, name_tags
from models import ViterbiLoss, lm_targets
from utils import convert_tags, create_input_tensors, create_maps

B, I, O = 1, 2, 3  # noqa: E741


def close(*figures, places=1e-5):
    """What the tutorial says, to be compared with what the code says."""
    return pytest.approx(list(figures), abs=places)


@pytest.fixture
def maps():
    word_map, char_map, _ = create_maps([WORDS], [FILM_TAGS], min_word_freq=1)
    return word_map, char_map, FILM_TAG_MAP


@pytest.fixture
def batch(maps):
    return create_input_tensors([WORDS], [FILM_TAGS], *maps)


# --- The eight inputs ---

def test_maps(maps):
    word_map, char_map, _ = maps
    assert word_map == {'<pad>': 0, 'dunston': 1, 'checks': 2, 'in': 3, '<end>': 4, '<unk>': 5}
    assert ' '.join(char_map) == '<pad>   d u n s t o c h e k i <end> <unk>'
    assert create_maps([WORDS], [['O', 'I-FILM', 'B-FILM']])[2] == FILM_TAG_MAP
    assert create_maps([WORDS], [['tag_3', 'tag_1', 'tag_2']])[2] == TAG_MAP


def test_characters(maps, batch):
    names = list(maps[1])
    assert ''.join(names[i] for i in batch.cmaps_f[0]) == 'dunston checks in <end>'
    assert ''.join(names[i] for i in batch.cmaps_b[0]) == 'ni skcehc notsnud <end>'
    assert batch.cmaps_f.shape == batch.cmaps_b.shape == (1, 19)


def test_words_markers_tags_and_lengths(maps, batch):
    assert batch.wmaps.tolist() == [[1, 2, 3, 4]]
    assert batch.cmarkers_f.tolist() == [[7, 14, 17, 18]]
    assert batch.cmarkers_b.tolist() == [[17, 9, 2, 18]]
    assert batch.tmaps.tolist() == [[1, 7, 12, 14]]
    assert (batch.tmaps % 5).tolist() == [[1, 2, 2, 4]]
    assert batch.wmap_lengths.tolist() == [4]
    assert batch.cmap_lengths.tolist() == [19]
    tmaps_2018 = create_input_tensors([WORDS], [TAGS], *maps[:2], TAG_MAP).tmaps
    assert tmaps_2018.tolist() == [[2, 13, 18, 19]]


def test_language_model_targets(maps, batch):
    names = {i: name for name, i in maps[0].items()} | {-100: None}
    forward, backward = lm_targets(batch.wmaps, LENGTHS, lm_vocab_size=len(maps[0]))
    assert [names[i] for i in forward[0].tolist()] == ['checks', 'in', '<end>', None]
    assert [names[i] for i in backward[0].tolist()] == ['<end>', 'dunston', 'checks', None]


# --- Scores, decoding, loss ---

def path_score(*tags):
    """The score of a sequence, added up from the two tables."""
    return sum(EMISSIONS[0, t, current].item() + TRANSITIONS[previous, current].item()
               for t, (previous, current) in enumerate(zip((0, *tags), (*tags, 4))))


def test_scores_are_emissions_and_transitions():
    assert FILM_SCORES.shape == (1, 4, 5, 5)
    # The second: 2 for I at `checks`, 2 for I after B
    assert FILM_SCORES[0, range(4), [0, B, I, I], [B, I, I, 4]].tolist() == [1, 4, 2, 0]
    assert path_score(B, I, I) == 7


def test_greedy_choices_are_worse():
    best = EMISSIONS[0, :3].argmax(dim=1).tolist()
    assert best == [O, I, O]
    for scheme in ('iob2', 'iobes'):
        assert not is_legal([list(FILM_TAG_MAP)[tag] for tag in best], scheme)
    greedy = [0]
    for t in range(3):
        greedy.append(FILM_SCORES[0, t, greedy[-1]].argmax().item())
    assert greedy[1:] == [O, O, O] and path_score(O, O, O) == 2 + 1 + 2.5 + 0


def test_viterbi_steps():
    cumulative, backpointers = ViterbiDecoder(FILM_TAG_MAP, 'iob2').trellis(FILM_SCORES, LENGTHS)
    scores, previous = ([step[0, 1:4].tolist() for step in steps[:3]]
                        for steps in (cumulative, backpointers))
    assert scores == [[1, -4, 2], [1, 5, 3], [2, 7, 6.5]]
    assert previous == [[0, 0, 0], [O, B, O], [O, I, I]]
    assert cumulative[3][0, 4].item() == 7 and backpointers[3][0, 4].item() == I


@pytest.mark.parametrize('scheme', ['iob2', None])
def test_decoded_sequence(scheme):
    decoded = ViterbiDecoder(FILM_TAG_MAP, scheme).decode(FILM_SCORES, LENGTHS)
    assert decoded.tolist() == [[B, I, I, 4]]
    assert name_tags(decoded, LENGTHS, FILM_TAG_MAP) == [FILM_TAGS]
    assert convert_tags(FILM_TAGS, 'iobes') == ['B-FILM', 'I-FILM', 'E-FILM']


def test_forward_algorithm_and_loss(batch):
    decoder = ViterbiDecoder(FILM_TAG_MAP)
    # Without a mask, as in the loss
    decoder.mask.zero_()
    forward, _, log_z = decoder.forward_backward(FILM_SCORES, LENGTHS)
    assert forward[0, 0, 1:4].tolist() == [1, -4, 2]
    assert forward[0, 1, 1:4].tolist() == close(1.0068, 5.0092, 3.1277, places=5e-5)
    assert forward[0, 2, 1:4].tolist() == close(2.2435, 7.0586, 6.8686, places=5e-5)
    assert log_z.tolist() == close(7.6657, places=5e-5)

    loss = ViterbiLoss(FILM_TAG_MAP)(FILM_SCORES, batch.tmaps, LENGTHS)
    assert [loss.item()] == close(0.6657, places=5e-5)
    assert [loss.neg().exp().item()] == close(0.51, places=5e-3)


def test_probabilities_over_legal_sequences(maps, batch):
    decoder = ViterbiDecoder(FILM_TAG_MAP, 'iob2')
    assert decoder.forward_backward(FILM_SCORES, LENGTHS)[2].tolist() == close(7.6574, places=5e-5)
    for tags, probability in ((FILM_TAGS, 0.518), (['B-FILM', 'I-FILM', 'O'], 0.314)):
        cells = create_input_tensors([WORDS], [tags], *maps).tmaps
        loss = ViterbiLoss(FILM_TAG_MAP)(FILM_SCORES + decoder.mask, cells, LENGTHS)
        assert [loss.neg().exp().item()] == close(probability, places=5e-4)
    # Nothing else makes all three words a title
    found, = decoder.candidates(FILM_SCORES, LENGTHS, 0.3)
    assert [entity[:3] for entity in found] == [('FILM', 0, 2), ('FILM', 0, 3)]
    assert [entity[3] for entity in found] == close(0.31, 0.52, places=5e-3)
    # The whole title is worth more than its first two words, or nothing is
    assert decoder.entities(FILM_SCORES, LENGTHS, 0.5) == [found[1:]]
    assert decoder.entities(FILM_SCORES, LENGTHS, 0.1) == [found[1:]]
    assert decoder.entities(FILM_SCORES, LENGTHS, 0.6) == [[]]

    marginals = decoder.marginals(FILM_SCORES, LENGTHS)[0]
    assert marginals[0, 1:4].tolist() == close(0.849, 0, 0.151, places=5e-4)
    assert marginals[1, 1:4].tolist() == close(0.032, 0.833, 0.135, places=5e-4)
    assert marginals[2, 1:4].tolist() == close(0.004, 0.544, 0.451, places=5e-4)
    assert marginals[3].tolist() == close(0, 0, 0, 0, 1)


def test_loss_without_transitions_is_a_cross_entropy_at_each_word(batch):
    # At <end> only the score of <end> counts: 0
    scores = crf_scores(EMISSIONS, torch.zeros(5, 5))
    loss = ViterbiLoss(FILM_TAG_MAP)(scores, batch.tmaps, LENGTHS).item()
    each = -EMISSIONS[0, :3].log_softmax(dim=1)[[0, 1, 2], [B, I, I]]
    assert [loss, each.sum().item()] == close(2.6137, 2.6137, places=5e-5)


# --- The example of 2018 ---

def test_loss_of_2018():
    gold_score = 4.85 + 6.79 + 3.85 + 3.52
    loss = ViterbiLoss(TAG_MAP)(SCORES, torch.tensor([[2, 13, 18, 19]]), LENGTHS).item()
    assert [gold_score, loss, loss + gold_score] == close(19.01, 0.0403, 19.0503, places=5e-5)


def test_viterbi_steps_of_2018():
    cumulative, backpointers = ViterbiDecoder(TAG_MAP).trellis(SCORES, LENGTHS)
    assert cumulative[0][0].tolist() == close(0.28, -3.44, 4.85, 1.21, -4.42)
    assert cumulative[1][0].tolist() == close(7.92, 6.87, 12.34, 11.64, 6.07)
    assert backpointers[1][0].tolist() == [2, 1, 3, 2, 2]
    assert cumulative[2][0].tolist() == close(11.20, 14.89, 17.23, 15.49, 15.72)
    assert backpointers[2][0].tolist() == [3, 2, 2, 3, 3]
    assert [cumulative[3][0, 4].item()] == close(19.01) and backpointers[3][0, 4].item() == 3


def test_decoded_sequence_of_2018():
    decoded = ViterbiDecoder(TAG_MAP).decode(SCORES, LENGTHS)
    assert decoded.tolist() == [[2, 3, 3, 4]]
    assert name_tags(decoded, LENGTHS, TAG_MAP) == [TAGS]


def test_log_z_over_legal_sequences_of_2018():
    decoder = ViterbiDecoder(TAG_MAP)
    loss = ViterbiLoss(TAG_MAP)(SCORES + decoder.mask, torch.tensor([[2, 13, 18, 19]]), LENGTHS)
    assert [loss.item() + 19.01] == close(19.0341, places=5e-5)
    totals = [score for _, score in legal_sequences(SCORES[0], 4, TAG_MAP, None)]
    assert [torch.tensor(totals).logsumexp(dim=0).item()] == close(19.0341, places=5e-5)


def test_no_crf_layer_makes_the_scores_of_2018():
    # Rows differ in their transition scores alone, which are the same at every word
    for scores, possible in ((FILM_SCORES, True), (SCORES, False)):
        differences = scores[0] - scores[0, :, :1]
        assert torch.allclose(differences[0], differences[1]) == possible
