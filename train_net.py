#!/usr/bin/env python
"""Train, evaluate or run a detector: ``python train_net.py --config-file FILE [key=value ...]``."""

import importlib.util
import sys

from ranking_det.library_warnings import hide_library_warnings

# Not only in the main program: the processes of a run on several GPUs import this file, too.
hide_library_warnings()

if __name__ == "__main__":
    if importlib.util.find_spec("detectron2") is None:
        sys.exit(
            f"train_net.py: Detectron2 is not installed in {sys.executable}; activate "
            "the environment of `make install` (`source .venv/bin/activate`), or run `python "
            "tools/install_detectron2.py` (`python -m ranking_det.doctor` checks the rest)"
        )
    from ranking_det.engine import main

    sys.exit(main())
