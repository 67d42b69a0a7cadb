"""Tag sentences with a trained model.

    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar --text "Dunston checks in."
    python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar news.txt
    echo "Dunston checks in." | python inference.py BEST_checkpoint_lm_lstm_crf.pth.tar
"""

import json
import re
import sys
from collections import deque
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import torch
from tqdm import tqdm

from models import LM_LSTM_CRF
from utils import (ArgumentParser, InputError, available_device, check_tags, create_input_tensors,
                   exit_status, find_entities, load_checkpoint, log_sum_exp, number, print_scores,
                   read_corpus, score_tags, to_device)

# The score of an impossible transition; with -inf gradients would be NaN
IMPOSSIBLE = -1e6
# Longer sentences are tagged in pieces, and the model sees no more of a word
LONGEST_SENTENCE, LONGEST_WORD = 1000, 100

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


def tokenize(text, pattern=TOKEN):
    """Split a sentence into words roughly as the Penn Treebank does (the lines of TOKEN say how).

    Returns:
        Matches: word.group() is a word, word.start() and word.end() are its place in the text.
    """
    return list(pattern.finditer(text))


# --- Decoding and probabilities ---

def shown_as(tag):
    """The IOB2 tag as which an IOBES tag is shown."""
    return tag.replace('S-', 'B-', 1) if tag.startswith('S-') else re.sub('^E-', 'I-', tag)


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

    return torch.tensor([[legal(before, after) for after in tag_map] for before in tag_map])


class ViterbiDecoder:
    """Finds the best legal sequence of tags, and the probabilities of tags and entities.

    Args:
        tag_map: from create_maps.
    """

    def __init__(self, tag_map):
        self.start, self.end = tag_map['<start>'], tag_map['<end>']
        self.legal = legal_transitions(tag_map)
        names = list(tag_map)
        # (m, m), which tags are shown as the same IOB2 tag, and which go on an entity of the tag
        shown = [shown_as(name) for name in names]
        self.shown_alike = torch.tensor([[a == b for b in shown] for a in shown])
        self.goes_on = torch.tensor([[b[:2] in ('I-', 'E-') and a[1:] == b[1:] for b in names]
                                     for a in names])

    def mask(self, scores):
        """Make what is impossible too improbable to be chosen: (N, L_w, m, m) -> the same."""
        return scores.masked_fill(~self.legal.to(scores.device), IMPOSSIBLE)

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

    def trellis(self, scores):
        """All steps of masked scores (N, L_w, m, m).

        Returns:
            Two lists, for each word the cumulative scores and the backpointers, (N, m).
        """
        # At the first word only the row of <start> counts
        cumulative = [scores[:, 0, self.start]]
        backpointers = [torch.full_like(cumulative[0], self.start, dtype=torch.int64)]
        for t in range(1, scores.size(1)):
            best, previous = self.step(cumulative[-1], scores[:, t])
            cumulative.append(best)
            backpointers.append(previous)
        return cumulative, backpointers

    def decode(self, scores, lengths):
        """Decode N sentences, in any order.

        Args:
            scores: from the CRF, (N, L_w, m, m).
            lengths: numbers of words, with <end>, (N,).

        Returns:
            (N, L_w) LongTensor of tags, <end> at the last word and at the pads.
        """
        lengths = lengths.to(scores.device)
        _, backpointers = self.trellis(self.mask(scores))
        # Trace back from <end>; the tag before a pad is <end> as well
        # (N,)
        tag = torch.full_like(lengths, self.end)
        tags = [tag]
        for t in range(scores.size(1) - 1, 0, -1):
            previous = backpointers[t].gather(1, tag.unsqueeze(1)).squeeze(1)
            tag = torch.where(t < lengths, previous, self.end)
            tags.append(tag)
        return torch.stack(tags[::-1], dim=1)

    def forward_backward(self, scores, lengths):
        """Sum over all legal sequences up to, and from, each tag of each word.

        Args:
            scores, lengths: as for decode.

        Returns:
            forward, (N, L_w, m): log-sum-exp of the scores of the sequences that lead to a tag;
            backward, (N, L_w, m): of those that lead on from it; log Z, (N,).
        """
        scores, lengths = self.mask(scores), lengths.to(scores.device).unsqueeze(1)
        forward = [scores[:, 0, self.start]]
        for t in range(1, scores.size(1)):
            forward.append(log_sum_exp(forward[-1].unsqueeze(2) + scores[:, t], dim=1))
        # Nothing leads on from <end>, the last tag
        last = torch.full_like(forward[0], IMPOSSIBLE)
        last[:, self.end] = 0
        backward = [last]
        for t in range(scores.size(1) - 1, 0, -1):
            longer = log_sum_exp(scores[:, t] + backward[-1].unsqueeze(1), dim=2)
            backward.append(torch.where(t < lengths, longer, last))
        forward, backward = torch.stack(forward, 1), torch.stack(backward[::-1], 1)
        return forward, backward, log_sum_exp(forward[:, 0] + backward[:, 0], dim=1)

    def marginals(self, forward, backward, log_z):
        """P(tag at word | sentence), (N, L_w, m), from what forward_backward found."""
        return (forward + backward - log_z[:, None, None]).exp()

    def entity_probability(self, scores, forward, backward, log_z, tags, start, end):
        """The probability of exactly one entity: that its words bear its tags and it ends there.

        Args:
            scores, forward, backward, log_z: masked scores and results of one sentence.
            tags: the decoded tags of the sentence, (L_w,).
            start, end: first word, last word + 1.
        """
        path = tags[start:end]
        inside = scores[range(start + 1, end), path[:-1], path[1:]].sum()
        # Whatever comes next, but not more of the same entity
        after = scores[end, path[-1]] + backward[end]
        after = after.masked_fill(self.goes_on[path[-1]], IMPOSSIBLE)
        return (forward[start, path[0]] + inside + log_sum_exp(after, 0) - log_z).exp().item()


