"""YAML configs: overrides, error messages, and schedules."""

from pathlib import Path

import pytest

from ranking_det.engine.run_config import load_config
from ranking_det.engine.yaml_config import load_yaml_config
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.user_errors import UserError

CONFIG = str(Path(__file__).parents[2] / "configs" / "shapes" / "retinanet_atss_rs.yaml")


def test_overrides_are_key_value_pairs_or_key_equals_value():
    cfg = load_yaml_config(CONFIG, ["SOLVER.MAX_ITER", "7", "SOLVER.BASE_LR=0.5"])
    assert cfg.SOLVER.MAX_ITER == 7 and cfg.SOLVER.BASE_LR == 0.5


def test_an_override_can_add_an_argument_of_a_component():
    cfg = load_yaml_config(CONFIG, ["MODEL.ASSIGNER.TOPK", "5"])
    assert cfg.MODEL.ASSIGNER.TOPK == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["SOLVER.MAX_ITR", "7"],
            r"SOLVER: no key 'MAX_ITR' \(did you mean 'MAX_ITER'",
        ),
        (
            ["SOLVRE.MAX_ITER", "7"],
            r"config: no key 'SOLVRE' \(did you mean 'SOLVER'",
        ),
        (["SOLVER.MAX_ITER", "x"], "MAX_ITER|mismatch"),
        (["SOLVER", "5"], "^SOLVER: expected a section with keys, got '5'$"),
        (["SOLVER.MAX_ITER"], "overrides: expected pairs KEY value, got SOLVER.MAX_ITER"),
    ],
)
def test_a_wrong_override_gives_a_one_line_error(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load_yaml_config(CONFIG, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL: {RETINANETT: {NUM_CLASSES: 3}}",
            r"MODEL: no key 'RETINANETT' \(did you mean 'RETINANET'",
        ),
        ("MODEL: {MASK_ON: [}", "while parsing"),
        ("images: []", r"config.yaml: config: no key 'images'"),
        ("", "config.yaml: expected sections such as MODEL and SOLVER with keys and values"),
        ("- 1", "config.yaml: expected sections such as MODEL and SOLVER with keys and values"),
        ("SOLVER: {MAX_ITER: abc}", "MAX_ITER|mismatch"),
    ],
)
def test_a_faulty_file_gives_a_one_line_error(tmp_path, caplog, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_yaml_config(str(path), [])
    assert "\n" not in str(caught.value)
    assert not caplog.records  # a file without VERSION


def test_the_error_names_a_missing_file():
    with pytest.raises(UserError, match="'no/such.yaml' does not exist"):
        load_yaml_config("no/such.yaml", [])


def fit_config(*overrides, num_images=500):
    config = load_config(CONFIG, ["MODEL.DEVICE=cpu", *overrides])
    config.fit_to_data(num_images)
    assert config.train.max_iter == config.yaml.SOLVER.MAX_ITER
    return config.yaml


def test_a_schedule_in_epochs_adapts_to_the_data_and_its_steps_keep_their_share():
    cfg = fit_config("SOLVER.IMS_PER_BATCH=4", "SOLVER.STEPS=(1000,1250)")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (1300, (1000, 1250), 65)
    assert solver.BASE_LR == 0.01 and cfg.TEST.EVAL_PERIOD == 1300
    cfg = fit_config("SOLVER.LR_SCHEDULER_NAME=WarmupMultiStepLR", num_images=250)
    assert cfg.SOLVER.MAX_ITER == 333 and cfg.SOLVER.CHECKPOINT_PERIOD == 128


def test_a_number_of_iterations_set_by_the_user_is_kept():
    assert fit_config("SOLVER.MAX_ITER=7").SOLVER.MAX_ITER == 7
    cfg = fit_config("SOLVER.EPOCHS=0", "SOLVER.REFERENCE_BATCH=0", "SOLVER.IMS_PER_BATCH=4")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (1300, 0.02)
    assert fit_config("TEST.EVAL_PERIOD=0").TEST.EVAL_PERIOD == 0


def test_the_warm_up_keeps_its_iterations_but_is_at_most_a_third_of_a_short_run():
    assert fit_config(num_images=1000).SOLVER.WARMUP_ITERS == 65
    assert fit_config(num_images=40).SOLVER.WARMUP_ITERS == 17


def test_detections_of_several_test_sets_are_written_to_folders_named_after_the_sets(monkeypatch):
    evaluators = []
    monkeypatch.setattr(
        DetectionEvaluator, "__init__", lambda self, **arguments: evaluators.append(arguments)
    )
    coco_set, lvis_set = "shapes_val", "shapes_lvis_val"
    for names, folder in (((coco_set,), "out"), ((coco_set, lvis_set), f"out/{coco_set}")):
        overrides = ["OUTPUT_DIR=out", f"DATASETS.TEST={names}", "MODEL.DEVICE=cpu"]
        config = load_config(CONFIG, overrides)
        assert config.test_sets() == list(names)
        config.evaluator(coco_set)
        assert (evaluators[-1]["dataset_name"], evaluators[-1]["output_dir"]) == (coco_set, folder)


def test_the_repeat_factor_sampler_without_a_threshold_is_an_error():
    overrides = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "MODEL.DEVICE", "cpu"]
    message = "DATALOADER.REPEAT_THRESHOLD: expected a number above 0 .*, got 0.0"
    with pytest.raises(UserError, match=message):
        load_config(CONFIG, overrides)


def test_an_unregistered_architecture_gives_a_one_line_error():
    config = load_config(CONFIG, ["MODEL.DEVICE=cpu", "MODEL.META_ARCHITECTURE=RetinaNett"])
    for build_model in (config.model, lambda: config.set_num_classes(3)):
        with pytest.raises(UserError, match="MODEL cannot be built: .*'RetinaNett'") as caught:
            build_model()
        assert "\n" not in str(caught.value)
