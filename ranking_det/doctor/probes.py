"""Probes: functions that import a package, use it, and describe the result or raise."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Remedies. `pip` and `python` are printed with the path of the interpreter that runs the doctor.
PAIR = "pip install torch torchvision"
UPGRADED_PAIR = "pip install --upgrade torch torchvision"
NEW_PAIR = "pip install --upgrade --force-reinstall torch torchvision"
DETECTRON2 = "python tools/install_detectron2.py"
NEW_DETECTRON2 = f"pip uninstall -y detectron2; {DETECTRON2}"
REQUIREMENTS = f"pip install $({DETECTRON2} --requirements)"
DETECTORS = 'pip install -e ".[detectors]"'
OTHER_BUILD = "a build for your driver, from https://pytorch.org/get-started/locally"

# As in setup.py. Before torch 2.10, loading weights can run code despite weights_only
# (CVE-2026-24747; before 2.6 also CVE-2025-32434).
TORCH = "2.4"
SAFE_TORCH = "2.10"


class Finding(Exception):
    """A problem that the probe itself has diagnosed: a FAULT, or a note if training still works."""

    def __init__(self, text: str, remedy: str, status: str = "FAULT") -> None:
        super().__init__(text)
        self.text, self.remedy, self.status = text, remedy, status


class Remedies(NamedTuple):
    """Remedies for a package that is absent or broken, or that lacks a dependency."""

    package: str
    absent: str
    broken: str
    missing_dependency: str = ""


class Probe(NamedTuple):
    """A function that describes what works or raises; skipped if a probe in ``needs`` failed."""

    run: Callable[[], str]
    remedies: Remedies
    needs: tuple[str, ...] = ()
    optional: bool = False  # training works without it, so a fault becomes a note


def _numpy() -> str:
    import numpy

    numpy.linalg.inv(numpy.eye(2))
    return "inverts a matrix"


def _pillow() -> str:
    from PIL import Image

    Image.new("RGB", (4, 4)).resize((2, 2))
    return "resizes an image"


def _torch() -> str:
    import torch

    if _is_older(torch, TORCH):
        raise Finding(f"torch {torch.__version__} is older than {TORCH}", UPGRADED_PAIR)
    x = torch.ones(2, 2, requires_grad=True)
    (x @ x).sum().backward()
    threads = torch.get_num_threads()
    return f"computes and differentiates, in {threads} thread{'s' * (threads > 1)}"


def _is_older(torch: Any, version: str) -> bool:
    numbers = re.findall(r"\d+", torch.__version__)[:2]
    return [int(number) for number in numbers] < [int(number) for number in version.split(".")]


def _weight_files() -> str:
    import torch

    if _is_older(torch, SAFE_TORCH):
        text = f"untrusted ones can run code in torch {torch.__version__}, older than"
        raise Finding(f"{text} {SAFE_TORCH} (CVE-2026-24747)", UPGRADED_PAIR)
    return "torch loads untrusted ones without a known vulnerability"


def _torch_with_numpy() -> str:
    import numpy
    import torch

    torch.from_numpy(numpy.ones(2)).numpy()
    return "share an array"


def _torchvision() -> str:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
    return "its compiled NMS runs"


def _gpu() -> str:
    import torch

    driver = nvidia_smi()
    cuda, hip = torch.version.cuda, torch.version.hip
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "the CPU only"
    if torch.cuda.is_available():
        names = [_use_gpu(torch, i) for i in range(torch.cuda.device_count())]
        versions = f"torch is built for {built}, nvidia-smi says: {driver or 'nothing'}"
        return f"a convolution runs on {_count(names)}; {versions}"
    if driver:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not cuda:
            remedy = f"{NEW_PAIR}, or {OTHER_BUILD}"
        elif hidden is not None:
            remedy = f"unset CUDA_VISIBLE_DEVICES, which is {hidden!r}"
        else:
            remedy = f"a newer driver, or {OTHER_BUILD}"
        text = f"training runs on the CPU: torch, built for {built}, cannot use {driver}"
        raise Finding(text, remedy, "note")
    if torch.backends.mps.is_available():
        try:
            (torch.ones(2, device="mps") * 2).sum().item()
        except RuntimeError as error:
            text = f"Apple's MPS does not compute: {error}"
            raise Finding(text, UPGRADED_PAIR, "note") from error
        return "Apple's MPS computes; the configs train on the CPU"
    return f"none: training runs on the CPU (torch is built for {built})"


def _use_gpu(torch: Any, index: int) -> str:
    """Run cuBLAS and cuDNN on a GPU; return its name."""
    image = torch.ones(1, 1, 4, 4, device=f"cuda:{index}")
    torch.nn.functional.conv2d(image @ image, image).sum().item()
    return str(torch.cuda.get_device_name(index))


def nvidia_smi() -> str:
    """Return the GPUs and the driver that nvidia-smi reports, or ""; does not need torch."""
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    lines = output_of("nvidia-smi", *query).split("\n")
    return _count([", driver ".join(line.rsplit(", ", 1)) for line in lines if line.strip()])


def output_of(*command: str) -> str:
    """Return the output of a program, or "" if it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout if result.returncode == 0 else ""


