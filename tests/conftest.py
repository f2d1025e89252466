"""Put the temporary files of all tests in one folder; run the slowest test files first."""

import gc
import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress

import pytest

_folder = tempfile.TemporaryDirectory(prefix="ranking_det-tests-", ignore_cleanup_errors=True)
# torch creates this folder when it is imported, and never removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _folder.name)
# For commands that tests run: if killed, their data-loading workers leave sockets behind.
os.environ["TMPDIR"] = _folder.name

# torch warns once per process, in the first test that runs a model of Detectron2's main.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

# Some tests send Ctrl-C, which a process ignores if a shell started it in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def remove_log_handlers():
    """Remove the log handlers that commands leave in this process: their streams are closed."""
    yield
    module = sys.modules.get("detectron2.utils.logger")
    if module is not None:
        for name in ("detectron2", "fvcore", "ranking_det"):
            logging.getLogger(name).handlers.clear()
        with suppress(AttributeError):
            module.setup_logger.cache_clear()


def pytest_collection_modifyitems(items):
    # If a long file started last, the other workers would wait for it.
    items.sort(key=lambda item: {"engine", "examples"}.isdisjoint(item.path.parts[-2:]))


def pytest_collection_finish():
    # The imported libraries are most of the objects, and each full collection would visit them all.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    _folder.cleanup()
