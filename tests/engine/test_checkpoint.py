"""Checkpoints: atomic writes, the best checkpoint, and weights that do not fit the model."""

import logging
import resource
import signal
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from ranking_det.criteria import Criterion, HistoryBalance, RankSort
from ranking_det.engine.checkpoint import (
    RunCheckpointer,
    find_last,
    find_weights,
    load_weights,
    read_best,
    read_checkpoint,
)
from ranking_det.engine.command import Command
from ranking_det.engine.hooks import BestCheckpoint
from ranking_det.user_errors import UserError


def checkpointer(folder, model=None):
    return RunCheckpointer(model or nn.Linear(2, 2), str(folder), extras={"class_names": ["a"]})


def test_a_checkpoint_has_the_extras_and_leaves_no_temporary_file(tmp_path):
    checkpointer(tmp_path).save("model_0000004", iteration=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    last = find_last(str(tmp_path))
    assert last == str(tmp_path / "model_0000004.pth")
    assert read_checkpoint(last).extras == {"class_names": ["a"], "iteration": 4}


def test_the_log_has_the_final_name_of_a_checkpoint(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        checkpointer(tmp_path).save("model_0000004")
    assert f"Saving checkpoint to {tmp_path}/model_0000004.pth" in caplog.messages


def test_a_full_disk_gives_a_one_line_error_and_keeps_the_last_good_checkpoint(tmp_path):
    small = checkpointer(tmp_path)
    small.save("model_0000001", iteration=1)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(UserError, match="model_0000003.pth could not be written") as caught:
            checkpointer(tmp_path, nn.Linear(1000, 1000)).save("model_0000003", iteration=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "--resume" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert read_checkpoint(find_last(str(tmp_path))).content["iteration"] == 1


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[0] = torch.nan
    message = r"model_0000001.pth: expected finite weights, .* in 1 parameters \(the first: bias\)"
    with pytest.raises(UserError, match=message):
        checkpointer(tmp_path, model).save("model_0000001")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_truncated_checkpoint_gives_a_one_line_error(keep, tmp_path):
    model = nn.Linear(100, 100)
    checkpointer(tmp_path, model).save("model_0000001")
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    for read in (
        lambda: read_checkpoint(str(path)),
        lambda: load_weights(model, str(path), whole=True),
    ):
        with pytest.raises(UserError, match="cannot be read as a checkpoint") as caught:
            read()
        assert "\n" not in str(caught.value) and path.name in str(caught.value)


def detector(num_classes):
    return nn.ModuleDict({"backbone": nn.Linear(3, 4), "score": nn.Linear(4, num_classes)})


def test_fine_tuning_loads_the_weights_that_fit_and_logs_the_others(tmp_path, caplog):
    trained, model = detector(3), detector(5)
    trained["old"] = nn.Linear(1, 1)
    checkpointer(tmp_path, trained).save("model_final")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_weights(model, find_last(str(tmp_path)), whole=False)
    assert torch.equal(model["backbone"].weight, trained["backbone"].weight)
    assert [record.getMessage() for record in caplog.records] == [
        "2 parameters and buffers are missing from the checkpoint, or have another shape there, "
        "and keep their initial values: score.weight ((3, 4) there, (5, 4) here), score.bias "
        "((3,) there, (5,) here)",
        "2 entries of the checkpoint are not used by the model: old.weight, old.bias",
    ]


def test_missing_statistics_of_a_norm_are_logged_and_those_of_a_new_criterion_are_not(
    tmp_path, caplog
):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = {key: value for key, value in model.state_dict().items() if "running" not in key}
    torch.save({"model": weights}, tmp_path / "model.pth")
    model.loss = Criterion(classification=RankSort(), balance=HistoryBalance(period=9))
    load_weights(model, str(tmp_path / "model.pth"), whole=False)
    assert "2 parameters and buffers" in caplog.text
    assert "values: 1.running_mean, 1.running_var" in caplog.text


def test_a_checkpoint_with_another_number_of_classes_cannot_be_resumed(tmp_path):
    checkpointer(tmp_path, detector(3)).save("model_final")
    with pytest.raises(UserError, match="of another model: 2 of the model's 4 parameters"):
        load_weights(detector(5), find_last(str(tmp_path)), whole=True)


@pytest.mark.parametrize("flag", ["eval_only", "predict"])
def test_evaluation_and_prediction_use_the_last_checkpoint_and_never_random_weights(flag, tmp_path):
    command = Command(config_file="", **{flag: True if flag == "eval_only" else ["a.jpg"]})
    keys = ("train.init_checkpoint", "train.output_dir")
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')}: expected weights, got none"):
        find_weights(command, "", str(tmp_path), keys)
    checkpointer(tmp_path).save("model_final")
    assert find_weights(command, "", str(tmp_path), keys).path == str(tmp_path / "model_final.pth")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/a.pkl", r"cannot download http://127.0.0.1:9/a.pkl \(.*refused"),
        ("detectron2://b/R.pkl", r"cannot download http://127.0.0.1:9/b/R.pkl \(.*refused"),
        ("nowhere://a.pkl", r"cannot download nowhere://a.pkl \(unknown kind of address"),
        ("catalog://a", r"cannot download catalog://a \(model not present in the catalog"),
    ],
)
def test_weights_that_cannot_be_downloaded_give_one_line_with_the_file_and_the_remedy(
    address, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", "http://127.0.0.1:9/")
    keys = ("MODEL.WEIGHTS", "OUTPUT_DIR")
    with pytest.raises(UserError, match=f"^MODEL.WEIGHTS: {message}") as caught:
        find_weights(Command(config_file=""), address, str(tmp_path), keys)
    assert str(caught.value).endswith("give its path with MODEL.WEIGHTS=FILE")
    assert "\n" not in str(caught.value)


def run_best(folder, metrics, *, start=0, state=None, name="bbox/AP"):
    """Run a step for each metric, None for a step without evaluation; return the hook."""
    hook = BestCheckpoint(checkpointer(folder), ["bbox/AP", "segm/AP"])
    if state is not None:
        hook.load_state_dict(state)
    with EventStorage(start) as storage:
        hook.trainer = SimpleNamespace(storage=storage, start_iter=start)
        hook.before_train()
        for metric in metrics:
            if metric is not None:
                storage.put_scalar(name, metric, smoothing_hint=False)
            hook.after_step()
            storage.step()
    return hook


def best_iteration(folder):
    return read_checkpoint(str(folder / "model_best.pth")).content["iteration"]


def test_the_best_checkpoint_is_the_one_with_the_best_metric(tmp_path):
    hook = run_best(tmp_path, [None, 3.0, None, 7.0, 5.0, float("nan")])
    assert best_iteration(tmp_path) == 3 and hook.best == {"metric": 7.0, "iteration": 3}
    assert find_last(str(tmp_path)) == ""  # a run does not resume from the best


def test_the_best_checkpoint_survives_a_resume_even_from_an_earlier_checkpoint(tmp_path):
    state = run_best(tmp_path, [3.0]).state_dict()
    run_best(tmp_path, [None, 7.0])
    assert run_best(tmp_path, [5.0], start=1, state=state).best["metric"] == 7.0
    assert best_iteration(tmp_path) == 1
    run_best(tmp_path, [9.0], start=4, state=state)
    assert best_iteration(tmp_path) == 4


def test_without_a_box_metric_the_mask_metric_decides(tmp_path):
    run_best(tmp_path, [3.0, 7.0, 5.0], name="segm/AP")
    assert best_iteration(tmp_path) == 1


def test_a_new_run_in_the_same_folder_replaces_the_best_checkpoint(tmp_path):
    run_best(tmp_path, [7.0])
    run_best(tmp_path, [None, 2.0])
    assert best_iteration(tmp_path) == 1
