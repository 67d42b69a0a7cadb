"""Read the annotations of many tools for prepare.py: texts with names become tagged sentences."""

import json
import re
from collections import defaultdict, namedtuple
from contextlib import suppress
from itertools import accumulate, count, pairwise
from pathlib import Path

from inference import HIDDEN, SPACE, find_tokens
from utils import InputError, file_errors, find_entities, read_lines

# The keys of an entry's names, the keys of what else may have offsets, and what offsets look like
KEYS = ('spans', 'entities', 'labels', 'label', 'annotation')
BESIDE = ('tokens', 'meta', 'metadata', 'metrics', 'relations', 'prediction', 'predictions')
OFFSETS = re.compile(r'"(start|begin)\w*": \d|\[\d+, \d+, "|", \d+, \d+\]')
# The types of Label Studio's results that are not regions of a text
RESULTS = ('relation', 'choices', 'textarea', 'rating', 'number', 'taxonomy', 'pairwise', 'ranker')
# A path or an address and nothing else, and a character that can be seen
POINTER = re.compile(r'\s*((\w+:/?|\.{0,2})/\S+|\w:\\\S+|\S+\.(txt|html?|json|pdf))\s*')
SEEN = re.compile(f'[^{SPACE}{HIDDEN}]')
# What offsets may count, and how much each character of a text adds to them
COUNTINGS = {
    'characters': lambda text: [1] * len(text),
    'UTF-16 units (--utf16)': lambda text: (1 + (char > '\uffff') for char in text),
    'bytes of UTF-8': lambda text: (len(char.encode(errors='replace')) for char in text),
    'characters with CR LF as one': lambda text: (a + b != '\r\n' for a, b in pairwise(f' {text}')),
}
# What is printed if there is any, after how many, and with examples
NOTES = {
    'texts': 'texts without annotation are left out',
    'others': 'annotations are left out, since another one is the ground truth or newer',
    'again': 'entries have the text and the names of another, and count once',
    'fragments': 'names in fragments are read with all that is between, such as {}',
    'overlaps': 'names that overlap with a longer one are left out, such as {}',
    'lines': 'names across lines are left out, such as {} (--join_lines makes a text one line)',
    'inside': 'names begin or end inside a token, such as {}: in raw text these will not be found',
}

# A text; its names, {(start, end, type): words or None}, or None; tokens that were given, (start,
# end, part of speech or -), and if there was no text; Prodigy's answer and view; the file and line
Document = namedtuple('Document', 'text names tokens joined answer view place',
                      defaults=(None, False, None, None, ''))

def check(right, expected, found):
    """ValueError that says what was expected, and found instead, if something is not right."""
    if not right:
        raise ValueError(f'expected {expected}, found {repr(found)[:80]}')

def visible(text):
    """What can be seen of a text; Label Studio may have \\n in the place of a line break."""
    return ''.join(SEEN.findall(text.replace('\\n', '\n')))

def read_annotations(files, args):
    """The texts of files, lists of sentences, lists of (word, pos, tag); and examples for NOTES."""
    groups, notes = defaultdict(list), defaultdict(list)
    for file in files:
        documents = []
        for place, entry in read_folder(file, notes) if file.is_dir() else read_entries(file):
            # Whatever is missing from an entry, or of another kind: KeyError, TypeError, ...
            with file_errors(place, 'read', AttributeError, KeyError, RecursionError, TypeError,
                             ValueError):
                documents.append(read_entry(entry, args, notes)._replace(place=place))
        check_counting(documents, list(COUNTINGS)[args.utf16], file)
        for one in documents:
            groups[one.text, one.joined].append(one)
    return [[sentence for one in merge(documents, args, notes)
             for sentence in split_sentences(one, args, notes)]
            for (text, _), documents in groups.items() if SEEN.search(text)], notes

def read_entries(file):
    """Yield the places and the entries of a file with JSON, one a line or all in a list."""
    entries, unit = [line.strip() for line in read_lines(file)], 'line'
    with file_errors(file, 'read', RecursionError, ValueError):
        # A list that begins with a string is spaCy's pair of a text and its names, one a line
        if re.match(r'\s*\[(?!\s*")', text := '\n'.join(entries)):
            entries, unit = json.loads(text), 'task'
        check(any(entries), 'annotated texts in JSON', [])
    for n, entry in enumerate(entries, start=1):
        if entry != '':
            yield f'{file}, {unit} {n}', entry

