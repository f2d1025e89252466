"""A plan builds one model, reads a checkpoint once, and uses no GPU in the launching process."""

from collections import Counter

import pytest
import torch

from ranking_det.data import register_shapes
from ranking_det.engine import checkpoint, hooks, main, run, run_checks
from ranking_det.engine.command import Command
from ranking_det.engine.plan import check_records, make_plan
from ranking_det.engine.run_config import load_config
from ranking_det.modeling import RankingFCOS
from ranking_det.user_errors import UserError
from tests.cases import ROOT, run_function
from tests.engine.cases import shapes_environment

LAZY, TWIN = "configs/shapes/quick/fcos_fcos_rs.py", "configs/shapes/fcos_fcos_rs.yaml"
OVERRIDES = [
    *("train.device=cpu", "train.eval_period=0", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
]


def count_builds_and_reads(commands):
    """Return, for each command, how often a model is built and a checkpoint is read."""
    counts, all_counts = Counter(), []

    def count_calls(name, function):
        def call(*args, **kwargs):
            counts[name(*args) if callable(name) else name] += 1
            return function(*args, **kwargs)

        return call

    RankingFCOS.__init__ = count_calls("models", RankingFCOS.__init__)
    checkpoint.read_weights = count_calls(
        lambda path: path.rpartition("/")[2], checkpoint.read_weights
    )
    hooks.draw_detections = hooks.plot_curves = lambda *args: None
    for command in commands:
        counts.clear()
        assert main(command) == 0
        all_counts.append(dict(counts))
    return all_counts


def test_a_command_builds_its_model_once_and_reads_its_checkpoint_once(tmp_path_factory, tmp_path):
    environment = shapes_environment(tmp_path_factory, train=4, val=2)
    common = [*OVERRIDES, f"train.output_dir={tmp_path / 'out'}"]
    commands = [
        ["--config-file", LAZY, *common, "train.max_iter=1"],
        ["--config-file", LAZY, "--resume", *common, "train.epochs=2", "train.reference_batch=2"],
        ["--config-file", LAZY, "--eval-only", *common],
    ]
    completed = run_function(count_builds_and_reads, commands, environment=environment)
    assert completed.returncode == 0, completed.stderr[-3000:]
    read = {"model_final.pth": 1, "models": 1}
    assert completed.value == [{"models": 1}, read | {"model_best.pth": 1}, read]


@pytest.mark.parametrize(
    ("config", "options", "folder"),
    [(LAZY, OVERRIDES, "train.output_dir"), (TWIN, ["MODEL.DEVICE=cpu"], "OUTPUT_DIR")],
)
def test_a_plan_writes_nothing(config, options, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*options, f"{folder}={tmp_path / 'out'}"]
    plan = make_plan(Command(config_file=str(ROOT / config), overrides=overrides))
    assert plan.output_dir == str(tmp_path / "out") and plan.resume_at is None
    assert plan.weights.path == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.assigner._target_=torch.nn.ReLU", r"assigner: expected a module that .*, got ReLU"),
        (
            "model.inference._target_=torch.nn.ReLU",
            "^model: expected a detector, .*, got RankingFCOS: the layer 'inference' of the model",
        ),
        (
            "dataloader.evaluator._target_=torch.nn.ReLU",
            "^dataloader.evaluator: expected a function or class that gives a DatasetEval",
        ),
        (
            "dataloader.evaluator._target_=detectron2.evaluation.SemSegEvaluator",
            "^dataloader.evaluator cannot be built: unknown name 'sem_seg_file_name'",
        ),
        ("dataloader.train._target_=torch.nn.ReLU", "^dataloader.train: expected .*, got ReLU$"),
        ("dataloader.test._target_=builtins.dict", "^dataloader.test: expected .*, got dict$"),
        ("dataloader.evaluator._target_=builtins.list", "^dataloader.evaluator: .*, got a list$"),
        ("dataloader.train.mapper._target_=print", "^dataloader.train.mapper: .*, got a NoneType$"),
        ("dataloader.evaluator.tasks=[kpt]", "^tasks: expected bbox or segm, got kpt"),
    ],
)
def test_a_part_that_would_fail_late_is_refused_before_missing_shapes_are_generated(
    override, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    register_shapes(tmp_path)
    with pytest.raises(UserError, match=message):
        make_plan(Command(config_file=str(ROOT / LAZY), overrides=[*OVERRIDES, override]))
    assert not list(tmp_path.iterdir())
    register_shapes()


class Constant(torch.nn.Module):
    def forward(self, batched_inputs):
        return 5


def test_a_training_set_without_images_is_refused():
    plan = make_plan(Command(config_file=str(ROOT / LAZY), overrides=OVERRIDES))
    with pytest.raises(UserError, match="^dataloader.train.dataset.names: expected images to tra"):
        check_records(plan, [])


def test_a_module_that_is_not_a_detector_is_refused():
    with pytest.raises(UserError, match="^MODEL: expected a detector, .*, got Linear: the model f"):
        run_checks.check_detector(torch.nn.Linear(2, 2), "MODEL")
    with pytest.raises(UserError, match=r"^MODEL: .*, got Constant: it returns 5$"):
        run_checks.check_detector(Constant(), "MODEL")


@pytest.mark.parametrize(
    ("config", "device"), [(LAZY, "train.device=cuda"), (TWIN, "MODEL.DEVICE=cuda")]
)
def test_the_process_that_launches_gpu_processes_does_not_use_a_gpu(config, device, monkeypatch):
    started = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda._lazy_init", lambda: pytest.fail("it uses a GPU"))
    monkeypatch.setattr(run, "start", lambda work, command, **_: started.append(command) or 0)
    assert main(["--config-file", str(ROOT / config), "--num-gpus", "2", device]) == 0
    assert started[0].num_gpus == 2 and list(started[0].custom_data) == [None, None, (), ()]


def test_the_launching_process_reports_errors_once_for_all_processes(monkeypatch, capsys):
    monkeypatch.setattr(run, "start", lambda *_, **__: pytest.fail("it launches processes"))
    invalid = [*OVERRIDES, "model.head.branch=True"]
    assert main(["--config-file", str(ROOT / LAZY), "--num-gpus", "2", *invalid]) == 2
    assert "head.branch: expected False because the criterion" in capsys.readouterr().err
    with pytest.raises(UserError, match="optimizer.lr: expected a finite number above 0, got 0"):
        make_plan(Command(config_file=str(ROOT / LAZY), overrides=[*OVERRIDES, "optimizer.lr=0"]))


def test_a_loader_without_a_function_that_builds_it_is_refused():
    config = load_config(LAZY, [])
    del config.nodes.dataloader.test["_target_"]
    with pytest.raises(UserError, match="^dataloader.test: expected .*, got a node without _tar"):
        config.check_parts(torch.nn.Linear(2, 2), trains=False)


def test_the_config_gives_the_number_of_classes_if_the_model_does_not_report_it():
    config = load_config(LAZY, [])
    assert config.num_classes(torch.nn.Linear(2, 2)) == config.nodes.model.num_classes == 12
