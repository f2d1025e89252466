"""Special class labels: background and ignore.

A class label is 0..K-1 or one of these two, in assigners, criteria and tests alike. Detectron2
writes background as K and ignored as -1. Only ``ranking_det.modeling`` converts between the two
conventions.
"""

BACKGROUND = -1
"""A candidate that is matched to no object: a negative in every class."""

IGNORE = -2
"""A candidate that no loss uses: padding, or neither positive nor negative."""
