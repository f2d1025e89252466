"""Command line, training, evaluation, prediction and previews of detectors."""

from ranking_det.engine.run import main

__all__ = ["main"]
