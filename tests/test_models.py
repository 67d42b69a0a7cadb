"""The model, its losses, the decoder and batches, against enumeration, pytorch-crf, gradcheck."""

import csv
import itertools
import math

import pytest
import torch
import torchcrf
from conftest import LATEST, PEOPLE, SMALL, call, data_files, make_run, write_conll
from oracle import every_sequence, is_legal, legal_sequences
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datasets import Batch, SimilarLengthSampler, WCDataset
from inference import IMPOSSIBLE, Tagger, ViterbiDecoder, load_tagger
from models import CRF, LM_LSTM_CRF, Highway, ViterbiLoss, lm_loss, lm_targets
from train import LOG, main
from utils import (InputError, clip_gradient, convert_tags, create_input_tensors,
                   create_maps)


def number_tags(names):
    return {name: i for i, name in enumerate(['<start>', *names.split(), '<end>'])}


TAG_MAP = number_tags('X Y Z')
IOB2_MAP = number_tags('O B-X I-X B-Y I-Y')
IOBES_MAP = number_tags('O B-X I-X E-X S-X B-Y I-Y E-Y S-Y')
# Without a scheme any tag may follow any other, however they are spelled
LOOKALIKES_MAP = number_tags('I-NP B-NP E-VP S-NP')
TAGS_AND_SCHEMES = [(TAG_MAP, None), (IOB2_MAP, 'iob2'), (IOBES_MAP, 'iobes'), (IOB2_MAP, None),
                    (LOOKALIKES_MAP, None), (number_tags('I-X E-X'), None)]


def random_scores(tag_map, lengths, dtype=torch.float64, seed=0):
    """CRF scores (N, L_w, m, m), unrolled targets (N, L_w), and lengths."""
    generator = torch.Generator().manual_seed(seed)
    m, lengths = len(tag_map), torch.tensor(lengths)
    shape = (len(lengths), int(lengths.max()), m, m)
    scores = 3 * torch.randn(shape, generator=generator, dtype=dtype)
    tags = torch.randint(1, m - 1, scores.shape[:2], generator=generator)
    tags[torch.arange(len(lengths)), lengths - 1] = tag_map['<end>']
    previous = torch.cat((torch.zeros_like(tags[:, :1]), tags[:, :-1]), dim=1)
    return scores, previous * m + tags, lengths


# --- The loss and the decoder ---

def test_viterbi_loss_is_the_enumerated_one():
    scores, targets, lengths = random_scores(TAG_MAP, [4, 2, 5, 3])
    expected = []
    for sentence, target, length in zip(scores, targets, lengths.tolist()):
        # Our loss lets <start> and <end> take part inside a sentence
        totals = [score for _, score in every_sequence(sentence, length)]
        gold = sentence.flatten(1)[range(length), target[:length]].sum().item()
        expected.append(torch.tensor(totals).logsumexp(0).item() - gold)
    assert ViterbiLoss(TAG_MAP)(scores, targets, lengths).item() == pytest.approx(sum(expected) / 4)


@pytest.mark.parametrize('tag_map, scheme', TAGS_AND_SCHEMES)
def test_mask_lets_the_legal_sequences_through_and_no_others(tag_map, scheme):
    mask = ViterbiDecoder(tag_map, scheme).mask
    for words in (1, 2, 3):
        for names in itertools.product(tag_map, repeat=words):
            path = [tag_map[name] for name in ('<start>', *names, '<end>')]
            masked = mask[path[:-1], path[1:]]
            assert ((masked == 0) | (masked == IMPOSSIBLE)).all()
            assert (masked == 0).all() == is_legal(names, scheme)


@pytest.mark.parametrize('tag_map, scheme', TAGS_AND_SCHEMES)
def test_decoder_finds_the_best_legal_sequence(tag_map, scheme, rounds):
    end = tag_map['<end>']
    for seed in range(rounds):
        scores, _, lengths = random_scores(tag_map, [4, 1, 3, 2], seed=seed)
        decoded = ViterbiDecoder(tag_map, scheme).decode(scores, lengths)
        for sentence, row, length in zip(scores, decoded.tolist(), lengths.tolist()):
            sequences = legal_sequences(sentence, length, tag_map, scheme)
            best, _ = max(sequences, key=lambda sequence: sequence[1])
            assert row == best + [end] * (len(row) - length)


