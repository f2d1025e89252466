"""Command-line entry point: ``python -m ranking_det.doctor``."""

import sys

from ranking_det.doctor import main

if __name__ == "__main__":
    sys.exit(main())
