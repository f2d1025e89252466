"""Untrusted weight files: all formats load, and no code in them is executed."""

import http.server
import io
import pickle
import re
import struct
import subprocess
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from ranking_det.engine.checkpoint import RunCheckpointer, load_weights, read_checkpoint
from ranking_det.engine.safe_unpickling import read_arrays, read_weights
from ranking_det.user_errors import UserError
from tests.engine.cases import Payload

PACKAGE = Path(__file__).parents[2] / "ranking_det"
ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "single": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.int64)[::3],
    "big": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "point": np.array(3.5),
}


class Python2Pickler(pickle._Pickler):
    """A pickler that writes bytes as Python 2 strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes


def as_python2(content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


WRITERS = {f"protocol {p}": partial(pickle.dumps, protocol=p) for p in range(5)}
WRITERS["Python 2"] = as_python2


@pytest.fixture
def marker(tmp_path):
    """The folder that a payload would create; it must not exist afterwards."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_arrays_equal_the_arrays_of_the_unrestricted_unpickler(tmp_path, writer):
    path = tmp_path / "arrays.pkl"
    content = {
        "model": OrderedDict(ARRAYS),
        "scalar": np.float32(0.25),
        "plain": [1, 2.5, "é", None, True, (1, 2)],
    }
    path.write_bytes(WRITERS[writer](content))
    expected = pickle.loads(path.read_bytes(), encoding="latin1")
    arrays = read_arrays(str(path))
    assert type(arrays["model"]) is OrderedDict and list(arrays["model"]) == list(ARRAYS)
    for name, array in expected["model"].items():
        assert arrays["model"][name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(arrays["model"][name], array)
        assert arrays["model"][name].flags.writeable
    assert arrays["scalar"] == 0.25 and isinstance(arrays["scalar"], np.float32)
    assert arrays["plain"] == expected["plain"]


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def check_loads(path, trained):
    model = nn.Sequential(nn.Linear(3, 2))
    load_weights(model, str(path), strict=True)
    assert torch.equal(model[0].weight, trained[0].weight)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_converted_from_torchvision_loads(tmp_path, writer):
    trained = nn.Sequential(nn.Linear(3, 2))
    content = {
        "model": {f"backbone.{name}": value for name, value in weights_of(trained).items()},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    path = tmp_path / "R-50.pkl"
    path.write_bytes(WRITERS[writer](content))
    wrapped = nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(3, 2))})
    load_weights(wrapped, str(path), strict=True)
    assert torch.equal(wrapped["backbone"][0].weight, trained[0].weight)


def test_older_formats_are_read_as_detectron2_reads_them(tmp_path):
    arrays = {"conv1_w": np.ones(2), "conv1_w_momentum": np.zeros(2)}
    for name, content in (("detector", {"blobs": arrays}), ("classifier", arrays)):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
        weights = read_weights(str(tmp_path / f"{name}.pkl"))
        assert list(weights["model"]) == ["conv1_w"] and weights["__author__"] == "Caffe2"
        assert weights["matching_heuristics"] is True
    state = {"stem.w": torch.ones(1), "stem.num_batches_tracked": torch.ones(1)}
    torch.save({"model_state": state}, tmp_path / "pycls.pyth")
    weights = read_weights(str(tmp_path / "pycls.pyth"))
    assert list(weights["model"]) == ["stem.w"] and weights["matching_heuristics"] is True
    torch.save(state, tmp_path / "plain.pth")
    assert list(read_weights(str(tmp_path / "plain.pth"))) == ["model"]


@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pyth", "w.bin", "w"])
@pytest.mark.parametrize("environment", ["", "1"])
def test_a_payload_gives_a_one_line_error_that_names_it(
    tmp_path, marker, monkeypatch, name, environment
):
    # The variable disables torch's default of weights_only, but not an explicit argument.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    path = tmp_path / name
    content = {"model": {"weight": Payload(marker)}, "__author__": "x", "model_state": {}}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    for load in (
        lambda: load_weights(nn.Linear(3, 2), str(path), strict=False),
        lambda: RunCheckpointer(nn.Linear(3, 2), extras={}).load(str(path)),
    ):
        with pytest.raises(Exception, match=r"\b(posix|nt)\.mkdir") as caught:
            load()
        assert not marker.exists() and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=re.escape(repr(str(path)))):
        load_weights(nn.Linear(3, 2), str(path), strict=False)


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
def test_a_pickle_or_a_torchscript_program_named_pth_is_rejected(tmp_path, marker):
    for protocol in (0, 2, 4):
        path = tmp_path / f"{protocol}.pth"
        path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    torch.jit.script(nn.Linear(3, 2)).save(tmp_path / "script.pth")
    for path in tmp_path.glob("*.pth"):
        with pytest.raises(UserError, match="cannot be read as a checkpoint") as caught:
            load_weights(nn.Linear(3, 2), str(path), strict=False)
        assert "\n" not in str(caught.value)
        # Torch's own message suggests loading the file without the restriction.
        assert "weights_only" not in str(caught.value) and "Re-running" not in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "cut", "changed"])
