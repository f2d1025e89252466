#!/usr/bin/env python
"""Write the numbers in README.md and docs/ from the results: ``python -m benchmarks.docs``.

Each page has blocks ``<!-- NAME -->`` ... ``<!-- /NAME -->``. The function of that name in
:data:`BLOCKS` writes the text between the two markers.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig

from benchmarks.config_memory import published_configs
from benchmarks.version_matrix import matrix_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOSSES = {"rank_sort": "Rank & Sort", "ap": "AP", "alrp": "aLRP"}


def load(name: str) -> dict[str, Any]:
    """Read one committed result."""
    return json.loads((RESULTS / name).read_text())


def describe(machine: dict[str, Any]) -> str:
    """Describe the machine in a few words."""
    return f"{machine['cores']} cores of {machine['device']}, torch {machine['torch']}"


def claim() -> str:
    """Write the README's claim: the time of the ranking losses relative to focal loss."""
    report = load("losses_cpu.json")
    rows = [row for row in report["table"] if row["base"] == "focal"]
    rows += report["growth_in_logits"] + report["growth_in_positives"]
    common = [row for row in rows if row["positives"] <= 1000 and row["logits"] >= 10**6]
    ratios = [row["ratios"][name] for row in common for name in LOSSES]
    crowded = {
        row["positives"]: row["ratios"]["rank_sort"]
        for row in report["growth_in_positives"]
        if row["positives"] > 1000
    }
    step = load("steps_cpu.json")
    steps = [step["ratios"][name] for name in LOSSES]
    crowded_text = " and ".join(f"{ratio:.1f} × at {count:,}" for count, ratio in crowded.items())
    return (
        "AP, aLRP and Rank & Sort Loss are exact: no sampling of pairs, no positives × negatives "
        f"matrix. They take **{min(ratios):.1f} to {max(ratios):.1f} × the time of focal loss** "
        "for up to 1,000 positives among 10⁶ logits or more. Rank & Sort takes "
        f"{crowded_text} positives ({describe(report['machine'])}). A training step takes "
        f"{min(steps):.2f} to {max(steps):.2f} × the time of a step with focal loss "
        f"({describe(step['machine'])})."
    )


def commands() -> str:
    """Write the table of the first two commands: purpose, time and expected result."""
    record = load("quickstart.json")
    rows = load("test_matrix.json").values()
    passed = [row for row in rows if row["versions"]["detectron2"] and not row["failed"]]
    # `make install` installs a release of Detectron2, not its main branch.
    passed.sort(key=lambda row: row["versions"]["detectron2"].startswith("main"))
    time = f"{passed[0]['minutes']:.0f} min" if passed else ""
    box_ap, machine = record["metrics"]["bbox"]["AP"], record["machine"]
    return (
        "| command | what it does | time | expected result |\n| --- | --- | ---: | --- |\n"
        "| `make quickstart` | installs, generates a data set of shapes, trains RetinaNet + ATSS + "
        f"Rank & Sort Loss, evaluates | {record['minutes']:.1f} min | box AP {box_ap:.1f} |\n"
        f"| `make test` | runs the tests | {time} | no failures |"
        f"\n\nTimes on {machine['cores']} cores of {machine['device']}, excluding installation "
        "(a few minutes, 6 GB) and data set generation (a minute)."
    )


def evaluation() -> str:
    """Write the time of AP with oLRP against AP alone, and that of the report."""
    record = load("evaluation_cpu.json")
    report, rows = record["report"], [record["bbox"], record["segm"]]
    rows.insert(1, record["bbox, 100 per image"])
    boxes, many, masks = (f"{row['ratio']:.1f}" for row in rows)
    return (
        f"For {record['images']:,} images of {record['categories']} classes, AP and oLRP together "
        f"take {boxes} × the time of AP alone for {rows[0]['detections']:,} boxes, {masks} × for "
        f"as many masks, and {many} × for {rows[1]['detections']:,} boxes. A [report]"
        f"(#compare-detectors-in-a-report) on {report['detectors']} detectors with "
        f"{rows[1]['detections']:,} boxes each takes {report['seconds'] / 60:.1f} minutes and "
        f"{report['peak_process_mib'] / 1024:.1f} GiB ({describe(record['machine'])}; "
        "[`benchmarks/evaluation.py`](../benchmarks/evaluation.py))."
    )


