"""Put the temporary files of all tests in one folder; run the files with long runs first."""

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="ranking_det-tests-", ignore_cleanup_errors=True)
# torch creates this folder when it is imported, and never removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _folder.name)
# For commands that tests run: their data-loading workers leave sockets behind when killed.
os.environ["TMPDIR"] = _folder.name


def pytest_collection_modifyitems(items):
    # A long file that starts last would run alone, while the other workers wait for it.
    items.sort(key=lambda item: {"engine", "examples"}.isdisjoint(item.path.parts[-2:]))


def pytest_unconfigure():
    _folder.cleanup()
