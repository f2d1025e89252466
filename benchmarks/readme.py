#!/usr/bin/env python
"""Write the README's figures from the committed results: ``python -m benchmarks.readme``.

Between ``<!-- NAME -->`` and ``<!-- /NAME -->`` stands what the function of that name below gives.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    """One committed result."""
    return json.loads((RESULTS / name).read_text())


def describe(machine: dict[str, Any]) -> str:
    """The machine in a few words."""
    return f"{machine['cores']} cores of {machine['device']}, torch {machine['torch']}"


def quickstart() -> str:
    """How long the quick start takes and what it reaches."""
    record = load("quickstart.json")
    return (
        f"Training and evaluation took {record['minutes']} minutes on "
        f"{describe(record['machine'])}, and reached box AP "
        f"{record['metrics']['bbox']['AP']:.1f} on held-out images (seed {record['seed']})."
    )


def losses() -> str:
    """Time of the ranking losses beside focal loss."""
    report = load("losses_cpu.json")
    names = {"rank_sort": "Rank & Sort", "ap": "AP", "alrp": "aLRP"}
    rows = [
        "| positives | logits | stage | focal loss | " + " | ".join(names.values()) + " |",
        "| ---: | ---: | --- | ---: |" + " ---: |" * len(names),
    ]
    for row in report["table"]:
        if row["base"] == "focal":
            cells = [f"{row['ratios'][n]:.2f} x" if n in row["ratios"] else "" for n in names]
            focal = f"{row['seconds']['focal'] * 1000:.0f} ms"
            head = f"| {row['positives']:,} | {row['logits']:,} | {row['stage']} | {focal} | "
            rows.append(head + " | ".join(cells) + " |")
    factors = {
        (row["base"], name): 1 / ratio
        for row in report["table"]
        for name, ratio in row["ratios"].items()
        if row["base"] != "focal" and row["stage"] == "mid"
    }
    many = max(
        (row for row in report["growth_in_logits"] if row["loss"] == "rank_sort"),
        key=lambda row: row["logits"],
    )
    largest = report["largest"]
    return (
        "Forward and backward, as ratios to fvcore's focal loss on the same logits "
        f"({describe(report['machine'])}, {report['machine']['threads']} threads); *init*, *mid* "
        "and *late* are logits of the start, the middle and the end of a training:\n\n"
        + "\n".join(rows)
        + "\n\nWith 1,000 positives in the middle of a training, Rank & Sort is "
        f"{factors['rank_sort_loop', 'rank_sort']:.0f} times faster than a loop over positives, "
        f"and APE (100,000 negatives) {factors['ape_loop', 'ape']:.0f} times faster than its own "
        f"with autograd. The peak of extra memory on {many['logits']:,} logits is "
        f"{many['extra'] / many['logit_bytes']:.1f} times the logits', gradient included."
        + f"\n\n{largest['logits']:,} logits with {largest['positives']:,} positives (1,203 "
        f"classes x 200,000 anchors) take {largest['seconds']:.1f} s and "
        f"{largest['resident'] / 1e9:.1f} GB, all told. On a GPU: not run."
    )


NAMES = {
    "RankingRetinaNet": "RetinaNet",
    "RankingFCOS": "FCOS",
    "MaxIoU": "max-IoU",
    "NormalizedPAA": "PAA*",
    "RankSort": "Rank & Sort",
    "AveragePrecision": "AP",
    "ALRPCriterion": "aLRP",
    "QualityFocal": "quality focal",
    "RankDet": "RankDetNet",
    "Focal": "focal",
    "CrossEntropy": "cross entropy",
    "Varifocal": "varifocal",
}


def name_of(node: Any) -> str:
    """What the README calls the class of a LazyConfig node."""
    target = node["_target_"]
    name = target.split(".")[-1] if isinstance(target, str) else target.__name__
    return NAMES.get(name, name)


def name_criterion(node: Any) -> str:
    """The classification losses of a criterion, and its branch."""
    if "stages" in node:
        return ", then ".join(name_criterion(stage) for stage in node["stages"])
    name = name_of(node["classification"]) if "classification" in node else name_of(node)
    if "branch" in node:
        target = name_of(node["branch"]["target"]).removesuffix("Weight")
        name += f", {'IoU' if target == 'IoU' else 'centreness'} branch"
    return name


def name_axes(model: Any) -> list[str]:
    """The architecture, the assigner and the criterion of a detector, or of an R-CNN's box head."""
    if "roi_heads" not in model:
        return [name_of(model), name_of(model.assigner), name_criterion(model.criterion)]
    heads = model.roi_heads
    if "box_heads" in heads:
        criterion = name_criterion(heads.criteria[0])
        return ["Cascade R-CNN", name_of(heads.assigners[0]), criterion]
    name = "Mask R-CNN" if "mask_head" in heads else "Faster R-CNN"
    if name_of(model.backbone) == "CARAFEFPN":
        name += ", CARAFE FPN"
    return [name, name_of(heads.assigner), name_criterion(heads.criterion)]


