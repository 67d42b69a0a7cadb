"""The two worked examples, both of them of `dunston checks in`: today's, and that of 2018.

In all matrices the rows are previous tags, the columns current tags.
"""

import torch

from models import CRF

WORDS = ['dunston', 'checks', 'in']
LENGTHS = torch.tensor([4])

# --- Today's: is it the title of a film? B, I and O are short for the tags ---

FILM_TAG_MAP = {'<start>': 0, 'B-FILM': 1, 'I-FILM': 2, 'O': 3, '<end>': 4}
FILM_TAGS = ['B-FILM', 'I-FILM', 'I-FILM']

# <start>, B, I, O, <end>
EMISSIONS = torch.tensor([[
    [-4.0,  1.0,  0.0,  2.0, -4.0],     # dunston
    [-4.0, -1.0,  2.0,  0.0, -4.0],     # checks
    [-4.0, -1.0,  1.0,  1.5, -4.0],     # in
    [-4.0, -4.0, -4.0, -4.0,  0.0]]])   # <end>
TRANSITIONS = torch.tensor([
    [-4.0,  0.0, -4.0,  0.0, -4.0],     # after <start>
    [-4.0, -4.0,  2.0,  0.0,  0.0],     # after B
    [-4.0, -4.0,  1.0,  0.0,  0.0],     # after I
    [-4.0,  0.0, -4.0,  1.0,  0.0],     # after O
    [-4.0, -4.0, -4.0, -4.0, -4.0]])    # after <end>


def crf_scores(emissions, transitions):
    """What models.CRF makes of given emission scores, (N, L_w, m), and transitions, (m, m)."""
    m = len(transitions)
    crf = CRF(hidden_dim=m, tagset_size=m)
    crf.load_state_dict({'emission.weight': torch.eye(m), 'emission.bias': torch.zeros(m),
                         'transition': transitions})
    return crf(emissions).detach()


# (1, 4, 5, 5)
FILM_SCORES = crf_scores(EMISSIONS, TRANSITIONS)

# --- That of 2018 ---

TAG_MAP = {'<start>': 0, 'tag_1': 1, 'tag_2': 2, 'tag_3': 3, '<end>': 4}
TAGS = ['tag_2', 'tag_3', 'tag_3']

# (1, 4, 5, 5)
SCORES = torch.tensor([[
    [[0.28, -3.44, 4.85, 1.21, -4.42],
     [0.48, 2.07, 4.85, 1.38, -3.93],
     [0.70, -3.80, 4.97, -2.73, -3.10],
     [3.79, -2.12, -2.04, -4.86, -0.83],
     [-3.15, 4.42, 2.32, 0.39, 0.49]],
    [[2.85, 0.84, -0.26, -4.85, 1.01],
     [-2.61, 10.31, -2.16, -3.12, 2.74],
     [3.07, 0.63, -2.79, 6.79, 1.22],
     [3.14, -2.20, 11.13, 0.52, -4.20],
     [-3.70, -2.49, -2.84, -3.72, -3.71]],
    [[-3.75, 3.28, 1.61, 2.52, -0.65],
     [-4.02, -0.83, 2.39, 2.85, -2.91],
     [-1.34, 2.55, 4.89, -3.80, -3.62],
     [-0.44, 0.94, 1.12, 3.85, 4.08],
     [-3.47, -1.28, -1.03, 1.76, 2.83]],
    [[-4.04, -4.25, 2.97, -1.45, -1.62],
     [-1.29, 2.78, -2.03, -5.00, -4.66],
     [-1.78, 4.79, 1.30, 3.64, -2.18],
     [-4.03, -1.23, -2.54, 2.12, 3.52],
     [3.78, 0.32, -2.02, 1.60, -1.37]]]])