def read_folder(folder, notes):
    """Yield the places and the entries of brat's .txt and .ann files."""
    files = [file for file in folder.iterdir() if file.suffix in ('.txt', '.ann')]
    if not files:
        raise InputError(f'{folder}: expected .txt and .ann files, found none')
    for stem in sorted({file.with_suffix('') for file in files}):
        text, names, entities = Path(f'{stem}.txt'), Path(f'{stem}.ann'), []
        read_lines(text)  # What is missing, or no text, is an error
        for n, line in enumerate(read_lines(names) if names in files else [], start=1):
            if line.startswith('T'):
                row = re.fullmatch(r'T\d+\t(\S+) (\d+) ((?:\d+;\d+ )*)(\d+)\t(.*)', line)
                with file_errors(f'{names}, line {n}', 'read', ValueError):
                    check(row, 'T1, a type with its start and end, and words, between tabs', line)
                kind, start, more, end, words = row.groups()
                notes['fragments'] += [repr(words)] * bool(more)
                entities.append({'start': int(start), 'end': int(end), 'type': kind,
                                 'text': None if more else words})
        yield names, {'text': text.read_bytes().decode(),
                      'entities': entities if names in files else None}

def read_entry(entry, args, notes):
    """The document of any tool's entry, in JSON or read already."""
    with suppress(TypeError, ValueError, RecursionError):
        entry = json.loads(entry)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict):
        entry = {'text': entry[0], **entry[1]}  # spaCy
    check(isinstance(entry, dict), 'an entry in JSON with the key text', entry)
    if isinstance(entry.get('data'), dict):
        return read_task(entry, args, notes)
    # Label Studio's JSON-MIN has its regions, of any type, under a key of any name
    regions = [one for key, value in entry.items() if isinstance(value, list) for one in value
               if isinstance(one, dict) and any(name.endswith('labels') for name in one)
               and key not in BESIDE]
    if regions and 'answer' not in entry or 'annotation_id' in entry:
        return read_regions(entry, regions, args)
    tokens, key = entry.get('tokens'), 'ner_tags' if 'ner_tags' in entry else 'tags'
    if isinstance(tokens, list) and isinstance(entry.get(key), list) and not any(
            isinstance(token, dict) for token in tokens):  # Prodigy's are dicts
        return read_tokens(entry, key, args)
    return read_spans(entry, args)

def read_task(entry, args, notes):
    """Label Studio's task: of its annotations the ground truth, or else the newest one."""
    annotations = entry.get('annotations', entry.get('completions'))
    check(isinstance(annotations, list), 'a list under annotations or completions', [*entry])
    done = sorted((one for one in annotations if not one.get('was_cancelled')), key=lambda one: (
        one.get('ground_truth') is True, str(one.get('updated_at') or one.get('created_at') or '')))
    notes['others'] += done[1:]
    regions = []
    for result in done[-1]['result'] if done else []:
        kind = result.get('type', 'labels')
        if result.get('value') and kind not in RESULTS:
            check(kind == 'labels', 'regions of the type labels', kind)
            regions.append(result['value'])
    document = read_regions(entry['data'], regions, args)
    return document if done else document._replace(names=None)

def read_regions(data, regions, args):
    """Label Studio's regions and the text, which is the only string that has all their words."""
    words = [visible(region['text']) for region in regions if isinstance(region.get('text'), str)]
    keys = [key for key, value in data.items() if isinstance(value, str) and key[-3:] != '_at'
            and all(word in visible(value) for word in words)]
    text = data.get(args.text_field or ('text' if 'text' in keys or len(keys) != 1 else keys[0]))
    check(isinstance(text, str), 'the key text, or another --text_field', keys or data)
    check(not POINTER.fullmatch(text), 'a text, not only where it is', text)
    return Document(text, dict(map(read_name, regions)))

