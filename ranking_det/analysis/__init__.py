"""Command-line analysis: report on a data set before training."""
