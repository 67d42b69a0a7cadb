"""The model of LM-LSTM-CRF (Liu et al., 2018, arXiv 1709.04109), layer by layer, and its losses.

    crf_scores, lm_f_scores, lm_b_scores = model(**batch._asdict())
    loss = viterbi_loss(crf_scores, batch.tmaps, batch.wmap_lengths)
    loss = loss + lm_loss(lm_f_scores, lm_b_scores, batch.wmaps, batch.wmap_lengths)

N is the number of sentences, L_w and L_c are the padded numbers of words and characters, with
<end>, and m is the number of tags, with <start> and <end>. `dunston checks in` is a film's title.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from utils import check_shapes, init_embedding, log_sum_exp, real_words

class Highway(nn.Module):
    """Highway network (Srivastava et al., 2015): a gate mixes the input with a transform of it."""
    def __init__(self, size, num_layers=1, dropout=0.5):
        super().__init__()
        self.transform = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))
        self.gate = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """(..., size) -> (..., size)."""
        for i, (transform, gate) in enumerate(zip(self.transform, self.gate)):
            if i > 0:
                x = self.dropout(x)
            g = torch.sigmoid(gate(x))
            x = g * torch.relu(transform(x)) + (1 - g) * x
        return x

class CRF(nn.Module):
    """The scores of a conditional random field: how does a tag fit a word and the tag before?

    Any encoder's features will do. Each sentence needs one place more behind its words, <end>'s.
    """
    def __init__(self, hidden_dim, tagset_size):
        super().__init__()
        self.emission = nn.Linear(hidden_dim, tagset_size)
        self.transition = nn.Parameter(torch.zeros(tagset_size, tagset_size))

    def forward(self, features):
        """(N, L_w, hidden_dim) -> (N, L_w, m, m): [n, t, i, j] is tag j's score after tag i."""
        # Emission scores are the same after any previous tag: (N, L_w, m) -> (N, L_w, 1, m)
        emission = self.emission(features).unsqueeze(2)
        # Transition scores are the same at any word: (N, L_w, 1, m) + (m, m) -> (N, L_w, m, m)
        return emission + self.transition

