"""Read files of weights without running what is in them.

Pickles are programs. Torch's own files are read by torch's restricted unpickler; the .pkl files of
Detectron2's model zoo, which hold numpy arrays, by one that knows arrays and nothing else.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

KINDS = "biufcSU"
"""What the numbers of an array may be by ``numpy.dtype.kind``: no objects, no structures."""


def read_weights(path: str) -> dict[str, Any]:
    """Read a checkpoint as Detectron2's checkpointer does, whichever version is installed.

    Args:
        path: a local file. ``.pkl`` is of Detectron2's or Detectron1's model zoo, ``.pyth`` of
            pycls, anything else torch's.

    Returns:
        ``model`` with the weights, and what else the checkpoint has. ``matching_heuristics`` asks
        Detectron2 to match names by their ends.

    Raises:
        pickle.UnpicklingError: the file holds something else than data; the message names it.
        ValueError: it holds no dict.
    """
    suffix = Path(path).suffix
    content = read_arrays(path) if suffix == ".pkl" else read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"it must hold a dict, got {type(content).__name__}")
    if suffix == ".pyth":
        weights = content["model_state"].items()
        model = {key: value for key, value in weights if not key.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    if suffix != ".pkl":
        return content if "model" in content else {"model": content}
    if "model" in content and "__author__" in content:
        return content
    # Of Detectron1: detectors have "blobs", ImageNet models have not.
    weights = content.get("blobs", content).items()
    model = {key: value for key, value in weights if not key.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def read_torch(path: str, *, mmap: bool = False) -> Any:
    """The content of a file of torch's, on the CPU.

    Args:
        path: a local file.
        mmap: leave tensors on the disk until they are used, where the format permits it.

    Raises:
        pickle.UnpicklingError: it holds something else than tensors and plain values.
    """
    try:
        # Said explicitly: an environment variable can turn the default off.
        mapped = mmap and zipfile.is_zipfile(path)
        return torch.load(path, "cpu", mmap=mapped, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if "weights_only" not in str(error):
            raise
        # Torch's message is long, and its advice is to load the file all the same.
        name = re.search(r"GLOBAL (\S+)", str(error))
        plain = "it is no file of torch's that holds tensors and plain values alone"
        raise (_refusal(name[1]) if name else pickle.UnpicklingError(plain)) from error


def read_arrays(path: str) -> Any:
    """The content of a pickle of dicts, lists, plain values and numpy arrays.

    The protocol is at most 4, as in all files of the model zoo: 5 has other functions build arrays.

    Raises:
        pickle.UnpicklingError: it holds something else.
    """
    with Path(path).open("rb") as file:
        # As Detectron2 reads it: Python 2 wrote the bytes of arrays as text.
        return _to_arrays(_ArrayUnpickler(file, encoding="latin1").load())


def _refusal(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"it holds {name}, which is no part of weights and may run code")


class _DType:
    """Stands for numpy.dtype, whose own ``__setstate__`` trusts what it is given."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in KINDS:
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, which are no numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray, whose own ``__setstate__`` trusts what it is given."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: _DType, shape: tuple[int, ...], order: Any) -> np.ndarray:
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
    # A copy, as weights are written to; in this machine's byte order, which torch asks for.
    return array.astype(array.dtype.newbyteorder("="))


def _scalar(dtype: _DType, content: Any) -> Any:
    return _from_bytes(content, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old protocols; other encodings would be looked up."""
    if encoding != "latin1":
        raise _refusal(f"_codecs.encode with {encoding!r}")
    return text.encode(encoding)


_KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _KNOWN[f"{_core}.multiarray._reconstruct"] = lambda *_: _Array()
    _KNOWN[f"{_core}.multiarray.scalar"] = _scalar


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        if f"{module}.{name}" not in _KNOWN:
            raise _refusal(f"{module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def _to_arrays(value: Any) -> Any:
    """The same with arrays in the place of what stood for them."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return type(value)((key, _to_arrays(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_to_arrays(entry) for entry in value)
    return value
