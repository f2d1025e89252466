#!/usr/bin/env python3
"""Install Detectron2 into the current Python environment without a compiler.

Upstream publishes no package. The script tries these ways in order:

1. If Detectron2 can be imported already, nothing is installed.
2. ``--from-git [REF]`` builds upstream's repository (needs git and a C++ compiler).
3. Otherwise Detectron2 0.6 is installed from a source archive on the package index. The hash of the
   archive is checked before any of its code runs. The archive dates from 2021 and has no C++
   sources, so the script patches the unpacked copy to work as pure Python with current versions of
   torch, numpy and Pillow. Then there are no compiled operators: deformable convolution
   (torchvision has it), rotated boxes, and the C++ COCO evaluator (the Python one replaces it).

Install torch and torchvision first: Detectron2's setup.py imports torch.
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
# Requirements of Detectron2 0.6, without its pins from 2021 (black, future) and export-only
# packages.
REQUIREMENTS = """
Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle
tqdm>4.29.0 tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7,<0.1.10 omegaconf>=2.1,<2.4
hydra-core>=1.1 packaging
""".split()
MODEL_ZOO = "detectron2/model_zoo/model_zoo.py"


class Fix(NamedTuple):
    """A patch: replace ``pattern`` by ``replacement``, ``count`` times in the files of ``glob``."""

    glob: str
    pattern: str
    replacement: str
    count: int


FIXES = (
    # The C++ sources are not in the archive.
    Fix("setup.py", r"    ext_modules=get_extensions\(\),\n    cmdclass=.*\n", "", 1),
    Fix("setup.py", r'name="pb1-detectron2"', 'name="detectron2"', 1),
    Fix("setup.py", r'        "(future|pydot|black==21\.4b2)",.*\n', "", 3),
    # numpy 1.24 removed the aliases of builtins, Pillow 10 Image.LINEAR, and setuptools 82
    # pkg_resources.
    Fix("detectron2/**/*.py", r"\bnp\.(bool|int|float|object|str)\b(?!_)", r"\1", 19),
    Fix("detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR", 1),
    Fix(MODEL_ZOO, r"import pkg_resources\n", "from importlib.resources import files\n", 1),
    Fix(
        MODEL_ZOO,
        r'pkg_resources\.resource_filename\(\n\s*"detectron2\.model_zoo", (.*)\n\s*\)',
        r'str(files("detectron2.model_zoo") / \1)',
        1,
    ),
    # It must be possible to import these modules without the compiled operators.
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
    """Patch the unpacked archive at ``root``.

    Raises:
        RuntimeError: a pattern does not match the expected number of times.
    """
    for fix in FIXES:
        count = 0
        for path in sorted(root.glob(fix.glob)):
            text, n = re.subn(fix.pattern, fix.replacement, path.read_text(), flags=re.MULTILINE)
            if n:
                path.write_text(text)
            count += n
        if count != fix.count:
            raise RuntimeError(
                f"{fix.glob}: expected {fix.count} matches of {fix.pattern!r}, got {count}"
            )
    # setup.py expects the model zoo in configs/ at the root; the archive has it in the package.
    shutil.move(root / "detectron2" / "model_zoo" / "configs", root / "configs")


def pip(*args: str, cwd: Path | None = None) -> None:
    """Run this interpreter's pip."""
    command = [sys.executable, "-m", "pip", *args, "--disable-pip-version-check"]
    subprocess.run(command, check=True, cwd=cwd)


def find_installed() -> str | None:
    """Return the version and folder of an importable Detectron2, or None.

    Raises:
        RuntimeError: Detectron2 is installed but broken. Installing over it could destroy a
            user's build.
    """
    if importlib.util.find_spec("detectron2") is None:
        return None
    # Use a child process, because a broken installation can crash the interpreter.
    code = (
        "import detectron2, detectron2.data, detectron2.evaluation, detectron2.modeling\n"
        "print(detectron2.__version__, 'in', detectron2.__path__[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"Detectron2 is installed but cannot be imported ({reason}); repair it, or remove it "
            f"with `{sys.executable} -m pip uninstall detectron2` and run this again"
        )
    return result.stdout.strip().splitlines()[-1]


def install_archive() -> None:
    """Download, verify, patch and install Detectron2 0.6 as pure Python."""
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
    """Install Detectron2 if it is missing, and print which one is used."""
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
        help="print the requirements of Detectron2, for your own checkout, and install nothing",
    )
    args = parser.parse_args()
    if args.requirements:
        print(" ".join(REQUIREMENTS))
        return 0
    try:
        installed = find_installed()
        if installed:
            print(f"Detectron2 {installed} is already installed; using it.")
            return 0
        if importlib.util.find_spec("torch") is None:
            raise RuntimeError("install torch and torchvision first: Detectron2's build needs them")
        # A build without isolation needs setuptools, which new environments do not have.
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
