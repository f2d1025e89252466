"""What the tests of the engine share: commands, files that leave a mark when run, and locks."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from ranking_det.data.shapes import prepare_shapes

ROOT = Path(__file__).parents[2]


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


def shapes_environment(tmp_path_factory, *, train, val):
    """Of a process whose shapes data set has so many images of 64 px."""
    root = tmp_path_factory.mktemp("datasets")
    prepare_shapes(root, train=train, val=val, size=64)
    return os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}


def run_commands(commands, *, pictures=True):
    """What a user would do one after the other, in one process: starting one takes seconds."""
    code = "from ranking_det.engine import hooks, main\n"
    if not pictures:
        code += "hooks.draw_detections = hooks.plot_curves = lambda *args: None\n"
    code += f"for command in {commands!r}:\n"
    code += "    assert main(command) == 0"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
