"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
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
from utils import (ArgumentParser, InputError, create_input_tensors, devices, file_errors,
                   find_entities, load_checkpoint, log_sum_exp, number, print_scores, read_corpus,
                   run_main, score_rows, word_starts, write_tags)

# Added to the score of an illegal transition; finite, so that no difference becomes NaN
IMPOSSIBLE = -1e6


class ViterbiDecoder(nn.Module):
    """Finds the best legal sequence of tags, and the probabilities of tags and entities.

    The scheme is 'iobes', 'iob2', or None for other tags. Scores are the CRF's, (N, L_w, m, m);
    lengths are numbers of words, with <end>, (N,), on the CPU.
    """

    def __init__(self, tag_map, scheme=None):
        super().__init__()
        self.start, self.end = tag_map['<start>'], tag_map['<end>']
        # (m, m), previous tags in rows and current tags in columns, as in the scores
        legal = [[may_follow(previous, current, scheme) for current in tag_map]
                 for previous in tag_map]
        self.register_buffer('mask', torch.where(torch.tensor(legal), 0.0, IMPOSSIBLE))
        # (m,), which tags begin an entity and which continue one; (m, types), of which type
        prefixes = [name[:2] if scheme else '' for name in tag_map]
        self.types = sorted({name[2:] for name in tag_map if scheme and '-' in name})
        has_type = [[name[2:] == one for one in self.types] for name in tag_map]
        self.register_buffer('begins', torch.tensor([p in ('B-', 'S-') for p in prefixes]))
        self.register_buffer('continues', torch.tensor([p in ('I-', 'E-') for p in prefixes]))
        self.register_buffer('has_type', torch.tensor(has_type, dtype=torch.float64))

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

        Returns two lists with, for each word, (N, m) cumulative scores of the best sequences that
        end in each tag, and (N, m) backpointers, the tags before. Add the mask to the scores first.
        """
        real = (torch.arange(scores.size(1)) < lengths.unsqueeze(1)).to(scores.device)
        # The tag before the first word is <start>: (N, m)
        cumulative = scores[:, 0, self.start]
        steps, backpointers = [cumulative], [torch.full_like(cumulative, self.start).long()]
        for t in range(1, scores.size(1)):
            # The current tags of the last step are the previous tags of this one, so they must run
            # down the rows: (N, m, 1) + (N, m, m) -> (N, m)
            extended, previous = (cumulative.unsqueeze(2) + scores[:, t]).max(dim=1)
            # A sentence that is over keeps its scores
            cumulative = torch.where(real[:, t].unsqueeze(1), extended, cumulative)
            steps.append(cumulative)
            backpointers.append(previous)
        return steps, backpointers

    def marginals(self, scores, lengths):
        """Probability of each tag among legal sequences, (N, L_w, m), double; ignore the pads."""
        forward, backward, log_z = self.forward_backward(scores, lengths)
        return (forward + backward - log_z[:, None, None]).exp().clamp(0, 1)

    def forward_backward(self, scores, lengths):
        """Log-sum-exp of legal sequences up to each tag and after it, (N, L_w, m); log Z, (N,)."""
        scores = scores.double() + self.mask
        real = (torch.arange(scores.size(1)) < lengths.unsqueeze(1)).to(scores.device)
        forward = [scores[:, 0, self.start]]
        for t in range(1, scores.size(1)):
            forward.append(log_sum_exp(forward[-1].unsqueeze(2) + scores[:, t], dim=1))
        # The last tag is <end>, and nothing continues from there: (N, m)
        last = torch.full_like(forward[0], IMPOSSIBLE)
        last[:, self.end] = 0
        backward = [last]
        for t in range(scores.size(1) - 1, 0, -1):
            # (N, m, m) + (N, 1, m) -> (N, m), over the current tags; at a pad, start over
            extended = log_sum_exp(scores[:, t] + backward[-1].unsqueeze(1), dim=2)
            backward.append(torch.where(real[:, t].unsqueeze(1), extended, last))
        backward.reverse()
        log_z = log_sum_exp(forward[0] + backward[0], dim=1)
        return torch.stack(forward, dim=1), torch.stack(backward, dim=1), log_z

    def candidates(self, scores, lengths, least, starts=None):
        """Find every entity with a probability of `least` or more, on the best path or not.

        P(exactly w words) = P(at least w words) - P(at least w + 1) (Culotta and McCallum, 2004).
        Returns for each sentence a list of (type, first word, last word + 1, probability); starts
        limits the search to entities that begin at these (sentence, first word).
        """
        forward, backward, log_z = self.forward_backward(scores, lengths)
        scores = scores.double() + self.mask
        if starts is None:
            starts = (torch.arange(scores.size(1)) < lengths.unsqueeze(1) - 1).nonzero()
        # R runs of words, each in a sentence n and with a first and a last word: (R,)
        n, first = torch.as_tensor(starts, dtype=torch.long, device=scores.device).view(-1, 2).T
        last = first
        # The sequences that lead to the beginning of an entity: (R, m)
        run = forward[n, first].masked_fill(~self.begins, IMPOSSIBLE)
        # (R, m) @ (m, types) -> (R, types)
        at_least = (run + backward[n, last] - log_z[n, None]).exp() @ self.has_type
        found = [[] for _ in lengths]
        while len(n) > 0:
            # A longer run is less probable than a shorter one, and none goes on into <end>
            probable = ((at_least >= least) & (at_least > 0)).any(dim=1)
            n, first, last = n[probable], first[probable], last[probable]
            run, at_least = run[probable], at_least[probable]
            # One word more, which continues the entity: (R, m, 1) + (R, m, m) -> (R, m)
            last = last + 1
            run = log_sum_exp(run.unsqueeze(2) + scores[n, last], dim=1)
            run = run.masked_fill(~self.continues, IMPOSSIBLE)
            longer = (run + backward[n, last] - log_z[n, None]).exp() @ self.has_type
            exactly, at_least = (at_least - longer).clamp(0, 1), longer
            rows, which = ((exactly >= least) & (exactly > 0)).nonzero(as_tuple=True)
            columns = n[rows], which, first[rows], last[rows], exactly[rows, which]
            for sentence, kind, *entity in zip(*(column.tolist() for column in columns)):
                found[sentence].append((self.types[kind], *entity))
        return found

    def entities(self, scores, lengths, threshold):
        """The best set of entities of each sentence, as choose finds it among the candidates."""
        return [choose(found, threshold) for found in self.candidates(scores, lengths, threshold)]


def choose(candidates, threshold):
    """Choose entities that don't overlap, with the largest sum of probability - threshold.

    Keeping one adds its probability to the expected number of right ones, which raises F1 = 2 right
    / (found + labeled) if it is above half of the best F1 (Ye et al., 2012; Lipton et al., 2014).
    """
    # As in Viterbi's algorithm: the worth and the entities of the best choice up to each place
    best = [(0.0, [])]
    for name, first, end, p in sorted(candidates, key=lambda candidate: candidate[2]):
        best += [best[-1]] * (end + 1 - len(best))
        worth, before = best[first]
        if worth + p - threshold > best[end][0]:
            best[end] = worth + p - threshold, [*before, (name, first, end, p)]
    return best[-1][1]


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

# Longer sentences are tagged in pieces, and so many characters of a word are read
MOST_WORDS, MOST_CHARS = 1000, 100
# Less probable entities appear in no table, in no list of mistakes, and on no page
CANDIDATE = 0.05

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
    """A trained model with all that it needs to tag text; load_tagger makes one."""

    def __init__(self, model, maps, arguments, device='cpu', threshold=None):
        self.model, self.maps, self.arguments, self.device = model.eval(), maps, arguments, device
        self.task, self.token, self.threshold = arguments['task'], TOKEN, threshold
        scheme = arguments['tag_scheme'] if self.task == 'ner' else None
        self.decoder = ViterbiDecoder(maps['tag_map'], scheme).to(device)
        # (m, m), which tags are shown as the same: in IOBES, S as B and E as I
        same = {'S-': 'B-', 'E-': 'I-'} if scheme == 'iobes' else {}
        shown = [same.get(name[:2], name[:2]) + name[2:] for name in maps['tag_map']]
        self.shown_alike = torch.tensor([[a == b for b in shown] for a in shown], device=device)

    def tag(self, sentences, probabilities=False, batch_size=2048, threshold=None, least=None):
        """Tag sentences, however many there are: str, which are split, or lists of words.

        Yields dicts of text, tokens, tags (IOB2), and entities, dicts of type, text, start and end
        in the text, and probability; if asked for, the tags' probabilities and the best sequence's
        probability, and candidates, (type, start, end, probability), that are at least as probable
        as least. A threshold chooses the entities. batch_size sentences are read together.
        """
        if isinstance(sentences, (str, bytes)):
            raise TypeError('expected sentences, found one str; give a list: tag([sentence])')
        sentences = iter(sentences)
        while window := list(islice(sentences, batch_size)):
            split = [self.split(sentence) for sentence in window]
            tagged = {}
            for batch in make_batches([words for _, words, _ in split]):
                tagged.update(self.tag_batch(batch, probabilities, threshold, least))
            for n, (text, words, starts) in enumerate(split):
                sentence = {'text': text, 'tokens': words, 'tags': [], 'probabilities': [],
                            'probability': 1.0, 'entities': [], 'candidates': []}
                for start in range(0, len(words), MOST_WORDS):
                    tags, p_tags, p_best, entities, candidates = tagged[n, start]
                    sentence['tags'] += tags
                    sentence['probabilities'] += p_tags
                    sentence['probability'] *= p_best
                    sentence['candidates'] += in_text(candidates, words[start:], starts[start:])
                    for name, left, right, p in in_text(entities, words[start:], starts[start:]):
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

    def tag_batch(self, pieces, probabilities, threshold, least):
        """Tag pieces: a dict from (sentence, first word) to the results that tag puts together."""
        scores, lengths = self.score([words for _, _, words in pieces])
        decoder, tag_map = self.decoder, self.maps['tag_map']
        tags = name_tags(decoder.decode(scores, lengths), lengths, tag_map)
        p_tags, p_best = [[] for _ in pieces], [float('nan') for _ in pieces]
        entities = candidates = [[] for _ in pieces]
        if self.task == 'ner':
            entities = [[(*entity, None) for entity in find_entities(row)] for row in tags]
            if threshold is not None:
                entities = decoder.entities(scores, lengths, threshold)
            elif probabilities:
                starts = [(n, first) for n, row in enumerate(entities) for _, first, _, _ in row]
                found = decoder.candidates(scores, lengths, 0, starts)
                exact = [{one[:3]: one[3] for one in row} for row in found]
                entities = [[(*one[:3], p.get(one[:3], 0.0)) for one in row]
                            for row, p in zip(entities, exact)]
            tags = [write_tags(row, len(old)) for row, old in zip(entities, tags)]
            if least is not None:
                candidates = decoder.candidates(scores, lengths, least)
        if probabilities:
            marginals = (decoder.marginals(scores, lengths) @ self.shown_alike.double()).clamp(0, 1)
            p_tags = [marginals[i, range(len(row)), [tag_map[name] for name in row]].tolist()
                      for i, row in enumerate(tags)]
            steps, _ = decoder.trellis(scores.double() + decoder.mask, lengths)
            *_, log_z = decoder.forward_backward(scores, lengths)
            p_best = (steps[-1][:, decoder.end] - log_z).exp().clamp(max=1).tolist()
        return {(n, start): row for (n, start, _), *row in zip(
            pieces, tags, p_tags, p_best, entities, candidates)}


def in_text(entities, words, starts):
    """Entities, (type, first word, last word + 1, ...), with their places in the text instead."""
    return [(name, starts[first], starts[end - 1] + len(words[end - 1]), *p)
            for name, first, end, *p in entities]


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
    """Load a checkpoint of train.py for tagging; raises InputError if it can't be used."""
    saved = load_checkpoint(path)
    with file_errors(path, 'used'):
        model = LM_LSTM_CRF(**saved['model_arguments']).to(device)
        model.load_state_dict(saved['model'])
        return Tagger(model, saved['maps'], saved['arguments'], device, saved.get('threshold'))


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
            several = min(most, len(names)) if t < len(words) else 0
            for tag in dict.fromkeys([best[t], *marginals[t].topk(several).indices.tolist()]):
                star, previous = '*' if tag == best[t] else ' ', names[backpointers[t][0, tag]]
                lines.append(f'{word:20.20} {star}{names[tag]:15} {cumulative[t][0, tag]:8.2f}  '
                             f'{previous:15} {marginals[t, tag]:11.4f}')
                word = ''
    return '\n'.join(lines)


