"""Block sizes, which bound memory and do not change results, and rounding thresholds."""

import torch

PAIRS = 1 << 18
"""Pairs of logits in one block."""
ELEMENTS = 1 << 20
"""Scores in one block of RankDetNet's class-specific loss. A row is one class of one image."""

CHUNK = 1 << 17
"""Logits in one chunk on the CPU. Temporaries of a chunk stay in the cache, and their memory does
not grow with M. One chunk of all 1,000,000 logits makes AP Loss 1.3 times as slow (one thread of an
Intel Xeon)."""
CHUNK_ON_GPU = 1 << 21
"""Logits in one chunk on a GPU, where larger chunks need fewer kernel launches."""
MAX_CELLS = 1 << 15
"""Cells of the grid of interval sums. Two float64 tables of this size fit the level-2 cache."""
COPIES_ON_GPU = 64
"""Partial tables on a GPU. With a single table, all logits would compete for the same addresses."""

SIGMOID_ROWS = 64
"""Maximum number of positives in a block of sigmoids. They lie within SIGMOID_SPREAD / lam of each
other, so they see similar ranges of the sorted negatives. APE Loss with 1,000 positives among
101,000 logits takes 1.3 times as long without the bound on the spread, and 1.1 times as long with 8
rows (one thread of an Intel Xeon)."""
SIGMOID_SPREAD = 4.0
"""Largest difference between the logits of the positives in a block of sigmoids, times lam."""

RANK_SORT_EPSILON = 1e-10
"""Smaller errors of Rank & Sort Loss are rounding errors and send no gradient."""
ALRP_EPSILON = 1e-5
"""Positives with fewer false positives send no gradient in aLRP Loss."""
APE_LEAST = {torch.float32: 1e-30, torch.float64: 1e-300}
"""Lower bound of APE Loss's balance constant, by dtype, so its inverse does not overflow.
Without a cutoff the sums are in double precision."""
DICE_EPSILON = 1e-5
"""Added to the denominator of a Dice loss."""
WEIGHTS_EPSILON = 1e-10
"""If the weights sum to less, their weighted mean is 0."""
MAX_EXPONENT = 80.0
"""exp of a larger number overflows single precision."""
