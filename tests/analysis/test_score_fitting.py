"""The commands fit and sweep: what they write, and faulty input."""

import json
from pathlib import Path

import pytest
import torch

from ranking_det.analysis.__main__ import main
from ranking_det.analysis.score_fitting import SWEEP, round_below
from ranking_det.engine.checkpoint import read_checkpoint
from ranking_det.engine.run_config import load_config
from ranking_det.evaluation.fitted_scores import read_fitted_scores
from tests.evaluation.cases import NAMES, A, ground_truth, random_set, result, write

LABELS = [NAMES[identity] for identity in sorted(NAMES)]
BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]


def write_set(folder, content, results):
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return {
        "--ground-truth": write(folder / "gt.json", content),
        "--results": write(folder / "res.json", results),
        "--iou-type": "bbox",
        "--output": str(folder / "a.scores.json"),
    }


@pytest.fixture
def files(tmp_path):
    return write_set(tmp_path, *random_set(3))


def run(name, files, *more):
    return main([name, *(part for pair in files.items() for part in pair), *more])


def check_refused(name, files, message, capsys, *more):
    """Check that a command prints one line, and writes nothing."""
    folder = Path(files["--output"]).parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run(name, files, *more) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("python -m ranking_det.analysis: error: ") and not printed.out
    assert len(printed.err.splitlines()) == 1 and message in printed.err
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_fit_writes_calibrators_thresholds_and_the_errors_on_other_images(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    assert run("fit", files) == 0
    content = json.loads(Path(files["--output"]).read_text())
    assert list(content["classes"]) == LABELS
    assert content["fitted_on"] == f"15 images, a random half of {files['--ground-truth']} (seed 0)"
    assert content["measured_on"] == f"15 images, the other half of {files['--ground-truth']}"
    before, after = (content["measured"][when] for when in ("before", "after"))
    assert after["overall"]["LaECE_0"] < before["overall"]["LaECE_0"]
    assert before["classes"].keys() == set(LABELS)
    diagram = before["reliability"]["iou"]
    assert len(diagram["count"]) == len(diagram["score"]) == len(diagram["target"]) == 25
    assert None in diagram["score"] and 0 in diagram["count"]
    printed = capsys.readouterr().out
    lowest = content["thresholds"]["lrp"]
    assert f"model.inference.score_thresh={round_below(lowest):g}\n" in printed
    assert "\nClasses without a true positive, which take" in printed and ": absent\n" in printed


def test_the_halves_depend_on_the_seed_only(files):
    contents = []
    for seed in ("0", "0", "1"):
        assert run("fit", files, "--seed", seed) == 0
        contents.append(json.loads(Path(files["--output"]).read_text()))
    assert contents[0] == contents[1] != contents[2]


def test_the_numbers_are_fitted_to_one_set_and_measured_on_another(files, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    other = write_set(tmp_path / "other", *random_set(4))
    measured = ["--measure-ground-truth", other["--ground-truth"]]
    measured += ["--measure-results", other["--results"]]
    assert run("fit", files, *measured) == 0
    content = json.loads(Path(files["--output"]).read_text())
    assert content["fitted_on"] == f"30 images of {files['--ground-truth']}"
    assert content["measured_on"] == f"30 images of {other['--ground-truth']}"
    # The same results have the smallest errors where they were fitted.
    measured = ["--measure-ground-truth", files["--ground-truth"]]
    measured += ["--measure-results", files["--results"]]
    assert "Warning" not in capsys.readouterr().out
    assert run("fit", files, *measured) == 0
    assert "is also fitted to, so the measured errors are too small" in capsys.readouterr().out
    same = json.loads(Path(files["--output"]).read_text())
    assert same["classes"] == content["classes"]
    errors = [each["measured"]["after"]["overall"]["LaECE_0"] for each in (same, content)]
    assert errors[0] < errors[1]


def checkpoint(path, **extras):
    torch.save({"model": {"w": torch.arange(3.0)}, "iteration": 4, **extras}, path)
    return str(path)


def test_the_checkpoint_gets_the_same_content_and_keeps_the_rest(files, tmp_path):
    names = ["another", *LABELS]
    path = checkpoint(tmp_path / "model_final.pth", class_names=names, fitted_scores="earlier")
    assert run("fit", files, "--checkpoint", path) == 0
    stored = read_checkpoint(path)  # which verifies the checksums
    content = json.loads(Path(files["--output"]).read_text())
    assert stored.extras == {"class_names": names, "iteration": 4, "fitted_scores": content}
    assert stored.content["model"]["w"].tolist() == [0, 1, 2]
    assert read_fitted_scores(files["--output"]).classes == names
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"class_names": LABELS[1:]}, "got a model without rare"),
        ({"class_names": "x"}, "class_names: expected a list of names"),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused(files, tmp_path, extras, message, capsys):
    path = checkpoint(tmp_path / "model_final.pth", **extras)
    check_refused("fit", files, message, capsys, "--checkpoint", path)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--results", [result(1, A, BOX, 1.5)], "expected scores from 0 to 1, got 1.5"),
        ("--results", [result(1, A, FAR, 0.5)], "match an object at IoU .5"),
        ("--results", [], "match an object at IoU .5"),
        ("--seed", "-1", "--seed: expected at least 0"),
        ("--precision", "0", "--precision: expected a number above 0"),
        ("--precision", "nan", "--precision: expected a number above 0"),
        ("--measure-results", "res.json", "--measure-ground-truth: expected a file"),
        ("--checkpoint", "missing.pth", "'missing.pth' does not exist"),
        ("--checkpoint", "model.pkl", "--checkpoint: expected a .pth file, got 'model.pkl'"),
    ],
)
def test_faulty_input_of_fit_gives_one_line_and_writes_nothing(files, flag, value, message, capsys):
    if isinstance(value, list):
        write(Path(files[flag]), value)
        check_refused("fit", files, message, capsys)
    else:
        check_refused("fit", files, message, capsys, flag, value)


