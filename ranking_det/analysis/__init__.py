"""Command-line analysis: report on a data set before training."""

from ranking_det.library_warnings import hide_in_commands

hide_in_commands()