def test_decoder_is_legal_even_when_scores_want_otherwise():
    scores, _, lengths = random_scores(IOBES_MAP, [6, 9, 2])
    scores[:, :, :, IOBES_MAP['I-X']] += 500
    decoded, names = ViterbiDecoder(IOBES_MAP, 'iobes').decode(scores, lengths), list(IOBES_MAP)
    for row, length in zip(decoded.tolist(), lengths.tolist()):
        assert is_legal([names[tag] for tag in row[:length - 1]], 'iobes')


CHUNKS = [(['the', 'old', 'man'], ['I-NP', 'I-NP', 'S-NP']),
          (['rows', 'the', 'boat'], ['E-VP', 'I-NP', 'B-NP']),
          (['boat', 'rows'], ['B-NP', 'E-VP'])]


@pytest.mark.parametrize('favored', ['I-NP', 'B-NP', 'S-NP', 'E-VP'])
def test_parts_of_speech_are_no_scheme_however_they_are_spelled(favored):
    """Each tag's probability is its own: S-NP is not added to B-NP, nor E-VP to I-VP."""
    model, maps, _ = make_model(sentences=CHUNKS)
    model, maps = model.double(), dict(zip(('word_map', 'char_map', 'tag_map'), maps))
    names, found = list(maps['tag_map']), set()
    model.crf.emission.bias.data[names.index(favored)] += 2
    tagger = Tagger(model, maps, {'task': 'pos', 'tag_scheme': 'iobes', 'tokenizer': 'words'})
    for words, _ in CHUNKS:
        (tagged,) = tagger.tag([words], probabilities=True)
        scores, _, _ = run(model, create_input_tensors([words], None, **maps))
        paths = list(legal_sequences(scores[0], len(words) + 1, maps['tag_map'], None))
        best, _ = max(paths, key=lambda path: path[1])
        assert tagged['tags'] == [names[tag] for tag in best[:-1]]
        z = sum(math.exp(score) for _, score in paths)
        expected = [sum(math.exp(score) for path, score in paths if path[t] == tag) / z
                    for t, tag in enumerate(best[:-1])]
        assert tagged['probabilities'] == pytest.approx(expected) and not tagged['entities']
        found.update(tagged['tags'])
    assert favored in found


@pytest.mark.parametrize('sentences', [
    CHUNKS,
    [(words, ['I-X' if tag == 'I-NP' else 'E-X' for tag in tags]) for words, tags in CHUNKS]])
def test_parts_of_speech_that_look_like_chunks_are_learned(sentences, tmp_path):
    write_conll(tmp_path / 'data.txt', sentences)
    call(main, *SMALL, *data_files(tmp_path), '--task', 'pos', '--epochs', 25, '--lr', 0.2,
         '--patience', 25, '--output_dir', tmp_path)
    with open(tmp_path / LOG) as file:
        assert [float(row['accuracy']) for row in csv.DictReader(file)][-1] == 1
    tagged = load_tagger(tmp_path / LATEST).tag([words for words, _ in sentences])
    assert [row['tags'] for row in tagged] == [tags for _, tags in sentences]


def test_gradient_through_the_mask_is_finite():
    scores, targets, lengths = random_scores(IOBES_MAP, [3, 2])
    scores.requires_grad_()
    masked = scores + ViterbiDecoder(IOBES_MAP, 'iobes').mask
    loss = ViterbiLoss(IOBES_MAP)(masked, targets, lengths)
    loss.backward()
    assert torch.isfinite(scores.grad).all() and loss.item() < -IMPOSSIBLE * 10


def test_crf_and_decoder_agree_with_pytorch_crf():
    torch.manual_seed(0)
    n, length, m = 3, 6, 4
    theirs = torchcrf.CRF(m, batch_first=True).double()
    emissions, tags = torch.randn(n, length, m).double(), torch.randint(m, (n, length))
    lengths = torch.tensor([6, 4, 1])
    mask = torch.arange(length) < lengths.unsqueeze(1)
    tag_map = number_tags('a b c d')

    # Theirs has no <start> and <end> tags but scores for the first and the last; never inside here
    transition = torch.full((m + 2, m + 2), IMPOSSIBLE).double()
    transition[1:-1, 1:-1] = theirs.transitions.detach()
    transition[0, 1:-1] = theirs.start_transitions.detach()
    transition[1:-1, -1] = theirs.end_transitions.detach()
    crf = CRF(m + 2, m + 2).double()
    crf.load_state_dict({'emission.weight': torch.eye(m + 2), 'emission.bias': torch.zeros(m + 2),
                         'transition': transition})
    features = torch.zeros(n, length + 1, m + 2).double()
    features[:, :-1, 1:-1] = emissions
    features[torch.arange(n), lengths] = 0
    targets = torch.zeros(n, length + 1, dtype=torch.int64)
    for i, size in enumerate(lengths.tolist()):
        path = [0, *(tags[i, :size] + 1).tolist(), m + 1]
        targets[i, :size + 1] = torch.tensor([a * (m + 2) + b for a, b in itertools.pairwise(path)])

    scores = crf(features)
    loss = ViterbiLoss(tag_map)(scores, targets, lengths + 1)
    assert loss.item() == pytest.approx(-theirs(emissions, tags, mask, reduction='mean').item())
    decoded = ViterbiDecoder(tag_map).decode(scores, lengths + 1)
    named = [[tag - 1 for tag in row[:size]] for row, size in zip(decoded.tolist(), lengths)]
    assert named == theirs.decode(emissions, mask)


