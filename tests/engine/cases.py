"""Shared helpers of the engine tests: commands, malicious files, and locks."""

import os
import subprocess
import sys
from contextlib import contextmanager

from ranking_det.data.shapes import prepare_shapes


class Payload:
    """An object that creates the folder ``mark`` when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def write_module(folder, mark):
    """Write a module ``untrusted`` that creates the folder ``mark`` when it is imported."""
    text = (
        f"import os\nos.mkdir({str(mark)!r})\n\n\ndef build(**arguments):\n    return arguments\n"
    )
    (folder / "untrusted.py").write_text(text)


@contextmanager
def locked_by_another_process(path, kind):
    """Start a process that locks a file ("EX" or "SH") and writes its process id to it."""
    code = f"""
import fcntl, os, sys
file = open({str(path)!r}, "w+")
file.write(str(os.getpid()))
file.flush()
fcntl.lockf(file, fcntl.LOCK_{kind})
print("locked", flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"locked\n"
        yield other
        other.stdin.close()


def shapes_environment(tmp_path_factory, *, train, val):
    """Return the environment of a process with a small shapes data set of 64 px images."""
    root = tmp_path_factory.mktemp("datasets")
    prepare_shapes(root, train=train, val=val, size=64)
    return os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
