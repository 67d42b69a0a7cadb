"""The model, the loss and the decoder, against enumeration, pytorch-crf and gradcheck."""

import argparse
import itertools

import pytest
import torch
import torchcrf
from conftest import PEOPLE
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from datasets import SimilarLengthSampler, WCDataset, trim
from inference import IMPOSSIBLE, ViterbiDecoder, legal_transitions, run_model
from models import CRF, LM_LSTM_CRF, Dropout, Highway, ViterbiLoss, WideLinear
from train import lm_loss, make_optimizer
from utils import all_tags, clip_gradient, create_input_tensors, create_maps

TAG_MAP = {'<start>': 0, 'X': 1, 'Y': 2, 'Z': 3, '<end>': 4}
IOBES_MAP = {name: i for i, name in enumerate(['<start>', *all_tags('XY', 'iobes'), '<end>'])}
IOB2_MAP = {name: i for i, name in enumerate(['<start>', *all_tags('XY', 'iob2'), '<end>'])}


def random_batch(tag_map, lengths, dtype=torch.float64, seed=0):
    """CRF scores (N, L_w, m, m), unrolled targets (N, L_w), and lengths."""
    generator = torch.Generator().manual_seed(seed)
    m, lengths = len(tag_map), torch.tensor(lengths)
    scores = 3 * torch.randn(
        len(lengths), int(lengths.max()), m, m, generator=generator, dtype=dtype
    )
    tags = torch.randint(1, m - 1, scores.shape[:2], generator=generator)
    tags[torch.arange(len(lengths)), lengths - 1] = tag_map['<end>']
    previous = torch.cat((torch.zeros_like(tags[:, :1]), tags[:, :-1]), dim=1)
    return scores, previous * m + tags, lengths


def every_sequence(scores, length, end, tags):
    """(sequence, score) of every sequence of `tags` for one sentence, (L_w, m, m), then <end>."""
    for sequence in itertools.product(tags, repeat=length - 1):
        path = [0, *sequence, end]
        yield path[1:], sum(scores[t, path[t], path[t + 1]].item() for t in range(length))


def test_viterbi_loss_is_the_enumerated_one():
    scores, targets, lengths = random_batch(TAG_MAP, [4, 2, 5, 3])
    expected = []
    for sentence, target, length in zip(scores, targets, lengths.tolist()):
        # Our loss lets <start> and <end> take part inside a sentence
        totals = [s for _, s in every_sequence(sentence, length, 4, range(5))]
        gold = sentence.flatten(1)[range(length), target[:length]].sum().item()
        expected.append(torch.tensor(totals).logsumexp(0).item() - gold)
    assert ViterbiLoss(TAG_MAP)(scores, targets, lengths).item() == pytest.approx(sum(expected) / 4)


def is_legal(path, tag_map):
    """Whether a sequence of tags follows its scheme, told without our matrix."""
    names = [name for name in tag_map]
    text = ' '.join(names[tag] for tag in path[:-1])
    open_type, previous = None, 'O'
    for tag in text.split():
        prefix, _, entity_type = tag.partition('-')
        if prefix in ('<start>', '<end>'):
            return False
        if 'E-X' in tag_map:
            if (prefix in 'IE' and prefix != 'O') != (open_type is not None):
                return False
            if prefix in ('I', 'E') and entity_type != open_type:
                return False
            open_type = entity_type if prefix in ('B', 'I') else None
        elif 'B-X' in tag_map and prefix == 'I' and previous not in (f'B-{entity_type}', tag):
            return False
        previous = tag
    return open_type is None


@pytest.mark.parametrize('tag_map', [TAG_MAP, IOB2_MAP, IOBES_MAP])
def test_decoder_finds_the_best_legal_sequence(tag_map, rounds):
    end = tag_map['<end>']
    for seed in range(rounds):
        scores, _, lengths = random_batch(tag_map, [4, 1, 3, 2], seed=seed)
        decoded = ViterbiDecoder(tag_map).decode(scores, lengths)
        for sentence, row, length in zip(scores, decoded.tolist(), lengths.tolist()):
            paths = every_sequence(sentence, length, end, range(len(tag_map)))
            best, _ = max((p for p in paths if is_legal(p[0], tag_map)), key=lambda p: p[1])
            assert row == best + [end] * (len(row) - length)


