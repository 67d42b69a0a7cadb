"""The model of LM-LSTM-CRF (Liu et al., 2018, arXiv 1709.04109), layer by layer.

    model = LM_LSTM_CRF(tagset_size=5, charset_size=20, char_emb_dim=30, char_rnn_dim=300,
                        char_rnn_layers=1, vocab_size=100, lm_vocab_size=100, word_emb_dim=100,
                        word_rnn_dim=300, word_rnn_layers=1, dropout=0.5)
    scores = model(*inputs)[0]
    loss = ViterbiLoss(tag_map)(scores, tmaps, wmap_lengths)

In the shapes, N is the number of sentences, L_w and L_c the padded numbers of words and of
characters, m the number of tags. The running example is `dunston checks in`.
"""

import torch
from torch import nn
from torch.backends import mkldnn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from utils import init_embedding, log_sum_exp


class Dropout(nn.Dropout):
    """nn.Dropout, which on a CPU draws its random numbers all at once: three times as fast."""

    def forward(self, x):
        """Set each value to 0 with probability p, else scale it by 1 / (1 - p)."""
        if not self.training or x.is_cuda or self.p in (0, 1):
            return super().forward(x)
        return x * torch.empty_like(x).uniform_().ge_(self.p).div_(1 - self.p)


class WideLinear(nn.Linear):
    """nn.Linear for thousands of outputs, which on a CPU oneDNN multiplies faster than MKL."""

    def forward(self, x):
        """(..., in_features) -> (..., out_features)."""
        # For fewer outputs the copies to and from oneDNN's tensors cost more than they save
        if (self.out_features < 1000 or x.device.type != 'cpu' or x.dtype != torch.float32
                or not mkldnn.is_available()):
            return super().forward(x)
        return nn.functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


class Highway(nn.Module):
    """Highway network: a gate decides how much of the input is transformed, the rest passes.

    Args:
        size: size of the input and so of the output, which are added.
        num_layers: number of transform and gate layers.
        dropout: between the layers.
    """

    def __init__(self, size, num_layers=1, dropout=0.5):
        super().__init__()
        self.transform = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))
        self.gate = nn.ModuleList(nn.Linear(size, size) for _ in range(num_layers))
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """(..., size) -> (..., size)."""
        for i, (transform, gate) in enumerate(zip(self.transform, self.gate)):
            x = x if i == 0 else self.dropout(x)
            g = torch.sigmoid(gate(x))
            x = g * torch.relu(transform(x)) + (1 - g) * x
        return x


class CRF(nn.Module):
    """Conditional random field: scores each tag of each word, given the tag before it.

    Args:
        hidden_dim: size of the features of a word.
        tagset_size: m, with <start> and <end>.
    """

    def __init__(self, hidden_dim, tagset_size):
        super().__init__()
        self.emission = nn.Linear(hidden_dim, tagset_size)
        self.transition = nn.Parameter(torch.zeros(tagset_size, tagset_size))

    def forward(self, features):
        """Score every pair of neighbouring tags.

        Args:
            features: (N, L_w, hidden_dim).

        Returns:
            (N, L_w, m, m); [n, t, i, j] scores tag j at word t after tag i.
        """
        # The emission score of a tag is the same after any tag, the transition score at any word
        # (N, L_w, 1, m) + (m, m) -> (N, L_w, m, m)
        return self.emission(features).unsqueeze(2) + self.transition