def quick() -> str:
    """The quick configs, the command of each, and what they reach."""
    report = load("quick.json")
    configs = sorted(path.stem for path in (ROOT / "configs/shapes/quick").glob("*.py"))
    rows = [
        "| architecture | assigner | criterion | command | box AP | mask AP | minutes |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name in configs:
        path = f"configs/shapes/quick/{name}.py"
        axes = name_axes(LazyConfig.load(str(ROOT / path)).model)
        figures = ["not run", "", ""]
        if name in report["runs"]:
            run = report["runs"][name]
            found = [run["metrics"].get(task) for task in ("bbox", "segm")]
            figures = [f"{own['AP']:.1f}" if own else "" for own in found]
            figures.append(f"{run['minutes']:.1f}")
        command = f"`python train_net.py --config-file {path}`"
        rows.append("| " + " | ".join([*axes, command, *figures]) + " |")
    return (
        "\n".join(rows)
        + f"\n\nTraining and evaluation on {describe(report['machine'])}, seed {report['seed']}, "
        "one short run each: the table shows that everything trains, not which loss is best."
    )


def published() -> str:
    """The R-CNNs on COCO and LVIS, with what the papers report, as their files say."""
    rows = ["| config | box AP | mask AP | here |", "| --- | ---: | ---: | --- |"]
    folder = ROOT / "configs/coco"
    paths = [path for kind in ("faster", "mask", "cascade") for path in folder.glob(f"{kind}_*.py")]
    for path in [*sorted(paths), *sorted((ROOT / "configs/lvis").glob("*.py"))]:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found = re.search(
            r"published (?:mask AP (\d+\.\d), box )?AP (\d+\.\d)", text, re.IGNORECASE
        )
        masks, boxes = found.groups() if found else (None, None)
        name = path.relative_to(ROOT).as_posix()
        rows.append(f"| [`{path.stem}`]({name}) | {boxes or ''} | {masks or ''} | not run |")
    return "\n".join(rows)


def steps() -> str:
    """A training step with each criterion, and the mixtures of PAA."""
    report, names = load("steps_cpu.json"), {"rank_sort": "Rank & Sort", "ap": "AP", "alrp": "aLRP"}
    ratios = ", ".join(f"{label} {report['ratios'][name]:.2f}" for name, label in names.items())
    times = [mixture["times_faster"] for mixture in load("assigners_cpu.json")["mixtures"].values()]
    return (
        f"A training step on {report['images']} images of 128 px as a ratio to the same step with "
        f"focal loss ({describe(report['machine'])}): {ratios}. APE Loss visits the pairs that its "
        f"cut-off leaves, at the start of a training nearly all: {report['ratios']['ape']:.1f} in "
        "the first step. The Gaussian mixtures of PAA are fitted for all objects of a batch at "
        f"once, {min(times):.0f} times faster than by scikit-learn for one after the other "
        f"({load('assigners_cpu.json')['objects']} objects). {rcnn_steps(report)}"
    )


def rcnn_steps(report: dict[str, Any]) -> str:
    """Mask R-CNN's step with Rank & Sort, beside cross entropy and beside Detectron2's own."""
    own = report["rcnn"]
    theirs = own["seconds"]["rank_sort"] / own["seconds"]["detectron2"]
    return (
        f"Mask R-CNN's step with Rank & Sort is {own['ratios']['rank_sort']:.2f} of that with "
        f"cross entropy on the same RoIs, and {theirs:.2f} of that of Detectron2's own heads."
    )


def fill(text: str) -> str:
    """The README with its figures."""
    for make in (quickstart, quick, published, steps, losses):
        start, end = f"<!-- {make.__name__} -->\n", f"<!-- /{make.__name__} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md needs {start.strip()} and {end} once each")
        before, rest = text.split(start)
        text = f"{before}{start}{make()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text()))