def test_decoder_is_legal_even_when_scores_want_otherwise():
    scores, _, lengths = random_batch(IOBES_MAP, [6, 9, 2])
    scores[:, :, :, IOBES_MAP['I-X']] += 500
    names = list(IOBES_MAP)
    legal = legal_transitions(IOBES_MAP)
    for row, length in zip(ViterbiDecoder(IOBES_MAP).decode(scores, lengths), lengths.tolist()):
        path = [0, *row[:length].tolist()]
        assert all(legal[i, j] for i, j in zip(path, path[1:])), [names[i] for i in path]


def test_gradient_through_the_mask_is_finite():
    scores, targets, lengths = random_batch(IOBES_MAP, [3, 2])
    scores.requires_grad_()
    loss = ViterbiLoss(IOBES_MAP)(ViterbiDecoder(IOBES_MAP).mask(scores), targets, lengths)
    loss.backward()
    assert torch.isfinite(scores.grad).all() and loss.item() < -IMPOSSIBLE * 10


def test_crf_and_decoder_agree_with_pytorch_crf():
    torch.manual_seed(0)
    n, length, m = 3, 6, 4
    theirs = torchcrf.CRF(m, batch_first=True).double()
    emissions, tags = torch.randn(n, length, m).double(), torch.randint(m, (n, length))
    lengths = torch.tensor([6, 4, 1])
    mask = torch.arange(length) < lengths.unsqueeze(1)
    names = ['<start>', 'a', 'b', 'c', 'd', '<end>']
    tag_map = {name: i for i, name in enumerate(names)}

    # Theirs has no <start> and <end> tags but scores for the first and the last; never inside here
    transition = torch.full((m + 2, m + 2), IMPOSSIBLE).double()
    transition[1:-1, 1:-1] = theirs.transitions.detach()
    transition[0, 1:-1] = theirs.start_transitions.detach()
    transition[1:-1, -1] = theirs.end_transitions.detach()
    crf = CRF(m + 2, m + 2).double()
    crf.load_state_dict(
        {
            'emission.weight': torch.eye(m + 2).double(),
            'emission.bias': torch.zeros(m + 2).double(),
            'transition': transition,
        }
    )
    features = torch.zeros(n, length + 1, m + 2).double()
    features[:, :-1, 1:-1] = emissions
    features[torch.arange(n), lengths] = 0
    targets = torch.zeros(n, length + 1, dtype=torch.int64)
    for i, size in enumerate(lengths.tolist()):
        path = [0, *(tags[i, :size] + 1).tolist(), m + 1]
        targets[i, : size + 1] = torch.tensor([a * (m + 2) + b for a, b in zip(path, path[1:])])

    scores = crf(features)
    loss = ViterbiLoss(tag_map)(scores, targets, lengths + 1)
    assert loss.item() == pytest.approx(-theirs(emissions, tags, mask, reduction='mean').item())
    decoded = ViterbiDecoder(tag_map).decode(scores, lengths + 1)
    assert [
        [t - 1 for t in row[:size]] for row, size in zip(decoded.tolist(), lengths.tolist())
    ] == theirs.decode(emissions, mask)


def test_gradients():
    torch.manual_seed(0)
    scores, targets, lengths = random_batch(TAG_MAP, [3, 1, 2])
    loss = ViterbiLoss(TAG_MAP)
    assert torch.autograd.gradcheck(lambda s: loss(s, targets, lengths), scores.requires_grad_())
    crf, highway = CRF(4, 5).double(), Highway(4, num_layers=2, dropout=0).double()
    features = torch.randn(2, 3, 4).double().requires_grad_()
    for layer in (crf, highway):
        parameters = tuple(layer.parameters())

        def call(x, *values, layer=layer):
            named = dict(zip([name for name, _ in layer.named_parameters()], values))
            return torch.func.functional_call(layer, named, x)

        assert torch.autograd.gradcheck(call, (features, *parameters))


def test_loss_and_decoder_do_not_depend_on_the_order_of_rows_or_on_pads():
    scores, targets, lengths = random_batch(IOBES_MAP, [3, 6, 1, 4], dtype=torch.float32)
    loss, decoder = ViterbiLoss(IOBES_MAP), ViterbiDecoder(IOBES_MAP)
    expected, decoded = loss(scores, targets, lengths), decoder.decode(scores, lengths)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss(scores[order], targets[order], lengths[order]), expected)
    assert torch.equal(decoder.decode(scores[order], lengths[order]), decoded[order])
    for row, length in enumerate(lengths.tolist()):
        scores[row, length:], targets[row, length:] = 1e4, 7
    wider = torch.nn.functional.pad(scores, (0, 0, 0, 0, 0, 2), value=99)
    assert torch.allclose(loss(scores, targets, lengths), expected)
    assert torch.equal(decoder.decode(wider, lengths)[:, :6], decoded)


