"""Numerical kernels of the ranking losses: sums over pairs of logits, in bounded memory.

With the step function the sums of :mod:`~ranking_det.losses.kernels.interval_sums` are exact and
take O(M log P) time for M logits and P positives.
"""