def losses() -> str:
    """Write the table of the ranking losses' times relative to focal loss."""
    report = load("losses_cpu.json")
    rows = [
        "| positives | logits | stage | focal loss | " + " | ".join(LOSSES.values()) + " |",
        "| ---: | ---: | --- | ---: |" + " ---: |" * len(LOSSES),
    ]
    plotted = report["growth_in_logits"] + report["growth_in_positives"]
    for row in report["table"] + plotted:
        if row["base"] == "focal":
            cells = [f"{row['ratios'][n]:.2f} ×" if n in row["ratios"] else "" for n in LOSSES]
            focal = f"{row['seconds']['focal'] * 1000:.0f} ms"
            head = f"| {row['positives']:,} | {row['logits']:,} | {row['stage']} | {focal} | "
            rows.append(head + " | ".join(cells) + " |")
    factors = {
        (row["base"], name): 1 / ratio
        for row in report["table"]
        for name, ratio in row["ratios"].items()
        if row["base"] != "focal" and row["stage"] == "mid"
    }
    largest_row = max(report["growth_in_logits"], key=lambda row: row["logits"])
    memory = max(largest_row["extra_bytes"][name] for name in LOSSES) / largest_row["logit_bytes"]
    largest = report["largest"]
    return (
        "Forward and backward, as ratios to fvcore's focal loss on the same logits "
        f"({describe(report['machine'])}, {report['machine']['threads']} threads). The stages "
        "*init*, *mid* and *late* have logits as at the start, in the middle and at the end of "
        f"training. The last {len(plotted)} rows, those of the plot, were timed separately with "
        "other random logits; where a size occurs twice, the difference shows how much timings "
        "vary:\n\n"
        + "\n".join(rows)
        + "\n\nWith 1,000 positives in the middle of training, Rank & Sort is "
        f"{factors['rank_sort_loop', 'rank_sort']:.0f} times as fast as a loop over positives, "
        f"and APE (100,000 negatives) {factors['ape_loop', 'ape']:.0f} times as fast as a loop "
        f"with autograd. Peak extra memory for {largest_row['logits']:,} logits is "
        f"{memory:.1f} times the memory of the logits, gradient included. Ranking "
        f"{largest['logits']:,} logits with {largest['positives']:,} positives (1,203 classes × "
        f"200,000 anchors) takes {largest['seconds']:.1f} s; the whole process uses "
        f"{largest['resident'] / 1e9:.1f} GB."
    )


