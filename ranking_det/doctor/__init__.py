"""Check the installation and say how to fix it: ``python -m ranking_det.doctor``.

This process imports the standard library only. A broken package may raise anything or crash the
interpreter, so the probes run in a separate process.
"""

from ranking_det.doctor.report import main

__all__ = ["main"]
