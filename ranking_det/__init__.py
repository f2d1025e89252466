"""Ranking-based losses for training object detectors on Detectron2."""

import sys

from ranking_det.library_warnings import hide_library_warnings

__version__ = "0.1.0"

# Python sets this name while it imports the packages of ``python -m ranking_det.NAME``, some of
# which import Detectron2 before the command itself runs.
if sys.argv[:1] == ["-m"]:
    hide_library_warnings()
