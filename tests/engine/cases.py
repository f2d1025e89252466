"""What the tests of the engine share: files that leave a mark when they are run, and locks."""

import os
import subprocess
import sys
from contextlib import contextmanager


class Payload:
    """Pickled, a call that makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def write_module(folder, mark):
    """A module of the name ``stranger`` that leaves the mark when it is imported."""
    text = (
        f"import os\nos.mkdir({str(mark)!r})\n\n\ndef build(**arguments):\n    return arguments\n"
    )
    (folder / "stranger.py").write_text(text)


@contextmanager
def locked_by_another_process(path, kind):
    """A process that holds a lock of a kind ("EX" or "SH") on a file, which has its number."""
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
