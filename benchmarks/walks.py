#!/usr/bin/env python
"""Count the files that a task touches: ``python -m benchmarks.walks [--json PATH]``.

A walk is the list of the package's files that run inside certain calls, in the order of their first
call, recorded by ``sys.setprofile``. The script also reports the longest chain of imports
from a run config, and the package's lines of code without comments, docstrings and blank lines.

Run it from the root of a checkout, with ``PYTHONPATH=.``, on the CPU.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import sys
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
QUICK_START = ROOT / "configs" / "shapes" / "retinanet_atss_rs.py"
STEP = ROOT / "configs" / "shapes" / "quick" / "retinanet_atss_rs.py"
DEPTH_LIMIT = 3


class Call(NamedTuple):
    """A function of the package, given by patterns for its file and its name."""

    file: str
    function: str


class Walk(NamedTuple):
    """The code that runs inside certain calls.

    Attributes:
        calls: calls inside which files are recorded. What runs between them, such as other checks
            and logging, is not part of the walk.
        last: the call that ends the walk.
        includes_last: whether the last call itself is part of the walk.
        limit: maximum number of files.
    """

    calls: tuple[Call, ...]
    last: Call
    includes_last: bool
    limit: int


# Names of the engine's functions. When the engine changes, only these need an update.
LOAD_CONFIG = Call(r"engine/.*", "load_config|load_experiment")
BUILD_MODEL = Call(r"engine/.*", "model")
CUSTOM_DATA = Call(r"engine/custom_data\.py", "prepare_custom_data")
MAKE_LOADER = Call(r"engine/.*", "train_loader|records")

CRITERION = Call(r"criteria/criterion\.py", "forward")
LOADER = Call(r"data/stream\.py", "build_train_loader")
CONSTRUCTOR = Call(r"modeling/.*", "__init__")
WALKS = {
    # Forward pass of the criterion in a training step.
    "logits -> loss": Walk((CRITERION,), CRITERION, includes_last=True, limit=14),
    # Training on custom data, from reading the JSON to the function that builds the loader.
    # Five of the modules on this walk check the JSON and the images.
    "--train-json -> loader": Walk(
        (CUSTOM_DATA, MAKE_LOADER), LOADER, includes_last=False, limit=9
    ),
    # From the name of a config to the first constructor of a part of the model.
    "config -> model": Walk((LOAD_CONFIG, BUILD_MODEL), CONSTRUCTOR, includes_last=False, limit=6),
}


class WalkDone(BaseException):
    """Raised when the last call of a walk is reached."""


class Recorder:
    """Profile function that records the files of the package in the order of their first call.

    Args:
        walk: the walk to record.
        package: folder of the package.
    """

    def __init__(self, walk: Walk, package: Path) -> None:
        self.walk = walk
        self.prefix = f"{package}{os.sep}"
        self.files: dict[str, None] = {}
        self.call: FrameType | None = None
        """The running call of the walk, or None."""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Record a call, or end the walk."""
        path = frame.f_code.co_filename
        if event not in ("call", "return") or not path.startswith(self.prefix):
            return
        file = path.removeprefix(self.prefix)
        is_last = _matches(self.walk.last, file, frame)
        if event == "return":
            if is_last and self.call is not None and self.walk.includes_last:
                raise WalkDone
            self.call = None if frame is self.call else self.call
            return
        if self.call is None and any(_matches(call, file, frame) for call in self.walk.calls):
            self.call = frame
        if self.call is None or frame.f_code.co_name == "<module>":
            return
        if is_last and not self.walk.includes_last:
            raise WalkDone
        self.files[file] = None


def _matches(call: Call, file: str, frame: FrameType) -> bool:
    name = frame.f_code.co_name
    return bool(re.fullmatch(call.function, name) and re.fullmatch(call.file, file))


def record(walk: Walk, action: Callable[[], Any]) -> list[str]:
    """Run an action; return the files of the package that it enters on a walk, in order.

    Raises:
        RuntimeError: the last call of the walk was not reached.
    """
    import ranking_det

    recorder = Recorder(walk, Path(ranking_det.__file__).parent)
    sys.setprofile(recorder)
    try:
        action()
    except WalkDone:
        return list(recorder.files)
    finally:
        sys.setprofile(None)
    raise RuntimeError(f"the last call of {walk} was not reached; entered {list(recorder.files)}")