NAMES = {
    "RankingRetinaNet": "RetinaNet",
    "RankingFCOS": "FCOS",
    "RankingYOLACT": "YOLACT",
    "RankingSOLOv2": "SOLOv2",
    "CenterRegion": "center region",
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
    """Return the name that the tables use for a LazyConfig node's class."""
    target = node["_target_"]
    name = target.split(".")[-1] if isinstance(target, str) else target.__name__
    return NAMES.get(name, name)


def name_criterion(node: Any) -> str:
    """Return the name of a criterion: its classification losses and its branch."""
    if "stages" in node:
        return ", then ".join(name_criterion(stage) for stage in node["stages"])
    name = name_of(node["classification"]) if "classification" in node else name_of(node)
    if "branch" in node:
        target = name_of(node["branch"]["target"]).removesuffix("Weight")
        name += f", {'IoU' if target == 'IoU' else 'centerness'} branch"
    return name


def name_axes(model: Any) -> list[str]:
    """Name a model's detector, assigner and criterion (of the box head in an R-CNN)."""
    if "roi_heads" not in model:
        return [name_of(model), name_of(model.assigner), name_criterion(model.criterion)]
    heads = model.roi_heads
    if "box_heads" in heads:
        criterion = name_criterion(heads.criteria[0])
        name = "Cascade Mask R-CNN" if "mask_heads" in heads else "Cascade R-CNN"
        return [name, name_of(heads.assigners[0]), criterion]
    name = "Mask R-CNN" if "mask_head" in heads else "Faster R-CNN"
    if name_of(model.backbone) == "CARAFEFPN":
        name += ", CARAFE FPN"
    return [name, name_of(heads.assigner), name_criterion(heads.criterion)]


def name_backbone(model: Any) -> str:
    """Name the backbone of a model of coco/, lvis/ or cityscapes/, such as ResNeXt-101-DCN."""
    network, suffix = model.backbone.bottom_up, ""
    if name_of(network) == "deform_convolutions":
        network, suffix = network.network, "-DCN"
    stages = network.stages
    if "depth" not in stages:  # a list of stages, each with a number of blocks
        return f"ResNeXt-{3 * sum(stage.num_blocks for stage in stages) + 2}{suffix}"
    return f"{'Res2Net' if 'block_class' in stages else 'ResNet'}-{stages.depth}{suffix}"


def quick() -> str:
    """Write the table of the quick configs: command, AP and training time."""
    report = load("quick.json")
    rows = [
        "| detector | assigner | criterion | command | box AP | mask AP | minutes |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for path in sorted((ROOT / "configs/shapes/quick").glob("*.py")):
        axes = name_axes(LazyConfig.load(str(path)).model)
        figures = ["not run", "", ""]
        if path.stem in report["runs"]:
            run = report["runs"][path.stem]
            tasks = [run["metrics"].get(task) for task in ("bbox", "segm")]
            figures = [f"{task['AP']:.1f}" if task else "" for task in tasks]
            figures.append(f"{run['minutes']:.1f}")
        command = f"`python train_net.py --config-file {path.relative_to(ROOT).as_posix()}`"
        rows.append("| " + " | ".join([*axes, command, *figures]) + " |")
    machines = dict.fromkeys(describe(run["machine"]) for run in report["runs"].values())
    return (
        "\n".join(rows)
        + f"\n\nTraining and evaluation on {' or '.join(machines)}, seed {report['seed']}, "
        "one short run each. The table shows that everything trains; the runs are too short to "
        "compare losses."
    )


def published(folder: str) -> str:
    """Write the table of a folder's configs: the papers' AP, from docstrings, and the memory."""
    memory = load("config_memory.json")["configs"]
    rows = [
        "| detector | backbone | assigner | criterion | config | paper's box AP "
        "| paper's mask AP | parameters | GB for *n* images |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for path in published_configs(folder):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        match = re.search(
            r"(?:published|report) (?:mask AP (\d+\.\d)(?:, box AP (\d+\.\d))?|AP (\d+\.\d))",
            text,
            re.IGNORECASE,
        )
        masks, *either = match.groups() if match else (None, None)
        boxes = next(filter(None, either), None)
        if "on test-dev" in text:
            boxes = f"{boxes} (test-dev)"
        model = LazyConfig.load(str(path)).model
        detector, *axes = name_axes(model)
        link = f"[`{path.stem}`](../{path.relative_to(ROOT).as_posix()})"
        figures = ["not counted", ""]
        if (row := memory.get(f"{folder}/{path.stem}")) is not None:
            state = row["weights_gradients_momentum"] / 1e9
            activations = row["activations_per_image"] / 1e9
            figures = [f"{row['parameters'] / 1e6:.0f} M", f"{state:.1f} + {activations:.1f} *n*"]
        cells = [detector, name_backbone(model), *axes, link, boxes or "", masks or "", *figures]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def steps() -> str:
    """Write the time of a step with each criterion, relative to focal loss, and of PAA's fits."""
    report = load("steps_cpu.json")
    ratios = ", ".join(f"{label} {report['ratios'][name]:.2f}" for name, label in LOSSES.items())
    mixtures = load("assigners_cpu.json")
    times = [mixture["times_faster"] for mixture in mixtures["mixtures"].values()]
    rcnn = report["rcnn"]
    detectron2 = rcnn["seconds"]["rank_sort"] / rcnn["seconds"]["detectron2"]
    return (
        f"Time of a training step on {report['images']} images of 128 px, relative to focal loss "
        f"({describe(report['machine'])}): {ratios}. APE Loss visits every pair within its cutoff, "
        "which at the start of training is nearly every pair; its first step takes "
        f"{report['ratios']['ape']:.1f} × the time with focal loss. PAA fits the "
        f"Gaussian mixtures of {mixtures['objects']} objects in one batch, {min(times):.0f} times "
        "as fast as scikit-learn fits them one by one. A step of Mask "
        f"R-CNN with Rank & Sort takes {rcnn['ratios']['rank_sort']:.2f} × the time of a step with "
        f"cross entropy on the same RoIs, and {detectron2:.2f} × that of Detectron2's heads."
    )


def measured() -> str:
    """Compare the losses by the time of a training step and of the loss alone."""
    step, report = load("steps_cpu.json"), load("losses_cpu.json")
    labels = {**LOSSES, "ape": "APE"}
    rows = [
        "| | against | " + " | ".join(labels.values()) + " |",
        "| --- | --- |" + " ---: |" * len(labels),
    ]

    def add_row(label: str, baseline: str, ratios: dict[str, float]) -> None:
        cells = [f"{ratios[name]:.2f}" if name in ratios else "" for name in labels]
        rows.append(f"| {label} | {baseline} | " + " | ".join(cells) + " |")

    add_row("training step of RetinaNet", "focal loss", step["ratios"])
    add_row("training step of Mask R-CNN", "cross entropy, same RoIs", step["rcnn"]["ratios"])
    for row in report["growth_in_positives"] + report["growth_in_logits"]:
        if row["positives"] != 10:
            problem = f"loss alone, {row['positives']:,} positives among {row['logits']:,} logits"
            add_row(problem, "fvcore's focal loss", row["ratios"])
    return (
        "\n".join(rows) + f"\n\nTraining steps on {describe(step['machine'])}; the losses alone on "
        f"{describe(report['machine'])}."
    )


def blood_cells() -> str:
    """Write the result of training on BCCD as in docs/own-data.md."""
    record = load("blood_cells.json")["walk"]
    classes = ", ".join(f"{name} {value:.0f}" for name, value in record["per_class_ap"].items())
    return (
        "`output/bccd/per_class_ap.csv` then has the AP of the three classes. On "
        f"{describe(record['machine'])}, the run took {record['minutes']:.0f} minutes and reached "
        f"box AP {record['metrics']['bbox']['AP']:.0f} ({classes})."
    )


def lite0() -> str:
    """Write the results of EfficientNet-Lite0 on BCCD, pretrained and from random weights."""
    records = load("blood_cells.json")
    pretrained, scratch = records["lite0"], records["lite0_from_scratch"]
    assert pretrained["overrides"][-1] == scratch["overrides"][-1]
    iterations = pretrained["overrides"][-1].partition("=")[2]
    return (
        f"On BCCD, {iterations} iterations took {pretrained['minutes']:.1f} minutes and reached "
        f"box AP {pretrained['metrics']['bbox']['AP']:.0f}. The same network from random weights, "
        f"without frozen layers, took {scratch['minutes']:.1f} minutes and reached "
        f"{scratch['metrics']['bbox']['AP']:.0f} (one run each, on "
        f"{describe(pretrained['machine'])})."
    )


RANKING_LOSSES = {"focal": "focal", "ap": "AP", "rank_sort": "Rank & Sort"}
RANKING_DATA = {"shapes": "shapes", "bccd": "BCCD"}
RANKING_METRICS = {
    "AP": ("metrics", "AP"),
    "oLRP ↓": ("metrics", "oLRP"),
    "pooled AP": ("metrics", "pooledAP"),
    "Pearson": ("correlation", "pearson"),
    "Spearman": ("correlation", "spearman"),
    "Kendall": ("correlation", "kendall"),
    "F-B ↓": ("reverse_pairs", "foreground_background", "mined", "ratio"),
    "P-N ↓": ("reverse_pairs", "positive_negative", "mined", "ratio"),
    "P-P ↓": ("reverse_pairs", "positive_positive", "ratio"),
    "LaECE₀ ↓": ("LaECE_0", "before"),
    "LaECE₀, calibrated ↓": ("LaECE_0", "after"),
}
# Source, metric, the two losses in the paper, their values, and the two losses here.
PAPER_EFFECTS = [
    ("RankDetNet, table 3", "F-B ↓", "focal → RankDetNet", ".33 → .26", ("focal", "rank_sort")),
    ("RankDetNet, table 3", "P-N ↓", "focal → RankDetNet", ".28 → .22", ("focal", "rank_sort")),
    ("RankDetNet, table 3", "P-P ↓", "focal → RankDetNet", ".44 → .41", ("focal", "rank_sort")),
    ("APE, table 5", "Pearson", "pairwise error → APE", ".374 → .494", ("ap", "rank_sort")),
    ("APE, table 5", "Spearman", "pairwise error → APE", ".379 → .503", ("ap", "rank_sort")),
    ("APE, table 5", "Kendall", "pairwise error → APE", ".254 → .345", ("ap", "rank_sort")),
]


def ranking_values(data: str, loss: str, metric: str) -> list[float]:
    """Return one metric of each seed's run, in the order of the seeds."""
    values = []
    for path in sorted((RESULTS / "ranking").glob(f"{data}_{loss}_[0-9]*.json")):
        value = json.loads(path.read_text())
        for key in RANKING_METRICS[metric]:
            value = value[key]
        values.append(value)
    return values


def ranking() -> str:
    """Write the table of how well detectors rank: mean and range over the seeds."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "ranking").glob("*"))]
    rows = [
        "| data | loss | " + " | ".join(RANKING_METRICS) + " |",
        "| --- | --- |" + " ---: |" * len(RANKING_METRICS),
    ]
    for data, data_name in RANKING_DATA.items():
        for loss, loss_name in RANKING_LOSSES.items():
            cells = []
            for metric in RANKING_METRICS:
                values = ranking_values(data, loss, metric)
                digits = 1 if max(values) > 1 else 3
                half_range = (max(values) - min(values)) / 2
                cells.append(f"{statistics.mean(values):.{digits}f} ± {half_range:.{digits}f}")
            rows.append(f"| {data_name} | {loss_name} | " + " | ".join(cells) + " |")
    counts = {
        len(ranking_values(data, loss, "AP")) for data in RANKING_DATA for loss in RANKING_LOSSES
    }
    seeds = " or ".join(map(str, sorted(counts)))
    machines = dict.fromkeys(describe(record["machine"]) for record in records)
    return (
        "\n".join(rows) + f"\n\nMean ± half the range of {seeds} seeds. Trained on "
        f"{' or '.join(machines)}, in one thread and with other work on the machine, so the "
        "minutes in the [result files](../benchmarks/results/ranking) are no benchmark."
    )


def paper_effects() -> str:
    """Write what the papers report about rankings, next to what was measured."""
    rows = [
        "| paper | metric | losses in the paper | values in the paper | losses here "
        "| " + " | ".join(RANKING_DATA.values()) + " |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(RANKING_DATA),
    ]
    for source, metric, paper_losses, paper_values, pair in PAPER_EFFECTS:
        cells = []
        for data in RANKING_DATA:
            before, after = (ranking_values(data, loss, metric) for loss in pair)
            change = statistics.mean(after) - statistics.mean(before)
            if max(before) < min(after) or max(after) < min(before):
                verdict = "better" if (change < 0) == metric.endswith("↓") else "worse"
            else:
                verdict = "no difference"
            means = " → ".join(f"{statistics.mean(v):.3f}".lstrip("0") for v in (before, after))
            cells.append(f"{means}, {verdict}")
        names = " → ".join(RANKING_LOSSES[loss] for loss in pair)
        texts = [source, metric, paper_losses, paper_values, names, *cells]
        rows.append("| " + " | ".join(texts) + " |")
    return "\n".join(rows) + "\n\nNo difference: the ranges of the seeds overlap."


BLOCKS = {
    "ranking": ranking,
    "paper-effects": paper_effects,
    "claim": claim,
    "commands": commands,
    "evaluation": evaluation,
    "losses": losses,
    "steps": steps,
    "measured": measured,
    "test-matrix": matrix_table,
    "quick": quick,
    "blood-cells": blood_cells,
    "lite0": lite0,
    "published-coco": lambda: published("coco"),
    "published-lvis": lambda: published("lvis"),
    "published-cityscapes": lambda: published("cityscapes"),
}
BLOCK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def fill(text: str) -> str:
    """Write the numbers into the blocks of a page.

    Raises:
        KeyError: :data:`BLOCKS` has no function for a block.
    """

    def write(block: re.Match[str]) -> str:
        name = block["name"]
        return f"<!-- {name} -->\n{BLOCKS[name]()}\n<!-- /{name} -->"

    return BLOCK.sub(write, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text()))