# --- Tagging ---

def run_model(model, batch):
    """Give a batch of a WCDataset to the model, whose forward says what comes back."""
    wmaps, cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, tmaps, wmap_lengths, cmap_lengths = batch
    return model(cmaps_f, cmaps_b, cmarkers_f, cmarkers_b, wmaps, tmaps, wmap_lengths, cmap_lengths)


def name_tags(tags, lengths, tag_map):
    """The names of tag indices, (N, L_w), without <end>: a list for each sentence."""
    names = list(tag_map)
    return [[names[tag] for tag in row[:length - 1]]
            for row, length in zip(tags.tolist(), lengths.tolist())]


def word_spans(words):
    """The first and last places of words in the text that they make with a space between them."""
    ends = accumulate(len(word) + 1 for word in words)
    return [(end - 1 - len(word), end - 1) for word, end in zip(words, ends)]


def windows(sentences):
    """Lists of 4,000 sentences (str or lists of words), or of fewer that are long."""
    window, size = [], 0
    for sentence in sentences:
        window.append(sentence)
        size += len(sentence)
        if len(window) == 4000 or size > 1_000_000:
            yield window
            window, size = [], 0
    if window:
        yield window


def similar_batches(sentences):
    """Batches of sentences (lists of words) of similar length, as lists of indices.

    A batch has up to 64 sentences, and fewer where they are long, so that memory is bounded.
    """
    sizes = [(len(words), sum(map(len, words))) for words in sentences]
    batch = []
    for i in sorted(range(len(sentences)), key=sizes.__getitem__):
        if len(batch) == 64 or batch and (len(batch) + 1) * sum(sizes[i]) > 20_000:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class Tagger:
    """A trained model with all that it needs to tag text; load_tagger makes one.

    Args:
        model: an LM_LSTM_CRF.
        maps: a dict of word_map, char_map and tag_map.
        arguments: the arguments with which it was trained.
        device: where the model is.
    """

    def __init__(self, model, maps, arguments, device):
        self.model, self.maps, self.arguments, self.device = model.eval(), maps, arguments, device
        self.task, self.decoder = arguments['task'], ViterbiDecoder(maps['tag_map'])

    def tag(self, sentences, probabilities=False, tokenizer=tokenize):
        """Tag sentences, a window of them at a time, however many there are.

        Args:
            sentences: an iterable of str, which are tokenized, or of lists of words.
            probabilities: compute them?
            tokenizer: a function like tokenize.

        Yields:
            For each sentence, in order, a dict: text; tokens, a list of str; tags, a list of str,
            entities in IOB2; entities, a list of dicts of type, text, and start and end, its place
            in the text; and, if asked for, probabilities of the tags, and of each entity.
        """
        for window in windows(sentences):
            texts = [x if isinstance(x, str) else ' '.join(x) for x in window]
            spans = [[word.span() for word in tokenizer(x)] if isinstance(x, str) else word_spans(x)
                     for x in window]
            tokens = [[text[a:b] for a, b in places] for text, places in zip(texts, spans)]
            for result in zip(texts, spans, tokens, self.tag_words(tokens, probabilities)):
                yield describe(*result, probabilities)

    def tag_words(self, sentences, probabilities):
        """Tag lists of words, in pieces of up to LONGEST_SENTENCE.

        Returns:
            For each sentence tags, probabilities of the tags, and entities: (type, first word, last
            word + 1, probability).
        """
        pieces = [(i, start) for i, words in enumerate(sentences)
                  for start in range(0, len(words), LONGEST_SENTENCE)]
        words = [[word[:LONGEST_WORD] for word in sentences[i][start:start + LONGEST_SENTENCE]]
                 for i, start in pieces]
        tagged = {}
        for batch in similar_batches(words):
            tagged.update(zip((pieces[i] for i in batch),
                              self.tag_batch([words[i] for i in batch], probabilities)))
        results = [([], [], []) for _ in sentences]
        for i, start in pieces:
            tags, tag_probabilities, entities = tagged[i, start]
            results[i][0].extend(tags)
            results[i][1].extend(tag_probabilities)
            results[i][2].extend((name, start + a, start + b, p) for name, a, b, p in entities)
        return results

    @torch.inference_mode()
    def tag_batch(self, sentences, probabilities):
        """tag_words for a batch of sentences, all at once."""
        batch = to_device(create_input_tensors(sentences, None, **self.maps), self.device)
        scores, _, _, lengths, word_sort_ind, char_sort_ind = run_model(self.model, batch)
        decoded = self.decoder.decode(scores, lengths)
        rows = [([], [], [])] * len(sentences)
        places = char_sort_ind[word_sort_ind].tolist()
        if probabilities:
            # On the host, in double precision
            scores, decoded = self.decoder.mask(scores).double().cpu(), decoded.cpu()
            sums = self.decoder.forward_backward(scores, lengths)
            # The tags that are shown alike share a probability
            shown = self.decoder.marginals(*sums) @ self.decoder.shown_alike.double()
            shown = shown.gather(2, decoded.unsqueeze(2)).squeeze(2).tolist()
        for n, tags in enumerate(name_tags(decoded, lengths, self.maps['tag_map'])):
            entities = find_entities(tags) if self.task == 'ner' else []
            p = [None] * len(entities)
            if probabilities:
                p = [self.decoder.entity_probability(
                    scores[n], *(x[n] for x in sums), decoded[n], start, end)
                    for _, start, end in entities]
            rows[places[n]] = ([shown_as(tag) if self.task == 'ner' else tag for tag in tags],
                               shown[n][:len(tags)] if probabilities else [],
                               [(*entity, x) for entity, x in zip(entities, p)])
        return rows


