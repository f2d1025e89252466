"""Checkpoints: atomic writes, the best checkpoint, and weights that do not fit the model."""

import logging
import random
import re
import resource
import signal
import zipfile
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from ranking_det.criteria import Criterion, HistoryBalance, RankSort
from ranking_det.engine.checkpoint import (
    Checkpoint,
    RunCheckpointer,
    check_extras,
    find_last,
    find_resumable,
    find_weights,
    how_to_continue,
    load_weights,
    read_checkpoint,
)
from ranking_det.engine.command import Command
from ranking_det.engine.hooks import BestCheckpoint
from ranking_det.user_errors import RunError, UserError


def checkpointer(folder, model=None):
    return RunCheckpointer(model or nn.Linear(2, 2), str(folder), extras={"class_names": ["a"]})


def test_a_checkpoint_has_the_extra_values_and_leaves_no_temporary_file(tmp_path):
    checkpointer(tmp_path).save("model_0000004", iteration=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    last = find_last(str(tmp_path))
    assert last == str(tmp_path / "model_0000004.pth")
    assert read_checkpoint(last).extras == {"class_names": ["a"], "iteration": 4}


def test_the_log_names_the_final_file_of_a_checkpoint(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        checkpointer(tmp_path).save("model_0000004")
    assert f"Saving checkpoint to {tmp_path}/model_0000004.pth" in caplog.messages


def test_a_full_disk_gives_a_one_line_error_and_keeps_the_last_good_checkpoint(tmp_path):
    small_checkpointer = checkpointer(tmp_path)
    small_checkpointer.save("model_0000001", iteration=1)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(RunError, match="model_0000003.pth could not be written") as caught:
            checkpointer(tmp_path, nn.Linear(1000, 1000)).save("model_0000003", iteration=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "--resume" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert read_checkpoint(find_last(str(tmp_path))).content["iteration"] == 1


NOT_FINITE = {
    "0.bias": "1 parameter or buffer (the first: '0.bias')",
    "1.running_var": "1 parameter or buffer (the first: '1.running_var')",
    "0.bias 1.running_mean": "2 parameters and buffers (the first: '0.bias')",
}


@pytest.mark.parametrize("names", NOT_FINITE)
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(names, tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for name in names.split():
        model.state_dict()[name][0] = torch.nan if name == "0.bias" else torch.inf
    message = re.escape(f"expected finite weights, got NaN or infinity in {NOT_FINITE[names]}")
    with pytest.raises(RunError, match=f"^model_0000001.pth: {message}, because an activation"):
        checkpointer(tmp_path, model).save("model_0000001")
    assert not list(tmp_path.iterdir())
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    intact = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UserError, match=f"^'{path}': {message}$"):
        load_weights(intact, str(path), strict=False)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.98])
def test_a_truncated_checkpoint_gives_a_one_line_error(fraction, tmp_path):
    model = nn.Linear(100, 100)
    checkpointer(tmp_path, model).save("model_0000001")
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    for read in (
        lambda: read_checkpoint(str(path)),
        lambda: load_weights(model, str(path), strict=True),
    ):
        with pytest.raises(UserError, match="cannot be read as a checkpoint") as caught:
            read()
        assert "\n" not in str(caught.value) and path.name in str(caught.value)


def contents_equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(contents_equal(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_flipped_bit_is_detected_wherever_it_changes_the_content(tmp_path):
    checkpointer(tmp_path, nn.Linear(100, 9)).save("model_final", iteration=4)
    path = tmp_path / "model_final.pth"
    data, expected = path.read_bytes(), read_checkpoint(str(path)).content
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    bits, refused = random.Random(0), 0
    for first, count in ((0, 80), (directory, 50), (len(data) - 100, 20)):
        for _ in range(count):
            changed = bytearray(data)
            changed[bits.randrange(first, len(data))] ^= 1 << bits.randrange(8)
            path.write_bytes(changed)
            try:
                assert contents_equal(read_checkpoint(str(path)).content, expected)
            except UserError as error:
                assert "\n" not in str(error) and "cannot be read as a checkpoint" in str(error)
                refused += 1
    assert refused > 75  # the other bits are in padding, dates and other unused fields


def test_loading_a_file_with_a_flipped_bit_raises_user_error(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.full((4,), 1.5)}}, path)
    path.write_bytes(path.read_bytes().replace(b"\x00\x00\xc0\x3f", b"\x00\x00\xc0\xff", 1))
    message = r"\(the file is damaged: the checksum of 'weights/data/0' is wrong\)"
    with pytest.raises(UserError, match=message):
        load_weights(nn.Linear(4, 1), str(path), strict=False)


def test_files_without_checksums_and_compressed_files_are_read(tmp_path):
    content = {"model": {"weight": torch.arange(9.0)}}
    torch.save(content, tmp_path / "plain.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    torch.save(content, tmp_path / "unchecked.pth")
    torch.serialization.set_crc32_options(True)
    compressed = zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, compressed:
        for record in plain.infolist():
            compressed.writestr(record.filename, plain.read(record))
    for path in tmp_path.glob("*.pth"):
        assert contents_equal(read_checkpoint(str(path)).content, content), path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": [1]}, "model: expected weights by name, got a list"),
        ({"iteration": 3, "trainer": {}}, "model: expected only weights, got 'iteration' of type"),
        ({"model": {"a": 5}}, "model: expected only weights, got 'a' of type int"),
        ({"model": {5: torch.ones(1)}}, "model: expected only weights, got 5 of type Tensor"),
    ],
)
def test_a_file_without_weights_gives_a_one_line_error(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"cannot be read as a checkpoint \({message}"):
        read_checkpoint(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"class_names": 5}, "class_names: expected a list of names, got 5"),
        ({"class_names": torch.ones(2)}, r"class_names: expected a list of names, got tensor"),
        ({"class_names": []}, r"class_names: expected a list of names, got \[\]"),
        ({"class_names": ["a", 5]}, r"class_names: expected a list of names, got \['a', 5\]"),
        (
            {"class_names": ["a"], "category_ids": [1, 2]},
            r"category_ids: expected a list of 1 category ids, got \[1, 2\]",
        ),
        ({"class_names": ["a"], "category_ids": 5}, "category_ids: expected a list of 1"),
        ({"category_ids": 5}, "category_ids: expected a list of category ids, got 5"),
        ({"config": 5}, "config: expected the text of a config.yaml, got 5"),
    ],
)
def test_malformed_classes_and_configs_in_a_checkpoint_give_a_one_line_error(extras, message):
    with pytest.raises(UserError, match=f"^'a.pth': {message}"):
        check_extras(Checkpoint("a.pth", extras))
    check_extras(Checkpoint("a.pth", {"class_names": ["a"], "category_ids": [1], "config": ""}))