# --- Scores ---

def tag_labeled(tagger, file, tag_column=None, word_column=None, threshold=None):
    """Tag a labeled file: its tags, in IOB2, and tag's dicts, with its entities as labeled."""
    tag_column = tagger.arguments['tag_column'] if tag_column is None else tag_column
    word_column = tagger.arguments['word_column'] if word_column is None else word_column
    words, gold = read_corpus(file, tagger.task, tag_column, 'iob2', word_column)
    tagged = list(tagger.tag(words, threshold=threshold, least=CANDIDATE))
    for tags, sentence in zip(gold, tagged):
        starts = word_starts(sentence['tokens'])
        sentence['labeled'] = in_text(find_entities(tags), sentence['tokens'], starts)
    return gold, tagged


def score_thresholds(tagged, thresholds=tuple(step / 20 for step in range(1, 20))):
    """(threshold, precision, recall, F1) of the entities that choose keeps at each threshold."""
    gold, rows = [sentence['labeled'] for sentence in tagged], []
    for threshold in thresholds:
        kept = [[one[:3] for one in choose(row['candidates'], threshold)] for row in tagged]
        rows.append((threshold, *score_rows(gold, kept, list)[-1][1:4]))
    return rows


def judge(tagged):
    """All candidates, the most probable first: (probability, labeled, found, a line to print)."""
    judged = []
    for sentence in tagged:
        found = [(one['type'], one['start'], one['end']) for one in sentence['entities']]
        for name, start, end, p in sentence['candidates']:
            line = f'{p:.4f} {name} {sentence["text"][start:end]}: {sentence["text"]}'
            entity = (name, start, end)
            judged.append((p, entity in sentence['labeled'], entity in found, line))
    return sorted(judged, reverse=True)


