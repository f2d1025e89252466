"""Read weight files without running code: a restricted unpickler for checkpoints.

Pickles are programs. Torch's restricted unpickler reads torch files. The .pkl files of Detectron2's
model zoo contain numpy arrays; an unpickler that accepts only arrays and plain values reads them.

The checksums (CRC-32) that ``torch.save`` writes to its zip archives are verified, which
``torch.load`` does not do. Files of torch before 1.6, .pkl files, and files written with
``torch.serialization.set_crc32_options(False)`` have no checksums.
"""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

KINDS = "biufcSU"
"""The allowed values of ``numpy.dtype.kind``: numbers and text, not objects or structures."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Raised by zipfile for a damaged archive."""


def read_weights(path: str) -> dict[str, Any]:
    """Read a checkpoint into the format of Detectron2's checkpointer, of any version.

    Args:
        path: a local file. ``.pkl`` is a file of the Detectron2 or Detectron1 model zoo, ``.pyth``
            a pycls file, any other suffix a torch file.

    Returns:
        ``model`` with the weights, and the other entries of the checkpoint. With
        ``matching_heuristics`` Detectron2 matches parameter names by their ends.

    Raises:
        pickle.UnpicklingError: the file contains objects other than data; the message names one.
        ValueError: the content is not a dict, or the file has changed since it was written.
    """
    suffix = Path(path).suffix
    content = read_arrays(path) if suffix == ".pkl" else read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a dict, got {type(content).__name__}")
    if suffix == ".pyth":
        weights = content["model_state"].items()
        model = {key: value for key, value in weights if not key.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    if suffix != ".pkl":
        return content if "model" in content else {"model": content}
    if "model" in content and "__author__" in content:
        return content
    # Detectron1: detectors have "blobs", ImageNet models do not.
    weights = content.get("blobs", content).items()
    model = {key: value for key, value in weights if not key.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def read_torch(path: str) -> Any:
    """Read a torch file on the CPU; tensors are loaded when they are used, if the format permits.

    Args:
        path: a local file, which must not change as long as its tensors are used.

    Raises:
        pickle.UnpicklingError: the file contains objects other than tensors and plain values, or is
            damaged.
        ValueError: the file has changed since it was written.
        OSError: the file cannot be read.
    """
    mapped = _verify_checksums(path)
    try:
        # weights_only is explicit, because an environment variable can change its default.
        return torch.load(path, "cpu", mmap=mapped, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file can cause any error
        # Torch's messages are long, and some suggest loading the file without the restriction.
        text = str(error)
        name = re.search(r"GLOBAL (\S+)", text)
        if name:
            raise _refusal(name[1]) from None
        expected = "expected a torch file with only tensors and plain values"
        if "weights_only" in text:
            raise pickle.UnpicklingError(expected) from None
        reason = re.match(r"PytorchStreamReader [^.]*(?=\. |$)", text)
        damage = f" ({reason[0]})" if reason else ""
        message = f"{expected}, got a different or damaged file{damage}"
        raise pickle.UnpicklingError(message) from None


def _verify_checksums(path: str) -> bool:
    """Verify the CRC-32 of all records of a zip archive.

    This takes about 0.2 s for 300 MB, half the time of ``torch.load``.

    Returns whether the tensors can be mapped into memory. Those of compressed records cannot: torch
    would not decompress them. Neither can those of a file that is not a zip archive.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            # Without checksums, torch writes zeros.
            changed = archive.testzip() if any(record.CRC for record in records) else None
    except (*_DAMAGED, OSError, ValueError) as error:
        raise ValueError(f"the file is damaged: {error}") from error
    if changed is not None:
        raise ValueError(f"the file is damaged: the checksum of {changed!r} is wrong")
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


def read_arrays(path: str) -> Any:
    """Read a pickle of dicts, lists, plain values and numpy arrays.

    Args:
        path: a local file with pickle protocol 4 or lower, like all files of the model zoo.
            Protocol 5 builds arrays with other functions, which are refused.

    Raises:
        pickle.UnpicklingError: the file contains other objects, or is damaged.
    """
    with Path(path).open("rb") as file:
        # latin1, as in Detectron2: Python 2 wrote the bytes of arrays as text.
        try:
            return _to_arrays(_ArrayUnpickler(file, encoding="latin1").load())
        except (_RefusedError, OSError, MemoryError):
            raise
        except Exception as error:  # a damaged file can cause any error
            expected = "expected a .pkl file of weights, got a different or damaged file"
            raise pickle.UnpicklingError(expected) from error


class _RefusedError(pickle.UnpicklingError):
    """The file contains objects other than data."""


def _refusal(name: str) -> pickle.UnpicklingError:
    # Old protocols have the names of Python 2: "commands" for "subprocess".
    module, dot, last = name.rpartition(".")
    name = f"{IMPORT_MAPPING.get(module, module)}{dot}{last}"
    return _RefusedError(f"expected only weights, got {name}, which may run code")


class _DType:
    """Safe replacement of numpy.dtype, which does not validate the state in ``__setstate__``."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in KINDS:
            raise _RefusedError(f"expected arrays of numbers, got an array of {name!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Safe replacement of numpy.ndarray, which does not validate the state in ``__setstate__``."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: _DType, shape: tuple[int, ...], order: Any) -> np.ndarray:
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
    # A copy, because weights must be writable; in native byte order, because torch requires it.
    return array.astype(array.dtype.newbyteorder("="))


def _scalar(dtype: _DType, content: Any) -> Any:
    return _from_bytes(content, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as Python 3 writes them in old protocols; refuse to look up other encodings."""
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
        """Return the safe replacement of a class or function; nothing is imported.

        Args:
            module: its module.
            name: its name.

        Raises:
            pickle.UnpicklingError: there is no safe replacement.
        """
        if f"{module}.{name}" not in _KNOWN:
            raise _refusal(f"{module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def _to_arrays(value: Any) -> Any:
    """Replace the safe replacements in a value by the arrays that they contain."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return type(value)((key, _to_arrays(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_to_arrays(entry) for entry in value)
    return value