def train_step() -> None:
    """Run forward and backward of the quick RetinaNet with ATSS and Rank & Sort Loss."""
    import torch
    from detectron2.config import LazyConfig, instantiate
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    model = instantiate(LazyConfig.load(str(STEP)).model)
    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    with EventStorage():
        losses = model([{"image": image, "instances": instances, "height": 96, "width": 96}])
        sum(losses.values()).backward()


def train_on_json(folder: Path) -> None:
    """Start training on a COCO JSON with one image and one object."""
    from PIL import Image

    from ranking_det.engine import main

    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "image.png")
    content = {
        "images": [{"id": 1, "file_name": "image.png", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 20, 20], "area": 400}
            | {"iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "data.json").write_text(json.dumps(content))
    files = [
        word
        for split in ("train", "val")
        for word in (f"--{split}-json", str(folder / "data.json"), f"--{split}-images", str(folder))
    ]
    overrides = ["train.max_iter=1", "train.device=cpu", f"train.output_dir={folder / 'output'}"]
    main(["--config-file", str(QUICK_START), *files, *overrides])


def relative_imports(path: Path) -> Iterator[Path]:
    """Yield the paths of the configs that a config imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            yield folder.joinpath(*node.module.split(".")).with_suffix(".py")


def run_configs() -> list[Path]:
    """Return the LazyConfigs outside common/."""
    return [path for path in sorted((ROOT / "configs").rglob("*.py")) if "common" not in path.parts]


def run_config_imports(path: Path) -> set[Path]:
    """Return the run configs that a config imports directly."""
    return {imported for imported in relative_imports(path) if "common" not in imported.parts}


def import_chain(path: Path) -> list[Path]:
    """Return the longest chain of imports that starts at a config, this config first."""
    return [
        path,
        *max((import_chain(imported) for imported in relative_imports(path)), key=len, default=[]),
    ]


def code_lines(path: Path) -> int:
    """Count the lines of a file without comments, docstrings and blank lines."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    prose.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    blank |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in blank:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def measure() -> dict[str, Any]:
    """Measure everything. Record each walk twice, so that imports do not count as part of it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        folder_numbers = iter(range(100))
        actions = {
            "logits -> loss": train_step,
            "--train-json -> loader": lambda: train_on_json(
                Path(folder, str(next(folder_numbers)))
            ),
            "config -> model": lambda: train_on_json(Path(folder, str(next(folder_numbers)))),
        }
        walks = {}
        for name, action in actions.items():
            for _ in range(2):
                files = record(WALKS[name], action)
            walks[name] = {"files": files, "count": len(files), "limit": WALKS[name].limit}
    chain = max((import_chain(path) for path in run_configs()), key=len)
    package = ROOT / "ranking_det"
    lines = {
        str(path.relative_to(package)): code_lines(path) for path in sorted(package.rglob("*.py"))
    }
    folders: dict[str, int] = {}
    for name, count in lines.items():
        top = name.partition("/")[0] if "/" in name else "."
        folders[top] = folders.get(top, 0) + count
    return {
        "walks": walks,
        "config_depth": {
            "chain": [str(path.relative_to(ROOT / "configs")) for path in chain],
            "count": len(chain) - 1,
            "limit": DEPTH_LIMIT,
        },
        "code_lines": {"total": sum(lines.values()), "folders": folders},
    }


def main() -> None:
    """Print the report, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH")
    path = parser.parse_args().json
    report = measure()
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")
        return
    for name, walk in report["walks"].items():
        print(f"{name}: {walk['count']} files (limit {walk['limit']})")
        print("".join(f"    {file}\n" for file in walk["files"]), end="")
    depth = report["config_depth"]
    print(f"run config: {depth['count']} imports deep (limit {depth['limit']})")
    print(f"    {' -> '.join(depth['chain'])}")
    print(f"lines of code: {report['code_lines']['total']:,}")
    for folder, count in report["code_lines"]["folders"].items():
        print(f"    {count:6,} {folder}")


if __name__ == "__main__":
    main()
