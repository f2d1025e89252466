"""--fitted: calibrated scores in evaluations and predictions, from a checkpoint or a file."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from torch import nn

from ranking_det.analysis.score_fitting import SWEEP
from ranking_det.engine.checkpoint import FITTED, Checkpoint, add_entry, read_checkpoint
from ranking_det.engine.command import Command, parse
from ranking_det.engine.fitted_scores_lookup import find_fitted
from ranking_det.engine.output_folder import put_aside
from ranking_det.engine.threshold_speed import time_thresholds
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.evaluation.calibration import Calibrator, ClassCalibrators
from ranking_det.evaluation.fitted_scores import FittedScores, read_fitted_scores
from ranking_det.evaluation.thresholds import KINDS, Thresholds
from ranking_det.user_errors import UserError
from tests.cases import run_commands, run_function
from tests.engine.cases import shapes_environment
from tests.engine.test_predict import rectangle_image, run
from tests.evaluation.cases import DETECTIONS, NAME, A, B, feed, ground_truth, write

HALF = Calibrator(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
QUARTER = Calibrator(np.array([0.0]), np.array([0.25]))
CONFIG = ["--config-file", "configs/shapes/quick/retinanet_atss_rs.py"]


def fitted_scores(**thresholds):
    """Return scores that are halved in the first class and a plateau in all others."""
    values = list(thresholds.values())
    calibrators = ClassCalibrators(QUARTER, [HALF] + [None] * (len(values) - 1))
    limits = {kind: Thresholds(0.5, values) for kind in KINDS}
    return FittedScores(list(thresholds), "iou", "isotonic", calibrators, limits)


def save(path, **entries):
    torch.save({"model": {"w": torch.arange(3.0)}, "iteration": 4, **entries}, path)
    return read_checkpoint(str(path))


def find(weights, *, file=True, names=("a", "b"), evaluator=None):
    command = Command(config_file="", predict=["x.jpg"] * (evaluator is None), fitted=file)
    if evaluator is not None:
        command = Command(config_file="", eval_only=True, fitted=file)
    return find_fitted(command, weights, names and list(names), evaluator)


def test_without_the_flag_nothing_is_read():
    weights = Checkpoint("x.pth", {FITTED: "faulty"})
    assert find_fitted(Command(config_file=""), weights, None, None) is None


def test_a_file_comes_before_the_checkpoint_and_the_checkpoint_before_the_file_next_to_it(tmp_path):
    contents = [fitted_scores(a=value, b=0.5).to_json() for value in (0.1, 0.2, 0.3)]
    weights = save(tmp_path / "model_final.pth")
    beside = write(tmp_path / "model_final.scores.json", contents[2])
    other = write(tmp_path / "other.json", contents[0])
    stored = weights._replace(content={**weights.content, FITTED: contents[1]})
    for checkpoint, file, lowest in (
        (stored, other, 0.1),
        (stored, True, 0.2),
        (weights, True, 0.3),
    ):
        assert find(checkpoint, file=file).thresholds["lrp"].classes[0] == lowest
    os.utime(beside, (1, 1))
    with pytest.raises(UserError, match=r"to be newer than .*model_final\.pth.*or use it anyway"):
        find(weights)
    assert find(weights, file=beside).thresholds["lrp"].classes[0] == 0.3


def test_what_is_missing_faulty_or_of_other_classes_is_refused_in_one_line(tmp_path):
    weights = save(tmp_path / "model_final.pth")
    content = fitted_scores(a=0.1, b=0.5).to_json()
    stored = weights._replace(content={**weights.content, FITTED: content})
    faulty = weights._replace(content={**weights.content, FITTED: {**content, "target": 3}})
    custom = L(COCOEvaluator)(dataset_name="x")
    for checkpoint, options, message in (
        (
            weights,
            {},
            "or '.*model_final.scores.json', got none; .* fit .*--checkpoint .*final.pth",
        ),
        (weights, {"file": "missing.json"}, "'missing.json' does not exist"),
        (faulty, {}, r"model_final\.pth': expected iou or tp as 'target', got 3"),
        (stored, {"names": ("a", "c")}, r"model_final\.pth': .* 2 classes without c and with b"),
        (stored, {"names": None}, "--fitted: expected a model whose classes have names"),
        (stored, {"evaluator": custom}, "dataloader.evaluator: .*Evaluator .*, got COCOEvaluator"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            find(checkpoint, **options)
        assert "\n" not in str(caught.value)
    assert find(stored, evaluator=L(DetectionEvaluator)(dataset_name="x")) is not None


def test_the_file_of_the_flag_is_told_from_overrides():
    start = [*CONFIG, "--eval-only", "--fitted"]
    for words, file, overrides in (
        ([], True, []),
        (["a.scores.json"], "a.scores.json", []),
        (["a.json", "train.x=1"], "a.json", ["train.x=1"]),
        (["train.x=1", "train.y=2"], True, ["train.x=1", "train.y=2"]),
        (["MODEL.WEIGHTS", "x.pth"], True, ["MODEL.WEIGHTS", "x.pth"]),
    ):
        command = parse([*start, *words])
        assert (command.fitted, list(command.overrides)) == (file, overrides)
    assert not parse(CONFIG).fitted


@pytest.mark.parametrize("mode", [[], ["--resume"], ["--preview", "2"]])
def test_training_and_previews_refuse_the_flag(mode):
    with pytest.raises(UserError, match="--fitted: expected --eval-only or --predict with it"):
        parse([*CONFIG, *mode, "--fitted"])


def test_an_entry_is_added_to_a_checkpoint_that_detectron2_still_loads(tmp_path):
    model = nn.Linear(2, 2)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final", iteration=4)
    weights = copy.deepcopy(model.state_dict())
    content = fitted_scores(a=0.1, b=0.5).to_json()
    path = str(tmp_path / "model_final.pth")
    for _ in range(2):
        add_entry(read_checkpoint(path), FITTED, content)
    other = nn.Linear(2, 2)
    rest = DetectionCheckpointer(other).load(path)
    assert rest["iteration"] == 4 and rest[FITTED] == content
    assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_a_checkpoint_that_cannot_be_written_stays_unchanged(tmp_path, monkeypatch):
    weights = save(tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()

    def fail(content, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"a\.pth' cannot be written \(.*No space left"):
        add_entry(weights, FITTED, {})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.pth", before)]


def test_a_new_run_puts_the_fitted_scores_of_the_earlier_one_aside(tmp_path):
    names = ["model_final.pth", "model_final.scores.json", "my.scores.json"]
    for name in names:
        (tmp_path / name).touch()
    put_aside(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"earlier_run", "my.scores.json"}
    assert {p.name for p in (tmp_path / "earlier_run").iterdir()} == set(names[:2])


class ThresholdDetector(nn.Module):
    """A detector that records the thresholds with which it is called."""

    def __init__(self):
        super().__init__()
        self.part, self.calls = nn.Module(), []
        self.part.score_thresh = 0.7

    def forward(self, batch):
        self.calls.append((batch[0], self.part.score_thresh))


def test_each_image_is_timed_at_each_threshold_and_the_threshold_is_restored():
    model = ThresholdDetector()
    times, num_images = time_thresholds(model, [["a"], ["b"], ["c"]], [0.1, 0.2], 2)
    assert num_images == 2 and len(times) == 2 and all(time > 0 for time in times)
    warm_up, *calls = model.calls
    assert warm_up == ("a", 0.7)
    assert calls == [("a", 0.1), ("a", 0.2), ("b", 0.1), ("b", 0.2)]
    assert model.part.score_thresh == 0.7 and model.training


def test_a_model_without_a_threshold_and_a_loader_without_images_are_refused():
    with pytest.raises(UserError, match="model: expected a part with a score_thresh or"):
        time_thresholds(nn.Linear(1, 1), [["a"]], [0.1], 2)
    with pytest.raises(UserError, match="dataloader.test: expected images"):
        time_thresholds(ThresholdDetector(), [], [0.1], 2)


@pytest.fixture
def data_set(tmp_path):
    path = write(tmp_path / "gt.json", ground_truth((1, A, [10, 10, 40, 40])))
    DatasetCatalog.register(NAME, lambda: [])
    names = ["rare", "common", "frequent", "absent"]
    MetadataCatalog.get(NAME).set(json_file=path, thing_classes=names, evaluator_type="lvis")
    yield names
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_the_evaluator_writes_and_evaluates_calibrated_scores(data_set, tmp_path):
    results, metrics = [], []
    for fitted in (None, fitted_scores(**dict.fromkeys(data_set, 0.5))):
        # By LVIS's rules one detection of each image counts: that of the highest raw score.
        evaluator = DetectionEvaluator(NAME, output_dir=str(tmp_path), max_dets_per_image=1)
        evaluator.fitted = fitted
        feed(evaluator, [*DETECTIONS, (1, 1, [0, 0, 9, 9], 0.3)])
        metrics.append(evaluator.evaluate()["bbox"])
        name = f"lvis_instances_{'calibrated_' if fitted else ''}results.json"
        results.append(json.loads((tmp_path / name).read_text()))
    scores = [{(r["image_id"], r["category_id"]): r["score"] for r in rows} for rows in results]
    assert scores[0].keys() == {(1, A), (1, B), (2, A)} and scores[1].keys() == {(1, A), (2, A)}
    assert scores[1][1, A] == pytest.approx(scores[0][1, A] / 2, abs=1e-6)
    for name in ("AP", "oLRP", "AP-rare"):
        assert metrics[0][name] == metrics[1][name]
    assert metrics[1]["threshold-rare"] == scores[1][1, A]


def test_a_prediction_draws_what_passes_and_says_that_the_scores_are_calibrated(
    tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        "ranking_det.engine.predict.overlay",
        lambda image, detections, _: drawn.append(detections.scores.tolist()) or image,
    )
    rectangle_image().save(tmp_path / "a.png")
    # The model detects "noise" with a score of .25 and "white" with .75.
    for noise, white, passing in ((0.25, 0.75, 2), (0.3, 0.7, 1), (0.3, 0.8, 0)):
        fitted = fitted_scores(noise=noise, white=white)
        path = run([str(tmp_path / "a.png")], tmp_path / "out", fitted=fitted, max_drawn=1)
        content = json.loads(path.read_text())
        scores = {row["category_id"]: row["score"] for row in content["annotations"]}
        assert scores == {7: pytest.approx(0.125), 3: pytest.approx(0.25, abs=1e-6)}
        assert [row["category_id"] for row in content["annotations"]] == [3, 7]
        assert content["info"] == {"scores": "calibrated", "target": "iou"}
        thresholds = {each["id"]: each["threshold"] for each in content["categories"]}
        assert sum(scores[key] >= thresholds[key] for key in scores) == passing
        assert len(drawn.pop()) == passing


def test_an_image_without_detections_can_be_calibrated(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ranking_det.engine.predict._detect",
        lambda model, inputs: model([inputs])[0]["instances"][:0],
    )
    rectangle_image().save(tmp_path / "a.png")
    fitted = fitted_scores(noise=0.1, white=0.1)
    content = json.loads(
        run([str(tmp_path / "a.png")], tmp_path / "out", fitted=fitted).read_text()
    )
    assert content["annotations"] == []


def test_a_class_that_never_reaches_its_precision_has_no_threshold(tmp_path):
    rectangle_image().save(tmp_path / "a.png")
    fitted = fitted_scores(noise=float("nan"), white=0.7)
    content = json.loads(
        run([str(tmp_path / "a.png")], tmp_path / "out", fitted=fitted).read_text()
    )
    assert content["categories"][0] == {"id": 7, "name": "noise", "threshold": None}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Train for two iterations; evaluate; fit to made-up detections; evaluate and predict."""
    environment = shapes_environment(tmp_path_factory, train=4, val=4)
    folder = tmp_path_factory.mktemp("run")
    root = environment["DETECTRON2_DATASETS"] + "/shapes"
    small = [
        *("train.device=cpu", "train.max_iter=2", "train.eval_period=0"),
        *("dataloader.train.total_batch_size=2", f"train.output_dir={folder}"),
        *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "dataloader.train.mapper.augmentations.0.short_edge_length=64",
        "model.inference.max_detections=20",
    ]
    run_commands([[*CONFIG, *small]], pictures=False, environment=environment)
    yield folder, root, small, environment


