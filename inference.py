"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
    echo "Dunston checks in." | python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar
"""

import json
import re
import sys
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from models import LM_LSTM_CRF
from utils import (ArgumentParser, InputError, convert_tags, create_input_tensors, devices,
                   file_errors, find_entities, load_checkpoint, log_sum_exp, number, print_scores,
                   read_corpus, run_main, score_task, word_starts)

# Added to the score of an illegal transition; finite, so that no difference becomes NaN
IMPOSSIBLE = -1e6


class ViterbiDecoder(nn.Module):
    """Finds the best legal sequence of tags, and the probabilities of tags and entities.

    The tag_map is in the order of its indices; scheme is 'iobes', 'iob2', or None for other tags.
    Scores are the CRF's, (N, L_w, m, m), lengths numbers of words, with <end>, (N,), on the CPU.
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
        """Find the best legal tags, (N, L_w), <end> at the last place and at the pads (Viterbi)."""
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

        Add the mask to the scores first. Returns two lists with, for each word, (N, m) cumulative
        scores of the best sequences that end in each tag, and (N, m) backpointers, the tags before.
        """
        inside = (torch.arange(scores.size(1)) < lengths.unsqueeze(1)).to(scores.device)
        # The tag before the first word is <start>: (N, m)
        cumulative = scores[:, 0, self.start]
        steps, backpointers = [cumulative], [torch.full_like(cumulative, self.start).long()]
        for t in range(1, scores.size(1)):
            # What was the current tag is now the previous one, and the new dimension is the current
            # tag, as in the scores: (N, m, 1) + (N, m, m) -> (N, m)
            extended, previous = (cumulative.unsqueeze(2) + scores[:, t]).max(dim=1)
            # A sentence that is over keeps its scores
            cumulative = torch.where(inside[:, t].unsqueeze(1), extended, cumulative)
            steps.append(cumulative)
            backpointers.append(previous)
        return steps, backpointers

    def marginals(self, scores, lengths):
        """Probability of each tag among legal sequences, (N, L_w, m), double; ignore the pads."""
        forward, backward, log_z = self.forward_backward(scores, lengths)
        return (forward + backward - log_z[:, None, None]).exp()

    def forward_backward(self, scores, lengths):
        """Sum over all legal sequences up to, and from, each tag of each word, in double precision.

        Returns the log-sum-exp of the scores of the sequences that lead to a tag, (N, L_w, m), and
        of those that continue from it, (N, L_w, m); and log Z of the legal ones, (N,).
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
            # (N, m, m) + (N, 1, m) -> (N, m), over the current tags; at a pad, begin anew
            extended = log_sum_exp(scores[:, t] + backward[-1].unsqueeze(1), dim=2)
            backward.append(torch.where(inside[:, t].unsqueeze(1), extended, last))
        backward.reverse()
        log_z = log_sum_exp(forward[0] + backward[0], dim=1)
        return torch.stack(forward, dim=1), torch.stack(backward, dim=1), log_z

    def entity_probabilities(self, scores, lengths, tags, entities):
        """The probability of each entity: that of all legal sequences with exactly this entity.

        The tags are from decode, the entities of each sentence from find_entities.
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
    # I and E continue an entity of their type, and in IOBES a begun entity has to be continued
    if current[:2] in ('I-', 'E-'):
        return previous[:2] in ('B-', 'I-') and previous[2:] == current[2:]
    return scheme == 'iob2' or previous[:2] not in ('B-', 'I-')


def name_tags(tags, lengths, tag_map):
    """The names of tag indices, (N, L_w), without <end>: a list for each sentence."""
    names = list(tag_map)
    return [[names[tag] for tag in row[:length - 1]]
            for row, length in zip(tags.tolist(), lengths.tolist())]


# --- Tagging text ---

# Longer sentences are tagged in pieces, and the model sees no more of a word
MOST_WORDS, MOST_CHARS = 1000, 100

# A character of a word: it is not white space, punctuation, an ideograph or emoji
W = (r'[^\s!-/:-@\[-^`{-~¡-©«¬®-±´¶-¸»¿×÷՚-՟։־،؛؟۔।॥།-༒၊-၏፡-፨។-៖៘-៚‐-‧‰-⁞₠-⃏№™←-⯿、-〄〈-〠〰・'
     r'！-／：-＠［-｀｛-･㐀-䶿一-鿿\uf900-\ufaff\U0001f000-\U0003ffff]')
PART = rf"""(?:(?:\d+(?::\d+)?)?(?:(?i:Ph\.D\.)|(?:[^\W\d_]\.){{2,}})(?:s(?!{W}))?  # 5p.m., U.S.
  | {W}(?:{W}|(?<=\d)[.,:/](?=\d)|['’·](?!(?i:s|m|d|re|ve|ll)(?!{W}))(?={W}))*)"""  # 1/2, O'Brien
# Accents, colors of emoji and the like belong to the sign before them
MARK = r'[\u0300-\u036f\u20d0-\u20f0\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e01ef]'
# A token is what the first of these lines to match takes; the B. of "Plan B. Then" is an initial
TOKEN = re.compile(rf"""
    (?i:https?://|www\.)[^\s<>"]*[\w/] | [\w.+-]{{1,64}}@[\w-]+(?:\.[\w-]+)+ | [@\#]{W}+
  | (?<![\w.-])[\w-]{{1,64}}(?:\.[\w-]{{1,64}}){{0,3}}\.(?i:com|org|net|edu|gov|co\.uk)\b(?!\.\w)
  | (?i:['’](?:s|m|d|re|ve|ll|\d0s)|n['’]t)(?!{W}) | {W}+?(?=(?i:n['’]t)(?!{W})) | (?i:can(?=not\b))
  | [A-ZÀ-ÖØ-ÞΑ-ΩА-Я]\.(?:-[A-ZÀ-Þ]\.){{0,2}}(?=\s{{0,2}}\w)(?!\w\.) | N[Oo][Ss]?\.(?=\s?\d)
  | (?=[a-zA-Z]{{2,4}}\.)(?i:Mrs?|Ms|Dr|Prof|Sts?|Mt|Ft|Gen|Col|Ltd?|Sgt|Capt|Maj|Cmdr|Adm|Gov|Sen
      |Re[pv]|Hon|[JS]r|Inc|Corp|Cos?|Bros|vs|etc|Ave|Blvd|Jan|Feb|Mar|Apr|Ju[nl]|Aug|Sept?|Oct|Nov|Dec)\.
  | [A-Z]{{0,2}}[$€£¥] | (?:(?<![^\s(])(?:[+-]\.?|\.)(?=\d))?{PART}(?:[-‐‑&](?={W}){PART})*  # -.5
  | [\U0001f1e6-\U0001f1ff]{{2}} | \.{{2,}} | -{{2,}} | `` | '' | \S{MARK}*(?:\u200d\S{MARK}*)*
""", re.VERBOSE)


class Tagger:
    """A trained model with all that it needs to tag text; load_tagger makes one.

    Maps are a dict, arguments those of its training; the pattern token finds the words of a str.
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

    def tag(self, sentences, probabilities=False, batch_size=2048):
        """Tag sentences, however many there are.

        The sentences are an iterable of str, which are split into words, or of lists of words;
        batch_size is the number that is read and tagged together. Yields for each a dict: text;
        tokens and tags, lists of str; probabilities, of the tags, which are not computed unless
        asked for; and entities, dicts of type, text, start and end in the text, and probability.
        """
        if isinstance(sentences, (str, bytes)):
            raise TypeError('expected sentences, found one str; give a list: tag([sentence])')
        return self.tag_windows(iter(sentences), probabilities, batch_size)

    def tag_windows(self, sentences, probabilities, batch_size):
        """Yield what tag yields, reading batch_size sentences at a time."""
        while window := list(islice(sentences, batch_size)):
            split = [self.split(sentence) for sentence in window]
            tagged = {}
            for batch in make_batches([words for _, words, _ in split]):
                tagged.update(self.tag_batch(batch, probabilities))
            for n, (text, words, starts) in enumerate(split):
                sentence = {'text': text, 'tokens': words, 'tags': [], 'probabilities': [],
                            'entities': []}
                for start in range(0, len(words), MOST_WORDS):
                    tags, p_tags, entities = tagged[n, start]
                    sentence['tags'] += tags
                    sentence['probabilities'] += p_tags
                    for name, first, end, p in entities:
                        left, right = starts[first], starts[end - 1] + len(words[end - 1])
                        sentence['entities'].append({'type': name, 'text': text[left:right],
                                                     'start': left, 'end': right, 'probability': p})
                yield sentence

    def split(self, sentence):
        """The text, the words and where they begin, of a str or of a list of words."""
        if isinstance(sentence, str):
            found = list(self.token.finditer(sentence))
            return sentence, [word.group() for word in found], [word.start() for word in found]
        return ' '.join(sentence), sentence, word_starts(sentence)

    @torch.inference_mode()
    def score(self, sentences):
        """The CRF's scores of lists of words, (N, L_w, m, m), and their lengths."""
        shortened = [[word[:MOST_CHARS] for word in words] for words in sentences]
        batch = create_input_tensors(shortened, None, **self.maps)
        scores, _, _ = self.model(**batch.to(self.device)._asdict())
        return scores, batch.wmap_lengths

    def tag_batch(self, pieces, probabilities):
        """Tag pieces: a dict from (sentence, first word) to their tags, probabilities, entities."""
        scores, lengths = self.score([words for _, _, words in pieces])
        decoded = self.decoder.decode(scores, lengths)
        tags = name_tags(decoded, lengths, self.maps['tag_map'])
        entities = [find_entities(row) if self.task == 'ner' else [] for row in tags]
        p_tags, p_entities = [[]] * len(tags), [[None] * len(row) for row in entities]
        if probabilities:
            marginals = self.decoder.marginals(scores, lengths)
            shown = (marginals @ self.shown_alike.double()).gather(2, decoded.unsqueeze(2))
            p_tags = [row[:len(names)] for row, names in zip(shown.squeeze(2).tolist(), tags)]
            p_entities = self.decoder.entity_probabilities(scores, lengths, decoded, entities)
        tagged = {}
        for i, (n, start, _) in enumerate(pieces):
            names = convert_tags(tags[i], 'iob2') if self.task == 'ner' else tags[i]
            tagged[n, start] = names, p_tags[i], [
                (name, start + first, start + end, p)
                for (name, first, end), p in zip(entities[i], p_entities[i])]
        return tagged


def make_batches(sentences):
    """Cut lists of words into pieces, and yield batches of them: (sentence, first word, words)."""
    pieces = [(n, start, words[start:start + MOST_WORDS]) for n, words in enumerate(sentences)
              for start in range(0, len(words), MOST_WORDS)]
    # Neighbors are of similar length, so that a batch has few pads; its padded size is bounded
    pieces.sort(key=lambda piece: (len(piece[2]), sum(map(len, piece[2]))))
    batch, longest = [], 0
    for piece in pieces:
        chars = sum(min(len(word), MOST_CHARS) + 1 for word in piece[2])
        if batch and (len(batch) == 32 or max(chars, longest) * (len(batch) + 1) > 20_000):
            yield batch
            batch, longest = [], 0
        batch.append(piece)
        longest = max(chars, longest)
    if batch:
        yield batch


def load_tagger(path, device='cpu'):
    """Load a checkpoint of train.py for tagging; InputError as load_checkpoint has it."""
    checkpoint = load_checkpoint(path, device)
    with file_errors(path, 'used'):
        model = LM_LSTM_CRF(**checkpoint['model_arguments']).to(device)
        model.load_state_dict(checkpoint['model'])
        return Tagger(model, checkpoint['maps'], checkpoint['arguments'], device)


def explain(tagger, text, most=5):
    """Write the Viterbi trellis of a sentence as a table of each word's most likely tags."""
    decoder, names = tagger.decoder, list(tagger.maps['tag_map'])
    lines = ['word                  tag                score  from            probability']
    _, sentence, _ = tagger.split(text)
    for start in range(0, len(sentence), MOST_WORDS):
        words = sentence[start:start + MOST_WORDS]
        scores, lengths = tagger.score([words])
        cumulative, backpointers = decoder.trellis(scores.double() + decoder.mask, lengths)
        best = decoder.decode(scores, lengths)[0].tolist()
        marginals = decoder.marginals(scores, lengths)[0]
        for t, word in enumerate([*words, '<end>']):
            number = min(most, len(names)) if t < len(words) else 0
            for tag in dict.fromkeys([best[t], *marginals[t].topk(number).indices.tolist()]):
                star, previous = '*' if tag == best[t] else ' ', names[backpointers[t][0, tag]]
                lines.append(f'{word:20.20} {star}{names[tag]:15} {cumulative[t][0, tag]:8.2f}  '
                             f'{previous:15} {marginals[t, tag]:11.4f}')
                word = ''
    return '\n'.join(lines)


def evaluate(tagger, files, tag_column=None, word_column=None, conll=False, examples=0):
    """Score a tagger on labeled files, or print words, gold and predicted tags for conlleval."""
    tag_column = tagger.arguments['tag_column'] if tag_column is None else tag_column
    word_column = tagger.arguments['word_column'] if word_column is None else word_column
    for file in files:
        words, gold = read_corpus(file, tagger.task, tag_column, 'iob2', word_column)
        tagged = list(tagger.tag(words))
        predicted = [sentence['tags'] for sentence in tagged]
        if conll:
            print('\n'.join(map(in_columns, words, gold, predicted)))
        else:
            print(f'{file}:')
            print_scores(score_task(gold, predicted, tagger.task))
        for sentence in tagged[:examples]:
            print(inline(sentence, tagger.task))


# --- The command line ---

def read_sentences(files):
    """Read files or standard input line by line; what is not UTF-8 is replaced, with a warning."""
    for name in files:
        # What cannot be read is best known at once; a pipe can be opened only once
        with file_errors(name):
            if name != '-' and not Path(name).is_fifo():
                open(name, 'rb').close()
    warned = False
    for name in files or ['-']:
        shown = 'standard input' if name == '-' else name
        # A bar is for a terminal that does not also show the output
        hidden = True if name == '-' or sys.stdout.isatty() else None
        with file_errors(shown):
            if name == '-' and sys.stdin is None:
                raise OSError('it is closed')
            file = sys.stdin.buffer if name == '-' else open(name, 'rb')
            for number, line in enumerate(tqdm(file, shown, leave=False, disable=hidden), start=1):
                text = line.decode('utf-8-sig' if number == 1 else 'utf-8', errors='replace')
                if '\ufffd' in text and '\ufffd'.encode() not in line and not warned:
                    print(f'warning: {shown}, line {number}: expected UTF-8; what is not is '
                          'replaced, here and in other lines', file=sys.stderr)
                    warned = True
                yield text.removesuffix('\n').removesuffix('\r')


def in_columns(words, *tags):
    """Rows of a word and its tags; a space in a word becomes _, since it would begin a column."""
    words = [word.replace(' ', '_') for word in words]
    return ''.join(' '.join(row) + '\n' for row in zip(words, *tags))


def columns(tagged, places):
    """The words, the tags and, if they were asked for, the probabilities of a tagged sentence."""
    shown = [f'{p:.{places}f}' for p in tagged['probabilities']]
    return [tagged['tokens'], tagged['tags'], *([shown] if shown else [])]


def inline(tagged, task):
    """Write a tagged sentence for people: [PER Dunston] checks in, or Dunston/NNP checks/VBZ."""
    if task == 'pos':
        return ' '.join(map('/'.join, zip(*columns(tagged, places=2))))
    text, position, parts = tagged['text'], 0, []
    for entity in tagged['entities']:
        p = '' if entity['probability'] is None else f' {entity["probability"]:.2f}'
        parts += [text[position:entity['start']], f'[{entity["type"]}{p} {entity["text"]}]']
        position = entity['end']
    return ''.join([*parts, text[position:]])


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
    add('--output_format', choices=('inline', 'conll', 'jsonl'),
        help='for people (default), in columns, or as JSON with places in the line')
    add('--probabilities', action='store_true', help='show them too (jsonl always has them)')
    add('--batch_size', type=number(int, 1), help='lines to read and tag together (default: 2048)')
    add('--evaluate', action='store_true', help='score the model on the files, which are labeled')
    add('--tag_column', type=int, help="the labels' column (default: as in training)")
    add('--word_column', type=int, help="the words' column (default: as in training)")
    add('--explain', action='store_true', help='show how the Viterbi algorithm finds the tags')
    add('--device', choices=devices(), default=devices()[0], help='(default: %(default)s)')
    # Files may also come after the arguments
    args = parser.parse_intermixed_args(argv)
    if args.evaluate and (not args.files or args.output_format not in (None, 'conll')):
        raise InputError('--evaluate: expected labeled files, and no --output_format but conll')
    if not args.evaluate and (args.tag_column, args.word_column) != (None, None):
        raise InputError('--tag_column and --word_column: expected --evaluate beside them')
    for mode, others in (('text', 'files --evaluate'),
                         ('explain', '--evaluate --output_format --probabilities --batch_size'),
                         ('evaluate', '--tokenized --probabilities --batch_size')):
        for other in others.split():
            if getattr(args, mode) not in (None, False) and getattr(args, other.strip('-')):
                raise InputError(f'--{mode}: expected no {other} beside it')
    return args


def main(argv):
    """Tag or score what the command line says, and print it as it comes."""
    args = parse_arguments(argv)
    tagger = load_tagger(args.checkpoint, args.device)
    if args.tokenized:
        tagger.token = re.compile(r'\S+')
    lines = read_sentences(args.files) if args.text is None else args.text.split('\n')
    if args.evaluate:
        conll = args.output_format == 'conll'
        evaluate(tagger, args.files, args.tag_column, args.word_column, conll)
    elif args.explain:
        for line in filter(str.strip, lines):
            print(explain(tagger, line))
    else:
        tag_lines(tagger, lines, args)


def tag_lines(tagger, lines, args):
    """Tag lines and print them in the --output_format."""
    interactive = not args.files and args.text is None and sys.stdin and sys.stdin.isatty()
    if interactive:
        print('Type a sentence, or Ctrl-D to end.', file=sys.stderr)
    # At a terminal each sentence is answered at once
    batch_size = args.batch_size or (1 if interactive else 2048)
    probabilities = args.probabilities or args.output_format == 'jsonl'
    for tagged in tagger.tag(lines, probabilities, batch_size):
        line = inline(tagged, tagger.task)
        if args.output_format == 'jsonl':
            line = json.dumps(tagged, ensure_ascii=False)
        elif args.output_format == 'conll':
            line = in_columns(*columns(tagged, places=4))
        print(line, flush=batch_size < 2048)


if __name__ == '__main__':
    run_main(main)
