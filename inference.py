"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
    echo "Dunston checks in." | python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar
"""

import re
import sys

import torch

from datasets import SimilarLengthSampler, WCDataset, trim
from models import LM_LSTM_CRF
from utils import (ArgumentParser, InputError, convert_tags, create_input_tensors, device,
                   find_entities, load_checkpoint, read_text, to_device)

# What is added to the score of an impossible transition; -inf would make gradients NaN
IMPOSSIBLE = -1e6

# A token is what the first of these lines to match takes
TOKEN = re.compile(r"""
    (?:https?://|www\.)[^\s<>"]*[\w/]                          # https://example.org/a?b=c
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                               # amara@example.org
  | [@#]\w+                                                    # @amara, #nlp
  | ['’](?:s|m|d|re|ve|ll|\d0s)\b                              # 's, 'll, '90s
  | n['’]t\b | [Cc]an(?=not\b)                                 # do n't, can not
  | \w+?(?=n['’]t\b)                                           # do, could
  | (?:[^\W\d_]\.){2,}(?:-\w+)*                                # U.S., a.m., U.S.-led
  | [A-Z]\.(?:-[A-Z]\.)*(?=\s*\w)                              # J. K. Rowling, J.-P. Sartre
  | (?:Mr|Mrs|Ms|Dr|Prof|St|Sts|Mt|Ft|Gen|Col|Lt|Sgt|Capt|Maj|Cmdr|Adm|Gov|Sen|Rep|Rev|Hon|Jr|Sr
      |Inc|Corp|Co|Cos|Ltd|Bros|vs|etc|Ave|Blvd|Ph\.D|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec
      |No(?=\.\s*\d)|Nos(?=\.\s*\d))\.                         # Dr., No. 10
  | [A-Z]{0,2}[$€£¥]                                           # $, US$, £
  | (?:(?<![^\s(])(?:[+-]\.?|\.)(?=\d))?                       # the sign or point of -4, +5, .5
    \w(?:[\w\u0300-\u036f]                                     # words, numbers and joints:
        |[-&](?=\w)                                            # Jean-Luc, 20-year-old, 2-1, AT&T
        |(?<=\d)[.,:/](?=\d)                                   # 1,600 3.5 10:30 1/2
        |['’](?!(?:s|m|d|re|ve|ll)\b)(?=\w))*                  # O'Brien, N'Djamena
  | \.{2,} | -{2,} | `` | '' | \S                              # punctuation
""", re.VERBOSE)


def tokenize(text):
    """Split a sentence into words roughly as the Penn Treebank does (the lines of TOKEN say how).

    Returns:
        The matches of TOKEN: word.group() is a word, word.start() and word.end() where it stands.
    """
    return list(TOKEN.finditer(text))


def legal_transitions(tag_map):
    """Which tag may follow which.

    Nothing leads to <start> nor on from <end>. Entity tags follow their scheme, which the names of
    the tags tell: IOBES if there is an E or an S among them, IOB2 if there is a B.

    Args:
        tag_map: from create_maps.

    Returns:
        (m, m) bool; [i, j] whether tag j may follow tag i.
    """
    names = [name for name in tag_map if name not in ('<start>', '<end>')]
    in_scheme = all(re.fullmatch(r'O|[BIES]-.+', name) for name in names)
    iobes = in_scheme and any(name[:2] in ('E-', 'S-') for name in names)
    iob2 = in_scheme and any(name.startswith('B-') for name in names)

    def legal(previous, current):
        if current == '<start>' or previous == '<end>':
            return False
        if not (iobes or iob2):
            return True
        goes_on = current[:2] in ('I-', 'E-')
        same = previous[:2] in ('B-', 'I-') and previous[2:] == current[2:]
        must_go_on = iobes and previous[:2] in ('B-', 'I-')
        return same if goes_on else not must_go_on

    return torch.tensor([[legal(previous, current) for current in tag_map] for previous in tag_map])


class ViterbiDecoder:
    """Finds the best legal sequence of tags (the Viterbi algorithm).

    Args:
        tag_map: from create_maps.
    """

    def __init__(self, tag_map):
        self.start, self.end = tag_map['<start>'], tag_map['<end>']
        self.legal = legal_transitions(tag_map)

    def mask(self, scores):
        """Make what is impossible too improbable to be chosen: (N, L_w, m, m) -> the same."""
        return scores.masked_fill(~self.legal.to(scores.device), IMPOSSIBLE)

    def decode(self, scores, lengths):
        """Decode N sentences, in any order.

        Args:
            scores: from the CRF, (N, L_w, m, m).
            lengths: numbers of words, with <end>, (N,).

        Returns:
            (N, L_w) LongTensor of tags, <end> at the last word and at the pads.
        """
        scores, lengths = self.mask(scores), lengths.to(scores.device)
        # At the first word only the row of <start> counts
        # (N, m)
        cumulative = scores[:, 0, self.start]
        backpointers = []
        for t in range(1, scores.size(1)):
            cumulative, backpointer = self.step(cumulative, scores[:, t])
            backpointers.append(backpointer)
        # Trace back from <end>; the tag before a pad is <end> as well
        # (N,)
        tag = torch.full_like(lengths, self.end)
        tags = [tag]
        for t in range(scores.size(1) - 1, 0, -1):
            previous = backpointers[t - 1].gather(1, tag.unsqueeze(1)).squeeze(1)
            tag = torch.where(t < lengths, previous, self.end)
            tags.append(tag)
        return torch.stack(tags[::-1], dim=1)

    def step(self, cumulative, scores):
        """Extend the best partial sequences by one word.

        Args:
            cumulative: scores of the best sequences to each tag of the previous word, (N, m).
            scores: CRF scores of this word, (N, m, m).

        Returns:
            (N, m) new cumulative scores and (N, m) backpointers, the previous tag of each sequence.
        """
        # (N, m, 1) + (N, m, m) -> (N, m), over the previous tags
        return (cumulative.unsqueeze(2) + scores).max(dim=1)


def run_model(model, batch):
    """Give a batch of a WCDataset to the model, whose forward says what comes back."""
    wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps, wmap_lengths, cmap_lengths = batch
    return model(cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, wmaps, tmaps, wmap_lengths, cmap_lengths)


def name_tags(tags, lengths, tag_map):
    """The names of tag indices, (N, L_w), without <end>: a list for each sentence."""
    names = list(tag_map)
    return [[names[tag] for tag in row[:length - 1]]
            for row, length in zip(tags.tolist(), lengths.tolist())]


class Tagger:
    """A trained model with all that it needs to tag text; load_tagger makes one.

    Args:
        model: an LM_LSTM_CRF.
        maps: a dict of word_map, char_map and tag_map.
        task: 'ner' or 'pos'.
        device: where the model is.
    """

    def __init__(self, model, maps, task, device):
        self.model, self.maps, self.task, self.device = model.eval(), maps, task, device
        self.decoder = ViterbiDecoder(maps['tag_map'])

    @torch.inference_mode()
    def tag(self, sentences, batch_size=64):
        """Tag sentences.

        Args:
            sentences: a list of sentences, each a list of words.

        Returns:
            For each sentence a list of tags; entities are in IOB2.
        """
        tagged = [[] for _ in sentences]
        filled = [i for i, words in enumerate(sentences) if words]
        if not filled:
            return tagged
        tensors = create_input_tensors([sentences[i] for i in filled], None, **self.maps)
        dataset = WCDataset(*to_device(tensors, self.device))
        sampler = SimilarLengthSampler(dataset.wmap_lengths, dataset.cmap_lengths, batch_size)
        for batch in sampler:
            scores, _, _, lengths, word_sort_ind, char_sort_ind = run_model(
                self.model, trim(dataset[batch]))
            tags = name_tags(self.decoder.decode(scores, lengths), lengths, self.maps['tag_map'])
            for row, row_tags in zip(char_sort_ind[word_sort_ind].tolist(), tags):
                in_iob2 = convert_tags(row_tags, 'iob2') if self.task == 'ner' else row_tags
                tagged[filled[batch[row]]] = in_iob2
        return tagged


def load_tagger(path, device='cpu'):
    """Load a checkpoint of train.py for tagging.

    Raises:
        InputError: see load_checkpoint.
    """
    checkpoint = load_checkpoint(path, device)
    model = LM_LSTM_CRF(**checkpoint['model_arguments']).to(device)
    model.load_state_dict(checkpoint['model'])
    maps = {name: checkpoint[name] for name in ('word_map', 'char_map', 'tag_map')}
    return Tagger(model, maps, checkpoint['arguments']['task'], device)


def inline(words, tags, task):
    """Write a tagged sentence for people: [PER Dunston] checks in, or Dunston/NNP checks/VBZ."""
    if task == 'pos':
        return ' '.join(f'{word}/{tag}' for word, tag in zip(words, tags))
    words = list(words)
    for entity_type, start, end in find_entities(tags):
        words[start] = f'[{entity_type} {words[start]}'
        words[end - 1] += ']'
    return ' '.join(words)


def read_sentences(arguments):
    """The sentences to tag: from --text, files, or standard input, asked for at a terminal."""
    if arguments.text is not None:
        yield from arguments.text.split('\n')
    elif arguments.files:
        for file in arguments.files:
            yield from read_text(file).removesuffix('\n').split('\n')
    elif sys.stdin.isatty():
        print('Type a sentence, or Ctrl-D to end.')
        while True:
            try:
                yield input('> ')
            except EOFError:
                return
    else:
        for line in sys.stdin:
            yield line.rstrip('\n')


def parse_arguments(argv):
    """The command line, as a namespace."""
    parser = ArgumentParser(
        description='Tag sentences, one a line, with a model that train.py has trained.')
    parser.add_argument('checkpoint', help='a checkpoint of train.py')
    parser.add_argument('files', nargs='*', help='text files (default: standard input)')
    parser.add_argument('--text', help='a sentence to tag')
    parser.add_argument('--device', type=device, help='cpu or cuda (default: %(default)s)',
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args(argv)


def main(argv=None):
    """Tag what the command line says and print it."""
    try:
        arguments = parse_arguments(argv)
        tagger = load_tagger(arguments.checkpoint, arguments.device)
        for line in read_sentences(arguments):
            words = [word.group() for word in tokenize(line)]
            print(inline(words, tagger.tag([words])[0], tagger.task))
        return 0
    except InputError as error:
        return f'error: {error}'


if __name__ == '__main__':
    sys.exit(main())
