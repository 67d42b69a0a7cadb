"""What packing padded sequences does, shown by running it.

    python dynamic_rnn.py

An LSTM takes a batch as a rectangle, but sentences have different lengths. This script pads three
of them, packs them, runs layers over both, and checks what it shows.
"""

import textwrap

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from utils import run_main


def say(text, value=None):
    """Print a paragraph and, below it, a value."""
    print('\n' + textwrap.fill(text, width=80))
    if value is not None:
        print(textwrap.indent(str(value), '    '))


def main(_):
    """Show it all on one small batch."""
    torch.manual_seed(0)
    sentences = [[5, 2, 7, 3, 1], [4, 6, 8], [9, 1]]
    lengths = torch.tensor([len(sentence) for sentence in sentences])

    padded = pad_sequence([torch.tensor(sentence) for sentence in sentences], batch_first=True)
    pads = int((padded == 0).sum())
    say('Padding: a row for each sentence, a number for each word, 0 where there is none, in '
        f'{pads} of {padded.numel()} places. An LSTM that reads them wastes its time.', padded)

    packed = pack_padded_sequence(padded, lengths, batch_first=True)
    columns = [padded[:size, t] for t, size in enumerate(packed.batch_sizes)]
    assert torch.equal(packed.data, torch.cat(columns))
    say('Packing: one strip, column after column, without the pads. The rows are sorted, the '
        'longest first, so the sentences still running at a step are the top rows.', packed.data)
    say('The effective batch size: how many sentences still run at a step.', packed.batch_sizes)

    again, lengths_again = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(again, padded) and torch.equal(lengths_again, lengths)
    say('Padding again: pad_packed_sequence returns the rectangle and the lengths.', lengths_again)

    embed = nn.Embedding(10, 4)
    lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    on_padded, _ = lstm(embed(padded))
    outputs, _ = lstm(pack_padded_sequence(embed(padded), lengths, batch_first=True))
    on_packed, _ = pad_packed_sequence(outputs, batch_first=True)
    difference = (on_padded - on_packed).abs()[padded > 0]
    forward, backward = difference[:, :3].max(), difference[:, 3:].max()
    assert forward < 1e-6 and backward > 1e-2
    say('A bidirectional LSTM is two LSTMs. The one from left to right gives the same outputs at '
        f'the words, padded or packed (largest difference {forward:.0e}). The pads come after the '
        'last word, and a step never sees the steps after it. This is why our character LSTMs may '
        'read the pads, too: dense input is faster than packed input by more than the pads cost.')
    say('The one from right to left meets the pads first (largest difference '
        f'{backward:.2f}). This is why our word BiLSTM packs its input, unless all sentences have '
        'the same length.')


if __name__ == '__main__':
    run_main(main)