def score_ranges(judged):
    """(candidates, mean probability, right ones) for probabilities of 0.0 to 0.1, 0.1 to 0.2 ..."""
    tenths = [[] for _ in range(10)]
    for p, labeled, _, _ in judged:
        tenths[min(int(10 * p), 9)].append((p, labeled))
    return [(len(tenth), sum(p for p, _ in tenth) / max(len(tenth), 1),
             sum(labeled for _, labeled in tenth)) for tenth in tenths]


def print_probabilities(tagged, mistakes):
    """Print the scores at each threshold, the calibration, and so many mistakes of each kind."""
    rows, judged = score_thresholds(tagged), judge(tagged)
    best = max(rows, key=lambda row: row[3])
    print('\nthreshold  precision  recall      F1')
    for row in rows:
        print('{:9.2f}  {:9.4f}  {:6.4f}  {:6.4f}'.format(*row) + ' best' * (row is best))
    print('\nprobability  candidates    mean  right')
    for i, (n, mean, right) in enumerate(score_ranges(judged)):
        print(f'{max(i / 10, CANDIDATE):.2f} to {(i + 1) / 10:.2f} {n:10}  {mean:.4f}  {right:5}')
    if mistakes > 0:
        wrong = [line for _, labeled, found, line in judged if found and not labeled]
        missed = [line for _, labeled, found, line in judged if labeled and not found]
        print('\nfound, but not labeled:', *wrong[:mistakes], sep='\n')
        print('\nlabeled, but not found:', *missed[:mistakes], sep='\n')