class LM_LSTM_CRF(nn.Module):
    """A word BiLSTM and a CRF that share character LSTMs with two language models (paper: 3).

    Args:
        tagset_size: m, with <start> and <end>.
        charset_size: number of characters, with the special ones.
        char_emb_dim, char_rnn_dim, char_rnn_layers: sizes of the character embeddings and LSTMs.
        vocab_size: number of words that have an embedding.
        lm_vocab_size: number of words that the language models predict.
        word_emb_dim, word_rnn_layers: sizes of the word embeddings and LSTM.
        word_rnn_dim: size of the word LSTM's output, half of it from each direction.
        dropout: probability.
        highway_layers: layers of each highway network.
        language_models, characters, crf: the model without the first is a BiLSTM-CRF with
            characters, without the first two a BiLSTM-CRF, without all three a BiLSTM. A module
            that is not used does not exist. Without a CRF its transition scores are held at zero.
    """

    def __init__(self, tagset_size, charset_size, char_emb_dim, char_rnn_dim, char_rnn_layers,
                 vocab_size, lm_vocab_size, word_emb_dim, word_rnn_dim, word_rnn_layers, dropout,
                 highway_layers=1, language_models=True, characters=True, crf=True):
        super().__init__()
        if language_models and not characters:
            raise ValueError('the language models need the characters')
        self.characters, self.language_models = characters, language_models
        self.dropout = Dropout(dropout)
        features = word_emb_dim

        if characters:
            features += 2 * char_rnn_dim
            between_layers = dropout if char_rnn_layers > 1 else 0
            self.char_embeds = nn.Embedding(charset_size, char_emb_dim)
            init_embedding(self.char_embeds.weight)
            self.forw_char_lstm, self.back_char_lstm = (
                nn.LSTM(char_emb_dim, char_rnn_dim, num_layers=char_rnn_layers,
                        dropout=between_layers, batch_first=True) for _ in range(2))
            self.subword_hw = Highway(2 * char_rnn_dim, highway_layers, dropout)
        if language_models:
            self.forw_lm_hw = Highway(char_rnn_dim, highway_layers, dropout)
            self.back_lm_hw = Highway(char_rnn_dim, highway_layers, dropout)
            self.forw_lm_out = WideLinear(char_rnn_dim, lm_vocab_size)
            self.back_lm_out = WideLinear(char_rnn_dim, lm_vocab_size)

        self.word_embeds = nn.Embedding(vocab_size, word_emb_dim)
        init_embedding(self.word_embeds.weight)
        self.word_blstm = nn.LSTM(features, word_rnn_dim // 2, num_layers=word_rnn_layers,
                                  dropout=dropout if word_rnn_layers > 1 else 0,
                                  bidirectional=True, batch_first=True)
        self.crf = CRF(2 * (word_rnn_dim // 2), tagset_size)
        self.crf.transition.requires_grad_(crf)

    def init_word_embeddings(self, embeddings):
        """Use pre-trained word embeddings, (vocab_size, word_emb_dim)."""
        self.word_embeds.weight = nn.Parameter(embeddings)

    def fine_tune_word_embeddings(self, fine_tune=False):
        """Let training change the word embeddings, or keep them as they are."""
        self.word_embeds.weight.requires_grad_(fine_tune)

    def forward(self, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, wmaps, tmaps,
                wmap_lengths, cmap_lengths):
        """Score the tags and, in training, the words that the language models predict.

        Args:
            cmaps_f, cmaps_b: characters, (N, L_c).
            cmarkers_f, cmarkers_b: the words' places among them, (N, L_w).
            wmaps, tmaps: words and, unless None, unrolled tags, (N, L_w).
            wmap_lengths, cmap_lengths: numbers of words and characters, with <end>, (N,).

        Returns:
            crf_scores (N, L_w, m, m); in training, lm_f_scores and lm_b_scores (N, L_w,
            lm_vocab_size), None without language models; wmaps, tmaps and wmap_lengths; and
            word_sort_ind and char_sort_ind, (N,). The rows come sorted by decreasing number of
            words and, among equals, of characters: row n was char_sort_ind[word_sort_ind[n]].
        """
        # Both sorts keep the order of rows of the same length
        cmap_lengths, char_sort_ind = cmap_lengths.sort(descending=True, stable=True)
        wmap_lengths, word_sort_ind = wmap_lengths[char_sort_ind].sort(descending=True, stable=True)
        by_chars, by_words = (order.to(wmaps.device, non_blocking=True)
                              for order in (char_sort_ind, word_sort_ind))
        wmaps, tmaps = (None if x is None else x[by_chars][by_words] for x in (wmaps, tmaps))

        # (N, L_w, word_emb_dim)
        features = self.dropout(self.word_embeds(wmaps))
        lm_scores = (None, None)
        if self.characters:
            # The states at [7, 14, 17, 18] have read 'dunston ', 'dunston checks ' and so on; those
            # at [17, 9, 2, 18] of the other LSTM all from the right end to 'd', 'c' and 'i'
            # (N, L_w, char_rnn_dim) twice
            forward, backward = (
                self.read_chars(lstm, cmaps[by_chars], cmarkers[by_chars])[by_words]
                for lstm, cmaps, cmarkers in ((self.forw_char_lstm, cmaps_f, cmarkers_f),
                                              (self.back_char_lstm, cmaps_b, cmarkers_b)))
            if self.training and self.language_models:
                # (N, L_w, lm_vocab_size) twice
                lm_scores = (self.predict_words(forward, self.forw_lm_hw, self.forw_lm_out),
                             self.predict_words(backward, self.back_lm_hw, self.back_lm_out))
            # (N, L_w, 2 * char_rnn_dim)
            subword = self.subword_hw(self.dropout(torch.cat((forward, backward), dim=2)))
            # (N, L_w, word_emb_dim + 2 * char_rnn_dim)
            features = torch.cat((features, self.dropout(subword)), dim=2)

        # (N, L_w, word_rnn_dim) -> (N, L_w, m, m)
        crf_scores = self.crf(self.dropout(self.read_words(features, wmap_lengths)))
        return (crf_scores, *(lm_scores if self.training else ()), wmaps, tmaps, wmap_lengths,
                word_sort_ind, char_sort_ind)

    def read_chars(self, lstm, cmaps, cmarkers):
        """Run a character LSTM over (N, L_c) and gather its outputs at the markers, (N, L_w).

        It runs over the pads too, which is faster than packing and does no harm: they come after
        the last marker, and a step of a one-directional LSTM never sees those after it.
        """
        groups = [(cmaps, cmarkers)]
        if not cmaps.is_cuda:
            # 16 rows keep a CPU core busy and, being of similar length, have few pads among them
            groups = [(chars[:, :markers.max() + 1], markers)
                      for chars, markers in zip(cmaps.split(16), cmarkers.split(16))]
        features = []
        for chars, markers in groups:
            # (up to 16, L_c, char_rnn_dim)
            outputs, _ = lstm(self.dropout(self.char_embeds(chars)))
            # (up to 16, L_w, char_rnn_dim), the same marker for each feature
            features.append(outputs.gather(1, markers.unsqueeze(2).expand(-1, -1, outputs.size(2))))
        return torch.cat(features)

    def predict_words(self, features, highway, output):
        """Score the words of the vocabulary: (N, L_w, char_rnn_dim) -> (N, L_w, lm_vocab_size)."""
        return output(self.dropout(highway(self.dropout(features))))

    def read_words(self, features, wmap_lengths):
        """Run the word BLSTM: (N, L_w, features) -> (N, L_w, word_rnn_dim).

        Its backward half begins at the right end, where pads would do harm, so that sentences of
        different lengths, which come sorted, are packed.
        """
        if wmap_lengths[0] == wmap_lengths[-1] == features.size(1):
            return self.word_blstm(features)[0]
        packed = pack_padded_sequence(features, wmap_lengths.cpu(), batch_first=True)
        outputs, _ = self.word_blstm(packed)
        return pad_packed_sequence(outputs, batch_first=True, total_length=features.size(1))[0]


class ViterbiLoss(nn.Module):
    """Negative log likelihood of the gold tags under a CRF (paper: equations 3, 4).

    It is log Z, the log-sum-exp of the scores of all tag sequences from <start> to <end>, which the
    forward algorithm finds word by word, minus the score of the gold sequence.

    Args:
        tag_map: from create_maps.
    """

    def __init__(self, tag_map):
        super().__init__()
        self.start, self.end = tag_map['<start>'], tag_map['<end>']

    def forward(self, scores, targets, lengths):
        """The mean loss of N sentences, in any order.

        Args:
            scores: from the CRF, (N, L_w, m, m).
            targets: unrolled gold tags, previous * m + current, (N, L_w).
            lengths: numbers of words, with <end>, (N,).
        """
        # (L_w, N, 1), whether a word is there or only a pad
        steps = torch.arange(scores.size(1)).unsqueeze(1)
        inside = (steps < lengths.cpu()).unsqueeze(2).to(scores.device, non_blocking=True)

        # The scores of the gold tags: 4.85 + 6.79 + 3.85 + 3.52 = 19.01
        # (N, L_w, m, m) -> (N, L_w, m * m) -> (N, L_w)
        gold = scores.flatten(2).gather(2, targets.unsqueeze(2)).squeeze(2)
        gold_score = gold.masked_fill(~inside.squeeze(2).t(), 0).sum()

        # cumulative[n, j] is the log-sum-exp of all sequences so far that end in tag j
        # The tag before the first word is <start>
        # (N, m)
        cumulative = scores[:, 0, self.start]
        for t in range(1, scores.size(1)):
            # (N, m, 1) + (N, m, m) -> (N, m), over the previous tags
            longer = log_sum_exp(cumulative.unsqueeze(2) + scores[:, t], dim=1)
            cumulative = torch.where(inside[t], longer, cumulative)
        # The last tag is <end>
        return (cumulative[:, self.end].sum() - gold_score) / scores.size(0)
