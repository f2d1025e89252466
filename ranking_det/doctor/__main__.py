"""Command-line entry point: ``python -m ranking_det.doctor``."""

import sys

from ranking_det.doctor import main
from ranking_det.library_warnings import shorten_interrupts

if __name__ == "__main__":
    shorten_interrupts()
    sys.exit(main())
