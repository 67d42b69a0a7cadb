"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
"""

import json
import re
import sys
from inspect import signature
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from models import LM_LSTM_CRF
from utils import (ArgumentParser, InputError, check_shapes, create_input_tensors, devices,
                   file_errors, find_entities, in_range, load_checkpoint, log_sum_exp, print_scores,
                   read_corpus, real_words, run_main, score_rows, split_lines, word_starts,
                   write_tags)

IMPOSSIBLE = -1e6  # the mask at illegal transitions; finite, so that no difference becomes NaN

class ViterbiDecoder(nn.Module):
    """Finds the best legal sequence of tags, and the probabilities of tags and entities.

    The scheme is 'iobes', 'iob2', or None for other tags. Scores are the CRF's, (N, L_w, m, m);
    lengths are numbers of words, with <end>, (N,), on the CPU; sums are forward_backward's.
    """
    def __init__(self, tag_map, scheme=None):
        super().__init__()
        if scheme not in ('iobes', 'iob2', None):
            raise ValueError(f"expected the scheme 'iobes', 'iob2' or None, found {scheme!r}")
        self.tag_map, self.scheme = tag_map, scheme
        self.start, self.end = tag_map['<start>'], tag_map['<end>']
        # (m, m), previous tags in rows and current tags in columns, as in the scores
        legal = torch.tensor([[may_follow(a, b, scheme) for b in tag_map] for a in tag_map])
        self.register_buffer('mask', torch.where(legal, 0.0, IMPOSSIBLE))
        # (m,), which tags begin an entity and which continue one; (m, types), of which type
        names = [name if scheme else '' for name in tag_map]
        self.types = sorted({name[2:] for name in names if '-' in name})
        has_type = [[name[2:] == one for one in self.types] for name in names]
        self.register_buffer('begins', torch.tensor([tag[:2] in ('B-', 'S-') for tag in names]))
        self.register_buffer('continues', torch.tensor([tag[:2] in ('I-', 'E-') for tag in names]))
        self.register_buffer('has_type', torch.tensor(has_type, dtype=torch.float64))

    def decode(self, scores, lengths):
        """Find the best legal tags, (N, L_w), <end> at the last place and at the pads (Viterbi)."""
        _, backpointers = self.trellis(scores, lengths)
        # The last tag is <end>; from there, trace back each tag to the one before it: (N,)
        tag = torch.full_like(backpointers[0][:, 0], self.end)
        tags = [tag]
        for previous in reversed(backpointers[1:]):
            tag = previous.gather(1, tag.unsqueeze(1)).squeeze(1)
            tags.append(tag)
        return torch.stack(tags[::-1], dim=1)

    def each_word(self, scores, lengths):
        """The scores at each word, (N, m, m); ValueError for wrong shapes, NaN or huge scores."""
        check_shapes(scores, lengths, len(self.tag_map))
        if not scores.is_meta and not 2 * scores.size(1) * scores.max() < -IMPOSSIBLE:
            raise InputError(f'expected scores far below {-IMPOSSIBLE:.0f}, found {scores.max()}')
        return scores.unbind(dim=1)

    def trellis(self, scores, lengths):
        """Extend the best legal sequences word by word: ViterbiLoss's loop, with max for its sum.

        Returns lists of (N, m): at each word, the scores of the best sequences that end in each
        tag, and backpointers, the tags before.
        """
        at_word = self.each_word(scores, lengths)
        real = real_words(lengths, scores.size(1), scores.device)
        # The tag before the first word is <start>: (N, m)
        cumulative = (at_word[0] + self.mask)[:, self.start]
        steps, backpointers = [cumulative], [torch.full_like(cumulative, self.start).long()]
        for t in range(1, len(at_word)):
            # Previous tags run down the rows, as in ViterbiLoss: (N, m, 1) + (N, m, m) -> (N, m)
            extended, previous = (cumulative.unsqueeze(2) + at_word[t] + self.mask).max(dim=1)
            # A sentence that is over keeps its scores, and stays at <end>
            cumulative = torch.where(real[:, t].unsqueeze(1), extended, cumulative)
            steps.append(cumulative)
            backpointers.append(torch.where(real[:, t].unsqueeze(1), previous, self.end))
        return steps, backpointers

    def marginals(self, scores, lengths, sums=None):
        """Probability of each tag among legal sequences, (N, L_w, m), double; senseless at pads."""
        forward, backward, log_z = sums or self.forward_backward(scores, lengths)
        return (forward + backward - log_z[:, None, None]).exp().clamp(0, 1)

    def forward_backward(self, scores, lengths):
        """Log-sum-exp of legal sequences up to each tag and after it, (N, L_w, m); log Z, (N,)."""
        # A word at a time in double precision, since the whole would take much memory
        at_word, mask = self.each_word(scores, lengths), self.mask.double()
        real = real_words(lengths, scores.size(1), scores.device)
        forward = [(at_word[0] + mask)[:, self.start]]
        for t in range(1, len(at_word)):
            forward.append(log_sum_exp(forward[-1].unsqueeze(2) + (at_word[t] + mask), dim=1))
        # The last tag is <end>, and nothing continues from there: (N, m)
        at_end = torch.full_like(forward[0], IMPOSSIBLE)
        at_end[:, self.end] = 0
        backward = [at_end]
        for t in range(len(at_word) - 1, 0, -1):
            # (N, m, m) + (N, 1, m) -> (N, m), over the current tags; at a pad, start over
            extended = log_sum_exp((at_word[t] + mask) + backward[-1].unsqueeze(1), dim=2)
            backward.append(torch.where(real[:, t].unsqueeze(1), extended, at_end))
        backward.reverse()
        log_z = log_sum_exp(forward[0] + backward[0], dim=1)
        return torch.stack(forward, dim=1), torch.stack(backward, dim=1), log_z

    def candidates(self, scores, lengths, least, sums=None, only=None):
        """Find every entity with a probability of `least` or more, on the best path or not.

        P(exactly w words) = P(at least w words) - P(at least w + 1) (Culotta and McCallum, 2004).
        Returns lists of (type, first word, last word + 1, probability) for each sentence. Lists of
        such entities, without the probability, limit the search to their places as `only`.
        """
        forward, backward, log_z = sums or self.forward_backward(scores, lengths)
        if only is None:
            only = [[('', i, size - 1) for i in range(size - 1)] for size in lengths.tolist()]
        places = [(n, first, end) for n, row in enumerate(only) for _, first, end in row]
        # R runs of words, each in a sentence n, from a first word up to at most an end: (R,)
        n, first, end = torch.tensor(places, dtype=torch.long, device=scores.device).view(-1, 3).T
        last, found = first, [[] for _ in lengths]
        # The sequences that lead to the beginning of an entity: (R, m)
        run = forward[n, first].masked_fill(~self.begins, IMPOSSIBLE)
        # (R, m) @ (m, types) -> (R, types)
        at_least = (run + backward[n, last] - log_z[n, None]).exp() @ self.has_type
        while len(n) > 0:
            # A longer run is never more probable: one below `least` won't get above it
            kept = (at_least >= least).any(dim=1) & (last < end)
            n, first, last, end = n[kept], first[kept], last[kept], end[kept]
            run, at_least = run[kept], at_least[kept]
            # One word more, which continues the entity: (R, m, 1) + (R, m, m) -> (R, m)
            last = last + 1
            run = log_sum_exp(run.unsqueeze(2) + (scores[n, last] + self.mask.double()), dim=1)
            run = run.masked_fill(~self.continues, IMPOSSIBLE)
            longer = (run + backward[n, last] - log_z[n, None]).exp() @ self.has_type
            exactly, at_least = (at_least - longer).clamp(0, 1), longer
            rows, kinds = ((exactly >= least) & (exactly > 0)).nonzero(as_tuple=True)
            columns = n[rows], kinds, first[rows], last[rows], exactly[rows, kinds]
            for sentence, kind, *entity in zip(*(column.tolist() for column in columns)):
                found[sentence].append((self.types[kind], *entity))
        return found

    def entities(self, scores, lengths, threshold):
        """The best set of entities of each sentence, as choose finds it among the candidates."""
        return [choose(found, threshold) for found in self.candidates(scores, lengths, threshold)]

    def entity_probabilities(self, scores, lengths, entities, sums=None):
        """The probability of exactly each (type, first word, last word + 1): lists of lists."""
        found = self.candidates(scores, lengths, 0, sums, entities)
        exactly = [{one[:3]: one[3] for one in row} for row in found]
        return [[known.get(one, 0.0) for one in row] for row, known in zip(entities, exactly)]

def choose(candidates, threshold):
    """Choose entities that don't overlap, with the largest sum of probability - threshold.

    For the best F1, the threshold is half of that F1 (Ye et al., 2012; Lipton et al., 2014).
    """
    # As in Viterbi's algorithm, the best choice up to each place: worth, (last entity, the rest)
    best = [(0.0, ())]
    for entity in sorted(candidates, key=lambda entity: entity[2]):
        _, first, end, p = entity
        best += [best[-1]] * (end + 1 - len(best))
        worth, before = best[first]
        if worth + p - threshold > best[end][0]:
            best[end] = worth + p - threshold, (entity, before)
    chosen, (_, rest) = [], best[-1]
    while rest:
        entity, rest = rest
        chosen.append(entity)
    return chosen[::-1]

def may_follow(previous, current, scheme):
    """Whether the current tag may follow the previous one; scheme is 'iobes', 'iob2' or None."""
    if current == '<start>' or previous == '<end>':
        return False
    # I and E continue an entity of their type, and in IOBES a begun entity has to be continued
    if scheme and current[:2] in ('I-', 'E-'):
        return previous[:2] in ('B-', 'I-') and previous[2:] == current[2:]
    return scheme != 'iobes' or previous[:2] not in ('B-', 'I-')

def name_tags(tags, lengths, tag_map):
    """The names of tag indices, (N, L_w), without <end>: a list for each sentence."""
    names, rows = list(tag_map), zip(tags.tolist(), lengths.tolist())
    return [[names[tag] for tag in row[:length - 1]] for row, length in rows]

# --- Tagging text ---
WINDOW = 2048  # sentences that are read and tagged together
MOST_WORDS, OVERLAP, STEP = 1000, 100, 900  # words of a long sentence's pieces, which overlap
MOST_CELLS = 16_000_000  # words times tags times tags of a batch
CANDIDATE = 0.05  # the least probability of an entity in tables, lists of mistakes and pages

# Non-ASCII punctuation, symbols of any script, ideographs and emoji; characters of words are others
SIGNS = (r'\u00a1-\u00a9\u00ab\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7'
         r'\u055a-\u055f\u0589\u05be\u060c\u061b\u061f\u06d4\u0964\u0965\u0f0d-\u0f12\u104a-\u104f'
         r'\u1361-\u1368\u17d4-\u17d6\u17d8-\u17da\u2010-\u2027\u2030-\u205e\u20a0-\u20cf\u2116'
         r'\u2122\u2190-\u2bff\u3001-\u3004\u3008-\u3020\u3030\u30fb\uff01-\uff0f\uff1a-\uff20'
         r'\uff3b-\uff40\uff5b-\uff65\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001f000-\U0003ffff')
# Signs that nobody sees, like marks of direction, may be inside a token, but not at its edges
HIDDEN = r'\u00ad\u061c\u180e\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb'
SPACE = r'\s\u200b'
W = rf'[^{SPACE}{HIDDEN}!-/:-@\[-^`{{-~{SIGNS}]'  # a character of a word
# Accents, colors of emoji and the like belong to the sign before them
MARK = r'[\u0300-\u036f\u20d0-\u20f0\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e01ef]'
SEEN, FLAG = rf'[^{SPACE}{HIDDEN}]', r'[\U0001f1e6-\U0001f1ff]{2}'
SIGN = rf'{SEEN}{MARK}*(?:\u200d(?!{W}){SEEN}{MARK}*)*'
ENDINGS, NOT = rf'(?i:s|m|d|re|ve|ll)(?!{W})', rf"(?i:n['\u2019]t)(?!{W})"
ABBREVIATIONS = ('Mrs?|Ms|Dr|Sts?|Mt|Ft|Ltd?|Sgt|Capt|Maj|Cmdr|Adm|[JS]r|Inc|Corp|Cos?|Bros|vs|etc|'
                 'Ave|Blvd|Feb|Apr|Aug|Sept?|Oct|Nov|Dec')
NAMES = 'Prof|Gen|Col|Gov|Sen|Re[pv]|Hon|Jan|Mar|Ju[nl]'  # words and names, too
# ACRONYM: 5p.m., U.S.; WORD: 1/2, O'Brien; JOINED, which may follow either: -led, &T
ACRONYM = rf'(?:\d+(?::\d+)?)?(?:(?i:Ph\.D\.)|(?:[^\W\d_]\.){{2,}})(?:s(?!{W}))?'
WORD = (rf"{W}(?:{W}|(?<=\d)[.,:/](?=\d)|['\u2019\u00b7](?!{ENDINGS})(?={W})"
        rf'|[{HIDDEN}]+(?={W}))*')
JOINED = rf'(?:[-\u2010\u2011&](?={W})(?:{ACRONYM}|{WORD}))*'

# A token is what the first of these patterns to match takes; the keys are examples of each
PATTERNS = {
    'https://x.org/a?b=c': rf'(?i:https?://|www\.)[^{SPACE}<>"{SIGNS}]*(?![{SIGNS}])[\w/]',
    'a.b@c-d.org': rf'(?:(?![{SIGNS}])[\w.+-]){{1,64}}@'
                   rf'(?:(?![{SIGNS}])[\w-])+(?:\.(?:(?![{SIGNS}])[\w-])+)+',
    '#tag': f'[@#]{W}+',
    'bbc.co.uk': r'(?<![\w.-])[\w-]{1,64}(?:\.[\w-]{1,64}){0,3}'
                 r'\.(?i:com|org|net|edu|gov|co\.uk)\b(?!\.\w)',
    "'s of Dunston's": rf"['\u2019](?:{ENDINGS}|(?i:\d0s)(?!{W}))",
    "n't of don't-know": NOT,
    "do of don't": f'{W}+?(?={NOT})',
    'can of cannot': r'(?i:can)(?=(?i:not)\b)',
    'J.-P. of J.-P. Roux': r'[A-Z\u00c0-\u00d6\u00d8-\u00de\u0391-\u03a9\u0410-\u042f]\.'
                           r'(?:-[A-Z\u00c0-\u00de]\.){0,2}(?=\s{0,2}\w)(?!\w\.)',
    'No. of No. 5': r'N[Oo][Ss]?\.(?=\s?\d)',
    'Mr.': rf'(?=[a-zA-Z]{{2,4}}\.)(?i:{ABBREVIATIONS})\.',
    'Jan. of Jan. 5': rf'(?=[a-zA-Z]{{3,4}}\.)(?i:{NAMES})\.(?=[{SPACE}{HIDDEN}]*{SEEN})',
    'US$ of US$5': r'[A-Z]{0,2}[$\u20ac\u00a3\u00a5]',
    '-.5 of at -.5': rf'(?<![^\s(])(?:[+-]\.?|\.)(?=\d)(?:{ACRONYM}|{WORD}){JOINED}',
    'U.S.-led': ACRONYM + JOINED,
    "rock'n'roll": WORD + JOINED,
    '\U0001f1f3\U0001f1f4': FLAG,  # Norway's
    '...': r"\.{2,}|-{2,}|``|''",
    '\u2764\ufe0f': SIGN,  # any other sign: a heart, and its red
}
# How --tokenizer splits: as above; only at white space; into runs of letters or digits, and signs
LETTERS = rf'(?:(?![\d_]){W})+'
TOKENIZERS = {'words': re.compile('|'.join(PATTERNS.values())), 'spaces': re.compile(r'\S+'),
              'fine': re.compile(rf'{LETTERS}(?:[{HIDDEN}]+{LETTERS})*|\d+{MARK}*|{FLAG}|{SIGN}')}

def find_tokens(text, tokenizer='words'):
    """Where the tokens of a text, in one line or several, begin and end: a list of pairs."""
    return [token.span() for line in re.finditer('[^\r\n]+', text)
            for token in TOKENIZERS[tokenizer].finditer(text, *line.span())]

class Tagger:
    """A trained model with all that it needs to tag text; load_tagger makes one."""
    def __init__(self, model, maps, arguments, device='cpu', threshold=None):
        self.model, self.maps, self.arguments, self.device = model.eval(), maps, arguments, device
        self.task, self.threshold = arguments['task'], threshold
        self.tokenizer = arguments.get('tokenizer', 'words')
        scheme = arguments['tag_scheme'] if self.task == 'ner' else None
        self.decoder = ViterbiDecoder(maps['tag_map'], scheme).to(device)
        # (m, m), which tags are shown as the same: in IOBES, S as B and E as I
        same = {'S-': 'B-', 'E-': 'I-'} if scheme == 'iobes' else {}
        shown = [same.get(name[:2], name[:2]) + name[2:] for name in maps['tag_map']]
        self.shown_alike = torch.tensor([[a == b for b in shown] for a in shown], device=device)

    def tag(self, sentences, probabilities=False, batch_size=WINDOW, threshold=None, least=None):
        """Tag sentences, however many there are: str, which are split, or lists of words.

        Yields dicts of text, tokens, tags (IOB2), their probabilities (if asked for) and that of
        Viterbi's sequence (or NaN; of a long line the product of its pieces'), entities (dicts of
        type, text, start, end, probability), and candidates, (type, start, end, probability), with
        `least` or more. A threshold chooses the entities; batch_size sentences are read at a time.
        """
        if isinstance(sentences, (str, bytes)):
            raise TypeError('expected sentences, found one str; give a list: tag([sentence])')
        if batch_size < 1:
            raise ValueError(f'expected a batch_size of 1 or more, found {batch_size}')
        return self.tag_each(enumerate(sentences, 1), batch_size, (probabilities, threshold, least))

    def tag_each(self, sentences, batch_size, options):
        """What tag yields; sentences have numbers, and options are those of tag_batch."""
        while window := list(islice(sentences, batch_size)):
            split = [self.split(sentence, number) for number, sentence in window]
            # The pieces of a long sentence overlap, so that a name is whole in one of them
            pieces = [(n, start, words[start:start + MOST_WORDS])
                      for n, (_, words, _) in enumerate(split)
                      for start in range(0, max(len(words) - OVERLAP, 1), STEP) if words]
            sizes = [(len(words), len(' '.join(words))) for _, _, words in pieces]
            tagged = [{} for _ in split]
            for batch in make_batches(sizes, len(self.maps['tag_map'])):
                found = self.tag_batch([pieces[i][2] for i in batch], *options)
                for (n, start, _), result in zip([pieces[i] for i in batch], found):
                    tagged[n][start] = result
            for (text, words, starts), results in zip(split, tagged):
                joined = join(results)
                if self.task == 'ner':
                    joined['tags'] = write_tags(joined['entities'], len(words))
                joined['entities'] = [
                    {'type': name, 'text': text[a:b], 'start': a, 'end': b, 'probability': p}
                    for name, a, b, p in in_text(joined['entities'], words, starts)]
                joined['candidates'] = in_text(joined['candidates'], words, starts)
                yield {'text': text, 'tokens': words, **joined}

    def split(self, sentence, number=1):
        """The text, the words and where they begin, of a str or of a list of words."""
        if isinstance(sentence, str):
            if '\0' in sentence:
                raise ValueError(f'sentence {number}: expected text, found a zero in it')
            spans = find_tokens(sentence, self.tokenizer)
            return sentence, [sentence[start:end] for start, end in spans], [a for a, _ in spans]
        if (not isinstance(sentence, (list, tuple))
                or not all(isinstance(word, str) for word in sentence)):
            raise TypeError(f'sentence {number}: expected str or a list of str, found {sentence!r}')
        return ' '.join(sentence), sentence, word_starts(sentence)

    @torch.inference_mode()
    def score(self, sentences):
        """The CRF's scores of lists of words, (N, L_w, m, m), and their lengths."""
        batch = create_input_tensors(sentences, None, **self.maps)
        scores, _, _ = self.model(**batch.to(self.device)._asdict())
        return scores, batch.wmap_lengths

    def tag_batch(self, sentences, probabilities, threshold, least):
        """Tag lists of words: for each of them, a dict of what tag puts together."""
        (scores, lengths), decoder = self.score(sentences), self.decoder
        tag_map, empty = self.maps['tag_map'], [[]] * len(sentences)
        tags = name_tags(decoder.decode(scores, lengths), lengths, tag_map)
        bounds = [p for p in (threshold, least) if p is not None and self.task == 'ner']
        sums = decoder.forward_backward(scores, lengths) if probabilities or bounds else None
        # At a bound of 0, all runs of words would be candidates
        found = (decoder.candidates(scores, lengths, max(min(bounds), 0.0001), sums) if bounds
                 else empty)
        wanted = [[one for one in row if least in bounds and one[3] >= least] for row in found]
        results = {'tags': tags, 'probabilities': empty, 'entities': empty, 'candidates': wanted,
                   'probability': [float('nan')] * len(tags)}
        if threshold in bounds:  # that is, it is given, and the task is ner
            results['entities'] = [choose(row, threshold) for row in found]
        elif self.task == 'ner':
            entities = [find_entities(row) for row in tags]
            exactly = (decoder.entity_probabilities(scores, lengths, entities, sums)
                       if probabilities else [[None] * len(row) for row in entities])
            results['entities'] = [[(*entity, p) for entity, p in zip(row, values)]
                                   for row, values in zip(entities, exactly)]
        if self.task == 'ner':
            results['tags'] = list(map(write_tags, results['entities'], map(len, tags)))
        if probabilities:
            # (N, L_w, m) @ (m, m), and of each word the tag that is shown
            marginals = decoder.marginals(scores, lengths, sums) @ self.shown_alike.double()
            results['probabilities'] = [
                [at_word[tag_map[name]] for name, at_word in zip(names, rows)]
                for names, rows in zip(results['tags'], marginals.clamp(0, 1).tolist())]
            cumulative, _ = decoder.trellis(scores.double(), lengths)
            best = cumulative[-1][:, decoder.end] - sums[-1]  # log Z
            results['probability'] = best.exp().clamp(max=1).tolist()
        return [dict(zip(results, values)) for values in zip(*results.values())]