MALFORMED_ITERATIONS = ["5", -1, 2**31, float("nan"), 1.0, True, None]


@pytest.mark.parametrize("iteration", MALFORMED_ITERATIONS)
def test_a_checkpoint_with_a_malformed_iteration_is_not_resumed(iteration, tmp_path):
    checkpointer(tmp_path).save("model_0000001", iteration=1)
    extras = {} if iteration is None else {"iteration": iteration}
    checkpointer(tmp_path).save("model_0000003", **extras)
    earlier = find_resumable(str(tmp_path))
    assert earlier.path.endswith("model_0000001.pth") and "iteration" in earlier.note
    (tmp_path / "model_0000001.pth").unlink()
    command = Command(config_file="", resume=True)
    message = r"got none that can be resumed \(.*iteration.*; start again with --overwrite"
    with pytest.raises(UserError, match=message) as caught:
        find_weights(command, "", str(tmp_path), ("train.init_checkpoint", "train.output_dir"))
    assert "\n" not in str(caught.value)


POINTERS = [
    *(b"", b"\xff\xfe\x00\x80", b"../model_final.pth", b"/tmp/model_final.pth", b"."),
    *(b"model_final.pth\nmodel_best.pth", b"model_final", b"\x00.pth", b"a" * 9999),
]


@pytest.mark.parametrize("pointer", POINTERS, ids=lambda pointer: repr(pointer[:20]))
def test_a_malformed_last_checkpoint_file_is_an_error_or_an_earlier_checkpoint_is_resumed(
    pointer, tmp_path
):
    checkpointer(tmp_path).save("model_0000001", iteration=1)
    (tmp_path / "last_checkpoint").write_bytes(pointer)
    message = "last_checkpoint: expected the name of a checkpoint in this folder, such as"
    with pytest.raises(UserError, match=message) as caught:
        find_last(str(tmp_path))
    assert "\n" not in str(caught.value)
    keys = ("train.init_checkpoint", "train.output_dir")
    for flag in ({"eval_only": True}, {"predict": ["a.jpg"]}):
        with pytest.raises(UserError, match=message):
            find_weights(Command(config_file="", **flag), "", str(tmp_path), keys)
    assert how_to_continue(str(tmp_path)) == "continue with --resume"
    resumed = find_weights(Command(config_file="", resume=True), "", str(tmp_path), keys)
    assert resumed.path == str(tmp_path / "model_0000001.pth") and message in resumed.note


