#!/usr/bin/env python
"""Train, evaluate or run a detector: ``python train_net.py --config-file FILE [key=value ...]``."""

import importlib
import importlib.util
import sys

from ranking_det.doctor.diagnosis import diagnose
from ranking_det.doctor.probes import PROBES
from ranking_det.library_warnings import hide_library_warnings, shorten_interrupts

# Not only in the main program: the processes of a run on several GPUs import this file, too.
hide_library_warnings()


def check_imports() -> None:
    """End with one line if Detectron2 or torch is missing or cannot be imported."""
    if importlib.util.find_spec("detectron2") is None:
        sys.exit(
            f"train_net.py: Detectron2 is not installed in {sys.executable}; activate "
            "the environment of `make install` (`source .venv/bin/activate`), or run `python "
            "tools/install_detectron2.py` (`python -m ranking_det.doctor` checks the rest)"
        )
    modules = {"torch": "torch", "torchvision": "torchvision", "Detectron2": "detectron2.engine"}
    for name, module in modules.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken library can raise anything
            check = diagnose(name, PROBES[name].remedies, error)
            sys.exit(
                f"train_net.py: {name} cannot be imported: {check.text}; try `{check.remedy}` "
                "(`python -m ranking_det.doctor` checks the rest)"
            )


if __name__ == "__main__":
    shorten_interrupts()
    check_imports()
    from ranking_det.engine import main

    sys.exit(main())
