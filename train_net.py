#!/usr/bin/env python
"""Train, evaluate or run a detector: ``python train_net.py --config-file FILE [key=value ...]``."""

import importlib.util
import sys
import warnings

# Detectron2's own code causes these warnings at every start, in every process.
for message, category in {
    ".*torch.jit.script.* is deprecated": FutureWarning,
    "torch.meshgrid: in an upcoming release": UserWarning,
    "`broadcast_buffers` is deprecated": FutureWarning,
    "TypedStorage is deprecated": UserWarning,
}.items():
    warnings.filterwarnings("ignore", message, category)

if __name__ == "__main__":
    if importlib.util.find_spec("detectron2") is None:
        sys.exit(
            f"train_net.py: Detectron2 is not installed in {sys.executable}; activate "
            "the environment of `make install` (`source .venv/bin/activate`), or run `python "
            "tools/install_detectron2.py` (`python -m ranking_det.doctor` checks the rest)"
        )
    from ranking_det.engine import main

    sys.exit(main())