def test_a_checkpoint_that_is_no_checkpoint_or_also_the_output_is_refused(files, tmp_path, capsys):
    (tmp_path / "broken.pth").write_text("x")
    path = str(tmp_path / "broken.pth")
    check_refused("fit", files, "cannot be read as a checkpoint", capsys, "--checkpoint", path)
    files["--output"] = path
    check_refused("fit", files, "is also --checkpoint", capsys, "--checkpoint", path)


def test_one_image_is_not_enough_for_two_halves(tmp_path, capsys):
    content = ground_truth((1, A, BOX), images=1)
    files = write_set(tmp_path, content, [result(1, A, BOX, 0.5)])
    check_refused("fit", files, "expected at least 2 images", capsys)


def test_measuring_on_another_set_needs_the_same_classes(files, tmp_path, capsys):
    content, results = random_set(4)
    content["categories"] = [c | {"name": c["name"].upper()} for c in content["categories"]]
    (tmp_path / "other").mkdir()
    other = write_set(tmp_path / "other", content, results)
    measured = ["--measure-ground-truth", other["--ground-truth"]]
    measured += ["--measure-results", other["--results"]]
    message = "expected the classes of the ground truth to fit to, got others: ABSENT"
    check_refused_in_folder(files, message, capsys, measured)


def check_refused_in_folder(files, message, capsys, more):
    assert run("fit", files, *more) == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1
    assert not Path(files["--output"]).exists()


def test_one_class_is_enough(files):
    content, results = (
        json.loads(Path(files[f]).read_text()) for f in ("--ground-truth", "--results")
    )
    content["categories"] = [c for c in content["categories"] if c["id"] == A]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == A]
    write(Path(files["--ground-truth"]), content)
    write(Path(files["--results"]), [r for r in results if r["category_id"] == A])
    assert run("fit", files) == 0
    written = json.loads(Path(files["--output"]).read_text())
    assert list(written["classes"]) == ["rare"] and written["without_true_positive"] == []
    for when in written["measured"].values():
        assert when["overall"]["LaECE_0"] == when["classes"]["rare"]["LaECE_0"]


