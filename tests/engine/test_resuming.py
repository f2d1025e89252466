"""What --resume refuses before anything is written, and which differences it logs."""

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import hooks
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from ranking_det.engine import hooks as run_hooks
from ranking_det.engine import main
from ranking_det.engine.checkpoint import Checkpoint
from ranking_det.engine.resuming import (
    check_states,
    config_changes,
    describe_training_data,
    log_differences,
)
from ranking_det.user_errors import UserError
from tests.cases import run_function
from tests.engine.cases import shapes_environment

KEY = "train.init_checkpoint"


def optimizer_of(model, kind=torch.optim.SGD, **options):
    options = options or ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    return kind(model.parameters(), lr=0.1, **options)


def scheduler_of(optimizer, max_iter=10):
    return LRMultiplier(optimizer, MultiStepParamScheduler([1, 0.1], milestones=[5, 10]), max_iter)


def trained(kind=torch.optim.SGD, model=None, steps=1):
    """Return a checkpoint after some steps, as Detectron2's trainer saves it."""
    model = model or nn.Linear(2, 3)
    optimizer = optimizer_of(model, kind)
    scheduler = scheduler_of(optimizer)
    for _ in range(steps):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    states = {
        "iteration": steps - 1,
        "optimizer": optimizer.state_dict(),
        "hooks": {
            "LRScheduler": scheduler.state_dict(),
            "BestCheckpoint": {"metric": 3.0, "iteration": 0},
        },
    }
    return copy.deepcopy({"trainer": states, "optimizer": kind.__name__})


def check(content, kind=torch.optim.SGD, model=None, scales=False):
    optimizer = optimizer_of(model or nn.Linear(2, 3), kind)
    checkpoint = Checkpoint("a.pth", content)
    check_states(checkpoint, optimizer, scheduler_of(optimizer), KEY, scales=scales)


def test_the_state_of_the_same_optimizer_is_accepted_with_or_without_its_name():
    content = trained()
    check(content)
    del content["optimizer"]
    check(content)
    check(trained(torch.optim.AdamW), torch.optim.AdamW)
    # One number for each row and column of a weight.
    check(trained(torch.optim.Adafactor), torch.optim.Adafactor)


def without_name(kind):
    return {**trained(kind), "optimizer": None}


def changed(path, value):
    content = trained()
    *keys, last = path
    node = content["trainer"]
    for key in keys:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return content


OPTIMIZER = "optimizer"
GROUP = (OPTIMIZER, "param_groups", 0)
BUFFER = (OPTIMIZER, "state", 0, "momentum_buffer")
RATES = ("hooks", "LRScheduler", "base_lrs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected the state of the optimizer, got none"),
        ({"trainer": 5}, "expected the state of the optimizer, got none"),
        (changed([OPTIMIZER], None), "expected the state of the optimizer, got none"),
        (trained(torch.optim.AdamW), "expected the state of SGD, got that of AdamW"),
        (
            without_name(torch.optim.AdamW),
            "expected the state of SGD, got that of an optimizer without dampening, momentum",
        ),
        (
            trained(model=nn.Linear(2, 4)),
            r"momentum_buffer of the optimizer of shape \(3, 2\), got shape \(4, 2\)",
        ),
        (changed(BUFFER, "text"), r"momentum_buffer of the optimizer of shape .*, got no tensor"),
        (changed(BUFFER, 0.5), r"momentum_buffer of the optimizer of shape .*, got no tensor"),
        (changed(BUFFER, None), r"momentum_buffer of the optimizer of shape .*, got no tensor"),
        # A momentum that would be broadcast fails in the first step.
        (changed(BUFFER, torch.ones(2)), r"of shape \(3, 2\), got shape \(2,\)"),
        (changed([OPTIMIZER, "state", 0], 5), "expected states of SGD and its schedule, got oth"),
        (trained(model=nn.Linear(2, 3, bias=False)), "a parameter group that doesn't match"),
        (changed([OPTIMIZER], 5), "expected states of SGD and its schedule, got others"),
        (changed([OPTIMIZER, "param_groups"], []), "without dampening"),
        (changed([*GROUP, "lr"], float("nan")), "finite numbers for lr of the optimizer, got nan"),
        (changed([*GROUP, "momentum"], "a"), "numbers for momentum of the optimizer, got 'a'"),
        (changed([*GROUP, "initial_lr"], "a"), "numbers for initial_lr of the optimizer, got 'a'"),
        (changed([*GROUP, "weight_decay"], []), r"weight_decay of the optimizer, got \[\]"),
        (changed(["hooks"], 5), "got others"),
        (changed(["hooks"], None), "expected the number of steps of its schedule, got None"),
        (changed(["hooks", "LRScheduler", "last_epoch"], "5"), "steps of its schedule, got '5'"),
        (changed(["hooks", "LRScheduler", "last_epoch"], -3), "steps of its schedule, got -3"),
        (changed(RATES, [0.1, 0.1]), r"expected 1 finite learning rates, got \[0.1, 0.1\]"),
        (changed(RATES, [float("inf")]), r"expected 1 finite learning rates, got \[inf\]"),
        (changed(["hooks", "BestCheckpoint", "metric"], "3"), "the best metric as a number"),
    ],
)
def test_mismatched_states_give_one_line_with_the_remedy(content, message):
    with pytest.raises(UserError, match=f"^'a.pth' cannot be resumed: .*{message}") as caught:
        check(content)
    assert "\n" not in str(caught.value)
    remedy = "start a new run from its weights with train.init_checkpoint=a.pth, in another folder "
    assert remedy in str(caught.value)


