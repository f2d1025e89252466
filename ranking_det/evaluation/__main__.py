"""Run ``python -m ranking_det.evaluation``."""

import sys

from ranking_det.evaluation.command_line import main

if __name__ == "__main__":
    sys.exit(main())
