"""Is everything installed, does it work, and how to mend it: ``python -m ranking_det.doctor``.

Only the standard library is imported in this process. What is examined may raise anything or take
the whole interpreter down, so the probes run in a process of their own.
"""

from ranking_det.doctor.report import main

__all__ = ["main"]
