"""What a run does to its output folder: lock it, and leave what is not its own."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils import comm

from ranking_det.config import ConfigError

logger = logging.getLogger(__name__)


@contextmanager
def kept(path: Path, *, wanted: bool) -> Iterator[None]:
    """Put a file back afterwards: an evaluation's config is not that of the run."""
    content = path.read_bytes() if wanted and comm.is_main_process() and path.is_file() else None
    yield
    if content is not None:
        path.write_bytes(content)


@contextmanager
def sole_writer(output_dir: str, *, wanted: bool) -> Iterator[None]:
    """Keep a second training out of the folder; a lock of the system's ends with its process.

    Raises:
        ConfigError: another training writes there.
    """
    if not wanted or not comm.is_main_process():
        yield
        return
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    path = Path(output_dir, ".lock")
    with path.open("a+") as file:
        try:
            # Not flock, which processes that load images would inherit and outlive this one with.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ConfigError(
                f"{output_dir}: another training (process {file.read().strip()}) writes there; "
                "give this one a folder of its own"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked against a second training: %s", output_dir, error)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
