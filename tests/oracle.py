"""The slow, sure way: every sequence of tags with its score, and which sequences are legal."""

import itertools
import math
import re
from collections import Counter

from utils import find_entities

# What a whole sentence looks like, with a space after each tag
LEGAL = {'iobes': r'(O |S-\S+ |B-(\S+) (I-\2 )*E-\2 )*',
         'iob2': r'(O |B-(\S+) (I-\2 )*)*',
         None: r'((?!<start> |<end> )\S+ )*'}


def is_legal(names, scheme):
    """Whether the names of a sentence's tags, without <start> and <end>, follow a scheme."""
    return re.fullmatch(LEGAL[scheme], ''.join(f'{name} ' for name in names)) is not None


def every_sequence(scores, length):
    """(sequence, score) of every sequence for one sentence, (L_w, m, m), even if it is illegal.

    A sequence has `length` tags, the last of them <end>; <start> is 0 and <end> is m - 1.
    """
    scores = scores.tolist()
    m = len(scores[0])
    for tags in itertools.product(range(m), repeat=length - 1):
        path = [0, *tags, m - 1]
        yield path[1:], sum(scores[t][path[t]][path[t + 1]] for t in range(length))


def legal_sequences(scores, length, tag_map, scheme):
    """Those of every_sequence that are legal."""
    names = list(tag_map)
    for sequence, score in every_sequence(scores, length):
        if is_legal([names[tag] for tag in sequence[:-1]], scheme):
            yield sequence, score


def best_score(scores, tag_map):
    """The score of the best sequence for a sentence, (L_w, m, m), whose tags have no scheme.

    That of all sequences up to a word is found tag by tag (Bellman, 1957), in Python's floats.
    """
    inside = [tag for name, tag in tag_map.items() if name not in ('<start>', '<end>')]
    first, *others, last = scores.tolist()
    best = {tag: first[tag_map['<start>']][tag] for tag in inside}
    for at_word in others:
        best = {tag: max(best[before] + at_word[before][tag] for before in inside)
                for tag in inside}
    return max(best[before] + last[before][tag_map['<end>']] for before in inside)


def entity_sets(scores, length, tag_map, scheme):
    """The probability of every set of entities that a sentence can have, {(entity, ...): p}.

    Each set has one legal sequence of tags, and each sequence one set.
    """
    names, sets = list(tag_map), {}
    for sequence, score in legal_sequences(scores, length, tag_map, scheme):
        sets[tuple(find_entities([names[tag] for tag in sequence[:-1]]))] = math.exp(score)
    z = sum(sets.values())
    return {entities: p / z for entities, p in sets.items()}


def entity_probabilities(sets):
    """The probability of every entity, {entity: p}: that of all sets that it is in."""
    total = Counter()
    for entities, p in sets.items():
        total.update(dict.fromkeys(entities, p))
    return total


def worth_most(sets, threshold):
    """The set whose entities are worth most, each its probability minus the threshold."""
    p = entity_probabilities(sets)
    return max(sets, key=lambda entities: sum(p[entity] - threshold for entity in entities))
