"""The command line on a few small images: output files, resumes, and error messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ranking_det.criteria import Criterion, HistoryBalance, RankSort
from ranking_det.engine import main
from ranking_det.engine.checkpoint import load_weights
from ranking_det.user_errors import UserError
from tests.cases import ROOT, run_commands
from tests.engine.cases import locked_by_another_process, shapes_environment

RS = "configs/shapes/retinanet_atss_rs.py"
TWIN = "configs/shapes/retinanet_atss_rs.yaml"
# A few steps on tiny images, with logging and checkpoints as in a long run.
QUICK = [
    "train.device=cpu",
    "train.max_iter=4",
    "train.log_period=2",
    "train.checkpointer.period=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.total_batch_size=2",
]


TWIN_QUICK = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
TWIN_QUICK += ["DATALOADER.NUM_WORKERS", "0"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A shapes data set with 8 training and 4 validation images of 64 px."""
    return shapes_environment(tmp_path_factory, train=8, val=4)


@pytest.fixture(scope="module")
def trained_run(environment, tmp_path_factory):
    """The output folder of a short run, and the output of the process."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "train_net.py", "--config-file", RS]
    command += [*QUICK, f"train.output_dir={folder}"]
    completed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-3000:]
    # Detectron2 causes warnings of torch (jit.script, meshgrid) that no user can fix.
    assert "Warning" not in completed.stderr
    return folder, completed.stdout


@pytest.fixture(scope="module")
def runs(trained_run, environment, tmp_path_factory):
    """The output folders of more runs."""
    folder, _ = trained_run
    folders = {name: tmp_path_factory.mktemp(name) for name in ("eval", "again", "resumed", "yaml")}
    shutil.copy(folder / "results.json", folders["eval"] / "trained.json")
    weights = f"train.init_checkpoint={folder}/model_final.pth"

    def make_command(name, *args):
        return ["--config-file", RS, *args, f"train.output_dir={folders[name]}"]

    twin = ["--config-file", TWIN, *TWIN_QUICK, "OUTPUT_DIR", str(folders["yaml"])]
    commands = [
        make_command("eval", "--eval-only", *QUICK, weights),
        ["--config-file", RS, "--eval-only", *QUICK, f"train.output_dir={folder}"],
        make_command("again", *QUICK),
        make_command("resumed", *QUICK, "train.max_iter=2"),
        make_command("resumed", "--resume", *QUICK),
    ]
    twin_commands = [
        twin,
        ["--config-file", TWIN, "--eval-only", *TWIN_QUICK, "OUTPUT_DIR", str(folders["yaml"])],
        ["--config-file", TWIN, "--resume", *TWIN_QUICK, "OUTPUT_DIR", str(folders["yaml"])]
        + ["SOLVER.MAX_ITER", "3"],
    ]
    run_commands(commands, pictures=False, environment=environment)
    run_commands(twin_commands, environment=environment)
    return folders


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_training_writes_log_metrics_weights_and_pictures_and_prints_the_folder_last(trained_run):
    folder, stdout = trained_run
    for name in ("log.txt", "metrics.json", "results.json", "model_final.pth", "config.yaml"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("curves.png", "detections.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    assert stdout.strip().splitlines()[-1] == str(folder)
    assert {"AP", "AP50", "APs"} <= results(folder)["bbox"].keys()


def test_eval_only_gives_exactly_the_metrics_of_the_training_run(runs):
    before = json.loads((runs["eval"] / "trained.json").read_text())
    assert results(runs["eval"]) == before


def test_the_log_has_the_messages_of_data_sets_that_the_plan_has_loaded(trained_run):
    _, log = (trained_run[0] / "log.txt").read_text().split("Command line:", 1)
    before, _ = log.split("Starting training", 1)
    assert before.count("Distribution of instances among all 12 categories") == 1


def test_eval_only_without_weights_evaluates_the_last_checkpoint_of_the_folder(runs, trained_run):
    log = (trained_run[0] / "log.txt").read_text()
    assert f"Evaluating {trained_run[0]}/model_final.pth" in log
    assert results(trained_run[0]) == results(runs["eval"])


def test_the_same_seed_gives_the_same_weights(runs, trained_run):
    models = [
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (trained_run[0], runs["again"])
    ]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name


def test_resume_continues_from_the_last_checkpoint_and_logs_the_iteration(runs):
    log = (runs["resumed"] / "log.txt").read_text()
    assert "at iteration 2, with a changed config" in log  # more iterations
    assert torch.load(runs["resumed"] / "model_final.pth", weights_only=True)["iteration"] == 3


def test_a_run_that_cannot_be_resumed_exactly_logs_the_difference(runs):
    log = (runs["yaml"] / "log.txt").read_text()
    text = "at iteration 2, with its weights, optimizer and iteration; the order of the images"
    assert text in log
    assert torch.load(runs["yaml"] / "model_final.pth", weights_only=True)["iteration"] == 2


def test_the_yaml_twin_trains_and_evaluates(runs):
    assert (runs["yaml"] / "detections.png").exists()
    assert "AP" in results(runs["yaml"])["bbox"]


USER_ERRORS = {
    "an unknown key": (
        [RS, "train.max_itr=3"],
        "train: no key 'max_itr' (did you mean 'max_iter'?)",
    ),
    "an unknown yaml key": ([TWIN, "SOLVER.MAX_ITR", "3"], "(did you mean 'MAX_ITER'?)"),
    "a missing config": (["configs/none.py"], "--config-file: 'configs/none.py' does not exist"),
    "another kind of file": (
        ["README.md"],
        "--config-file: expected a .py, .yaml or .yml file, got 'README.md'",
    ),
    "a wrong type": ([RS, "train.max_iter=x"], "train.max_iter: expected int, got 'x'"),
    "a wrong device": (
        [RS, "train.device=gpu"],
        "train.device: expected a device that works here, cpu",
    ),
    "a wrong yaml device": (
        [TWIN, "MODEL.DEVICE", "gpu"],
        "MODEL.DEVICE: expected a device that works here, cpu",
    ),
    "parts that do not fit": (
        [RS, "model.head.branch=True"],
        "model cannot be built: head.branch: expected False because the criterion",
    ),
    "yaml parts that do not fit": (
        ["configs/shapes/fcos_fcos_rs.yaml", "MODEL.HEAD.BRANCH", "True", "MODEL.DEVICE", "cpu"],
        "MODEL cannot be built: head.branch: expected False because the criterion",
    ),
    "a wrong option of inference": (
        [TWIN, "MODEL.INFERENCE.NMS", "fast", "MODEL.DEVICE", "cpu"],
        "MODEL.INFERENCE: nms: expected one of hard, linear, gaussian, got 'fast'",
    ),
    "missing weights": (
        [RS, "--eval-only", "train.init_checkpoint=none.pth"],
        "train.init_checkpoint: 'none.pth' does not exist",
    ),
    "no weights": (
        [RS, "--eval-only", "train.output_dir=/nonexistent"],
        "--eval-only: expected weights, got none; give train.init_checkpoint=FILE",
    ),
    "nothing to resume": (
        [RS, "--resume", "train.output_dir=/nonexistent"],
        "--resume: expected a checkpoint in train.output_dir=/nonexistent, got none",
    ),
    "too many GPUs": ([RS, "--num-gpus", "99"], "--num-gpus: expected at most "),
    "a negative learning rate": (
        [RS, "optimizer.lr=-0.1"],
        "optimizer.lr: expected a finite number above 0, got -0.1",
    ),
    "a negative yaml learning rate": (
        [TWIN, "SOLVER.BASE_LR", "-0.1", "MODEL.DEVICE", "cpu"],
        "SOLVER.BASE_LR: expected a finite number above 0, got -0.1",
    ),
    "a batch smaller than the number of processes": (
        [RS, "--num-gpus", "2", "dataloader.train.total_batch_size=1"],
        "dataloader.train.total_batch_size: expected a multiple of 2, the number of processes, "
        "got 1",
    ),
    "a machine rank that is too large": (
        [RS, "--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://a:1"],
        "--machine-rank: expected 0 to 1, got 2",
    ),
    "several machines without an address": (
        [RS, "--num-machines", "2"],
        "--dist-url: expected the address of machine 0, tcp://HOST:PORT, for several machines, "
        "got 'auto'",
    ),
    "half precision that the device does not support": (
        [RS, "train.amp.enabled=True", "train.amp.dtype=float16", "train.device=cpu"],
        "train.amp.dtype: expected auto or bfloat16 on cpu, got 'float16', which needs a GPU",
    ),
    "an unknown data set": (
        [RS, "dataloader.train.dataset.names=shapes_trian"],
        "dataloader.train.dataset.names: expected a registered data set, got 'shapes_trian' (did "
        "you mean 'shapes_train'?)",
    ),
    "a refused value": (
        [RS, "model.assigner.topk=0"],
        "topk: expected an integer of at least 1, got 0",
    ),
    "a refused nested value": (
        [RS, "model.criterion.rank_scope=imge"],
        "model.criterion cannot be built: rank_scope: expected one of image, gpu, global, got "
        "'imge'",
    ),
    "an unknown argument of a module without any": (
        [RS, "model.criterion.localization.beta=1"],
        "model.criterion.localization: no key 'beta'",
    ),
    "null for a number": ([RS, "train.max_iter=null"], "train.max_iter: expected int, got None"),
    "a value for a node": ([RS, "model=5"], "model: expected a config node, got 5"),
    "no iterations": (
        [RS, "train.max_iter=0"],
        "train.max_iter: expected an integer of at least 1, got 0",
    ),
    "an option after the overrides": (
        [RS, "train.max_iter=3", "--eval-only"],
        "overrides: expected key=value, got '--eval-only'; options go before the overrides",
    ),
    "an option after the yaml overrides": (
        [TWIN, "SOLVER.MAX_ITER", "3", "--output", "a"],
        "overrides: expected key=value, got '--output'; options go before the overrides",
    ),
    "no yaml iterations": (
        [TWIN, "SOLVER.MAX_ITER", "-1"],
        "SOLVER.MAX_ITER: expected an integer of at least 1, got -1",
    ),
    "an empty yaml batch": (
        [TWIN, "SOLVER.IMS_PER_BATCH", "0"],
        "SOLVER.IMS_PER_BATCH: expected an integer of at least 1, got 0",
    ),
    "no output folder": ([RS, "train.output_dir="], "train.output_dir: expected a folder, got ''"),
    "an output folder that is a file": (
        [RS, "train.output_dir=/dev/null"],
        "train.output_dir: expected a writable folder, got '/dev/null'",
    ),
    "a folder as weights": (
        [RS, "--eval-only", "train.init_checkpoint=configs"],
        "train.init_checkpoint: expected a file, got the folder 'configs'",
    ),
    "another number of classes": (
        [RS, "model.num_classes=3"],
        "model.num_classes: expected 12, the number of classes of the data set 'shapes_train', "
        "got 3",
    ),
}


@pytest.mark.parametrize("case", USER_ERRORS)
def test_a_user_error_is_a_one_line_message(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    args, message = USER_ERRORS[case]
    if args[0] == RS and not any("output_dir" in a for a in args):
        args = [*args, f"train.output_dir={tmp_path / 'out'}"]
    assert main(["--config-file", *args]) == 2
    output = capsys.readouterr().err
    assert message in output
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not Path("output/shapes/fcos_fcos_rs_yaml").exists()


def test_a_second_run_in_the_same_folder_is_rejected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / "notes.txt").write_text("mine")
    with locked_by_another_process(tmp_path / ".lock", "EX") as other:
        assert main(["--config-file", RS, *QUICK, f"train.output_dir={tmp_path}"]) == 2
    output = capsys.readouterr().err
    assert f"{tmp_path}: another training run (process {other.pid}) is writing to this" in output
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "notes.txt"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("another model", "is a checkpoint of another model: 2 of the model's 2 parameters"),
        ("not a checkpoint", "cannot be read as a checkpoint"),
        ("a list", "cannot be read as a checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_match_the_model_gives_a_one_line_error(kind, message, tmp_path):
    path = tmp_path / "other.pth"
    if kind == "a list":
        torch.save([1, 2], path)
    elif kind == "another model":
        torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)
    else:
        path.write_text("no weights here")
    model = torch.nn.Linear(3, 3)
    for strict in (True, False):
        with pytest.raises(UserError, match=message) as caught:
            load_weights(model, str(path), strict=strict)
        assert "\n" not in str(caught.value)


def test_a_new_run_resets_the_state_of_its_criterion_and_an_evaluation_does_not(tmp_path):
    def build():
        model = torch.nn.Linear(2, 2)
        # The criterion is found by its class, not by the name of its attribute.
        model.loss = Criterion(classification=RankSort(), balance=HistoryBalance(period=9))
        return model

    trained, model = build(), build()
    trained.loss.balance.sums.fill_(7)
    torch.save({"model": trained.state_dict()}, tmp_path / "model.pth")
    load_weights(model, str(tmp_path / "model.pth"), strict=False)
    assert (model.weight == trained.weight).all() and (model.loss.balance.sums == 0).all()
    load_weights(model, str(tmp_path / "model.pth"), strict=True)
    assert (model.loss.balance.sums == 7).all()


def test_partly_matching_weights_can_start_a_run_but_cannot_be_evaluated(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3))
    torch.save({"model": {"0.weight": torch.ones(2, 2)}}, tmp_path / "part.pth")
    load_weights(model, str(tmp_path / "part.pth"), strict=False)
    assert (model[0].weight == 1).all()
    with pytest.raises(UserError, match="3 of the model's 4 parameters are missing"):
        load_weights(model, str(tmp_path / "part.pth"), strict=True)