def _count(names: list[str]) -> str:
    """Join names with their counts: ``2 x A, B`` for A, A and B."""
    counts = Counter(names).items()
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts)


def _pycocotools() -> str:
    import numpy
    import pycocotools.mask

    pycocotools.mask.encode(numpy.ones((2, 2), dtype=numpy.uint8, order="F"))
    return "encodes a mask"


def _detectron2() -> str:
    import detectron2
    import detectron2.config
    import detectron2.modeling

    folder = Path(detectron2.__path__[0])
    if compiled_operators(str(folder)):
        try:
            import detectron2._C  # noqa: F401
        except ImportError as error:
            text = f"its compiled operators are built for another torch: {error} (in {folder})"
            raise Finding(text, NEW_DETECTRON2) from error
    _check_aliases(folder)
    detectron2.config.get_cfg().merge_from_list(["SOLVER.MAX_ITER", 1])
    return "its config and models import"


def _model_zoo() -> str:
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    config_file = model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    get_cfg().merge_from_file(config_file)
    return "one of its configs loads"


def compiled_operators(folder: str) -> bool:
    """Return whether the Detectron2 in ``folder`` has compiled operators."""
    return any(path.suffix in (".so", ".pyd") for path in Path(folder).glob("_C.*"))


def _check_aliases(folder: Path) -> None:
    """Raise if code in ``folder`` uses names that numpy has removed.

    Importing does not show these: functions fail only when they are called.
    """
    import numpy

    for path in sorted(folder.rglob("*.py")):
        for name in re.findall(r"\bnp\.(bool|int|float|object|str)\b", path.read_text("utf-8")):
            if not hasattr(numpy, name):
                text = f"uses np.{name}, which numpy {numpy.__version__} does not have, in {path}"
                raise Finding(f"too old for this numpy: {text}", NEW_DETECTRON2)


def _losses() -> str:
    import torch

    from ranking_det.losses import rank_sort_loss

    logits = torch.zeros(8, requires_grad=True)
    losses = rank_sort_loss(logits, torch.tensor([1, 3]), torch.tensor([0.8, 0.6]))
    (losses.ranking + losses.sorting).backward()
    if logits.grad is None or not logits.grad.isfinite().all() or not logits.grad.any():
        raise RuntimeError(f"the gradient of Rank & Sort Loss is {logits.grad}")
    return "Rank & Sort Loss runs forward and backward"


def _training() -> str:
    import ranking_det.engine  # noqa: F401

    return "models, data sets and trainers import"


def _pip(package: str, name: str) -> Remedies:
    absent, broken = f"pip install {name}", f"pip install --force-reinstall --no-deps {name}"
    return Remedies(package, absent, broken)


_OLD_TORCH = Remedies("torch", PAIR, UPGRADED_PAIR)
_RANKING_DET = Remedies("ranking_det", DETECTORS, DETECTORS)
_DETECTRON2 = Remedies("detectron2", DETECTRON2, NEW_DETECTRON2, REQUIREMENTS)
PROBES = {
    "numpy": Probe(_numpy, _pip("numpy", "numpy")),
    "Pillow": Probe(_pillow, _pip("PIL", "Pillow")),
    "torch": Probe(_torch, Remedies("torch", PAIR, NEW_PAIR)),
    "torch, numpy": Probe(_torch_with_numpy, _OLD_TORCH, ("torch", "numpy")),
    "weight files": Probe(_weight_files, _OLD_TORCH, ("torch",)),
    "torchvision": Probe(_torchvision, Remedies("torchvision", PAIR, NEW_PAIR), ("torch",)),
    "GPU": Probe(_gpu, Remedies("torch", PAIR, OTHER_BUILD), ("torch",)),
    "pycocotools": Probe(_pycocotools, _pip("pycocotools", "pycocotools"), ("numpy",)),
    "Detectron2": Probe(
        _detectron2, _DETECTRON2, ("numpy", "Pillow", "torch", "torchvision", "pycocotools")
    ),
    "model zoo": Probe(_model_zoo, _DETECTRON2, ("Detectron2",), optional=True),
    "losses": Probe(_losses, _RANKING_DET, ("torch",)),
    "training": Probe(_training, _RANKING_DET, ("losses", "Detectron2")),
}