def read_tokens(entry, key, args):
    """Tokens with tags: Hugging Face's, which need no text, or inference.py's, with entities."""
    tokens, field, spans = entry['tokens'], args.text_field or 'text', [(0, 0)]
    joined = entry.get(field) is None
    text = ' '.join(tokens) if joined else entry[field]
    for token in tokens:
        start = text.find(token, spans[-1][1])
        spans.append((start, start + len(token)))
    check(min(spans)[0] == 0 and visible(''.join(tokens)) == visible(text),
          'tokens that are all of the text', text)
    kinds = re.findall('[^, ]+', args.tag_names or '')
    tags = [kinds[tag] if type(tag) is int and 0 <= tag < len(kinds) else tag for tag in entry[key]]
    right = len(tags) == len(tokens) and all(isinstance(tag, str) for tag in tags)
    named = right and all(re.fullmatch(r'O|[BIESULMW]-\S+', tag) for tag in tags)
    lists = [entry[name] for name in KEYS if isinstance(entry.get(name), list)]
    if joined or not lists or key == 'ner_tags' and not any(lists):
        check(named or right and key == 'tags',
              f'{len(tokens)} tags such as O and B-PER under {key} (see --tag_names)', tags)
        entry = {field: text, 'spans': [[spans[first + 1][0], spans[end][1], kind]
                 for kind, first, end in find_entities(tags if named else [])]}
    # Tags of names are no parts of speech, and others may be about something else
    parts = tags if right and not named else '-' * len(tokens)
    return read_spans(entry, args)._replace(joined=joined, tokens=[
        (*span, part) for span, part in zip(spans[1:], parts)])

def read_spans(entry, args):
    """An entry of doccano, Prodigy, Argilla, spaCy or brat, whose names are under one of KEYS."""
    lists = [key for key in KEYS if isinstance(entry.get(key), list)]
    full = [key for key in lists if entry[key]]
    check(len(full) < 2, 'names under one key', full)
    found = {key: value for key, value in entry.items() if value and key not in BESIDE}
    others = [key for key, value in found.items() if key in KEYS and not lists
              or isinstance(value, (dict, list)) and (
                  not {*KEYS} & entry.keys() or OFFSETS.search(json.dumps(value)))]
    check(full or not others, f'a list of names under {", ".join(KEYS)}', others)
    text, answer = entry.get(args.text_field or 'text'), entry.get('answer')
    check(isinstance(text, str), 'the key text, or another --text_field', entry)
    seen = lists or answer in ('accept', 'reject')
    names = dict(map(read_name, entry[full[0]] if full else [])) if seen else None
    return Document(text, names, answer=answer, view=entry.get('_view_id'))

def read_name(name):
    """(start, end, type) of any tool's name, and its words or None."""
    if isinstance(name, list) and len(name) == 3:
        name = dict(zip(('start', 'end', 'label'), name))
    check(isinstance(name, dict), 'a list of start, end and type', name)
    others = [key for key in name if re.fullmatch(r'\w+labels', key)]
    check(not others, 'regions with labels', others)
    start, end = (name.get(key, name.get(f'{key}_offset')) for key in ('start', 'end'))
    kind, words = name.get('label', name.get('type', name.get('labels'))), name.get('text')
    kind = kind[0] if isinstance(kind, list) and len(kind) == 1 else kind
    check(type(start) is type(end) is int and isinstance(kind, str) and kind.strip(),
          'integers as start and end, and one type', [start, end, kind])
    return (start, end, '_'.join(kind.split())), words if isinstance(words, str) else None

def find_places(text, counting):
    """A dict of offsets, as they are counted, and places in the text."""
    return dict(zip(accumulate(COUNTINGS[counting](text), initial=0), count()))

def locate(name, words, text, places):
    """The (start, end, type) of a name as places in the text, without space at its edges."""
    start, end, kind = name
    check(start in places and end in places, 'offsets of the text (see --utf16)', [*name])
    inside = text[places[start]:places[end]]
    check(words is None or visible(words) == visible(inside),
          f'{words!r:.40} from {start} to {end} (see --utf16)', inside)
    seen = [places[start] + char.start() for char in SEEN.finditer(inside)]
    check(seen, 'a name that has words', [*name])
    return seen[0], seen[-1] + 1, kind