def test_highway_is_its_formula():
    highway = Highway(3, num_layers=2, dropout=0.5).eval()
    assert {name for name, _ in highway.named_parameters()} == {
        f'{part}.{i}.{kind}'
        for part in ('transform', 'gate')
        for i in (0, 1)
        for kind in ('weight', 'bias')
    }
    x = expected = torch.randn(4, 3)
    for transform, gate in zip(highway.transform, highway.gate):
        g = torch.sigmoid(gate(expected))
        expected = g * torch.relu(transform(expected)) + (1 - g) * expected
    assert torch.allclose(highway(x), expected)


# --- The whole model ---

CONFIGURATIONS = [
    {},
    {'language_models': False},
    {'language_models': False, 'characters': False},
    {'language_models': False, 'characters': False, 'crf': False},
]


def make_model(seed=0, dropout=0.0, sentences=PEOPLE, **configuration):
    """A small model with its maps and data."""
    torch.manual_seed(seed)
    words, tags = ([s[k] for s in sentences] for k in (0, 1))
    maps = create_maps(words, tags, min_word_freq=1)
    sizes = {
        'char_emb_dim': 4,
        'char_rnn_dim': 6,
        'char_rnn_layers': 1,
        'word_emb_dim': 5,
        'word_rnn_dim': 8,
        'word_rnn_layers': 1,
    } | configuration
    model = LM_LSTM_CRF(
        tagset_size=len(maps[2]),
        charset_size=len(maps[1]),
        vocab_size=len(maps[0]),
        lm_vocab_size=len(maps[0]),
        dropout=dropout,
        **sizes,
    )
    torch.nn.init.normal_(model.crf.transition.data)
    return model, maps, create_input_tensors(words, tags, *maps)


def test_modules_and_shapes():
    model, maps, batch = make_model()
    assert {name for name, _ in model.named_children()} == {
        'char_embeds',
        'forw_char_lstm',
        'back_char_lstm',
        'word_embeds',
        'word_blstm',
        'crf',
        'dropout',
        'forw_lm_hw',
        'back_lm_hw',
        'subword_hw',
        'forw_lm_out',
        'back_lm_out',
    }
    assert model.word_blstm.input_size == 5 + 2 * 6 and model.word_blstm.hidden_size == 4
    n, length = batch[0].shape
    m, vocabulary = len(maps[2]), len(maps[0])
    outputs = run_model(model, batch)
    assert [tuple(x.shape) for x in outputs] == [
        (n, length, m, m),
        (n, length, vocabulary),
        (n, length, vocabulary),
        (n, length),
        (n, length),
        (n,),
        (n,),
        (n,),
    ]
    assert len(run_model(model.eval(), batch)) == 6


@pytest.mark.parametrize('configuration', CONFIGURATIONS)
def test_rows_come_sorted_and_say_where_from(configuration):
    model, _, batch = make_model(**configuration)
    model.eval()
    scores, wmaps, tmaps, lengths, word_sort_ind, char_sort_ind = run_model(model, batch)
    assert lengths.tolist() == sorted(batch[6].tolist(), reverse=True)
    cmap_lengths = batch[7][char_sort_ind]
    assert cmap_lengths.tolist() == sorted(batch[7].tolist(), reverse=True)
    order = char_sort_ind[word_sort_ind]
    assert torch.equal(wmaps, batch[0][order]) and torch.equal(tmaps, batch[5][order])
    for row, i in enumerate(order.tolist()):
        alone = run_model(model, trim([tensor[i : i + 1] for tensor in batch]))[0]
        assert torch.allclose(scores[row, : lengths[row]], alone[0], atol=1e-6)


def test_without_tags():
    model, _, batch = make_model()
    model.eval()
    assert torch.equal(
        run_model(model, batch)[0], run_model(model, [*batch[:5], None, *batch[6:]])[0]
    )