# --- The command line ---

def read_sentences(files):
    """Read files or standard input line by line; what is not UTF-8 is replaced, with a warning."""
    for name in files:
        # Say at once what can't be read; a pipe can be opened only once
        with file_errors(name):
            if name != '-' and not Path(name).is_fifo():
                open(name, 'rb').close()
    warned = False
    for name in files or ['-']:
        shown = 'standard input' if name == '-' else name
        # No progress bar where it would mix with the output
        hidden = name == '-' or sys.stdout.isatty() or None
        with file_errors(shown):
            if name == '-' and sys.stdin is None:
                raise OSError('it is closed')
            file = sys.stdin.buffer if name == '-' else open(name, 'rb')
            for n, line in enumerate(tqdm(file, shown, leave=False, disable=hidden), start=1):
                text = line.decode('utf-8-sig' if n == 1 else 'utf-8', errors='replace')
                if '\ufffd' in text and '\ufffd'.encode() not in line and not warned:
                    print(f'warning: {shown}, line {n}: expected UTF-8; what is not is '
                          'replaced, here and in other lines', file=sys.stderr)
                    warned = True
                yield text.removesuffix('\n').removesuffix('\r')


def in_columns(words, *tags):
    """Rows of a word and its tags; a space in a word becomes _, since it would begin a column."""
    words = [word.replace(' ', '_') for word in words]
    return ''.join(' '.join(row) + '\n' for row in zip(words, *tags))


