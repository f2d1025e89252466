"""Exact ranking in O(M log P): what the losses compute with."""