def packed_everywhere(model, batch):
    """The model's scores with every LSTM on packed input, step by step as the tutorial does it."""
    wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, _, wmap_lengths, cmap_lengths = batch

    def run(lstm, inputs, lengths):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]

    features = [
        run(lstm, model.char_embeds(cmaps), cmap_lengths).gather(
            1, markers.unsqueeze(2).expand(-1, -1, lstm.hidden_size)
        )
        for lstm, cmaps, markers in (
            (model.forw_char_lstm, cmaps_f, cmarkers_f),
            (model.back_char_lstm, cmaps_b, cmarkers_b),
        )
    ]
    lm_scores = [
        output(highway(feature))
        for feature, highway, output in zip(
            features, (model.forw_lm_hw, model.back_lm_hw), (model.forw_lm_out, model.back_lm_out)
        )
    ]
    words = torch.cat((model.word_embeds(wmaps), model.subword_hw(torch.cat(features, 2))), 2)
    return model.crf(run(model.word_blstm, words, wmap_lengths)), *lm_scores


@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize('same_length', [True, False])
def test_packed_and_dense_runs_are_equal(layers, same_length):
    # More than the 16 rows that the character LSTMs read at a time
    sentences = 9 * ([s for s in PEOPLE if len(s[0]) == 6] if same_length else PEOPLE)
    model, _, batch = make_model(
        sentences=sentences, char_rnn_layers=layers, word_rnn_layers=layers
    )
    model.double()
    outputs = run_model(model, batch)
    order = outputs[-1][outputs[-2]]
    expected = [scores[order] for scores in packed_everywhere(model, batch)]
    inside = torch.arange(batch[0].size(1)) < outputs[5].unsqueeze(1)
    for scores, scores_expected in zip(outputs, expected):
        assert torch.allclose(scores[inside], scores_expected[inside])
    both = [(*some, outputs[3], outputs[5]) for some in (outputs[1:3], expected[1:])]
    gradients = []
    for crf_scores, lm in zip((outputs[0], expected[0]), both):
        loss = lm_loss(*lm) + ViterbiLoss({'<start>': 0, '<end>': crf_scores.size(2) - 1})(
            crf_scores, outputs[4], outputs[5]
        )
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.allclose(a, b) for a, b in zip(*gradients))


@pytest.mark.parametrize('configuration', CONFIGURATIONS)
def test_each_configuration_learns(configuration):
    model, maps, batch = make_model(**configuration)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(11):
        scores, lm_f, lm_b, wmaps, tmaps, lengths, _, _ = run_model(model, batch)
        loss = ViterbiLoss(maps[2])(scores, tmaps, lengths)
        if lm_f is not None:
            loss = loss + lm_loss(lm_f, lm_b, wmaps, lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[10] < losses[1]


def test_no_crf_is_a_softmax_over_each_word():
    model, maps, batch = make_model(**CONFIGURATIONS[3])
    model.crf.transition.data.zero_()
    scores, _, _, _, tmaps, lengths, _, _ = run_model(model, batch)
    m = len(maps[2])
    assert not model.crf.transition.requires_grad
    # All words but <end>, whose tag is given
    inside = torch.arange(tmaps.size(1)) < lengths.unsqueeze(1) - 1
    each = torch.nn.functional.cross_entropy(
        scores[:, :, 0][inside], tmaps[inside] % m, reduction='sum'
    )
    loss = ViterbiLoss(maps[2])(scores, tmaps, lengths)
    assert loss.item() == pytest.approx(each.item() / len(lengths), rel=1e-5)


def test_unused_modules_do_not_exist_and_contradictions_are_refused():
    model, _, _ = make_model(**CONFIGURATIONS[2])
    assert {name for name, _ in model.named_children()} == {
        'word_embeds',
        'word_blstm',
        'crf',
        'dropout',
    }
    with pytest.raises(ValueError, match='language models need the characters'):
        make_model(characters=False)


def test_word_embeddings_are_frozen_or_fine_tuned():
    model, maps, batch = make_model()
    embeddings = torch.randn(len(maps[0]), 5)
    model.init_word_embeddings(embeddings)
    for fine_tune in (False, True):
        model.fine_tune_word_embeddings(fine_tune)
        run_model(model, batch)[0].sum().backward()
        assert (model.word_embeds.weight.grad is not None) == fine_tune
    assert torch.equal(model.word_embeds.weight, embeddings)


def test_training_only_the_rows_of_the_batch_is_training_all_of_them():
    """Sparse gradients make the same steps as dense ones, also after going on elsewhere."""
    weights = []
    for emb_files in ([None] * 8, ['sparse'] * 8, ['sparse', 'sparse', None, None] * 2):
        model, _, batch = make_model()
        state = None
        for step, emb_file in enumerate(emb_files):
            args = argparse.Namespace(fine_tune_word_embeddings=True, emb_file=emb_file,
                                      device='cpu', lr=0.5, momentum=0.9)
            optimizer = make_optimizer(model, args, state)
            # Each step has a word that the others may lack
            sentence = [tensor[[step % len(PEOPLE)]] for tensor in batch]
            scores, lm_f_scores, *_ = run_model(model, sentence)
            (scores.pow(2).sum() + lm_f_scores.pow(2).sum()).backward()
            clip_gradient(optimizer, 0.02)
            assert model.word_embeds.weight.grad.is_sparse == (emb_file is not None)
            optimizer.step()
            optimizer.zero_grad()
            state = optimizer.state_dict()
        weights.append(model.word_embeds.weight.detach().clone())
    assert not torch.allclose(weights[0], make_model()[0].word_embeds.weight, atol=1e-2)
    assert torch.allclose(weights[1], weights[0], atol=1e-6)
    assert torch.allclose(weights[2], weights[0], atol=1e-6)


def test_dropout_is_where_the_paper_has_it():
    model, _, batch = make_model(dropout=0.5)
    calls = []
    model.dropout.register_forward_hook(lambda _, inputs, output: calls.append(inputs[0].shape[2]))
    run_model(model, batch)
    # Word embeddings, characters twice, in and out of each language model's highway, in and out of
    # the sub-word highway, the BLSTM's output
    assert sorted(calls) == sorted([5, 4, 4, 6, 6, 6, 6, 12, 12, 8])


def test_a_wide_layer_is_a_linear_layer():
    torch.manual_seed(0)
    layer, x = WideLinear(30, 2000), torch.randn(4, 5, 30, requires_grad=True)
    factors, results = torch.randn(4, 5, 2000), []
    for output in layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias):
        gradients = torch.autograd.grad((output * factors).sum(), (x, layer.weight, layer.bias))
        results.append((output, *gradients))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_dropout_is_dropout():
    torch.manual_seed(0)
    dropout, ones = Dropout(0.3), torch.ones(200, 200, requires_grad=True)
    output = dropout(ones)
    dropped = output == 0
    assert torch.allclose(output[~dropped], torch.tensor(1 / 0.7))
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.01)
    output.sum().backward()
    assert torch.equal(ones.grad, output.detach())
    assert torch.equal(dropout.eval()(ones), ones)
    assert torch.equal(Dropout(1.0)(ones), torch.zeros(200, 200))