class LM_LSTM_CRF(nn.Module):
    """A word BiLSTM and a CRF that share character LSTMs with two language models (section 3).

    Args:
        tagset_size, charset_size, vocab_size: sizes of tag_map (m), char_map and word_map.
        lm_vocab_size: number of words that the language models choose from.
        char_..., word_...: sizes and numbers of layers; word_rnn_dim, of both directions, is even.
        dropout, highway_layers: a probability; the number of layers of each highway network.
        language_models, characters, crf: False leaves the part out, as in README.md's (a), (b) and
            (c). Without CRF, the transitions stay at 0: the loss is the words' cross entropies.
    """
    def __init__(self, tagset_size, charset_size, char_emb_dim, char_rnn_dim, char_rnn_layers,
                 vocab_size, lm_vocab_size, word_emb_dim, word_rnn_dim, word_rnn_layers, dropout,
                 highway_layers=1, language_models=True, characters=True, crf=True):
        super().__init__()
        if language_models and not characters:
            raise ValueError('the language models need the characters')
        self.language_models, self.characters = language_models, characters
        self.dropout = nn.Dropout(dropout)
        feature_dim = word_emb_dim

        if characters:
            self.char_embeds = nn.Embedding(charset_size, char_emb_dim)
            init_embedding(self.char_embeds.weight)
            # nn.LSTM has dropout between its layers, and warns if there is only one
            options = {'num_layers': char_rnn_layers, 'batch_first': True,
                       'dropout': dropout if char_rnn_layers > 1 else 0}
            self.forw_char_lstm = nn.LSTM(char_emb_dim, char_rnn_dim, **options)
            self.back_char_lstm = nn.LSTM(char_emb_dim, char_rnn_dim, **options)
            self.subword_hw = Highway(2 * char_rnn_dim, highway_layers, dropout)
            feature_dim = word_emb_dim + 2 * char_rnn_dim
        if language_models:
            self.forw_lm_hw = Highway(char_rnn_dim, highway_layers, dropout)
            self.back_lm_hw = Highway(char_rnn_dim, highway_layers, dropout)
            self.forw_lm_out = nn.Linear(char_rnn_dim, lm_vocab_size)
            self.back_lm_out = nn.Linear(char_rnn_dim, lm_vocab_size)

        self.word_embeds = nn.Embedding(vocab_size, word_emb_dim)
        init_embedding(self.word_embeds.weight)
        self.word_blstm = nn.LSTM(feature_dim, word_rnn_dim // 2, num_layers=word_rnn_layers,
                                  dropout=dropout if word_rnn_layers > 1 else 0,
                                  bidirectional=True, batch_first=True)
        self.crf = CRF(2 * (word_rnn_dim // 2), tagset_size)
        self.crf.transition.requires_grad_(crf)

    def init_word_embeddings(self, embeddings):
        """Use pre-trained vectors, (vocab_size, word_emb_dim)."""
        self.word_embeds.weight = nn.Parameter(embeddings)

    def fine_tune_word_embeddings(self, fine_tune=False):
        """Let training change the word embeddings, or keep them as they are."""
        self.word_embeds.weight.requires_grad_(fine_tune)

    def forward(self, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, wmaps, tmaps,
                wmap_lengths, cmap_lengths):
        """Score the tags and, in training, the words that the language models predict.

        The arguments are a Batch's fields (datasets.py); tmaps and cmap_lengths are not used.
        Returns crf_scores (N, L_w, m, m); and lm_f_scores and lm_b_scores (N, L_w, lm_vocab_size),
        which are None in evaluation and without language models.
        """
        # Words: (N, L_w, word_emb_dim)
        features = self.dropout(self.word_embeds(wmaps))
        lm_f_scores, lm_b_scores = None, None

        if self.characters:
            # Characters: the states at the markers, the space after each word, and <end>. At
            # [7, 14, 17, 18] the forward LSTM has read 'dunston ', 'dunston checks ', ...; at
            # [17, 9, 2, 18] the other one 'ni skcehc notsnud ', ...: (N, L_w, char_rnn_dim)
            states_f = self.read_chars(self.forw_char_lstm, cmaps_f, cmarkers_f)
            states_b = self.read_chars(self.back_char_lstm, cmaps_b, cmarkers_b)
            # Language models predict the next and the previous word: (N, L_w, lm_vocab_size)
            if self.training and self.language_models:
                lm_f_scores = self.predict_words(states_f, self.forw_lm_hw, self.forw_lm_out)
                lm_b_scores = self.predict_words(states_b, self.back_lm_hw, self.back_lm_out)
            # Both states pass the third highway and join the words: (N, L_w, feature_dim)
            subword = self.subword_hw(self.dropout(torch.cat((states_f, states_b), dim=2)))
            features = torch.cat((features, self.dropout(subword)), dim=2)

        # The word BiLSTM puts each word into its context: (N, L_w, word_rnn_dim)
        context = self.dropout(self.read_words(features, wmap_lengths))
        # The CRF scores each tag after each tag: (N, L_w, m, m)
        return self.crf(context), lm_f_scores, lm_b_scores

    def read_chars(self, lstm, cmaps, cmarkers):
        """Run a character LSTM over (N, L_c) and take its states at the markers, (N, L_w).

        It reads the pads, too: packing would be slower, and they do no harm, since both LSTMs run
        from left to right (one over reversed text) and meet the pads after the last marker.
        """
        # (N, L_c, char_rnn_dim)
        states, _ = lstm(self.dropout(self.char_embeds(cmaps)))
        # gather wants an index for each of the char_rnn_dim values: (N, L_w, char_rnn_dim)
        return states.gather(1, cmarkers.unsqueeze(2).expand(-1, -1, states.size(2)))

    def predict_words(self, states, highway, output):
        """(N, L_w, char_rnn_dim) -> scores of all words, (N, L_w, lm_vocab_size)."""
        return output(self.dropout(highway(self.dropout(states))))

    def read_words(self, features, wmap_lengths):
        """Run the word BiLSTM: (N, L_w, feature_dim) -> (N, L_w, word_rnn_dim).

        Its backward half begins at the right end, where pads would do harm. So it needs a packed
        batch, whose rows are sorted, longest first, unless all sentences have the same length.
        """
        if wmap_lengths.min() == features.size(1):
            return self.word_blstm(features)[0]
        lengths, order = wmap_lengths.sort(descending=True)
        order = order.to(features.device, non_blocking=True)
        packed = pack_padded_sequence(features[order], lengths, batch_first=True)
        outputs, _ = self.word_blstm(packed)
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=features.size(1))
        return padded[order.argsort()]

class ViterbiLoss(nn.Module):
    """Negative log likelihood under a CRF: log Z - the gold sequence's score (paper, equation 4).

    A sequence's score is the sum of its scores[n, t, previous, current]. Z sums up exp(score) over
    all sequences from <start> to <end>, also illegal ones. (Viterbi's algorithm is not used.)
    """
    def __init__(self, tag_map):
        super().__init__()
        self.start, self.end = tag_map['<start>'], tag_map['<end>']

    def forward(self, scores, targets, lengths):
        """Compute the mean loss of N sentences from the CRF's scores, (N, L_w, m, m).

        Targets are the gold tags' cells, previous * m + current, (N, L_w); lengths are numbers of
        words, with <end>, (N,), on the CPU.
        """
        check_shapes(scores, lengths, self.end + 1, targets)
        # Which places hold a word or <end>, and not a pad: (N, L_w)
        real = real_words(lengths, scores.size(1), scores.device)
        # The gold sequence: 1 + 4 + 2 + 0 = 7 in README.md's example
        # (N, L_w, m, m) -> (N, L_w, m * m) -> (N, L_w) -> (N,)
        gold_scores = scores.flatten(2).gather(2, targets.unsqueeze(2)).squeeze(2)
        gold_score = gold_scores.masked_fill(~real, 0).sum(dim=1)
        # Word by word, (N, m, m); each scores[:, t] would have a gradient as large as all scores
        at_word = scores.unbind(dim=1)
        # All sequences, by the forward algorithm: cumulative[n, j] is the log-sum-exp of the scores
        # of all sequences up to word t that end in tag j. Before the first word is <start>: (N, m)
        cumulative = at_word[0][:, self.start]
        for t in range(1, len(at_word)):
            # The current tags of the last step are the previous tags of this one, so they must run
            # down the rows: (N, m, 1) + (N, m, m) -> (N, m)
            extended = log_sum_exp(cumulative.unsqueeze(2) + at_word[t], dim=1)
            # A sentence that is over keeps its sums
            cumulative = torch.where(real[:, t].unsqueeze(1), extended, cumulative)
        log_z = cumulative[:, self.end]  # the last tag is <end>
        return (log_z - gold_score).mean()  # 7.6657 - 7 = 0.6657 in the example

def lm_targets(wmaps, wmap_lengths, lm_vocab_size):
    """Find what the language models have to predict at each word: the next or the previous word.

    dunston -> checks, checks -> in, in -> <end>; and in -> checks, checks -> dunston, dunston ->
    <end>. Words numbered lm_vocab_size and up are <unk> as targets. Both are (N, L_w) and, at <end>
    and at the pads, -100, which the loss ignores.
    """
    # In word_map, <end> and <unk> follow the frequent words; the vector file's come after them
    end_word, unknown_word = lm_vocab_size - 2, lm_vocab_size - 1
    words = torch.where(wmaps < lm_vocab_size, wmaps, unknown_word)
    # From dunston checks in <end>: 'checks in <end> <pad>' and '<end> dunston checks in'
    following = nn.functional.pad(words[:, 1:], (0, 1))
    preceding = nn.functional.pad(words[:, :-1], (1, 0), value=end_word)
    # At each word: where the next place is another word, or <end>, and not a pad
    is_word = real_words(wmap_lengths, wmaps.size(1) + 1, wmaps.device)[:, 1:]
    return following.masked_fill(~is_word, -100), preceding.masked_fill(~is_word, -100)

def lm_loss(lm_f_scores, lm_b_scores, wmaps, wmap_lengths):
    """Add up the mean cross entropies of predicted words; scores are (N, L_w, lm_vocab_size)."""
    following, preceding = lm_targets(wmaps, wmap_lengths, lm_f_scores.size(2))
    forward_loss = nn.functional.cross_entropy(lm_f_scores.flatten(0, 1), following.flatten())
    backward_loss = nn.functional.cross_entropy(lm_b_scores.flatten(0, 1), preceding.flatten())
    return forward_loss + backward_loss
