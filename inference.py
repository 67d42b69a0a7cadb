"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
    echo "Dunston checks in." | python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar
"""

import json
import re
import sys
from itertools import islice

import torch
from torch import nn
from tqdm import tqdm

from models import LM_LSTM_CRF
from utils import (ArgumentParser, InputError, convert_tags, create_input_tensors, devices,
                   file_errors, find_entities, load_checkpoint, log_sum_exp, number, print_scores,
                   read_corpus, run_main, score_task, word_starts)

# Added to the score of an impossible transition; minus infinity would make gradients NaN
IMPOSSIBLE = -1e6


class ViterbiDecoder(nn.Module):
    """Finds the best legal sequence of tags, and the probabilities of tags and entities.

    The scheme is 'iobes' or 'iob2' for tags of entities, None for all other tags.
    """

    def __init__(self, tag_map, scheme=None):
        super().__init__()
        self.start, self.end = tag_map['<start>'], tag_map['<end>']
        # (m, m), previous tags in rows and current tags in columns, as in the scores
        legal = [[may_follow(previous, current, scheme) for current in tag_map]
                 for previous in tag_map]
        self.register_buffer('mask', torch.where(torch.tensor(legal), 0.0, IMPOSSIBLE))
        # (m,), which tags continue an entity
        continues = [scheme is not None and name[:2] in ('I-', 'E-') for name in tag_map]
        self.register_buffer('continues', torch.tensor(continues))

    def decode(self, scores, lengths):
        """Find the best sequence of tags that is legal (the Viterbi algorithm).

        The scores are the CRF's, (N, L_w, m, m), the lengths numbers of words, with <end>, (N,).
        Returns a (N, L_w) LongTensor of tags, <end> at a sentence's last place and at the pads.
        """
        _, backpointers = self.trellis(scores + self.mask, lengths)
        # The last tag is <end>; from there, trace back each tag to the one before it: (N,)
        tag = torch.full_like(backpointers[0][:, 0], self.end)
        tags = [tag]
        for t in range(scores.size(1) - 1, 0, -1):
            previous = backpointers[t].gather(1, tag.unsqueeze(1)).squeeze(1)
            # At the pads, stay at <end>
            tag = torch.where((t < lengths).to(tag.device), previous, tag)
            tags.append(tag)
        return torch.stack(tags[::-1], dim=1)

    def trellis(self, scores, lengths):
        """Extend the best sequences word by word: the loop of ViterbiLoss, with max for its sum.

        Returns two lists with, for each word, the cumulative scores (N, m) of the best sequences
        that end in each tag, and the backpointers (N, m), the previous tags in these. It rules
        nothing out: decode adds the mask to the scores before.
        """
        inside = (torch.arange(scores.size(1)) < lengths.unsqueeze(1)).to(scores.device)
        # The tag before the first word is <start>: (N, m)
        cumulative = scores[:, 0, self.start]
        steps, backpointers = [cumulative], [torch.full_like(cumulative, self.start).long()]
        for t in range(1, scores.size(1)):
            # The current tag of the step before is now the previous tag: it moves to dimension 1
            # (N, m, 1) + (N, m, m) -> (N, m)
            longer, previous = (cumulative.unsqueeze(2) + scores[:, t]).max(dim=1)
            # A sentence that is over keeps its scores
            cumulative = torch.where(inside[:, t].unsqueeze(1), longer, cumulative)
            steps.append(cumulative)
            backpointers.append(previous)
        return steps, backpointers

    def marginals(self, scores, lengths):
        """P(tag at word), over legal sequences, (N, L_w, m), in double; no meaning at the pads."""
        forward, backward, log_z = self.forward_backward(scores, lengths)
        return (forward + backward - log_z[:, None, None]).exp()

    def forward_backward(self, scores, lengths):
        """Sum over all legal sequences up to, and from, each tag of each word, in double precision.

        Returns the log-sum-exp of the scores of the sequences that lead to a tag, (N, L_w, m), and
        of those that continue from it, (N, L_w, m); and log Z, (N,).
        """
        scores = scores.double() + self.mask
        inside = (torch.arange(scores.size(1)) < lengths.unsqueeze(1)).to(scores.device)
        forward = [scores[:, 0, self.start]]
        for t in range(1, scores.size(1)):
            forward.append(log_sum_exp(forward[-1].unsqueeze(2) + scores[:, t], dim=1))
        # The last tag is <end>, and nothing continues from there: (N, m)
        last = torch.full_like(forward[0], IMPOSSIBLE)
        last[:, self.end] = 0
        backward = [last]
        for t in range(scores.size(1) - 1, 0, -1):
            # (N, m, m) + (N, 1, m) -> (N, m), now over the current tags
            longer = log_sum_exp(scores[:, t] + backward[-1].unsqueeze(1), dim=2)
            backward.append(torch.where(inside[:, t].unsqueeze(1), longer, last))
        log_z = log_sum_exp(forward[0] + backward[-1], dim=1)
        return torch.stack(forward, dim=1), torch.stack(backward[::-1], dim=1), log_z

    def entity_probabilities(self, scores, lengths, tags, entities):
        """The probability of each entity: that of all legal sequences with exactly this entity.

        The tags are from decode, (N, L_w); the entities are, for each sentence, what find_entities
        finds in them. Returns a list of floats for each sentence.
        """
        forward, backward, log_z = self.forward_backward(scores, lengths)
        scores = scores.double() + self.mask
        probabilities = []
        for n, sentence_entities in enumerate(entities):
            found = []
            for _, first, stop in sentence_entities:
                path = tags[n, first:stop]
                # Up to its first tag, along its tags, and on to any tag that does not continue it
                along = scores[n, torch.arange(first + 1, stop), path[:-1], path[1:]].sum()
                after = scores[n, stop, path[-1]] + backward[n, stop]
                after = after.masked_fill(self.continues, IMPOSSIBLE)
                log_p = forward[n, first, path[0]] + along + log_sum_exp(after, dim=0) - log_z[n]
                found.append(log_p.exp().item())
            probabilities.append(found)
        return probabilities


def may_follow(previous, current, scheme):
    """Whether the current tag may follow the previous one; scheme is 'iobes', 'iob2' or None."""
    if current == '<start>' or previous == '<end>':
        return False
    if scheme is None:
        return True
    # I and E continue an entity of their type
    if current[:2] in ('I-', 'E-'):
        return previous[:2] in ('B-', 'I-') and previous[2:] == current[2:]
    # In IOBES, an entity that has begun has to be continued
    return scheme == 'iob2' or previous[:2] not in ('B-', 'I-')


def name_tags(tags, lengths, tag_map):
    """The names of tag indices, (N, L_w), without <end>: a list for each sentence."""
    names = list(tag_map)
    return [[names[tag] for tag in row[:length - 1]]
            for row, length in zip(tags.tolist(), lengths.tolist())]


# --- Tagging text ---

# Longer sentences are tagged in pieces, and the model sees no more of a word
MOST_WORDS, MOST_CHARS = 1000, 100

# A token is what the first of these lines to match takes
TOKEN = re.compile(r"""
    (?:https?://|www\.)[^\s<>"]*[\w/] | [\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+ | [@#]\w+  # addresses
  | ['’](?:s|m|d|re|ve|ll|\d0s)\b | n['’]t\b | \w+?(?=n['’]t\b) | [Cc]an(?=not\b)  # he 's, do n't
  | (?:[^\W\d_]\.){2,}(?:-\w+)* | [A-Z]\.(?:-[A-Z]\.){0,2}(?=\s{0,2}\w)              # U.S.-led, J.
  | (?:Mr|Mrs|Ms|Dr|Prof|Sts?|Mt|Ft|Gen|Col|Lt|Sgt|Capt|Maj|Cmdr|Adm|Gov|Sen|Rep|Rev|Hon|Jr|Sr|Inc
      |Corp|Cos?|Ltd|Bros|vs|etc|Ave|Blvd|Ph\.D|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec
      |Nos?(?=\.\s?\d))\.                                                            # Dr., No. 10
  | [A-Z]{0,2}[$€£¥] | (?:(?<![^\s(])(?:[+-]\.?|\.)(?=\d))?                       # US$, -4, .5
    \w(?:[\w\u0300-\u036f]|[-&](?=\w)|(?<=\d)[.,:/](?=\d)                           # AT&T, 3.5, 1/2
        |['’](?!(?:s|m|d|re|ve|ll)\b)(?=\w))*                                        # O'Brien
  | \.{2,} | -{2,} | `` | '' | \S                                                    # punctuation
""", re.VERBOSE)


class Tagger:
    """A trained model with all that it needs to tag text; load_tagger makes one.

    The maps are a dict of word_map, char_map and tag_map, the arguments those of its training. The
    pattern token says what a word is in a str.
    """

    def __init__(self, model, maps, arguments, device='cpu'):
        self.model, self.maps, self.arguments, self.device = model.eval(), maps, arguments, device
        self.task, self.token = arguments['task'], TOKEN
        scheme = arguments['tag_scheme'] if self.task == 'ner' else None
        self.decoder = ViterbiDecoder(maps['tag_map'], scheme).to(device)
        # (m, m), which tags are shown as the same: in IOBES, S as B and E as I
        same = {'S-': 'B-', 'E-': 'I-'} if scheme == 'iobes' else {}
        shown = [same.get(name[:2], name[:2]) + name[2:] for name in maps['tag_map']]
        self.shown_alike = torch.tensor([[a == b for b in shown] for a in shown], device=device)

    def tag(self, sentences, probabilities=False, at_once=2048):
        """Tag sentences, however many there are.

        The sentences are an iterable of str, which are split into words, or of lists of words;
        at_once is the number that is read before the first is tagged. Yields for each a dict: text;
        tokens and tags, lists of str; entities, dicts of type, text, and start and end in the text;
        and, if asked for, probabilities, of the tags, and the probability of each entity.
        """
        sentences = iter(sentences)
        while window := list(islice(sentences, at_once)):
            split = [self.split(sentence) for sentence in window]
            tagged = self.tag_words([words for _, words, _ in split], probabilities)
            for (text, words, starts), (tags, p_tags, entities) in zip(split, tagged):
                sentence = {'text': text, 'tokens': words, 'tags': tags, 'entities': []}
                if probabilities:
                    sentence['probabilities'] = p_tags
                for name, first, end, p in entities:
                    left, right = starts[first], starts[end - 1] + len(words[end - 1])
                    entity = {'type': name, 'text': text[left:right], 'start': left, 'end': right}
                    if probabilities:
                        entity['probability'] = p
                    sentence['entities'].append(entity)
                yield sentence

    def split(self, sentence):
        """The text, the words and where they begin, of a str or of a list of words."""
        if isinstance(sentence, str):
            found = list(self.token.finditer(sentence))
            return sentence, [word.group() for word in found], [word.start() for word in found]
        return ' '.join(sentence), sentence, word_starts(sentence)

    def tag_words(self, sentences, probabilities=False):
        """Tag lists of words, those of similar length together.

        Each has three lists: its tags; their probabilities, if asked for; its entities, as (type,
        first word, last word + 1, probability or None).
        """
        pieces = [(n, start, [word[:MOST_CHARS] for word in words[start:start + MOST_WORDS]])
                  for n, words in enumerate(sentences)
                  for start in range(0, len(words), MOST_WORDS)]
        # Neighbors are of similar length, so that a batch has few pads; its padded size is bounded
        pieces.sort(key=lambda piece: (len(piece[2]), sum(map(len, piece[2]))))
        tagged, batch, longest = {}, [], 0
        for piece in pieces:
            chars = len(' '.join(piece[2]))
            if batch and (len(batch) == 32 or max(chars, longest) * (len(batch) + 1) > 20_000):
                tagged.update(self.tag_batch(batch, probabilities))
                batch, longest = [], 0
            batch.append(piece)
            longest = max(chars, longest)
        if batch:
            tagged.update(self.tag_batch(batch, probabilities))

        results = [([], [], []) for _ in sentences]
        for n, start in sorted(tagged):
            for whole, piece in zip(results[n], tagged[n, start]):
                whole.extend(piece)
        return results

    @torch.inference_mode()
    def tag_batch(self, pieces, probabilities):
        """tag_words for a batch of (n, start, words): a dict from (n, start) to the three lists."""
        batch = create_input_tensors([words for _, _, words in pieces], None, **self.maps)
        scores, _, _ = self.model(**batch.to(self.device)._asdict())
        decoded = self.decoder.decode(scores, batch.wmap_lengths)
        tags = name_tags(decoded, batch.wmap_lengths, self.maps['tag_map'])
        entities = [find_entities(row) if self.task == 'ner' else [] for row in tags]
        p_tags, p_entities = [[]] * len(tags), [[None] * len(row) for row in entities]
        if probabilities:
            marginals = self.decoder.marginals(scores, batch.wmap_lengths)
            shown = (marginals @ self.shown_alike.double()).gather(2, decoded.unsqueeze(2))
            p_tags = [row[:len(names)] for row, names in zip(shown.squeeze(2).tolist(), tags)]
            p_entities = self.decoder.entity_probabilities(
                scores, batch.wmap_lengths, decoded, entities)
        tagged = {}
        for i, (n, start, _) in enumerate(pieces):
            names = convert_tags(tags[i], 'iob2') if self.task == 'ner' else tags[i]
            tagged[n, start] = (names, p_tags[i], [
                (name, start + first, start + end, p)
                for (name, first, end), p in zip(entities[i], p_entities[i])])
        return tagged


def load_tagger(path, device='cpu'):
    """Load a checkpoint of train.py for tagging; InputError as load_checkpoint has it."""
    checkpoint = load_checkpoint(path, device)
    model = LM_LSTM_CRF(**checkpoint['model_arguments']).to(device)
    model.load_state_dict(checkpoint['model'])
    return Tagger(model, checkpoint['maps'], checkpoint['arguments'], device)


@torch.inference_mode()
def explain(tagger, text, most=5):
    """Write the Viterbi trellis of one sentence as a table of its most likely tags.

    Each has the score of the best sequence to it, the tag before it there, and its probability.
    """
    words = tagger.token.findall(text)
    batch = create_input_tensors([words], None, **tagger.maps)
    scores, _, _ = tagger.model(**batch.to(tagger.device)._asdict())
    decoder, names = tagger.decoder, list(tagger.maps['tag_map'])
    cumulative, backpointers = decoder.trellis(scores + decoder.mask, batch.wmap_lengths)
    best = decoder.decode(scores, batch.wmap_lengths)[0].tolist()
    marginals = decoder.marginals(scores, batch.wmap_lengths)[0]
    lines = ['word                  tag                score  from            probability']
    for t, word in enumerate([*words, '<end>']):
        likely = marginals[t].topk(min(most, len(names))).indices.tolist() if t < len(words) else []
        for tag in dict.fromkeys([best[t], *likely]):
            lines.append(f'{word:20.20} {"*" if tag == best[t] else " "}{names[tag]:15} '
                         f'{cumulative[t][0, tag].item():8.2f}  '
                         f'{names[backpointers[t][0, tag]]:15} {marginals[t, tag].item():11.4f}')
            word = ''
    return '\n'.join(lines)


def evaluate(tagger, files, tag_column=None, examples=0):
    """Score a tagger on labeled files, and show how it tags the first sentences of each."""
    column = tagger.arguments['tag_column'] if tag_column is None else tag_column
    for file in files:
        words, tags = read_corpus(file, tagger.task, column, tagger.arguments['tag_scheme'],
                                  tagger.maps['tag_map'])
        tagged = list(tagger.tag(words))
        print(f'{file}:')
        print_scores(score_task(tags, [sentence['tags'] for sentence in tagged], tagger.task))
        for sentence in tagged[:examples]:
            print(inline(sentence, tagger.task))


# --- The command line ---

def read_sentences(files):
    """Read files or standard input line by line; what is not UTF-8 is replaced, with a warning."""
    warned = False
    for name in files or ['standard input']:
        # A bar is for a terminal that does not also show the output
        hidden = True if not files or sys.stdout.isatty() else None
        with file_errors(name), open(name, 'rb') if files else sys.stdin.buffer as file:
            for number, line in enumerate(tqdm(file, name, leave=False, disable=hidden), start=1):
                text = line.decode('utf-8-sig' if number == 1 else 'utf-8', errors='replace')
                if '\ufffd' in text and '\ufffd'.encode() not in line and not warned:
                    print(f'warning: {name}, line {number}: expected UTF-8; what is not is '
                          'replaced, here and in other lines', file=sys.stderr)
                    warned = True
                yield text.removesuffix('\n').removesuffix('\r')


def inline(tagged, task):
    """Write a tagged sentence for people: [PER Dunston] checks in, or Dunston/NNP checks/VBZ."""
    if task == 'pos':
        return ' '.join('/'.join(row) for row in columns(tagged, places=2))
    text, position, parts = tagged['text'], 0, []
    for entity in tagged['entities']:
        p = f' {entity["probability"]:.2f}' if 'probability' in entity else ''
        parts += [text[position:entity['start']], f'[{entity["type"]}{p} {entity["text"]}]']
        position = entity['end']
    return ''.join([*parts, text[position:]])


def columns(tagged, places):
    """Rows of a word, its tag and, if there is one, its probability."""
    shown = [f'{p:.{places}f}' for p in tagged.get('probabilities', [])]
    return zip(*filter(None, (tagged['tokens'], tagged['tags'], shown)))


def parse_arguments(argv):
    """Read the command line, as a namespace."""
    parser = ArgumentParser(
        usage='%(prog)s CHECKPOINT [FILE ...] [arguments]',
        description='Tag sentences, one a line, with a model of train.py.')
    add = parser.add_argument
    add('checkpoint', help='a checkpoint of train.py')
    add('files', nargs='*', default=[], help='files to tag (default: standard input)')
    add('--text', help='a sentence to tag')
    add('--tokenized', action='store_true', help='words are what stands between white space')
    add('--output_format', choices=('inline', 'conll', 'jsonl'), default='inline',
        help='for people, in columns, or as JSON with places in the line (default: inline)')
    add('--probabilities', action='store_true', help='show them too (jsonl always has them)')
    add('--evaluate', action='store_true', help='score the model on the files, which are labeled')
    add('--tag_column', type=number(int, 0), help="the labels' column (default: as in training)")
    add('--explain', action='store_true', help='show how the Viterbi algorithm finds the tags')
    add('--device', choices=devices(), default=devices()[0], help='(default: %(default)s)')
    # Files may also come after the arguments
    args = parser.parse_intermixed_args(argv)
    if args.evaluate and not args.files:
        raise InputError('--evaluate: expected labeled files, found none')
    if args.text is not None and args.files:
        raise InputError('--text: expected no files beside it')
    if args.explain and args.evaluate:
        raise InputError('--explain: expected no --evaluate beside it')
    return args


def main(argv):
    """Tag or score what the command line says, and print it as it comes."""
    args = parse_arguments(argv)
    tagger = load_tagger(args.checkpoint, args.device)
    if args.tokenized:
        tagger.token = re.compile(r'\S+')
    lines = read_sentences(args.files) if args.text is None else args.text.split('\n')
    if args.evaluate:
        evaluate(tagger, args.files, args.tag_column)
    elif args.explain:
        for line in filter(str.strip, lines):
            print(explain(tagger, line))
    else:
        tag_lines(tagger, lines, args)


def tag_lines(tagger, lines, args):
    """Tag lines and print them in the --output_format."""
    # At a terminal each sentence is answered at once
    interactive = not args.files and args.text is None and sys.stdin.isatty()
    if interactive:
        print('Type a sentence, or Ctrl-D to end.', file=sys.stderr)
    probabilities = args.probabilities or args.output_format == 'jsonl'
    for tagged in tagger.tag(lines, probabilities, at_once=1 if interactive else 2048):
        if args.output_format == 'jsonl':
            print(json.dumps(tagged, ensure_ascii=False))
        elif args.output_format == 'conll':
            print(''.join(' '.join(row) + '\n' for row in columns(tagged, places=4)))
        else:
            print(inline(tagged, tagger.task))


if __name__ == '__main__':
    run_main(main)