def test_an_evaluation_rejects_a_last_checkpoint_that_names_a_missing_file(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    keys = ("train.init_checkpoint", "train.output_dir")
    with pytest.raises(UserError, match=r"the last checkpoint of .*_0000009.pth' does not exist"):
        find_weights(Command(config_file="", eval_only=True), "", str(tmp_path), keys)
    with pytest.raises(UserError, match=r"that can be resumed \(.*_0000009.pth' does not exist"):
        find_weights(Command(config_file="", resume=True), "", str(tmp_path), keys)


def detector(num_classes):
    return nn.ModuleDict({"backbone": nn.Linear(3, 4), "score": nn.Linear(4, num_classes)})


def test_fine_tuning_loads_the_weights_that_fit_and_logs_the_others(tmp_path, caplog):
    trained, model = detector(3), detector(5)
    trained["old"] = nn.Linear(1, 1)
    checkpointer(tmp_path, trained).save("model_final")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_weights(model, find_last(str(tmp_path)), strict=False)
    assert torch.equal(model["backbone"].weight, trained["backbone"].weight)
    assert [record.getMessage() for record in caplog.records] == [
        "2 parameters and buffers are missing from the checkpoint or different in shape, "
        "so the initial values stay: score.weight ((3, 4) there, (5, 4) here), score.bias "
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
    load_weights(model, str(tmp_path / "model.pth"), strict=False)
    assert "2 parameters and buffers" in caplog.text
    assert "so the initial values stay: 1.running_mean, 1.running_var" in caplog.text


def test_a_checkpoint_with_another_number_of_classes_cannot_be_resumed(tmp_path):
    checkpointer(tmp_path, detector(3)).save("model_final")
    with pytest.raises(UserError, match="of another model: 2 of the model's 4 parameters"):
        load_weights(detector(5), find_last(str(tmp_path)), strict=True)


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
    assert find_last(str(tmp_path)) == ""  # a run does not resume from the best checkpoint


def test_the_best_checkpoint_survives_a_resume_even_from_an_earlier_checkpoint(tmp_path):
    state = run_best(tmp_path, [3.0]).state_dict()
    run_best(tmp_path, [None, 7.0])
    assert run_best(tmp_path, [5.0], start=1, state=state).best["metric"] == 7.0
    assert best_iteration(tmp_path) == 1
    run_best(tmp_path, [9.0], start=4, state=state)
    assert best_iteration(tmp_path) == 4


@pytest.mark.parametrize("content", [None, {"metric": "9"}, 5, {"iteration": 0}])
def test_a_broken_best_checkpoint_is_replaced_at_the_next_evaluation(content, tmp_path, caplog):
    state = run_best(tmp_path, [7.0]).state_dict()
    path = tmp_path / "model_best.pth"
    if content is None:
        path.write_bytes(path.read_bytes()[:-9])
    else:
        torch.save({"model": {}, "best": content}, path)
    assert run_best(tmp_path, [2.0], start=4, state=state).best["metric"] == 2.0
    assert "; the next evaluation replaces it" in caplog.text and str(path) in caplog.text
    assert best_iteration(tmp_path) == 4


def test_the_mask_metric_decides_if_there_is_no_box_metric(tmp_path):
    run_best(tmp_path, [3.0, 7.0, 5.0], name="segm/AP")
    assert best_iteration(tmp_path) == 1


def test_a_new_run_in_the_same_folder_replaces_the_best_checkpoint(tmp_path):
    run_best(tmp_path, [7.0])
    run_best(tmp_path, [None, 2.0])
    assert best_iteration(tmp_path) == 1
