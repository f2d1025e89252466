"""Tests leave nothing in the system's folder of temporary files."""

import os
import tempfile

# Torch makes this folder when it is imported, and never removes it.
_cache = tempfile.TemporaryDirectory(prefix="ranking_det-tests-")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _cache.name)


def pytest_unconfigure():
    _cache.cleanup()