def test_gradients():
    torch.manual_seed(0)
    scores, targets, lengths = random_scores(TAG_MAP, [3, 1, 2])
    loss = ViterbiLoss(TAG_MAP)
    assert torch.autograd.gradcheck(lambda s: loss(s, targets, lengths), scores.requires_grad_())
    features = torch.randn(2, 3, 4).double().requires_grad_()
    for layer in (CRF(4, 5).double(), Highway(4, num_layers=2, dropout=0).double()):
        names, parameters = zip(*layer.named_parameters())

        def call(x, *values, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values)), x)

        assert torch.autograd.gradcheck(call, (features, *parameters))


class CountLarge(TorchDispatchMode):
    """Counts the tensors with so many numbers that operations return."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        self.count += sum(tensor.numel() >= self.size for tensor in tree_leaves(results)
                          if isinstance(tensor, torch.Tensor))
        return results


def test_the_gradient_takes_memory_in_proportion_to_the_words():
    """If each word made a gradient as large as all scores, it would grow with their square."""
    counts = []
    for words in (4, 40):
        scores, targets, lengths = random_scores(TAG_MAP, [words, 2])
        loss = ViterbiLoss(TAG_MAP)(scores.requires_grad_(), targets, lengths)
        with CountLarge(scores.numel()) as large:
            loss.backward()
        counts.append(large.count)
    assert 0 < counts[0] == counts[1]


def test_loss_and_decoder_do_not_depend_on_the_order_of_rows_or_on_pads():
    scores, targets, lengths = random_scores(IOBES_MAP, [3, 6, 1, 4], dtype=torch.float32)
    loss, decoder = ViterbiLoss(IOBES_MAP), ViterbiDecoder(IOBES_MAP, 'iobes')
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
    names = itertools.product(('transform', 'gate'), '01', ('weight', 'bias'))
    assert {name for name, _ in highway.named_parameters()} == set(map('.'.join, names))
    x = expected = torch.randn(4, 3)
    for transform, gate in zip(highway.transform, highway.gate):
        g = torch.sigmoid(gate(expected))
        expected = g * torch.relu(transform(expected)) + (1 - g) * expected
    assert torch.allclose(highway(x), expected)


# --- The whole model ---

CONFIGURATIONS = [{},
                  {'language_models': False},
                  {'language_models': False, 'characters': False},
                  {'language_models': False, 'characters': False, 'crf': False}]


def make_model(dropout=0.0, sentences=PEOPLE, **configuration):
    """A small model with its maps and data."""
    torch.manual_seed(0)
    words, tags = zip(*sentences)
    maps = create_maps(words, tags, min_word_freq=1)
    word_map, char_map, tag_map = maps
    sizes = {'char_emb_dim': 4, 'char_rnn_dim': 6, 'char_rnn_layers': 1,
             'word_emb_dim': 5, 'word_rnn_dim': 8, 'word_rnn_layers': 1, **configuration}
    model = LM_LSTM_CRF(tagset_size=len(tag_map), charset_size=len(char_map),
                        vocab_size=len(word_map), lm_vocab_size=len(word_map),
                        dropout=dropout, **sizes)
    torch.nn.init.normal_(model.crf.transition.data)
    return model, maps, create_input_tensors(words, tags, *maps)


def run(model, batch):
    """The model's three outputs."""
    return model(**batch._asdict())


def all_losses(outputs, batch):
    """The sum of the losses that there are."""
    crf_scores, lm_f_scores, lm_b_scores = outputs
    tag_map = {'<start>': 0, '<end>': crf_scores.size(2) - 1}
    loss = ViterbiLoss(tag_map)(crf_scores, batch.tmaps, batch.wmap_lengths)
    if lm_f_scores is not None:
        loss = loss + lm_loss(lm_f_scores, lm_b_scores, batch.wmaps, batch.wmap_lengths)
    return loss