def test_adam_is_not_resumed_as_adamw_although_the_settings_have_the_same_names():
    with pytest.raises(UserError, match="expected the state of AdamW, got that of Adam;"):
        check(trained(torch.optim.Adam), torch.optim.AdamW)


def test_float16_training_needs_the_state_of_its_loss_scaling():
    content = trained()
    with pytest.raises(UserError, match="expected the state of float16 training, got None"):
        check(content, scales=True)
    scaler = torch.amp.GradScaler("cpu").state_dict()
    for state in (5, {}, scaler | {"scale": "large"}):
        content["trainer"]["grad_scaler"] = state
        with pytest.raises(UserError, match=r"expected the state of float16 training, got "):
            check(content, scales=True)
    content["trainer"]["grad_scaler"] = scaler
    check(content, scales=True)


BEFORE = """
train: {seed: 1, output_dir: a, sizes: [1, 2]}
optimizer: {lr: 0.1, _target_: torch.optim.SGD}
OUTPUT_DIR: a
"""
NO_EFFECT = " (no effect: a resumed run keeps the value of its checkpoint)"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("seed: 1", "seed: 2", ["train.seed: 1 -> 2"]),
        ("lr: 0.1", "lr: 0.01", [f"optimizer.lr: 0.1 -> 0.01{NO_EFFECT}"]),
        ("[1, 2]", "[1]", ["train.sizes.1: 2 -> (none)"]),
        ("[1, 2]", "[]", ["train.sizes.0: 1 -> (none)", "train.sizes.1: 2 -> (none)",
                          "train.sizes: (none) -> []"]),
        ("seed: 1", "seed: '1'", ["train.seed: 1 -> '1'"]),
        ("dir: a", "dir: b", []),
        ("_DIR: a", "_DIR: b", []),
    ],
)  # fmt: skip
def test_the_values_of_two_configs_are_compared_except_for_output_folders(old, new, lines):
    assert config_changes(BEFORE, BEFORE.replace(old, new)) == lines


@pytest.mark.parametrize("text", ["", "a: [", "5"])
def test_an_unknown_or_faulty_config_is_not_compared(text):
    assert config_changes(text, BEFORE) == []


def trainer_of(content, max_iter):
    optimizer = optimizer_of(nn.Linear(2, 3))
    scheduler = scheduler_of(optimizer, max_iter)
    optimizer.load_state_dict(content["trainer"]["optimizer"])
    scheduler.load_state_dict(content["trainer"]["hooks"]["LRScheduler"])
    hook = hooks.LRScheduler(optimizer, scheduler)
    return SimpleNamespace(optimizer=optimizer, _hooks=[hook])


def log_of(caplog, states, extras, max_iter=10, steps=6):
    caplog.clear()
    trainer = trainer_of(trained(steps=steps), max_iter)
    extras = {"config": "", "training_data": {}} | extras
    with caplog.at_level(logging.INFO):
        differ = log_differences(states, extras, trainer, max_iter, steps)
    return differ, caplog.messages


def test_a_rise_of_the_learning_rate_in_a_longer_run_is_logged(caplog):
    assert log_of(caplog, {}, {}) == (False, [])
    differ, (line,) = log_of(caplog, {}, {}, max_iter=20)
    start = "The learning rate changes from 0.01 to 0.1 after iteration 6"
    assert not differ and line.startswith(start) and "20 iterations of the run" in line
    assert log_of(caplog, {}, {}, max_iter=6) == (False, [])  # a finished run


def test_at_most_20_changed_values_are_listed_and_the_others_are_counted(caplog):
    configs = ["\n".join(f"k{i}: {value}" for i in range(23)) for value in (1, 2)]
    differ, (text,) = log_of(caplog, {"config": configs[0]}, {"config": configs[1]})
    lines = text.splitlines()
    assert differ and lines[1] == "  k0: 1 -> 2" and lines[20:] == ["  k19: 1 -> 2", "  and 3 more"]


