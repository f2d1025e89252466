"""Imports point down only; see the map of folders in the README."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "ranking_det"
TORCH = {"torch", "numpy"}
DETECTRON2 = {"detectron2", "fvcore", "iopath", "omegaconf", "hydra", "pycocotools", "yacs"}
# layer -> (its own packages it may import, other packages beside the standard library)
LAYERS = {
    "labels": (set(), set()),
    "user_errors": (set(), set()),
    "config": ({"user_errors"}, set()),
    "checks": ({"labels"}, {"torch"}),
    "boxes": (set(), {"torch"}),
    "files": (set(), set()),
    "losses": ({"checks", "labels", "boxes", "config"}, {"torch"}),
    "criteria": ({"checks", "labels", "boxes", "losses"}, {"torch"}),
    "assigners": ({"checks", "labels", "boxes", "config"}, {"torch"}),
    "layers": ({"checks", "labels", "boxes"}, {"torch", "torchvision"}),
    "analysis": (set(), {"numpy"}),
    "visualization": (
        {"checks", "user_errors", "files", "modeling", "data"},
        TORCH | DETECTRON2 | {"matplotlib"},
    ),
    "data": ({"labels", "user_errors"}, TORCH | DETECTRON2 | {"PIL", "cv2", "tqdm"}),
    "evaluation": ({"user_errors", "data", "files"}, {"numpy", "faster_coco_eval"} | DETECTRON2),
    "modeling": (
        {"checks", "labels", "boxes", "config", "user_errors", "losses", "criteria", "assigners"}
        | {"layers"},
        TORCH | DETECTRON2 | {"torchvision"},
    ),
    "engine": (
        {"checks", "config", "user_errors", "files", "losses", "assigners", "modeling", "data"}
        | {"evaluation", "analysis", "visualization"},
        TORCH | DETECTRON2 | {"matplotlib", "yaml", "PIL"},
    ),
    # Its probes import these when they are run, and nothing before.
    "doctor": ({"losses", "engine"}, TORCH | {"torchvision", "PIL", "pycocotools", "detectron2"}),
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "ranking_det":
                yield from (f"ranking_det.{alias.name}" for alias in node.names)
            else:
                yield node.module


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer != "__init__":
            yield pytest.param(layer, path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize(("layer", "path"), modules())
def test_imports_point_down(layer, path):
    own, others = LAYERS[layer]
    for name in imported_modules(path):
        top, *rest = name.split(".")
        if top == "ranking_det":
            assert not rest or rest[0] in own | {layer}, f"{layer} may not import {name}"
        else:
            assert top in others | sys.stdlib_module_names, f"{layer} may not import {name}"


def test_the_package_itself_holds_the_version_only():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]


@pytest.mark.parametrize("package", ["losses", "assigners", "layers", "doctor"])
def test_losses_assigners_layers_and_doctor_import_without_detectron2(package):
    blocked = DETECTRON2 | {"torchvision", "matplotlib", "PIL", "sklearn"}
    if package == "layers":
        blocked -= {"torchvision", "PIL"}  # torchvision imports PIL
    elif package == "doctor":
        blocked |= TORCH
    code = (
        "import sys\n"
        f"for name in {blocked!r}:\n"
        "    sys.modules[name] = None\n"  # importing it now raises ImportError
        f"import ranking_det.{package}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_importing_the_models_changes_no_default_of_detectron2():
    code = (
        "from detectron2.config import get_cfg\n"
        "before = get_cfg().dump()\n"
        "import ranking_det.modeling\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "assert get_cfg().dump() == before\n"
        "assert 'RankingRetinaNet' in META_ARCH_REGISTRY\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT.parent)