def inline(tagged, task, probabilities=False):
    """Write a tagged sentence for people: [PER Dunston] checks in, or Dunston/NNP checks/VBZ."""
    if task == 'pos':
        shown = [f'/{p:.2f}' for p in tagged['probabilities']] or [''] * len(tagged['tags'])
        return ' '.join(map('{}/{}{}'.format, tagged['tokens'], tagged['tags'], shown))
    text, position, parts = tagged['text'], 0, []
    for entity in tagged['entities']:
        p = f' {entity["probability"]:.2f}' if probabilities else ''
        parts += [text[position:entity['start']], f'[{entity["type"]}{p} {entity["text"]}]']
        position = entity['end']
    return ''.join([*parts, text[position:]])


def parse_arguments(argv):
    """Read the command line, as a namespace."""
    parser = ArgumentParser(
        usage='%(prog)s CHECKPOINT [FILE ...] [arguments]',
        description='Tag sentences, one a line, with a model of train.py.')
    add = parser.add_argument
    add('checkpoint', help='a checkpoint that train.py has saved')
    add('files', nargs='*', default=[], help='files to tag (default: standard input)')
    add('--text', help='a sentence to tag')
    add('--tokenized', action='store_true', help='split words at white space only')
    add('--threshold', type=number(float, 0, 1, 'best'), metavar='P',
        help="mark entities that are more probable; 'best' takes the threshold from training")
    add('--output_format', choices=('inline', 'conll', 'jsonl', 'html'), help='(default: inline)')
    add('--probabilities', action='store_true', help='show them (jsonl always has them)')
    add('--batch_size', type=number(int, 1), help='lines to read and tag together (default: 2048)')
    add('--evaluate', action='store_true', help='score the model on the files, which are labeled')
    add('--tag_column', type=int, help="the labels' column (default: as in training)")
    add('--word_column', type=int, help="the words' column (default: as in training)")
    add('--mistakes', type=number(int, 0), default=0, help='list so many of each kind')
    add('--explain', action='store_true', help="show how Viterbi's algorithm finds the tags")
    add('--device', choices=devices(), default=devices()[0], help='(default: %(default)s)')
    args = parser.parse_intermixed_args(argv)
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    if args.evaluate and (not args.files or args.output_format not in (None, 'conll')):
        raise InputError('--evaluate: expected labeled files, and no --output_format but conll')
    if not args.evaluate and given & {'tag_column', 'word_column', 'mistakes'}:
        raise InputError('--tag_column, --word_column, --mistakes: expected --evaluate, too')
    for mode, others in (
            ('text', 'files --evaluate'), ('mistakes', '--output_format'),
            ('explain', '--evaluate --output_format --probabilities --batch_size --threshold'),
            ('evaluate', '--tokenized --probabilities --batch_size')):
        for other in others.split():
            if {mode, other.strip('-')} <= given:
                raise InputError(f'--{mode}: expected no {other} beside it')
    return args


