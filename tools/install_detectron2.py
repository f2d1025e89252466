#!/usr/bin/env python3
"""Bring Detectron2 into the running Python environment, once, without a compiler.

Upstream publishes no package, so there are three ways, tried in this order:

1. A Detectron2 that can be imported already is used as it is; nothing is installed.
2. ``--from-git [REF]`` builds upstream's repository (needs git and a C++ compiler).
3. Otherwise Detectron2 0.6 is installed from a source archive on the package index, whose hash is
   checked before a line of it runs. The archive has no C++ sources and is of 2021, so the unpacked
   copy is first mended to work as pure Python with today's torch, numpy and Pillow. What then is
   missing are the compiled operators: deformable convolution (torchvision has it), rotated boxes,
   and the C++ COCO evaluator (the Python one is used instead).

torch and torchvision must be installed before: Detectron2's setup.py imports torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
REPOSITORY = "https://github.com/facebookresearch/detectron2"
# What Detectron2 0.6 imports, less its pins of 2021 (black, future) and what only exports need.
REQUIREMENTS = """
Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle
tqdm>4.29.0 tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7,<0.1.10 omegaconf>=2.1,<2.4
hydra-core>=1.1 packaging
""".split()
MODEL_ZOO = "detectron2/model_zoo/model_zoo.py"


class Fix(NamedTuple):
    """One mend: ``pattern`` becomes ``replacement`` in the archive's files of ``glob``."""

    glob: str
    pattern: str
    replacement: str
    count: int


FIXES = (
    # The C++ sources are not in the archive.
    Fix("setup.py", r"    ext_modules=get_extensions\(\),\n    cmdclass=.*\n", "", 1),
    Fix("setup.py", r'name="pb1-detectron2"', 'name="detectron2"', 1),
    Fix("setup.py", r'        "(future|pydot|black==21\.4b2)",.*\n', "", 3),
    # numpy 1.24 removed these aliases of the builtins, Pillow 10 this name, setuptools 82 that one.
    Fix("detectron2/**/*.py", r"\bnp\.(bool|int|float|object|str)\b(?!_)", r"\1", 19),
    Fix("detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR", 1),
    Fix(MODEL_ZOO, r"import pkg_resources\n", "from importlib.resources import files\n", 1),
    Fix(
        MODEL_ZOO,
        r'pkg_resources\.resource_filename\(\n\s*"detectron2\.model_zoo", (.*)\n\s*\)',
        r'str(files("detectron2.model_zoo") / \1)',
        1,
    ),
    # Without the compiled operators these modules must still import.
    Fix(
        "detectron2/layers/*.py",
        r"^from detectron2 import _C$",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None",
        3,
    ),
    Fix(
        "detectron2/evaluation/coco_evaluation.py",
        r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval",
        1,
    ),
)


def apply_fixes(root: Path) -> None:
    """Mend the unpacked archive at ``root``; a fix that does not fit as often as it must raises."""
    for fix in FIXES:
        count = 0
        for path in sorted(root.glob(fix.glob)):
            text, n = re.subn(fix.pattern, fix.replacement, path.read_text(), flags=re.MULTILINE)
            if n:
                path.write_text(text)
            count += n
        if count != fix.count:
            raise RuntimeError(f"{fix.glob}: {fix.pattern!r} fits {count} times, not {fix.count}")
    # setup.py packs the model zoo from configs/ at the root; the archive has them in the package.
    shutil.move(root / "detectron2" / "model_zoo" / "configs", root / "configs")


def pip(*args: str, cwd: Path | None = None) -> None:
    """Run this interpreter's pip."""
    command = [sys.executable, "-m", "pip", *args, "--disable-pip-version-check"]
    subprocess.run(command, check=True, cwd=cwd)


def find_installed() -> str | None:
    """Return the version and place of an importable Detectron2, or None where there is none.

    Raises:
        RuntimeError: there is one, but it is broken; to install over it could harm its owner.
    """
    if importlib.util.find_spec("detectron2") is None:
        return None
    # In a process of its own: a broken install must not take this one down with it.
    code = (
        "import detectron2, detectron2.data, detectron2.evaluation, detectron2.modeling\n"
        "print(detectron2.__version__, 'in', detectron2.__path__[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"a Detectron2 is installed but cannot be imported ({reason}); mend it, or remove it "
            f"with `{sys.executable} -m pip uninstall detectron2` and run this again"
        )
    return result.stdout.strip().splitlines()[-1]


def install_archive() -> None:
    """Download, check, mend and install Detectron2 0.6 as pure Python."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "archive.txt").write_text(f"{ARCHIVE} --hash=sha256:{SHA256}\n")
        build = ["--no-deps", "--no-build-isolation"]  # setup.py imports torch
        pip("download", "-q", "--require-hashes", "--no-binary", ":all:", *build,
            "-r", "archive.txt", cwd=root)  # fmt: skip
        (archive,) = root.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(root / "source", filter="data")
        (source,) = (root / "source").iterdir()
        apply_fixes(source)
        pip("install", "-q", *REQUIREMENTS)
        pip("install", "-q", *build, str(source))


def main() -> int:
    """Install Detectron2 unless it is there, and say which one is used."""
    parser = argparse.ArgumentParser(description="Install Detectron2 without a compiler.")
    parser.add_argument(
        "--from-git",
        nargs="?",
        const="main",
        metavar="REF",
        help="build upstream's repository at REF (default: main); needs git and a C++ compiler",
    )
    parser.add_argument(
        "--requirements",
        action="store_true",
        help="print what Detectron2 itself needs and install nothing, for a checkout of one's own",
    )
    args = parser.parse_args()
    if args.requirements:
        print(" ".join(REQUIREMENTS))
        return 0
    try:
        installed = find_installed()
        if installed:
            print(f"Detectron2 {installed} is installed already; using it.")
            return 0
        if importlib.util.find_spec("torch") is None:
            raise RuntimeError("install torch and torchvision first: Detectron2's build needs them")
        # Of today's environments some have no setuptools, which a build without isolation needs.
        pip("install", "-q", "setuptools", "wheel")
        if args.from_git:
            pip("install", "--no-build-isolation", f"git+{REPOSITORY}@{args.from_git}")
        else:
            install_archive()
        importlib.invalidate_caches()
        print(f"Detectron2 {find_installed()} installed.")
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
