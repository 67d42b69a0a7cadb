"""CRF, ViterbiLoss and ViterbiDecoder on another encoder, as people copy them into projects."""

import pytest
import torch
from torch import nn

from inference import ViterbiDecoder
from models import CRF, ViterbiLoss

# No rules follow from how these tags are spelled
TAG_MAP = {'<start>': 0, 'x': 1, 'y': 2, 'more of x': 3, 'more of y': 4, '<end>': 5}
PAD, X, Y, MORE, END = range(5)  # words


def toy(n, generator):
    """n sentences of 3 to 8 words: words, tags, and lengths with <end>, as (n, 9), (n, 9), (n,).

    The words X and Y begin a name of their type, and MORE continues it. Of which type it is only
    the order of the words can tell, and the encoder knows no order.
    """
    lengths, places = torch.randint(4, 10, (n,), generator=generator), torch.arange(9)
    words = torch.randint(X, MORE + 3, (n, 9), generator=generator).clamp(max=MORE)
    words[:, 0] = torch.randint(X, MORE, (n,), generator=generator)
    tags = words.clone()
    for t in range(1, 9):
        continued = torch.where(tags[:, t - 1] < 3, tags[:, t - 1] + 2, tags[:, t - 1])
        tags[:, t] = torch.where(words[:, t] == MORE, continued, words[:, t])
    last = places == lengths.unsqueeze(1) - 1
    words[last], tags[last] = END, TAG_MAP['<end>']
    pads = places >= lengths.unsqueeze(1)
    return words.masked_fill(pads, PAD), tags.masked_fill(pads, 0), lengths


class Tagger(nn.Module):
    """A transformer encoder, and scores of tags on top: a CRF's, or a linear layer's."""

    def __init__(self, crf):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(5, 16)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.scores = CRF(16, len(TAG_MAP)) if crf else nn.Linear(16, len(TAG_MAP))

    def forward(self, words, lengths):
        pads = torch.arange(words.size(1)) >= lengths.unsqueeze(1)
        return self.scores(self.encoder(self.embed(words), src_key_padding_mask=pads))


def cells(tags):
    """Tags, (N, L), as cells: <start> comes before the first one."""
    return nn.functional.pad(tags, (1, 0))[:, :-1] * len(TAG_MAP) + tags


def trained(crf):
    """The share of words whose tags are right after training for some steps."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model, criterion = Tagger(crf), ViterbiLoss(TAG_MAP)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(300):
        words, tags, lengths = toy(32, generator)
        scores = model(words, lengths)
        if crf:
            loss = criterion(scores, cells(tags), lengths)
        else:
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), tags.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    words, tags, lengths = toy(400, generator)
    with torch.no_grad():
        scores = model.eval()(words, lengths)
        found = ViterbiDecoder(TAG_MAP).decode(scores, lengths) if crf else scores.argmax(dim=2)
    is_word = torch.arange(9) < lengths.unsqueeze(1) - 1
    return (found == tags)[is_word].float().mean().item()


def test_where_the_words_alone_cannot_tell():
    """With transitions hardly any tag is wrong; without, MORE is right by chance: less than 90%."""
    assert trained(crf=True) > 0.995
    assert 0.8 < trained(crf=False) < 0.9


@pytest.mark.parametrize('scores, lengths, targets, found', [
    ((2, 4, 6, 6), [4, 3], (2, 4), None),
    ((2, 4, 6, 5), [4, 3], (2, 4), '(2, 4, 6, 5)'),
    ((2, 4, 5, 5), [4, 3], (2, 4), '(2, 4, 5, 5)'),
    ((4, 6, 6), [4, 3], (4,), '(4, 6, 6)'),
    ((6,), [4, 3], (4,), '(6,)'),
    ((2, 4, 6, 6), [4, 3, 2], (2, 4), '(3,)'),
    ((2, 4, 6, 6), [4, 5], (2, 4), '[4, 5]'),
    ((2, 4, 6, 6), [4, 0], (2, 4), '[4, 0]'),
    ((2, 4, 6, 6), [4, 3], (2, 3), '(2, 3)'),
    ((2, 4, 6, 6), [4, 3], (4, 2), '(4, 2)'),
    ((2, 4, 6, 6), [4, 3], (2, 4, 1), '(2, 4, 1)')])
def test_wrong_shapes_are_named(scores, lengths, targets, found):
    scores, lengths = torch.zeros(scores), torch.tensor(lengths)
    decoder = ViterbiDecoder(TAG_MAP)
    uses = [lambda: ViterbiLoss(TAG_MAP)(scores, torch.zeros(targets).long(), lengths)]
    if targets == (2, 4) or scores.dim() < 4:
        uses += [lambda: decoder.decode(scores, lengths),
                 lambda: decoder.marginals(scores, lengths)]
    for use in uses:
        if found is None:
            use()
            continue
        with pytest.raises(ValueError, match='^expected ') as error:
            use()
        assert found in str(error.value)


def test_features_of_one_sentence_are_not_taken_for_scores():
    """(L, dim) instead of (N, L, dim) gives three dimensions, which the loss refuses."""
    with pytest.raises(ValueError, match='expected .* found'):
        ViterbiLoss(TAG_MAP)(CRF(8, 6)(torch.zeros(4, 8)), torch.zeros(4).long(), torch.tensor([4]))
    with pytest.raises(RuntimeError, match='8x7 and 8x6|shapes'):
        CRF(8, 6)(torch.zeros(2, 4, 7))