def describe(text, spans, tokens, result, probabilities):
    """The dict that Tagger.tag yields, of what tag_words found in a sentence."""
    tags, tag_probabilities, entities = result
    described = {'text': text, 'tokens': tokens, 'tags': tags, 'entities': []}
    for name, first, last, probability in entities:
        start, end = spans[first][0], spans[last - 1][1]
        entity = {'type': name, 'text': text[start:end], 'start': start, 'end': end}
        if probabilities:
            entity['probability'] = probability
        described['entities'].append(entity)
    if probabilities:
        described['probabilities'] = tag_probabilities
    return described


def load_tagger(path, device='cpu'):
    """Load a checkpoint of train.py for tagging.

    Raises:
        InputError: see load_checkpoint.
    """
    checkpoint = load_checkpoint(path, device)
    model = LM_LSTM_CRF(**checkpoint['model_arguments']).to(device)
    model.load_state_dict(checkpoint['model'])
    maps = {name: checkpoint[name] for name in ('word_map', 'char_map', 'tag_map')}
    return Tagger(model, maps, checkpoint['arguments'], device)


@torch.inference_mode()
def explain(tagger, text, tokenizer=tokenize, most=5):
    """Show the Viterbi trellis of one sentence, as the tutorial draws it.

    Returns:
        A table as a str: for each word its most likely tags, the score of the best sequence to
        each, the tag before it there, and its probability; * marks the best path.
    """
    words = [word.group() for word in tokenizer(text)]
    batch = create_input_tensors([words], None, **tagger.maps)
    scores, _, _, lengths, _, _ = run_model(tagger.model, to_device(batch, tagger.device))
    decoder, names = tagger.decoder, list(tagger.maps['tag_map'])
    cumulative, backpointers = decoder.trellis(decoder.mask(scores))
    best = decoder.decode(scores, lengths)[0]
    marginals = decoder.marginals(*decoder.forward_backward(scores, lengths))[0]
    lines = ['word                  tag                score  from            probability']
    for t, word in enumerate([*words, '<end>']):
        likely = marginals[t].topk(min(most, len(names))).indices.tolist() if t < len(words) else []
        for tag in dict.fromkeys([best[t].item(), *likely]):
            lines.append(f'{word:20.20} {"*" if tag == best[t] else " "}{names[tag]:15} '
                         f'{cumulative[t][0, tag].item():8.2f}  '
                         f'{names[backpointers[t][0, tag]]:15} {marginals[t, tag].item():11.4f}')
            word = ''
    return '\n'.join(lines)


