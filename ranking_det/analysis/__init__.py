"""Command-line analysis: what to know about a data set before training."""