def test_modules_and_shapes():
    model, maps, batch = make_model()
    without, _, _ = make_model(**CONFIGURATIONS[2])
    names, names_without = ({name for name, _ in m.named_children()} for m in (model, without))
    # What is not used does not exist
    assert names_without == {'word_embeds', 'word_blstm', 'crf', 'dropout'}
    assert names - names_without == {
        'char_embeds', 'forw_char_lstm', 'back_char_lstm', 'forw_lm_hw', 'back_lm_hw',
        'subword_hw', 'forw_lm_out', 'back_lm_out'}
    assert model.word_blstm.input_size == 5 + 2 * 6 and model.word_blstm.hidden_size == 4
    m, vocabulary, shape = len(maps[2]), len(maps[0]), tuple(batch.wmaps.shape)
    assert [tuple(output.shape) for output in run(model, batch)] == [
        (*shape, m, m), (*shape, vocabulary), (*shape, vocabulary)]
    # The language models are for training alone
    assert run(model.eval(), batch)[1:] == (None, None)
    assert run(without.train(), batch)[1:] == (None, None)


def test_language_models_need_characters():
    with pytest.raises(ValueError, match='language models need the characters'):
        make_model(characters=False)


@pytest.mark.parametrize('configuration', CONFIGURATIONS)
def test_rows_stay_in_their_order_and_do_not_depend_on_one_another(configuration):
    model, _, batch = make_model(**configuration)
    model.eval()
    scores, _, _ = run(model, batch)
    for i, length in enumerate(batch.wmap_lengths.tolist()):
        alone, _, _ = run(model, Batch(*(tensor[[i]] for tensor in batch)).trim())
        assert torch.allclose(scores[i, :length], alone[0], atol=1e-6)


def test_without_tags():
    model, _, batch = make_model()
    model.eval()
    assert torch.equal(run(model, batch)[0], run(model, batch._replace(tmaps=None))[0])


def packed_everywhere(model, batch):
    """The model's scores with every LSTM on packed input, step by step as the tutorial does it."""
    def run_lstm(lstm, inputs, lengths):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]

    states = []
    for lstm, cmaps, cmarkers in ((model.forw_char_lstm, batch.cmaps_f, batch.cmarkers_f),
                                  (model.back_char_lstm, batch.cmaps_b, batch.cmarkers_b)):
        outputs = run_lstm(lstm, model.char_embeds(cmaps), batch.cmap_lengths)
        states.append(torch.stack([row[places] for row, places in zip(outputs, cmarkers)]))
    lm_f_scores = model.forw_lm_out(model.forw_lm_hw(states[0]))
    lm_b_scores = model.back_lm_out(model.back_lm_hw(states[1]))
    subword = model.subword_hw(torch.cat(states, dim=2))
    words = torch.cat((model.word_embeds(batch.wmaps), subword), dim=2)
    crf_scores = model.crf(run_lstm(model.word_blstm, words, batch.wmap_lengths))
    return crf_scores, lm_f_scores, lm_b_scores


@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize('same_length', [True, False])
def test_packed_and_dense_runs_are_equal(layers, same_length):
    sentences = [s for s in PEOPLE if len(s[0]) == 6] if same_length else PEOPLE
    model, _, batch = make_model(sentences=sentences, char_rnn_layers=layers,
                                 word_rnn_layers=layers)
    model.double()
    ours, packed = run(model, batch), packed_everywhere(model, batch)
    inside = torch.arange(batch.wmaps.size(1)) < batch.wmap_lengths.unsqueeze(1)
    for scores, expected in zip(ours, packed):
        assert torch.allclose(scores[inside], expected[inside])
    gradients = [torch.autograd.grad(all_losses(outputs, batch), list(model.parameters()))
                 for outputs in (ours, packed)]
    assert all(torch.allclose(a, b) for a, b in zip(*gradients))


