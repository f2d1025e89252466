"""Ranking-based losses for training object detectors on Detectron2."""

__version__ = "0.1.0"