def main(argv):
    """Tag or score what the command line says, and print it as it comes."""
    args = parse_arguments(argv)
    tagger = load_tagger(args.checkpoint, args.device)
    if tagger.task == 'pos' and (args.mistakes or args.threshold is not None):
        raise InputError('--threshold, --mistakes: expected a model of entities')
    if args.threshold == 'best' and tagger.threshold is None:
        raise InputError('--threshold best: expected the best checkpoint of a run that ended; '
                         '--evaluate on the validation file shows what to choose')
    args.threshold = tagger.threshold if args.threshold == 'best' else args.threshold
    if args.tokenized:
        tagger.token = re.compile(r'\S+')
    lines = read_sentences(args.files) if args.text is None else args.text.split('\n')
    if args.evaluate:
        evaluate(tagger, args)
    elif args.explain:
        for line in filter(str.strip, lines):
            print(explain(tagger, line))
    elif args.output_format == 'html':
        print_page(tagger, lines, args)
    else:
        tag_lines(tagger, lines, args)


def evaluate(tagger, args):
    """Print how well the labeled files are tagged, or their columns for conlleval."""
    for file in args.files:
        gold, tagged = tag_labeled(tagger, file, args.tag_column, args.word_column, args.threshold)
        if args.output_format == 'conll':
            for tags, sentence in zip(gold, tagged):
                print(in_columns(sentence['tokens'], tags, sentence['tags']))
            continue
        print(f'{file}:')
        print_scores(gold, [sentence['tags'] for sentence in tagged], tagger.task)
        if tagger.task == 'ner':
            print_probabilities(tagged, args.mistakes)


def print_page(tagger, lines, args):
    """Print img/page.html with the sentences and all their candidates in it."""
    page = (Path(__file__).parent / 'img' / 'page.html').read_text(encoding='utf-8')
    before, after = page.split('/* sentences */\n')
    threshold = (tagger.threshold or 0.5) if args.threshold is None else args.threshold
    settings = json.dumps({'title': args.text or ', '.join(args.files) or 'Tagged text',
                           'task': tagger.task, 'threshold': threshold}).replace('<', '\\u003c')
    shown = ('text', 'candidates') if tagger.task == 'ner' else ('tokens', 'tags')
    # No text may end the script
    rows = [json.dumps({name: one[name] for name in shown}).replace('<', '\\u003c') + ',\n'
            for one in tagger.tag(lines, batch_size=args.batch_size or 2048, least=CANDIDATE)]
    print(before.replace('__SETTINGS__', settings), *rows, after, sep='', end='')


def tag_lines(tagger, lines, args):
    """Tag lines and print them in the --output_format."""
    interactive = not args.files and args.text is None and sys.stdin and sys.stdin.isatty()
    if interactive:
        print('Type a sentence, or Ctrl-D to end.', file=sys.stderr)
    # At a terminal each sentence is answered at once
    batch_size = args.batch_size or (1 if interactive else 2048)
    probabilities = args.probabilities or args.output_format == 'jsonl'
    for tagged in tagger.tag(lines, probabilities, batch_size, args.threshold):
        line = inline(tagged, tagger.task, probabilities)
        if args.output_format == 'jsonl':
            del tagged['candidates']
            line = json.dumps(tagged, ensure_ascii=False)
        elif args.output_format == 'conll':
            shown = [[f'{p:.4f}' for p in tagged['probabilities']]] if probabilities else []
            line = in_columns(tagged['tokens'], tagged['tags'], *shown)
        print(line, flush=batch_size < 2048)


if __name__ == '__main__':
    run_main(main)