def in_text(entities, words, starts):
    """Entities, (type, first word, last word + 1, ...), with their places in the text instead."""
    return [(name, starts[a], starts[b - 1] + len(words[b - 1]), *p) for name, a, b, *p in entities]

def join(pieces):
    """Join what tag_batch found in a sentence's pieces: {place of its first word: result}."""
    joined = {'tags': [], 'probabilities': [], 'probability': 1.0, 'entities': [], 'candidates': []}
    for first, found in sorted(pieces.items()):
        # The seam is in the middle of what both know, or behind the entity that is there
        middle = (first + len(joined['tags'])) // 2
        seam = max([middle, *(end for _, start, end, _ in joined['entities'] if start < middle)])
        for name in ('tags', 'probabilities'):
            joined[name] = joined[name][:seam] + found[name][seam - first:]
        for name in ('entities', 'candidates'):
            joined[name] = [one for one in joined[name] if one[1] < seam] + [
                (tag, first + a, first + b, p) for tag, a, b, p in found[name] if first + a >= seam]
        joined['probability'] *= found['probability']
    return joined

def make_batches(sizes, tags):
    """Batches of sentences of similar sizes, (words, characters): lists of indices."""
    order, first = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True), 0
    while first < len(order):
        # The padded size bounds a batch: its characters, and its scores for so many tags
        words, chars = map(max, zip(*(sizes[i] for i in order[first:first + 32])))
        n = max(1, min(32, 20_000 // (chars + 2), MOST_CELLS // ((words + 1) * tags ** 2)))
        yield order[first:first + n]
        first += n

def model_arguments(maps, arguments):
    """What LM_LSTM_CRF takes, from maps and train.py's arguments; KeyError if one is missing."""
    sizes = {'tagset_size': len(maps['tag_map']), 'charset_size': len(maps['char_map']),
             'vocab_size': len(maps['word_map']), 'lm_vocab_size': maps['word_map']['<unk>'] + 1}
    return {name: {**arguments, **sizes}[name] for name in signature(LM_LSTM_CRF).parameters}

def load_tagger(path, device='cpu'):
    """Load a checkpoint as a Tagger, or raise InputError; the random state stays as it was."""
    saved = load_checkpoint(path)
    with file_errors(path, 'used', KeyError, TypeError):
        arguments = model_arguments(saved['maps'], saved['arguments'])
        arguments['language_models'] = 'forw_lm_out.weight' in saved['model']
        sizes = [size for weight in saved['model'].values() for size in weight.shape]
        if max(arguments.values()) > max(sizes + [10_000]):
            raise InputError(f'{path}: expected sizes as those of its weights, found {arguments}')
    with (file_errors(path, 'used', RuntimeError, ValueError, ArithmeticError),
          torch.random.fork_rng(devices=[]), torch.device('cpu')):
        model = LM_LSTM_CRF(**arguments)
        model.load_state_dict(saved['model'], assign=True)
        return Tagger(model.float().to(device), saved['maps'], saved['arguments'], device,
                      saved.get('threshold'))

def explain(tagger, text, most=5):
    """Write the Viterbi trellis of a sentence as a table of each word's most likely tags."""
    decoder, names = tagger.decoder, list(tagger.maps['tag_map'])
    lines = ['word                  tag                score  from            probability']
    _, sentence, _ = tagger.split(text)
    for start in range(0, len(sentence), MOST_WORDS):
        words = [*sentence[start:start + MOST_WORDS], '<end>']
        scores, lengths = tagger.score([words[:-1]])
        scores = scores.double()  # so that the columns and the stars agree
        cumulative, backpointers = decoder.trellis(scores, lengths)
        best, marginals = decoder.decode(scores, lengths)[0], decoder.marginals(scores, lengths)[0]
        for t, (word, on_path) in enumerate(zip(words, best.tolist())):
            several = min(most, len(names)) if t < len(words) - 1 else 0
            for tag in dict.fromkeys([on_path, *marginals[t].topk(several).indices.tolist()]):
                star, previous = '*' if tag == on_path else ' ', names[backpointers[t][0, tag]]
                lines.append(f'{word:20.20} {star}{names[tag]:15} {cumulative[t][0, tag]:8.2f}  '
                             f'{previous:15} {marginals[t, tag]:11.4f}')
                word = ''
    return '\n'.join(lines)

# --- Scores ---
def tag_labeled(tagger, words, gold, threshold=None):
    """Tag labeled sentences: what tag yields, with the file's entities as labeled."""
    tagged = tagger.tag(words, threshold=threshold, least=CANDIDATE)
    return [{**sentence, 'labeled': in_text(find_entities(tags), row, word_starts(row))}
            for row, tags, sentence in zip(words, gold, tagged)]

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
            entity = name, start, end
            judged.append((p, entity in sentence['labeled'], entity in found, line))
    return sorted(judged, reverse=True)

def score_ranges(judged):
    """(candidates, mean probability, right ones) for probabilities of 0.0 to 0.1, 0.1 to 0.2 ..."""
    tenths = [[one for one in judged if min(int(10 * one[0]), 9) == n] for n in range(10)]
    return [(len(tenth), sum(p for p, *_ in tenth) / max(len(tenth), 1),
             sum(labeled for _, labeled, *_ in tenth)) for tenth in tenths]

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
    for labeled, title in ((False, 'found, but not labeled'), (True, 'labeled, but not found')):
        if mistakes:
            lines = [line for _, *is_in, line in judged if is_in == [labeled, not labeled]]
            print(f'\n{title}:', *lines[:mistakes], sep='\n')

# --- The command line ---
def read_sentences(files):
    """Read files or standard input line by line; what is not UTF-8 is replaced, with a warning."""
    warned = False
    for name in files:  # Say at once what can't be read; a pipe can be opened only once
        with file_errors(name):
            if name != '-' and not Path(name).is_fifo():
                open(name, 'rb').close()
    for name in files or ['-']:
        shown = 'standard input' if name == '-' else name
        # No progress bar where it would mix with the output
        hidden = name == '-' or sys.stdout.isatty() or None
        with file_errors(shown):
            if name == '-' and sys.stdin is None:
                raise OSError('it is closed')
            file = sys.stdin.buffer if name == '-' else open(name, 'rb')
            for n, line in enumerate(tqdm(file, shown, leave=False, disable=hidden), start=1):
                if b'\0' in line or n == 1 and line[:2] in (b'\xff\xfe', b'\xfe\xff'):
                    raise InputError(f'{shown}, line {n}: expected UTF-8, found UTF-16 or zeros')
                text = line.decode('utf-8-sig' if n == 1 else 'utf-8', errors='replace')
                if '\ufffd' in text and '\ufffd'.encode() not in line and not warned:
                    warned = True
                    print(f'warning: {shown}, line {n}: expected UTF-8; what is not is replaced, '
                          'here and in other lines', file=sys.stderr)
                yield from split_lines(text.removesuffix('\n').removesuffix('\r'))

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

FORMATS = 'conll', 'inline', 'jsonl', 'doccano', 'html'
# Arguments that each of these forbids: they would change nothing, or leave open what is meant
EXCLUDED = {'text': {'files'}, 'mistakes': {'output_format'}, 'probabilities': {'doccano', 'html'},
            'evaluate': {*FORMATS[1:], 'text', 'tokenized', 'probabilities', 'batch_size'},
            'explain': {*FORMATS[:-1], 'evaluate', 'probabilities', 'batch_size', 'threshold'}}

def parse_arguments(argv):
    """Read the command line, as a namespace."""
    parser = ArgumentParser(usage='%(prog)s CHECKPOINT [FILE ...] [arguments]',
                            description='Tag sentences, one a line, with a model of train.py.')
    add = parser.add_argument
    add('checkpoint', help='a checkpoint that train.py has saved')
    add('files', nargs='*', default=[], help='files to tag (default: standard input)')
    add('--text', help='a sentence to tag')
    add('--tokenized', action='store_true', help='split words at white space only')
    add('--threshold', type=in_range(float, 0, 1, 'best'), metavar='P',
        help="mark entities that are more probable; 'best' takes the threshold from training")
    add('--output_format', choices=FORMATS, help='(default: inline)')
    add('--probabilities', action='store_true', help='show them (jsonl always has them)')
    add('--batch_size', type=in_range(int, 1), help='lines read ahead: 2048; 1 answers each')
    add('--evaluate', action='store_true', help='score the model on the files, which are labeled')
    add('--tag_column', type=int, help="the labels' column (default: as in training)")
    add('--word_column', type=int, help="the words' column (default: as in training)")
    add('--mistakes', type=in_range(int, 0), help='list so many of each kind')
    add('--explain', action='store_true', help="show how Viterbi's algorithm finds the tags")
    add('--device', choices=devices(), default=devices()[0], help='(default: %(default)s)')
    args = parser.parse_intermixed_args(argv)
    args.given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    args.given.add(args.output_format)  # by its name, too, since each forbids something else
    if args.evaluate and not args.files:
        raise InputError('--evaluate: expected labeled files')
    if not args.evaluate and args.given & {'tag_column', 'word_column', 'mistakes'}:
        raise InputError('--tag_column, --word_column, --mistakes: expected --evaluate, too')
    for name in sorted(args.given & EXCLUDED.keys()):
        for other in sorted(args.given & EXCLUDED[name]):
            raise InputError(f'--{name}: expected no {other} beside it')
    return args

def main(argv):
    """Tag or score what the command line says, and print it as it comes."""
    args = parse_arguments(argv)
    tagger = load_tagger(args.checkpoint, args.device)
    if tagger.task == 'pos' and args.given & {'mistakes', 'threshold', 'doccano'}:
        raise InputError('--threshold, --mistakes, doccano: expected a model of entities')
    if args.threshold == 'best' and tagger.threshold is None:
        raise InputError('--threshold best: expected the best checkpoint of a run that has ended')
    args.threshold = tagger.threshold if args.threshold == 'best' else args.threshold
    tagger.tokenizer = 'spaces' if args.tokenized else tagger.tokenizer
    lines = read_sentences(args.files) if args.text is None else split_lines(args.text)
    if args.text is None and not args.files and sys.stdin and sys.stdin.isatty():
        print('Type a sentence, or Ctrl-D to end.', file=sys.stderr)
        args.batch_size = args.batch_size or 1  # each sentence is answered at once
    args.batch_size = args.batch_size or WINDOW
    if args.evaluate:
        evaluate(tagger, args)
    elif args.explain and args.output_format == 'html':
        print_trellis(tagger, lines)
    elif args.explain:
        for line in filter(str.strip, lines):
            print(explain(tagger, line))
    elif args.output_format == 'html':
        print_page(tagger, lines, args)
    else:
        tag_lines(tagger, lines, args)

def evaluate(tagger, args):
    """Read the labeled files; print how well each is tagged, or its columns for conlleval."""
    chosen = {name: tagger.arguments[name] if vars(args)[name] is None else vars(args)[name]
              for name in ('tag_column', 'word_column')}
    corpora = [read_corpus(file, tagger.task, tag_scheme='iob2', **chosen) for file in args.files]
    for file, (words, gold) in zip(args.files, corpora):
        tagged = tag_labeled(tagger, words, gold, args.threshold)
        if args.output_format == 'conll':
            print(*map(in_columns, words, gold, [one['tags'] for one in tagged]), sep='\n')
            continue
        print(f'{file}:')
        print_scores(gold, [sentence['tags'] for sentence in tagged], tagger.task)
        if tagger.task == 'ner':
            print_probabilities(tagged, args.mistakes)

def print_page(tagger, lines, args):
    """Print img/page.html with the sentences and all their candidates in it."""
    threshold = (tagger.threshold or 0.5) if args.threshold is None else args.threshold
    shown = ('text', 'candidates') if tagger.task == 'ner' else ('tokens', 'tags')
    rows = [{name: one[name] for name in shown}
            for one in tagger.tag(lines, False, args.batch_size, least=min(threshold, CANDIDATE))]
    fill_page('page.html', rows, title=args.text or ', '.join(args.files) or 'Tagged text',
               task=tagger.task, threshold=threshold)

def print_trellis(tagger, lines):
    """Print img/trellis.html for lines, with the first MOST_WORDS words of each."""
    transitions = tagger.model.crf.transition.detach().double()
    # (L, m, m) - (m, m), which is the same for all previous tags: (L, m)
    rows = [{'words': [*words, '<end>'],
             'emissions': (tagger.score([words])[0][0].double() - transitions)[:, 0].tolist()}
            for words in (tagger.split(line)[1][:MOST_WORDS] for line in lines) if words]
    fill_page('trellis.html', rows, tags=list(tagger.maps['tag_map']),
               scheme=tagger.decoder.scheme, transitions=transitions.tolist())

def fill_page(name, rows, **settings):
    """Print a page of img/ with rows and settings in it, as JSON that can't end its script."""
    page = (Path(__file__).parent / 'img' / name).read_text(encoding='utf-8')
    settings, *rows = [json.dumps(one).replace('<', '\\u003c') for one in (settings, *rows)]
    head, tail = page.split('/* sentences */\n')
    print(head.replace('/* settings */ null', settings), ',\n'.join([*rows, tail]), sep='', end='')

def tag_lines(tagger, lines, args):
    """Tag lines and print them in the --output_format."""
    probabilities = args.probabilities or args.output_format == 'jsonl'
    for tagged in tagger.tag(lines, probabilities, args.batch_size, args.threshold):
        if args.output_format == 'jsonl':
            del tagged['candidates']
            # str.splitlines would also end a line at these
            line = re.sub('[\x85\u2028\u2029]', lambda sign: f'\\u{ord(sign[0]):04x}',
                          json.dumps(tagged, ensure_ascii=False))
        elif args.output_format == 'doccano':
            label = [[one['start'], one['end'], one['type']] for one in tagged['entities']]
            line = json.dumps({'text': tagged['text'], 'label': label})
        elif args.output_format == 'conll':
            shown = [[f'{p:.4f}' for p in tagged['probabilities']]] if probabilities else []
            line = in_columns(tagged['tokens'], tagged['tags'], *shown)
        else:
            line = inline(tagged, tagger.task, probabilities)
        print(line, flush=args.batch_size < WINDOW)

if __name__ == '__main__':
    run_main(main)
