"""Batches of sentences of similar length, for a DataLoader.

    dataset = WCDataset(*create_input_tensors(words, tags, word_map, char_map, tag_map))
    sampler = SimilarLengthSampler(dataset.wmap_lengths, dataset.cmap_lengths, batch_size=10)
    loader = DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=trim)
"""

import torch
from torch.utils.data import Dataset, Sampler


class WCDataset(Dataset):
    """The eight tensors of create_input_tensors, sentence by sentence or batch by batch.

    Args:
        wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps, wmap_lengths, cmap_lengths: see
            create_input_tensors; tmaps may be None.
    """

    def __init__(self, wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps,
                 wmap_lengths, cmap_lengths):
        self.wmap_lengths, self.cmap_lengths = wmap_lengths, cmap_lengths
        self.tensors = (wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps,
                        wmap_lengths, cmap_lengths)

    def __len__(self):
        return len(self.wmap_lengths)

    def __getitem__(self, i):
        """The eight inputs of sentence i or, when i is a list, of a batch, in one indexing."""
        # The host need not wait until the list has reached a GPU
        i = torch.tensor(i)
        return tuple(None if tensor is None else tensor[i.to(tensor.device, non_blocking=True)]
                     for tensor in self.tensors)


def trim(batch):
    """Cut the pads of a batch down to its longest sentence.

    Pads that no sentence of the batch needs would cost time in every layer.

    Args:
        batch: the eight inputs of N sentences.

    Returns:
        The same, with L_w and L_c no larger than needed.
    """
    *padded, wmap_lengths, cmap_lengths = batch
    longest_w, longest_c = int(wmap_lengths.max()), int(cmap_lengths.max())
    # wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps
    longest = (longest_w, longest_c, longest_c, longest_w, longest_w, longest_w)
    padded = [None if tensor is None else tensor[:, :length]
              for tensor, length in zip(padded, longest)]
    return *padded, wmap_lengths, cmap_lengths


class SimilarLengthSampler(Sampler):
    """Lists of sentences of the same or nearly the same length, each sentence once an epoch.

    Sentences with the same number of words stand together, among them those with similar numbers of
    characters, so that a batch has next to no pads. The batches come in random order, which with
    the batches themselves depends on the seed and the epoch alone.

    Args:
        wmap_lengths, cmap_lengths: numbers of words and of characters, (N,).
        batch_size: sentences in a list; the last list of an epoch may have fewer.
        seed: of the random order.
        rank, processes: of several processes, each gets its share of batches that are as many times
            as large. One whose share is empty gets a sentence to be idle with: `idle` is then True.
    """

    def __init__(self, wmap_lengths, cmap_lengths, batch_size, seed=0, rank=0, processes=1):
        self.wmap_lengths, self.cmap_lengths = wmap_lengths, cmap_lengths
        self.batch_size, self.seed, self.epoch = batch_size * processes, seed, 0
        self.rank, self.processes, self.idle = rank, processes, False

    def set_epoch(self, epoch):
        """Choose the epoch whose batches the next iteration gives."""
        self.epoch = epoch

    def __len__(self):
        return -(-len(self.wmap_lengths) // self.batch_size)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        # A random order first, kept by the stable sorts among sentences of the same lengths
        order = torch.randperm(len(self.wmap_lengths), generator=generator)
        for lengths in (self.cmap_lengths, self.wmap_lengths):
            order = order[lengths[order].argsort(stable=True)]
        batches = order.split(self.batch_size)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            share = batches[i][self.rank::self.processes].tolist()
            self.idle = not share
            yield share or batches[i][:1].tolist()