def made_up_results(root, path):
    """Write results near the objects of the validation set, and others that match none."""
    content = json.loads(open(f"{root}/annotations/instances_val.json").read())
    rng, rows = np.random.default_rng(0), []
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        for box, low in (([x, y, width, height * 0.8], 0.5), ([0, 0, 3, 3], 0.0)):
            row = {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": box}
            rows.append(row | {"score": round(float(rng.uniform(low, low + 0.6)), 3) % 1})
    return write(path, rows)


def test_scores_fitted_to_a_checkpoint_are_used_by_evaluation_and_prediction(shapes, tmp_path):
    from ranking_det.analysis.__main__ import main

    folder, root, small, environment = shapes
    results_file = folder / "coco_instances_results.json"
    raw = json.loads(results_file.read_text())
    before = json.loads((folder / "results.json").read_text())["bbox"]
    truth = f"{root}/annotations/instances_val.json"
    checkpoint = folder / "model_final.pth"
    fit = ["fit", "--ground-truth", truth, "--iou-type", "bbox", "--checkpoint", str(checkpoint)]
    fit += ["--results", made_up_results(root, tmp_path / "made_up.json")]
    assert main([*fit, "--output", str(folder / "model_final.scores.json")]) == 0
    image = f"{root}/val/{sorted(os.listdir(root + '/val'))[0]}"
    predict = ["--predict", image, "--output", str(tmp_path / "out"), "--fitted", *small]
    run_commands(
        [[*CONFIG, "--eval-only", "--fitted", *small], [*CONFIG, *predict]],
        pictures=False,
        environment=environment,
    )
    fitted = read_fitted_scores(folder / "model_final.scores.json")
    categories = json.loads(open(truth).read())["categories"]
    names = {category["id"]: category["name"] for category in categories}
    calibrated = json.loads((folder / "coco_instances_calibrated_results.json").read_text())
    assert calibrated == fitted.calibrate_results(raw, names)
    assert json.loads(results_file.read_text()) == raw
    after = json.loads((folder / "results.json").read_text())["bbox"]
    of_aps = [{k: v for k, v in m.items() if k.startswith("AP")} for m in (before, after)]
    assert of_aps[1] == pytest.approx(of_aps[0], abs=1e-9)
    assert "The scores are calibrated" in (folder / "log.txt").read_text()
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["info"]["scores"] == "calibrated"

    # A resumed run loads the checkpoint, and its new one has other weights: nothing is fitted.
    copy_of_run = tmp_path / "copy"
    shutil.copytree(folder, copy_of_run)
    longer = [*small, "train.max_iter=3", f"train.output_dir={copy_of_run}"]
    run_commands([[*CONFIG, "--resume", *longer]], pictures=False, environment=environment)
    assert FITTED in read_checkpoint(str(checkpoint)).content
    assert FITTED not in read_checkpoint(str(copy_of_run / "model_final.pth")).content


def test_a_sweep_times_the_model_at_each_threshold(shapes, tmp_path, monkeypatch):
    folder, root, small, environment = shapes
    results = made_up_results(root, tmp_path / "made_up.json")
    arguments = ["sweep", "--ground-truth", f"{root}/annotations/instances_val.json"]
    arguments += ["--results", results, "--iou-type", "bbox", "--num-images", "2"]
    arguments += ["--output", str(tmp_path / "sweep.json"), *CONFIG, *small]
    assert run_function(analyse, arguments, environment=environment).value == 0
    rows = json.loads((tmp_path / "sweep.json").read_text())["thresholds"]
    assert len(rows) == len(SWEEP) and all(row["ms"] > 0 for row in rows)


def analyse(arguments):
    from ranking_det.analysis.__main__ import main

    return main(arguments)