# --- The command line ---

def read_lines(files):
    """Read files, or standard input if there are none, line by line.

    Yields:
        Lines without their ends. What is not UTF-8 is replaced, with one warning.
    """
    warned = False
    for name in files or ['standard input']:
        try:
            file = open(name, 'rb') if files else sys.stdin.buffer
            size = Path(name).stat().st_size if files else None
            # The bar is for a terminal that does not also show the output
            hidden = True if not files or sys.stdout.isatty() else None
            with file, tqdm(total=size, unit='B', unit_scale=True, desc=name, leave=False,
                            disable=hidden) as progress:
                for number, line in enumerate(file, start=1):
                    progress.update(len(line))
                    try:
                        text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
                    except UnicodeDecodeError:
                        text = line.decode('utf-8', errors='replace')
                        if not warned:
                            print(f'warning: {name}, line {number}: expected UTF-8; what is not is '
                                  'replaced, here and in other lines', file=sys.stderr)
                        warned = True
                    yield text.removesuffix('\n').removesuffix('\r')
        except OSError as error:
            raise InputError(f'{name}: cannot be read: {error.strerror}') from None


def ask():
    """Ask for sentences at a terminal until it is closed."""
    print('Type a sentence, or Ctrl-D to end.')
    while True:
        try:
            yield input('> ')
        except EOFError:
            return


def read_rows(lines):
    """Gather the rows of each sentence of a file in CoNLL format, as a list of str."""
    rows = []
    for line in chain(lines, ['']):
        if line.strip(' \t') and not re.match(r'-DOCSTART-([ \t]|$)', line):
            rows.append(line.strip(' \t'))
        elif rows:
            yield rows
            rows = []


def columns(tagged, words, places):
    """The rows of a table of words, tags and, if there are any, probabilities."""
    shown = [f'{p:.{places}f}' for p in tagged.get('probabilities', [])]
    return zip(*filter(None, (words, tagged['tags'], shown)))


def inline(tagged, task):
    """Write a tagged sentence for people: [PER Dunston] checks in, or Dunston/NNP checks/VBZ."""
    if task == 'pos':
        return ' '.join('/'.join(row) for row in columns(tagged, tagged['tokens'], places=2))
    text, position, parts = tagged['text'], 0, []
    for entity in tagged['entities']:
        label = entity['type']
        if 'probability' in entity:
            label += f' {entity["probability"]:.2f}'
        parts += [text[position:entity['start']], f'[{label} {entity["text"]}]']
        position = entity['end']
    return ''.join([*parts, text[position:]])


def conll(tagged, rows):
    """Write a tagged sentence in columns, after those that it came with."""
    separator = '\t' if rows and '\t' in rows[0] else ' '
    table = columns(tagged, rows or tagged['tokens'], places=4)
    return ''.join(f'{separator.join(row)}\n' for row in table)


