"""The commands of the examples, on a few shapes: they train, evaluate, preview and predict."""

import json
import math
import os

import pytest

from examples.csv_boxes import write_csv
from ranking_det.data.shapes import prepare_shapes
from tests.cases import call_main, run_function
from tests.contracts import check_data_set

EXAMPLES = ["correlation_loss", "topk_iou", "separable_net", "csv_boxes"]
ITERATIONS = 4


def run_all(commands):
    write_csv()
    assert not any(call_main(commands, pictures=False))
    check_data_set("csv_train")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Run all commands in one process, which takes seconds to start; return the output folder."""
    data, root = tmp_path_factory.mktemp("datasets"), tmp_path_factory.mktemp("outputs")
    folder = prepare_shapes(data, train=6, val=2, size=64)
    config = {name: ["--config-file", f"examples/{name}_shapes.py"] for name in EXAMPLES}
    config = {name: [*words, f"train.output_dir={root / name}"] for name, words in config.items()}
    small = ["dataloader.train.total_batch_size=2", "train.log_period=1", "train.eval_period=1000"]
    small += [f"train.max_iter={ITERATIONS}"]
    csv = config["csv_boxes"]
    commands = [
        ["--preview", "2", *config["topk_iou"]],
        *([*words, *small] for words in config.values()),
        ["--resume", *csv, *small, f"train.max_iter={ITERATIONS + 2}"],
        ["--preview", "2", *csv],
        ["--eval-only", *csv],
        ["--predict", str(folder / "val"), *csv],
    ]
    environment = os.environ | {"DETECTRON2_DATASETS": str(data)}
    process = run_function(run_all, commands, environment=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    return root


def losses(folder):
    """Return the logged losses, by name."""
    lines = (folder / "metrics.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    names = {name for record in records for name in record if "loss" in name}
    return {name: [record[name] for record in records if name in record] for name in names}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_with_finite_losses_and_is_evaluated(outputs, name):
    logged = losses(outputs / name)
    assert len(logged["total_loss"]) >= ITERATIONS
    assert all(math.isfinite(value) for values in logged.values() for value in values)
    results = json.loads((outputs / name / "results.json").read_text())
    assert results["bbox"]["AP"] >= 0
    assert (outputs / name / "model_final.pth").is_file()


def test_the_parts_of_the_correlation_loss_example_are_logged(outputs):
    assert {"loss_cls", "loss_corr", "loss_box"} < set(losses(outputs / "correlation_loss"))


def test_the_preview_draws_the_positives_of_the_topk_iou_assigner(outputs):
    assert len(list((outputs / "topk_iou" / "preview").glob("*.png"))) == 2


def test_every_command_accepts_the_csv_data_set(outputs):
    folder = outputs / "csv_boxes"
    assert len(losses(folder)["total_loss"]) == ITERATIONS + 2
    assert len(list((folder / "preview").glob("*.png"))) == 2
    assert (folder / "predictions" / "predictions.json").is_file()
    classes = {key for key in json.loads((folder / "results.json").read_text())["bbox"]}
    assert "AP-circle" in classes
