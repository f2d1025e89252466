#!/usr/bin/env python
"""Train or evaluate a detector: ``python train_net.py --config-file FILE [key=value ...]``."""

import importlib.util
import sys

if __name__ == "__main__":
    if importlib.util.find_spec("detectron2") is None:
        sys.exit(
            "train_net.py: Detectron2 is missing; run `python tools/install_detectron2.py` "
            "(`python -m ranking_det.doctor` examines the rest)"
        )
    from ranking_det.engine import main

    sys.exit(main())