def test_the_classes_of_text_ids_keep_their_names(files):
    content, results = (
        json.loads(Path(files[f]).read_text()) for f in ("--ground-truth", "--results")
    )
    assert run("fit", files) == 0
    before = json.loads(Path(files["--output"]).read_text())
    for entry in content["categories"]:
        entry["id"] = f"id {9 - entry['id']}"  # in another order
    for entry in content["annotations"] + results:
        entry["category_id"] = f"id {9 - entry['category_id']}"
    write(Path(files["--ground-truth"]), content)
    write(Path(files["--results"]), results)
    assert run("fit", files) == 0
    assert json.loads(Path(files["--output"]).read_text())["classes"] == before["classes"]


def test_the_default_thresholds_of_a_sweep_separate_low_scores(files):
    assert run("sweep", files) == 0
    rows = json.loads(Path(files["--output"]).read_text())["thresholds"]
    assert [row["threshold"] for row in rows] == sorted(SWEEP)
    # Detectors trained with Rank & Sort Loss can have most of their scores there.
    assert sum(0.01 < row["threshold"] < 0.05 for row in rows) == 7


@pytest.mark.parametrize("name", ["fit", "sweep"])
def test_the_fields_of_lvis_select_its_rules(name, files, capsys):
    content, results = random_set(3)
    numbers = []
    for truth in (json.loads(Path(files["--ground-truth"]).read_text()), content):
        write(Path(files["--ground-truth"]), truth)
        assert run(name, files) == 0
        numbers.append(json.loads(Path(files["--output"]).read_text()))
    assert "LVIS format, 30 images" in capsys.readouterr().out
    assert numbers[0].pop("largest_threshold") and numbers[0] != numbers[1]


def test_an_override_keeps_the_detections_with_the_score_of_the_threshold():
    for threshold in (1.0, 0.5, 0.123456, 0.1, 1e-3, 3.2e-7):
        assert 0.999 * threshold <= round_below(threshold) < threshold
    assert round_below(0.0) == 0


def test_sweep_writes_the_numbers_at_each_threshold(files, capsys):
    assert run("sweep", files, "--thresholds", "0.9", "0", "0.5") == 0
    content = json.loads(Path(files["--output"]).read_text())
    rows = content["thresholds"]
    assert [row["threshold"] for row in rows] == [0, 0.5, 0.9]
    assert rows[0]["AP"] >= rows[1]["AP"] > rows[2]["AP"]
    assert rows[0]["detections"] * 30 == len(json.loads(Path(files["--results"]).read_text()))
    assert list(rows[0]) == ["threshold", "AP", "F1", "LRP", "detections"]
    assert 0 < content["largest_threshold"] < 1
    assert f"\n{'0.5':>10} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--thresholds", "2"], "--thresholds: expected numbers from 0 to 1, got 2"),
        (["--num-images", "0"], "--num-images: expected at least 1, got 0"),
        (["a=1"], "a=1: overrides need --config-file FILE"),
        (["--config-file", "missing.py"], "--config-file: 'missing.py' does not exist"),
    ],
)
def test_faulty_input_of_sweep_gives_one_line_and_writes_nothing(files, more, message, capsys):
    check_refused("sweep", files, message, capsys, *more)


def test_a_saved_config_with_a_component_of_the_user_needs_trust_config(files, tmp_path, capsys):
    saved = str(tmp_path / "config.yaml")
    own_loss = "model.criterion.classification._target_=examples.correlation_loss.CorrelatedAP"
    load_config("configs/shapes/quick/retinanet_atss_rs.py", [own_loss]).save(Path(saved))
    check_refused("sweep", files, "give --trust-config", capsys, "--config-file", saved)
    # The name is accepted: the next error is about a weight file.
    more = ["--config-file", saved, "--trust-config", "train.init_checkpoint=no.pth"]
    check_refused("sweep", files, "train.init_checkpoint: 'no.pth'", capsys, *more)


def test_sweep_without_detections_has_defined_numbers(tmp_path):
    files = write_set(tmp_path, ground_truth((1, A, BOX)), [])
    assert run("sweep", files, "--thresholds", "0.5") == 0
    content = json.loads(Path(files["--output"]).read_text())
    row = {"threshold": 0.5, "AP": 0, "F1": 0, "LRP": 100, "detections": 0}
    assert content == {"thresholds": [row], "largest_threshold": None}
