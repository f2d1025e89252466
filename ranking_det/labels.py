"""The two class labels that are not classes.

A class label is 0..K-1 or one of these, in assigners, criteria and tests alike. Detectron2 writes
background as K and ignored as -1; only ``ranking_det.modeling`` converts between the two.
"""

BACKGROUND = -1
"""A candidate that is matched to no object: a negative in every class."""

IGNORE = -2
"""A candidate that takes no part in any loss: padding, or neither positive nor negative."""