# --- Batches ---


def test_dataset():
    _, _, batch = make_model()
    dataset = WCDataset(*batch)
    assert len(dataset) == len(PEOPLE)
    for one, several in zip(dataset[3], dataset[[3, 1]]):
        assert torch.equal(one, several[0])
    assert WCDataset(*batch[:5], None, *batch[6:])[2][5] is None


def test_trim_cuts_pads_only():
    _, _, batch = make_model()
    trimmed = trim(WCDataset(*batch)[[3, 2]])
    assert trimmed[0].shape == (2, 3) and trimmed[1].shape == (2, 8)
    assert [int(x.sum()) for x in trimmed] == [int(x[[3, 2]].sum()) for x in batch]


def test_sampler_deals_out_the_same_batches():
    words, chars = torch.randint(2, 9, (41,)), torch.randint(9, 50, (41,))
    whole = list(SimilarLengthSampler(words, chars, 10))
    samplers = [SimilarLengthSampler(words, chars, 5, 0, rank, 2) for rank in (0, 1)]
    dealt = [[(share, sampler.idle) for share in sampler] for sampler in samplers]
    for batch, *shares in zip(whole, *dealt, strict=True):
        assert sorted(sum((share for share, idle in shares if not idle), [])) == sorted(batch)


def test_sampler(rounds):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, 12, (500,), generator=generator)
    chars = words * 5 + torch.randint(0, 20, (500,), generator=generator)
    sampler = SimilarLengthSampler(words, chars, batch_size=7, seed=3)
    epochs = []
    for epoch in range(rounds):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(i for batch in epochs[-1] for i in batch) == list(range(500))
        assert len(epochs[-1]) == len(sampler) == 72
        mixed = [batch for batch in epochs[-1] if len(set(words[batch].tolist())) > 1]
        assert len(mixed) <= 10
        by_length = sorted(epochs[-1], key=lambda b: (words[b].max(), chars[b].min()))
        assert by_length != epochs[-1]
        pads = sum(int(chars[b].max() * len(b) - chars[b].sum()) for b in epochs[-1])
        assert pads < 0.05 * chars.sum()
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]
    assert list(SimilarLengthSampler(words, chars, batch_size=7, seed=4)) != epochs[0]
