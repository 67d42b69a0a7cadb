"""What packing a padded sequence does, shown by running it.

    python dynamic_rnn.py

An LSTM takes a batch as a rectangle, but sentences have different lengths. This script pads three
of them, packs them, runs an LSTM over both, and checks each thing that it says.
"""

import textwrap

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


def say(text, value=None):
    """Print a paragraph and, below it, a value."""
    print('\n' + textwrap.fill(text, width=80))
    if value is not None:
        print(textwrap.indent(str(value), '    '))


def pad(sentences):
    """Lay sentences out as the rows of one tensor, filled up with 0.

    Args:
        sentences: N lists of positive ints, the longest first.

    Returns:
        (N, L) LongTensor and (N,) lengths.
    """
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    padded = pad_sequence([torch.tensor(s) for s in sentences], batch_first=True)
    say('Padding: a row for each sentence, a number for each word, 0 where there is none.', padded)
    assert (padded == 0).sum() == padded.numel() - lengths.sum()
    say(f'{int((padded == 0).sum())} of {padded.numel()} places are pads. An LSTM that reads them '
        'does work for nothing.')
    return padded, lengths


def pack(padded, lengths):
    """Pack a padded batch, (N, L) with lengths (N,), and show what is in the packed one."""
    packed = pack_padded_sequence(padded, lengths, batch_first=True)
    say('Packing: the columns one after the other, without their pads. Since the rows are sorted, '
        'longest first, the sentences that go on at a step are always the first rows.', packed.data)
    say('The effective batch size N_t: the number of sentences that have a word at step t.',
        packed.batch_sizes)
    columns = [padded[:size, t] for t, size in enumerate(packed.batch_sizes.tolist())]
    assert torch.equal(packed.data, torch.cat(columns))
    return packed


def pad_again(packed, padded):
    """Undo the packing and show that nothing is lost."""
    again, lengths = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(again, padded)
    say('Padding again: pad_packed_sequence gives back the rectangle, and the lengths.', lengths)


def run_linear(padded, packed):
    """Show that a layer without a notion of time runs on the packed data alone."""
    embed, linear = nn.Embedding(10, 4, padding_idx=0), nn.Linear(4, 2)
    on_packed = packed._replace(data=linear(embed(packed.data)))
    on_padded = linear(embed(padded))
    again, lengths = pad_packed_sequence(on_packed, batch_first=True)
    inside = torch.arange(padded.size(1)) < lengths.unsqueeze(1)
    assert torch.allclose(again[inside], on_padded[inside])
    say('A linear layer treats each word by itself. Run on packed.data, it does '
        f'{len(packed.data)} words instead of {padded.numel()}.')


def run_lstm(padded, lengths, bidirectional):
    """Run an LSTM over the padded and over the packed batch and compare the outputs.

    Returns:
        The largest difference at the words, of the forward half and of the rest of the output.
    """
    embed = nn.Embedding(10, 4)
    lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=bidirectional)
    dense, _ = lstm(embed(padded))
    packed = pack_padded_sequence(embed(padded), lengths, batch_first=True)
    sparse, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True)
    inside = torch.arange(padded.size(1)) < lengths.unsqueeze(1)
    # (N, L, 3 or 6), the first 3 from left to right
    difference = (dense - sparse).abs()[inside]
    return difference[:, :3].max().item(), difference[:, 3:].max().item() if bidirectional else 0.0


def main():
    """Show it all on one small batch."""
    torch.manual_seed(0)
    padded, lengths = pad([[5, 2, 7, 3, 1], [4, 6, 8], [9, 1]])
    packed = pack(padded, lengths)
    pad_again(packed, padded)
    run_linear(padded, packed)

    forward, _ = run_lstm(padded, lengths, bidirectional=False)
    assert forward < 1e-6
    say('An LSTM from left to right gives the same outputs at the words, padded or packed (largest '
        f'difference {forward:.0e}): the pads come after the last word, and a step never sees the '
        'steps after it. That is why our character LSTMs read the pads too, and gather their '
        'outputs at the words afterwards: dense input is faster than packed input by more than the '
        'pads cost.')

    forward, backward = run_lstm(padded, lengths, bidirectional=True)
    assert forward < 1e-6 < 1e-2 < backward
    say('In a bidirectional LSTM the half from right to left meets the pads first (largest '
        f'difference {backward:.2f}; the other half: {forward:.0e}). That is why our word LSTM '
        'packs its input, unless all sentences of the batch have the same length.')


if __name__ == '__main__':
    main()
