"""The pairs command: reverse pairs of a dense detector and of an R-CNN, and bad input."""

import json

import pytest
import torch

from ranking_det.analysis import reverse_pair_report
from ranking_det.analysis.__main__ import main
from ranking_det.engine.run_config import load_config
from ranking_det.user_errors import RunError
from tests.cases import run_function
from tests.engine.cases import shapes_environment

DENSE, CASCADE = (f"configs/shapes/quick/{name}_rs.py" for name in ("retinanet_atss", "cascade"))
TWIN = "configs/shapes/retinanet_atss_rs.yaml"
SMALL = ["dataloader.test.mapper.augmentations.0.short_edge_length=64", "train.device=cpu"]
SMALL += ["train.output_dir=does/not/exist"]
OWN_LOSS = "model.criterion.classification._target_=examples.correlation_loss.CorrelatedAP"
VAL = 4


def run_all(commands):
    """Run commands one after the other; return their exit statuses."""
    return [main(["pairs", *map(str, command)]) for command in commands]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return shapes_environment(tmp_path_factory, train=2, val=VAL)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Save initial weights, whose scores are in random order."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "initial.pth"
    torch.save({"model": load_config(DENSE, []).model().state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, environment, weights):
    """Run the command for several models; return the contents and the printed text."""
    folder = tmp_path_factory.mktemp("pairs")
    cascade, saved = folder / "cascade.pth", folder / "config.yaml"
    load_config(DENSE, [OWN_LOSS]).save(saved)
    torch.save({"model": load_config(CASCADE, []).model().state_dict()}, cascade)
    dense = ["--config-file", DENSE, "--weights", weights]
    commands = {
        "dense": [*dense, *SMALL],
        "again": ["--config-file", DENSE, *SMALL, f"train.init_checkpoint={weights}"],
        "two": [*dense, "--max-images", 2, *SMALL],
        "cascade": ["--config-file", CASCADE, "--weights", cascade, *SMALL],
        "saved": ["--config-file", saved, "--trust-config", "--weights", weights, *SMALL],
    }
    paths = {name: folder / f"{name}.json" for name in commands}
    completed = run_function(
        run_all,
        [["--output", paths[name], *words] for name, words in commands.items()],
        environment=environment,
    )
    assert completed.value == [0] * len(commands), completed.stderr[-3000:]
    return {name: json.loads(path.read_text()) for name, path in paths.items()}, completed.stdout


def test_the_json_has_the_pairs_of_a_dense_detector_by_class_and_level(outputs, weights):
    content, printed = outputs[0]["dense"], outputs[1]
    assert content["weights"] == str(weights) and content["config"] == DENSE
    assert content["datasets"] == ["shapes_val"] and content["images"] == VAL
    head = content["heads"]["dense"]
    assert list(content["heads"]) == ["dense"] and len(head["levels"]) == 5
    assert len(head["classes"]) == 12 and "circle" in str(head["classes"])
    for kind in ("all", "mined"):
        of_classes = [part["positive_negative"][kind]["pairs"] for part in head["classes"].values()]
        assert sum(of_classes) == head["positive_negative"][kind]["pairs"] > 0
    # An image of 64 px has 8^2 + 4^2 + 2^2 + 1 + 1 cells of 3 anchors.
    assert head["positives"] + head["negatives"] == VAL * 3 * 86
    # Initial scores are random: .5, and 12 / 13 for the highest of 12 scores.
    assert 0.3 < head["positive_negative"]["all"]["ratio"] < 0.7
    ratio = head["foreground_background"]["all"]["ratio"]
    assert 0.8 < ratio < 1 and f"foreground-background {ratio:.4f} all" in printed


def test_weights_given_by_flag_or_override_give_the_same_and_max_images_limits(outputs):
    assert outputs[0]["again"]["heads"] == outputs[0]["dense"]["heads"]
    assert outputs[0]["two"]["images"] == 2
    few, every = (outputs[0][name]["heads"]["dense"]["positives"] for name in ("two", "dense"))
    assert 0 < few < every


def test_the_saved_config_of_a_run_with_another_loss_has_the_same_pairs(outputs):
    assert outputs[0]["saved"]["heads"] == outputs[0]["dense"]["heads"]


def test_an_r_cnn_has_the_pairs_of_its_rpn_and_of_each_stage(outputs):
    heads = outputs[0]["cascade"]["heads"]
    assert list(heads) == ["rpn", "stage0", "stage1", "stage2"]
    for name, head in heads.items():
        is_rpn = name == "rpn"
        assert len(head["classes"]) == (1 if is_rpn else 12) and head["positives"] > 0
        assert len(head["levels"]) == (4 if is_rpn else 1)
        assert 0 < head["positive_positive"]["ratio"] < 1
    assert heads["rpn"]["foreground_background"] == heads["rpn"]["positive_negative"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "missing.py"], "missing.py"),
        (["--weights", "missing.pth"], "train.init_checkpoint: 'missing.pth' does not exist"),
        ([], "expected weights, got none"),
        (["--weights", "WEIGHTS", "--max-images", "0"], "--max-images: expected at least 1, got 0"),
        (["--weights", "WEIGHTS", "--val", "missing"], "missing"),
        (["--weights", "WEIGHTS", "model.no_such_part=1"], "no_such_part"),
        (["--weights", "WEIGHTS", "dataloader.test.dataset.names=nothing"], "'nothing'"),
        (["--weights", "WEIGHTS", "dataloader.test.mapper._target_=builtins.dict"], "mapper"),
        (
            ["--config-file", TWIN, "--weights", "missing.pth"],
            "MODEL.WEIGHTS: 'missing.pth' does not exist",
        ),
        (["--weights", "WEIGHTS", "--output", "WEIGHTS"], "is also the weights"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(
    words, message, weights, environment, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", environment["DETECTRON2_DATASETS"])
    words = [str(weights) if word == "WEIGHTS" else word for word in words]
    if "--config-file" not in words:
        words = ["--config-file", DENSE, *words]
    if "--output" not in words:
        words += ["--output", str(tmp_path / "out.json")]
    small = [] if TWIN in words else [f"train.output_dir={tmp_path}/none", "train.device=cpu"]
    before = weights.read_bytes()
    assert main(["pairs", *words, *small]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert error.startswith("python -m ranking_det.analysis: error: ")
    assert not list(tmp_path.iterdir()) and weights.read_bytes() == before


def test_a_failure_of_a_part_gives_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    def fail(*args):
        raise RunError("the layer 'head' of the model fails")

    monkeypatch.setattr(reverse_pair_report, "measure_pairs", fail)
    output = tmp_path / "out.json"
    assert main(["pairs", "--config-file", DENSE, "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error == "python -m ranking_det.analysis: error: the layer 'head' of the model fails\n"
    assert not output.exists()
