"""Running experiments: the command line, training, evaluation, and what they leave behind."""

from ranking_det.engine.run import main

__all__ = ["main"]
