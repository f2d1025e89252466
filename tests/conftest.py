"""Keep the temporary files of all tests in one folder, which is deleted at the end."""

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="ranking_det-tests-", ignore_cleanup_errors=True)
# torch creates this folder when it is imported, and never removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _folder.name)
# For commands that tests run: their data-loading workers leave sockets behind when killed.
os.environ["TMPDIR"] = _folder.name


def pytest_unconfigure():
    _folder.cleanup()
