"""Command-line analyses: a data set before training, and the ranking of detections."""

from ranking_det.library_warnings import hide_in_commands

hide_in_commands()