def test_the_error_of_a_damaged_file_is_one_short_line(damage, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(3)}, path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "text": b"hello world",
            "cut": whole[: len(whole) // 2],
            # The number of the disk: Python's zipfile refuses an archive on several.
            "changed": whole.replace(b"PK\x06\x07\0", b"PK\x06\x07\1"),
        }[damage]
    )
    expected = "the file is damaged|expected a torch file with .*, got a different or damaged file"
    for read in (read_checkpoint, lambda path: load_weights(nn.Linear(3, 2), path, strict=False)):
        with pytest.raises(UserError, match=expected) as caught:
            read(str(path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("name", ["w.pkl", "w.pth"])
def test_the_error_names_a_module_as_python_3_does(tmp_path, name):
    content = {"model": {"w": subprocess.Popen}}
    if name == "w.pth":
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"got subprocess\.Popen, which may run code"):
        load_weights(nn.Linear(3, 2), str(tmp_path / name), strict=False)


def test_an_array_that_another_function_builds_is_rejected(tmp_path):
    path = tmp_path / "5.pkl"
    path.write_bytes(pickle.dumps({"weight": np.ones(2)}, protocol=5))
    with pytest.raises(UserError, match=r"got numpy\._?core\.numeric\._frombuffer"):
        load_weights(nn.Linear(3, 2), str(path), strict=False)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02e.", b"\x80\x02J\x01", b"\x80\x04\x95" + b"\xff" * 8, b"\x80\x02h\x05."],
)
@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pyth"])
def test_a_damaged_file_gives_a_one_line_error_for_any_exception(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a checkpoint") as caught:
        load_weights(nn.Linear(3, 2), str(tmp_path / name), strict=False)
    assert "\n" not in str(caught.value)


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(eval, "1"), "builtins.eval"),
        (Call(np.load, "x.npy", None, True), "numpy.load"),
        (np.array([{}], dtype=object), "an array of 'O"),
        (np.zeros(1, "f4,i8"), "an array of 'V"),
        (np.zeros(1, "M8[s]"), "an array of 'M8"),
        (Call(__import__("_codecs").encode, "a", "rot13"), "_codecs.encode with 'rot13'"),
        (nn.Linear(1, 1), "torch"),
        ({1, 2}, "expected a dict, got set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_arrays_of_numbers_and_plain_values_are_accepted(tmp_path, content, message):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(UserError, match=message):
        load_weights(nn.Linear(3, 2), str(path), strict=False)


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address of a server for the files in ``tmp_path``."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_downloads_from_the_model_zoo_are_read_safely(tmp_path, marker, address, monkeypatch):
    monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", address)
    trained = nn.Sequential(nn.Linear(3, 2))
    content = {"model": weights_of(trained), "__author__": "x"}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(content, protocol=4))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(marker)))
    for prefix in ("detectron2://", address):
        check_loads(f"{prefix}good.pkl", trained)
        with pytest.raises(UserError, match="mkdir"):
            load_weights(nn.Linear(3, 2), f"{prefix}evil.pkl", strict=False)


def test_parameter_names_are_matched_by_their_ends_if_the_path_requests_it(tmp_path, address):
    trained = nn.Sequential(nn.Linear(3, 2))
    state = trained[0].state_dict()
    torch.save(state, tmp_path / "ends.pth")
    (tmp_path / "ends.pkl").write_bytes(
        pickle.dumps({"model": weights_of(trained[0]), "__author__": "x"}, protocol=4)
    )
    for folder in (f"{tmp_path}/", address):
        for name in ("ends.pth", "ends.pkl"):
            with pytest.raises(UserError, match="of another model"):
                load_weights(nn.Sequential(nn.Linear(3, 2)), f"{folder}{name}", strict=False)
            check_loads(f"{folder}{name}?matching_heuristics=True", trained)


def test_only_one_module_reads_weight_files():
    readers = re.compile(r"\bDetectionCheckpointer\(|\btorch\.load\(|\bpickle\.load|\bUnpickler\b")
    modules = {
        path.name for path in PACKAGE.rglob("*.py") if readers.search(path.read_text("utf-8"))
    }
    # The second one reads a file of an installed package, by torch's restricted unpickler.
    assert modules == {"safe_unpickling.py", "efficientnet_lite.py"}


@pytest.mark.parametrize("position", [5, 40, 90])
def test_a_damaged_pickle_is_called_damaged_in_plain_words(position, tmp_path):
    content = pickle.dumps({"weight": np.ones(3), "bias": np.ones(3)}, protocol=2)
    path = tmp_path / "w.pkl"
    path.write_bytes(content[:position] + b"h\xf0" + content[position + 2 :])  # an unknown memo
    with pytest.raises(UserError, match="weights, got a different or damaged file") as caught:
        read_checkpoint(str(path))
    assert "emo" not in str(caught.value)
