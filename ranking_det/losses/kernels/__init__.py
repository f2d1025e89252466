"""What the ranking losses compute with: sums over pairs of logits, in bounded memory.

Those of the step function, in :mod:`~ranking_det.losses.kernels.interval_sums`, are exact in
O(M log P).
"""