def check_counting(documents, given, file):
    """InputError if the names of a file fit its texts better in another counting of offsets."""
    fit = {counting: set() for counting in COUNTINGS}
    for n, (text, names, *_) in enumerate(documents):
        for counting in COUNTINGS if names and (not text.isascii() or '\r\n' in text) else ():
            places = find_places(text, counting)
            for name, words in names.items():
                with suppress(ValueError):
                    place = locate(name, words, text, places)
                    # Not inside a run of letters
                    if all(find_tokens(text[i - 1:i + 1], 'fine') != [(0, 2)] for i in place[:2]):
                        fit[counting].add((n, name))
    best = max(fit, key=lambda counting: len(fit[counting]))
    better, worse = len(fit[best] - fit[given]), len(fit[given] - fit[best])
    if better > 2 + 4 * worse:
        raise InputError(f'{file}: expected offsets in {given}; these fit if counted in {best}, '
                         f'found {better} names that are other words or begin or end inside a word')

def merge(documents, args, notes):
    """Of the documents with the same text the one that counts, if any; of mere tokens all."""
    if documents[0].joined:
        return documents  # Sentences of a corpus, which may come again
    answers = [one for one in documents if one.answer in ('accept', 'reject')]
    # Prodigy asked about a single name if it says so, or if it asked about others, too
    asked = [one.names for one in answers if one.view is None]
    single = all(len(names) < 2 for names in asked) and any(names != asked[0] for names in asked)
    decisions = [one for one in answers if one.view == 'ner' or one.view is None and single]
    full = [one for one in documents if one not in decisions and one.names is not None
            and one.answer not in ('reject', 'ignore')]
    for one in full[1:]:
        if (set(one.names), one.tokens) != (set(full[0].names), full[0].tokens):
            raise InputError(f'{one.place}: expected names as in {full[0].place}, found others')
    notes['again'] += full[1:]
    notes['texts'] += documents[:1] * (not full and not decisions)
    if full or not decisions:
        return full[:1]
    if not args.yes_no:
        raise InputError(f'{decisions[0].place}: expected all names of a text, found a yes or no '
                         'to one, which leaves the others unknown (--yes_no takes them as O)')
    last = {name: one.answer for one in decisions for name in one.names}
    return [decisions[0]._replace(names={name: None for name in last if last[name] == 'accept'})]

def split_sentences(document, args, notes):
    """A document's sentences, lists of (word, pos, tag)."""
    text = document.text.replace('\n', ' ') if args.join_lines else document.text
    tokens = document.tokens or [(*span, '-') for span in find_tokens(text, args.tokenizer)]
    token_at = {place: token for token in tokens for place in range(*token[:2])}
    # If there are only parts of speech, nobody has looked for names
    outside = '-' if not document.names and any(part != '-' for _, _, part in tokens) else 'O'
    # The tags of characters, and where words begin and end
    tags, bounds, sentences = {}, {0, len(text)}.union(*(token[:2] for token in tokens)), [[]]
    places = find_places(document.text, list(COUNTINGS)[args.utf16])
    with file_errors(document.place, 'read', ValueError):
        names = [locate(*name, document.text, places) for name in document.names.items()]
        # The longest names come first
        for start, end, kind in sorted(names, key=lambda name: (name[0] - name[1], name)):
            free = tags.keys().isdisjoint(range(start, end))
            check(free or args.overlaps, 'no overlap of names (see --overlaps)', [start, end, kind])
            if not free or '\n' in text[start:end]:
                notes['lines' if free else 'overlaps'].append(repr(text[start:end]))
                continue
            tags |= {start: f'B-{kind}'} | dict.fromkeys(range(start + 1, end), f'I-{kind}')
            bounds |= {start, end}
            cut = [token_at[i] for i in (start, end) if token_at.get(i, (i,))[0] != i]
            if cut:
                notes['inside'].append(f'{text[start:end]!r} in {text[slice(*cut[0][:2])]!r}')
        for start, end in pairwise(sorted(bounds)):
            if SEEN.search(text, start, end):
                part = token_at.get(start, (start, end, '-'))[2]
                sentences[-1].append((text[start:end], part, tags.get(start, outside)))
            elif '\n' in text[start:end]:
                sentences.append([])
    return [sentence for sentence in sentences if sentence]
