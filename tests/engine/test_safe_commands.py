"""No command executes code from a weight file."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.cases import call_main, run_function
from tests.engine.cases import Payload, shapes_environment

CONFIG = "configs/shapes/quick/retinanet_atss_rs.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # The variable disables torch's default of weights_only, but not an explicit argument.
    unsafe = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    return shapes_environment(tmp_path_factory, train=4, val=2) | unsafe


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth"])
def test_no_command_executes_code_from_a_weight_file(environment, tmp_path, name):
    marker, path, output_folder = tmp_path / "mark", tmp_path / name, tmp_path / "out"
    content = {"model": {"weight": Payload(marker)}, "__author__": "x", "iteration": 1}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    (tmp_path / "resumed").mkdir()
    os.link(path, tmp_path / "resumed" / name)
    (tmp_path / "resumed" / "last_checkpoint").write_text(name)
    image = next(Path(environment["DETECTRON2_DATASETS"]).rglob("val/*.*"))
    start = ["--config-file", CONFIG]
    overrides = [
        "train.device=cpu",
        f"train.output_dir={output_folder}",
        f"train.init_checkpoint={path}",
    ]
    commands = [
        [*start, *overrides],
        [*start, "--eval-only", *overrides],
        [*start, "--preview", "1", *overrides],
        [*start, "--predict", str(image), *overrides],
        [*start, "--resume", "train.device=cpu", f"train.output_dir={tmp_path / 'resumed'}"],
    ]
    completed = run_function(call_main, commands, environment=environment)
    assert completed.value == [2] * 5, completed.stderr[-3000:]
    lines = [line for line in completed.stderr.splitlines() if "error: " in line]
    assert len(lines) == 5 and all(name in line for line in lines)
    # A run resumes only from a .pth file, so --resume does not even open a .pkl file.
    reasons = ["posix.mkdir"] * 4
    reasons += ["posix.mkdir" if name == "evil.pth" else "expected the name of a checkpoint"]
    assert all(reason in line for reason, line in zip(reasons, lines))
    assert not marker.exists()
