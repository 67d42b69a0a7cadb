"""Sentences as tensors, and batches of sentences of similar length.

    dataset = WCDataset(*create_input_tensors(words, tags, word_map, char_map, tag_map))
    sampler = SimilarLengthSampler(*dataset.sentences[-2:], batch_size=10)  # the two lengths
    for batch in DataLoader(dataset, batch_size=None, sampler=sampler):     # the sampler's batches
        batch = batch.to('cuda')
"""

import math
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

class Batch(NamedTuple):
    """The eight LongTensors of N sentences.

    L_w is the largest number of words, with <end>; L_c the largest number of characters, with a
    space after each word and <end>. Shorter sentences are filled up with 0: the pads.
    """
    wmaps: torch.Tensor                 # (N, L_w) words, as word_map numbers them
    cmaps_f: torch.Tensor               # (N, L_c) characters, by char_map, read forward
    cmaps_b: torch.Tensor               # (N, L_c) characters, read backward
    cmarkers_f: torch.Tensor            # (N, L_w) markers: the spaces after words, and <end>
    cmarkers_b: torch.Tensor            # (N, L_w) markers in cmaps_b, in the order of the words
    tmaps: torch.Tensor | None          # (N, L_w) tags as cells, previous * m + current, or None
    wmap_lengths: torch.Tensor          # (N,) number of words, with <end>
    cmap_lengths: torch.Tensor          # (N,) number of characters, with spaces and <end>

    def trim(self):
        """Cut off the pads that no sentence needs: every layer would spend time on them."""
        words, chars = self.wmap_lengths.max(), self.cmap_lengths.max()
        sizes = words, chars, chars, words, words, words
        cut = [field if field is None else field[:, :size] for field, size in zip(self[:6], sizes)]
        return Batch(*cut, self.wmap_lengths, self.cmap_lengths)

    def to(self, device):
        """Move all but the two lengths: trimming and packing need those on the CPU."""
        # A GPU is not waited for, if a DataLoader has pinned the tensors
        moved = [one if one is None else one.to(device, non_blocking=True) for one in self[:6]]
        return Batch(*moved, self.wmap_lengths, self.cmap_lengths)

def make_batch(sentences):
    """Put sentences, whose fields are rows, into a Batch; rows are filled up to the longest."""
    *fields, words, chars = zip(*sentences)
    padded = [None if rows[0] is None else pad_sequence(
        [torch.asarray(row, dtype=torch.int32) for row in rows], batch_first=True).long()
        for rows in fields]
    return Batch(*padded, torch.tensor(words), torch.tensor(chars))

class WCDataset(Dataset):
    """All sentences of a file: a Batch's fields, as padded tensors or as rows without pads."""
    def __init__(self, *fields, **named_fields):
        self.sentences = Batch(*fields, **named_fields)

    def __len__(self):
        return len(self.sentences.wmap_lengths)

    def __getitem__(self, i):
        """A trimmed Batch for a list of indices; a sentence, without the dimension N, for one."""
        if isinstance(i, list):
            return make_batch([self[j] for j in i]).trim()
        return Batch(*(field if field is None else field[i] for field in self.sentences))

class SimilarLengthSampler(Sampler):
    """Deals sentences out in batches of similar length, each sentence once an epoch.

    Neighbors have the same number of words and similar numbers of characters. The order depends on
    seed and epoch alone. A batch has batch_size sentences for each process; the last is repeated
    where shares would differ.
    """
    def __init__(self, wmap_lengths, cmap_lengths, batch_size, seed=0, rank=0, processes=1):
        self.wmap_lengths, self.cmap_lengths = wmap_lengths, cmap_lengths
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch):
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self):
        return math.ceil(len(self.wmap_lengths) / (self.batch_size * self.processes))

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        # Shuffle, then sort by the lesser key first: stable sorts keep the order among equals
        order = torch.randperm(len(self.wmap_lengths), generator=generator)
        order = order[self.cmap_lengths[order].argsort(stable=True)]
        order = order[self.wmap_lengths[order].argsort(stable=True)]
        missing = -len(order) % self.processes
        order = torch.cat((order, order[-1:].expand(missing)))
        batches = order.split(self.batch_size * self.processes)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i][self.rank::self.processes].tolist()