@pytest.mark.parametrize('configuration', CONFIGURATIONS)
def test_each_configuration_learns(configuration):
    model, _, batch = make_model(**configuration)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(11):
        loss = all_losses(run(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[10] < losses[1]


def test_no_crf_is_a_softmax_over_each_word():
    model, maps, batch = make_model(**CONFIGURATIONS[3])
    assert not model.crf.transition.requires_grad
    model.crf.transition.data.zero_()
    scores, _, _ = run(model, batch)
    # All words but <end>, whose tag is given
    inside = torch.arange(batch.wmaps.size(1)) < batch.wmap_lengths.unsqueeze(1) - 1
    each = cross_entropy(scores[:, :, 0][inside], batch.tmaps[inside] % len(maps[2]),
                         reduction='sum')
    loss = ViterbiLoss(maps[2])(scores, batch.tmaps, batch.wmap_lengths)
    assert loss.item() == pytest.approx(each.item() / len(PEOPLE), rel=1e-5)


def test_language_models_predict_neighbors():
    # Of 5 words they know 1 and 2; 3 is <end> and 4 is <unk>, as are all from 5 on
    wmaps, lengths = torch.tensor([[1, 5, 2, 7, 3], [2, 3, 0, 0, 0]]), torch.tensor([5, 2])
    following, preceding = lm_targets(wmaps, lengths, lm_vocab_size=5)
    assert following.tolist() == [[4, 2, 4, 3, -100], [3, -100, -100, -100, -100]]
    assert preceding.tolist() == [[3, 1, 4, 2, -100], [3, -100, -100, -100, -100]]

    # Each loss is a mean over the 5 words that are predicted
    scores_f, scores_b = torch.randn(2, 2, 5, 5)
    log_p_f, log_p_b = scores_f.log_softmax(dim=2), scores_b.log_softmax(dim=2)
    places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    total = (sum(log_p_f[n, t, target] for (n, t), target in zip(places, (4, 2, 4, 3, 3)))
             + sum(log_p_b[n, t, target] for (n, t), target in zip(places, (3, 1, 4, 2, 3))))
    assert lm_loss(scores_f, scores_b, wmaps, lengths).item() == pytest.approx(-total.item() / 5)


def test_word_embeddings_are_frozen_or_fine_tuned():
    model, maps, batch = make_model()
    embeddings = torch.randn(len(maps[0]), 5)
    model.init_word_embeddings(embeddings)
    for fine_tune in (False, True):
        model.fine_tune_word_embeddings(fine_tune)
        run(model, batch)[0].sum().backward()
        assert (model.word_embeds.weight.grad is not None) == fine_tune
    assert torch.equal(model.word_embeds.weight, embeddings)


def go_on(state, emb_file=None):
    """A new run, which continues from the state of another if there is one, and its dataset."""
    loader, new = make_run('--ema', 0, '--lr', 0.5, emb_file=emb_file, checkpoint='here.pth.tar')
    if state is not None:
        new.load_state_dict(state)
    return new, loader.dataset


def test_training_only_the_rows_of_the_batch_is_training_all_of_them():
    """Sparse gradients make the same steps as dense ones, also if the other kind went before."""
    trained = []
    for emb_files, stops in (([None] * 8, False), (['vectors'] * 8, False), (['vectors'] * 8, True),
                             (['vectors', 'vectors', None, None] * 2, True)):
        state = None
        for step, emb_file in enumerate(emb_files):
            if step == 0 or stops:
                new, dataset = go_on(state, emb_file)
            new.optimizer.zero_grad()
            # Each step has a word that the others may lack
            crf_scores, lm_f_scores, _ = run(new.model, dataset[[step % len(PEOPLE)]])
            (crf_scores.pow(2).sum() + lm_f_scores.pow(2).sum()).backward()
            clip_gradient(new.optimizer, 0.02)
            assert new.model.word_embeds.weight.grad.is_sparse == (emb_file is not None)
            new.optimizer.step()
            state = new.state_dict()
        trained.append(state['model'])
    before = go_on(None)[0].model.word_embeds.weight
    assert not torch.allclose(trained[0]['word_embeds.weight'], before, atol=1e-2)
    for name, expected in trained[0].items():
        assert all(torch.allclose(other[name], expected, atol=1e-6) for other in trained[1:])


def test_a_checkpoint_of_another_model_is_refused_in_one_line():
    for others in (('--word_rnn_dim', 10), ('--no-characters', '--no-language_models')):
        with pytest.raises(InputError, match='^here.pth.tar: cannot be used: ') as error:
            go_on(make_run(*others)[1].state_dict())
        assert '\n' not in str(error.value) and len(str(error.value)) < 250
    state = make_run()[1].state_dict()
    del state['model']
    with pytest.raises(InputError, match="^here.pth.tar: cannot be used: 'model'$"):
        go_on(state)


def test_frozen_words_are_not_in_the_optimizer():
    _, new = make_run('--no-fine_tune_word_embeddings', emb_file='vectors')
    trained = {id(p) for group in new.optimizer.param_groups for p in group['params']}
    assert trained == {id(p) for name, p in new.model.named_parameters()
                       if name != 'word_embeds.weight'}


def test_dropout_is_where_the_paper_has_it():
    model, _, batch = make_model(dropout=0.4)
    sizes = []
    model.dropout.register_forward_hook(lambda _, inputs, output: sizes.append(output.size(2)))
    run(model, batch)
    # Word embeddings, characters twice, in and out of each language model's highway, in and out of
    # the sub-word highway, the BLSTM's output
    assert sorted(sizes) == sorted([5, 4, 4, 6, 6, 6, 6, 12, 12, 8])
    # The highways have their own between their layers
    for layer in (model, model.subword_hw, model.forw_lm_hw, model.back_lm_hw):
        assert layer.dropout.p == 0.4


# --- Batches ---

def test_dataset_and_its_trimmed_batches():
    _, _, batch = make_model()
    dataset = WCDataset(*batch)
    assert len(dataset) == len(PEOPLE)
    assert all(torch.equal(ours, given) for ours, given in zip(dataset.sentences, batch))
    # Two short sentences lose pads, and nothing else
    some = dataset[[3, 2]]
    assert some.wmaps.shape == some.cmarkers_b.shape == some.tmaps.shape == (2, 3)
    assert some.cmaps_f.shape == some.cmaps_b.shape == (2, 8)
    for field, whole, one in zip(some, batch, dataset[2]):
        assert int(field.sum()) == int(whole[[3, 2]].sum())
        assert torch.equal(one, whole[2])
        assert torch.equal(field[1], one[:field.size(1)] if one.dim() else one)
    untagged = WCDataset(*batch._replace(tmaps=None))
    assert untagged[2].tmaps is None and untagged[[2, 3]].tmaps is None


def test_a_long_sentence_pads_its_own_batch_alone():
    """A dataset of rows has as many numbers as its sentences need."""
    sentences = [(['x' * 98] * 100, ['O'] * 100), *PEOPLE]
    loader, _ = make_run(sentences=sentences)
    dataset, chars = loader.dataset, [len(' '.join(words)) + 2 for words, _ in sentences]
    assert chars[0] > 9_900
    for name in ('cmaps_f', 'cmaps_b'):
        assert sum(map(len, getattr(dataset.sentences, name))) == sum(chars)
    for i in range(1, len(sentences)):
        assert dataset[[i]].cmaps_f.shape == dataset[[i]].cmaps_b.shape == (1, chars[i])
        assert dataset[[i]].wmaps.shape == (1, len(sentences[i][0]) + 1)
    words, tags = zip(*sentences)
    tags = [convert_tags(row, 'iobes') for row in tags]
    maps = create_maps(words, tags, 1, 1)
    whole = create_input_tensors(words, tags, *maps)
    for rows in ([2, 1], [0, 3], [4]):
        expected = Batch(*(field[rows] for field in whole)).trim()
        assert all(torch.equal(a, b) for a, b in zip(dataset[rows], expected, strict=True))


def test_lengths_of_a_batch_stay_on_the_cpu():
    _, _, batch = make_model()
    moved = batch.to('meta')
    assert [tensor.device.type for tensor in moved] == ['meta'] * 6 + ['cpu'] * 2
    assert batch._replace(tmaps=None).to('meta').tmaps is None


@pytest.mark.parametrize('processes, batch_size', [(1, 10), (2, 5), (3, 4)])
def test_processes_share_the_batches(processes, batch_size):
    words, chars = torch.randint(2, 9, (41,)), torch.randint(9, 50, (41,))
    whole = list(SimilarLengthSampler(words, chars, batch_size * processes))
    samplers = [SimilarLengthSampler(words, chars, batch_size, 0, rank, processes)
                for rank in range(processes)]
    assert {len(sampler) for sampler in samplers} == {len(whole)}
    dealt = []
    for batch, *shares in zip(whole, *samplers, strict=True):
        # All processes have as many sentences, of the same batch
        assert len({len(share) for share in shares}) == 1 and len(shares[0]) <= batch_size
        together = [sentence for share in shares for sentence in share]
        assert set(together) == set(batch)
        dealt += together
    repeated = -41 % processes
    assert set(dealt) == set(range(41)) and len(dealt) == 41 + repeated
    assert sum(dealt.count(i) > 1 for i in range(41)) == min(repeated, 1)


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
