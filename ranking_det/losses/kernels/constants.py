"""Sizes of blocks, which bound memory and change no result, and bounds of rounding."""

import torch

PAIRS = 1 << 18
"""Pairs of logits at a time."""
ELEMENTS = 1 << 20
"""Scores of a class of an image at a time, over all that RankDetNet's losses rank."""

CHUNK = 1 << 17
"""Logits at a time: temporaries stay in the cache, and their memory does not grow with M."""
CHUNK_ON_GPU = 1 << 21
MAX_CELLS = 1 << 15
"""Cells of the grid of interval sums: two tables of so many float64 fit the second-level cache."""
COPIES_ON_GPU = 64
"""Partial tables on a GPU, or all logits would wait for the same address."""

SIGMOID_ROWS = 64
"""Positives of a block of sigmoids, which lie within SIGMOID_SPREAD / lam of each other, so that
the stretches of negatives that they see are alike."""
SIGMOID_SPREAD = 4.0

RANK_SORT_EPSILON = 1e-10
"""Errors of Rank & Sort Loss below it are rounding and send no gradient."""
ALRP_EPSILON = 1e-5
"""Positives with fewer false positives send no gradient in aLRP Loss."""
APE_LEAST = {torch.float32: 1e-30, torch.float64: 1e-300}
"""A smaller balance constant of APE Loss is taken for this one, or its inverse would overflow;
without a cut-off the sums are in double precision."""
DICE_EPSILON = 1e-5
"""Of the denominator of a Dice loss."""
WEIGHTS_EPSILON = 1e-10
"""Weights of a smaller sum are all 0, and give a mean of 0."""
MAX_EXPONENT = 80.0
"""exp of more overflows single precision."""