def tag_and_print(tagger, arguments):
    """Tag what the command line names, and print it as it comes."""
    tokenizer = partial(tokenize, pattern=re.compile(r'\S+')) if arguments.tokenized else tokenize
    waiting = deque()
    interactive = not arguments.files and arguments.text is None and sys.stdin.isatty()
    if arguments.text is not None:
        lines = arguments.text.split('\n')
    else:
        lines = ask() if interactive else read_lines(arguments.files)
    if arguments.explain:
        for line in filter(str.strip, lines):
            print(explain(tagger, line, tokenizer))
        return

    def sentences():
        for rows in read_rows(lines):
            waiting.append(rows)
            yield [re.split('[ \t]', row, maxsplit=1)[0] for row in rows]

    probabilities = arguments.probabilities or arguments.output_format == 'jsonl'
    source = sentences() if arguments.format == 'conll' else lines
    # At a terminal each sentence is answered at once
    for some in ([line] for line in source) if interactive else [source]:
        for tagged in tagger.tag(some, probabilities, tokenizer):
            rows = waiting.popleft() if waiting else None
            if arguments.output_format == 'inline':
                print(inline(tagged, tagger.task))
            elif arguments.output_format == 'conll':
                print(conll(tagged, rows))
            else:
                print(json.dumps(tagged, ensure_ascii=False))


def evaluate(tagger, files, tag_column=None):
    """Score the tagger on labelled files, as train.py does at its end."""
    scheme = tagger.arguments['tag_scheme']
    column = tagger.arguments['tag_column'] if tag_column is None else tag_column
    for file in files:
        words, tags = read_corpus(file, tagger.task, column, scheme)
        check_tags(file, tags, tagger.maps['tag_map'].__contains__,
                   'a tag that the checkpoint knows')
        predicted = [tagged['tags'] for tagged in tagger.tag(words)]
        print(f'{file}:')
        print_scores(score_tags(tags, predicted, tagger.task))


def parse_arguments(argv):
    """The command line, as a namespace."""
    parser = ArgumentParser(
        usage='%(prog)s CHECKPOINT [FILE ...] [arguments]',
        description='Tag sentences with a model that train.py has trained. Sentences of more than '
        f'{LONGEST_SENTENCE:,} words are tagged in pieces, and of words of more than '
        f'{LONGEST_WORD} characters the model sees the first {LONGEST_WORD}.')
    add = parser.add_argument
    add('checkpoint', help='a checkpoint of train.py')
    add('files', nargs='*', default=[], help='files to tag (default: standard input)')
    add('--text', help='a sentence to tag')
    add('--format', choices=('text', 'conll'), default='text',
        help='one sentence a line, or words in the first of several columns (default: text)')
    add('--tokenized', action='store_true', help='words are what stands between white space')
    add('--output_format', choices=('inline', 'conll', 'jsonl'), default='inline',
        help='for people, in columns, or as JSON with places in the line (default: inline)')
    add('--probabilities', action='store_true', help='show them too (jsonl always has them)')
    add('--evaluate', action='store_true', help='score the model on the files, which are labelled')
    add('--tag_column', type=number(int, 0), help="the labels' column (default: as in training)")
    add('--explain', action='store_true', help='show how the Viterbi algorithm finds the tags')
    add('--device', type=available_device, help='cpu or cuda (default: %(default)s)',
        default='cuda' if torch.cuda.is_available() else 'cpu')
    # Files may also stand behind the arguments
    arguments = parser.parse_intermixed_args(argv)
    if arguments.evaluate and not arguments.files:
        raise InputError('--evaluate: expected labelled files, found none')
    if arguments.text is not None and (arguments.files or arguments.evaluate):
        raise InputError('--text: expected no files and no --evaluate beside it')
    if arguments.explain and (arguments.evaluate or arguments.format == 'conll'):
        raise InputError('--explain: expected neither --evaluate nor --format conll beside it')
    return arguments


def main(argv):
    """Tag or score what the command line says."""
    torch.set_float32_matmul_precision('high')
    arguments = parse_arguments(argv)
    tagger = load_tagger(arguments.checkpoint, arguments.device)
    if arguments.evaluate:
        evaluate(tagger, arguments.files, arguments.tag_column)
    else:
        tag_and_print(tagger, arguments)


if __name__ == '__main__':
    sys.exit(exit_status(main, sys.argv[1:]))
