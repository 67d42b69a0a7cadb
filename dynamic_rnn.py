"""What packing padded sequences does, shown by running it.

    python dynamic_rnn.py
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from utils import run_main

def main(_):
    """Pad three sentences, pack them, and run an LSTM over both."""
    torch.manual_seed(0)
    sentences = [torch.tensor([5, 2, 7, 3, 1]), torch.tensor([4, 6, 8]), torch.tensor([9, 1])]
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    padded = pad_sequence(sentences, batch_first=True)
    print('Padding: a row for each sentence, a number for each word, 0 where there is none,\n'
          'in 5 of 15 places. An LSTM would waste its time on those.', padded, sep='\n')
    packed = pack_padded_sequence(padded, lengths, batch_first=True)
    print('\nPacking: one strip, column after column, without the pads. Rows are sorted, longest\n'
          'first, so that those still running at a step are the top ones.', packed.data, sep='\n')
    print('The effective batch size, how many sentences still run:', packed.batch_sizes, sep='\n')
    again, lengths_again = pad_packed_sequence(packed, batch_first=True)
    print('\nPadding again: the rectangle, and the lengths.', again, lengths_again, sep='\n')
    embed, lstm = nn.Embedding(10, 4), nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    on_padded, _ = lstm(embed(padded))
    outputs, _ = lstm(pack_padded_sequence(embed(padded), lengths, batch_first=True))
    on_packed, _ = pad_packed_sequence(outputs, batch_first=True)
    halves = (on_padded - on_packed).abs()[padded > 0].split(3, dim=1)
    forward, backward = map(torch.max, halves)
    print('\nA BiLSTM is two LSTMs. From left to right, the outputs at the words are\n'
          f'the same, padded or packed (largest difference {forward:.0e}): a step never sees\n'
          'the steps after it. So our character LSTMs may read the pads: faster than packing.\n'
          f'From right to left, the pads come first (largest difference {backward:.2f}). So our\n'
          'word BiLSTM packs its input, unless all sentences have the same length.')

if __name__ == '__main__':
    run_main(main)