def test_changed_training_data_are_logged_with_their_numbers(caplog):
    objects = [{"category_id": 0, "bbox": [1, 2, 3, side]} for side in (4, 5)]
    records = [{"file_name": "a.jpg", "annotations": objects}, {"file_name": "b.jpg"}]
    facts = describe_training_data(records)
    assert (facts["images"], facts["objects"]) == (2, 2)

    def message(records):
        now = describe_training_data(records)
        return log_of(caplog, {"training_data": facts}, {"training_data": now})

    assert message(records) == (False, [])
    assert message(records[:1]) == (True, ["The training data have changed: images: 2 -> 1"])
    moved = [{**record, "file_name": f"moved/{record['file_name']}"} for record in records]
    assert message(moved) == (False, [])
    message_start = (
        "The training data have changed: other boxes, classes or file names, with the same "
    )
    for change in ({"bbox": [1, 2, 3, 6]}, {"category_id": 1}):
        new_objects = [objects[0] | change, objects[1]]
        assert message([{**records[0], "annotations": new_objects}, records[1]])[1] == [
            f"{message_start}number of images and objects"
        ]
    for unknown in (None, 5):
        assert log_of(caplog, {"training_data": unknown}, {"training_data": facts})[1] == []


CONFIG = ["--config-file", "configs/shapes/quick/fcos_fcos_rs.py"]
OPTIONS = [
    *("train.device=cpu", "train.eval_period=0", "train.log_period=1", "train.max_iter=2"),
    *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"),
    *("dataloader.test.num_workers=0", "train.reference_batch=2"),
]


def files(folder):
    """Return the content of all files; the log of the run is open in this process."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path): path.read_bytes() for path in paths}


def work(folder, refused, annotations, resumed):
    """Train, try the refused commands, most of them with a damaged checkpoint, and resume."""
    run_hooks.draw_detections = run_hooks.plot_curves = lambda *args: None
    assert main([*CONFIG, *OPTIONS, f"train.output_dir={folder}/run"]) == 0
    path = folder / "run" / "model_final.pth"
    data = path.read_bytes()
    outcomes = []
    for damaged, command in refused:
        path.write_bytes(data[:5000] + bytes([data[5000] ^ 64]) + data[5001:] if damaged else data)
        before = files(folder)
        outcomes.append((main([*CONFIG, *command]), files(folder) == before))
    path.write_bytes(data)
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    assert main([*CONFIG, *resumed]) == 0
    return outcomes


@pytest.fixture(scope="module")
def resumed_run(tmp_path_factory):
    """A folder with the run, and the outcomes of the commands."""
    environment = shapes_environment(tmp_path_factory, train=4, val=2)
    folder = tmp_path_factory.mktemp("resuming")
    run = ["--resume", *OPTIONS, f"train.output_dir={folder}/run"]
    weights = f"{KEY}={folder}/run/model_final.pth"
    refused = [
        (False, [*run, "optimizer._target_=torch.optim.RMSprop"]),
        (True, run),
        (True, ["--eval-only", *run[1:]]),
        (True, ["--predict", "a.jpg", *run[1:]]),
        (True, [*OPTIONS, f"train.output_dir={folder}/new", weights]),
    ]
    (annotations,) = Path(environment["DETECTRON2_DATASETS"]).rglob("instances_train.json")
    options = ["train.max_iter=4", "train.seed=7", "dataloader.train.total_batch_size=1"]
    completed = run_function(
        work, folder, refused, annotations, [*run, *options], environment=environment
    )
    assert completed.value == [(2, True)] * len(refused), completed.stderr[-3000:]
    return folder / "run", completed.stderr


def test_a_mismatched_or_damaged_checkpoint_stops_a_command_before_it_writes(resumed_run):
    path = str(resumed_run[0] / "model_final.pth")
    errors = [line for line in resumed_run[1].splitlines() if "train_net.py" in line]
    start = f"train_net.py: error: {path!r}"
    assert errors[0] == (
        f"{start} cannot be resumed: expected the state of RMSprop, got that of AdamW; start a new "
        f"run from its weights with {KEY}={path}, in another folder or with --overwrite"
    )
    damaged = "cannot be read as a checkpoint (the file is damaged: the checksum of"
    assert errors[1].endswith("start again with --overwrite") and damaged in errors[1]
    assert [line.startswith(f"{start} {damaged}") for line in errors[2:]] == [True] * 3
    assert "Traceback" not in resumed_run[1]


def test_a_resumed_run_logs_each_change_of_config_batch_seed_and_data(resumed_run):
    log = (resumed_run[0] / "log.txt").read_text()
    _, changes = log.split("Changed since the checkpoint was written:\n")
    lines = [line.strip() for line in changes.partition("\n[")[0].splitlines()]
    assert "train.seed: 0 -> 7" in lines and "train.max_iter: 2 -> 4" in lines
    assert "dataloader.train.total_batch_size: 2 -> 1" in lines
    (rate,) = [line for line in lines if line.startswith("optimizer.lr: ")]
    assert rate.endswith(NO_EFFECT)
    assert "The training data have changed: objects: " in changes
    assert "The learning rate changes from " in changes and "after iteration 2" in changes
    assert "at iteration 2, with a changed config or data" in changes
