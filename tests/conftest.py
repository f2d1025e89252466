"""Tests leave nothing in the system's folder of temporary files."""

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="ranking_det-tests-", ignore_cleanup_errors=True)
# Torch makes this folder when it is imported, and never removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _folder.name)
# The commands that tests run: loading processes that are ended with them leave their sockets.
os.environ["TMPDIR"] = _folder.name


def pytest_unconfigure():
    _folder.cleanup()
