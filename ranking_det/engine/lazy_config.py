"""Load LazyConfigs; check their keys, values and overrides.

Detectron2 silently accepts a misspelled override: it adds a key that nothing reads.
"""

from __future__ import annotations

import inspect
import pydoc
import traceback
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from detectron2.config import LazyConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from ranking_det.components import check_key, check_value, parameters
from ranking_det.engine.run_checks import check_freeze_at, check_size
from ranking_det.engine.safe_config import load_saved_config
from ranking_det.path_checks import check_file
from ranking_det.user_errors import UserError, nearest, show

REQUIRED = {
    "model": "",
    "dataloader": "train test evaluator",
    "optimizer": "lr",
    "lr_multiplier": "",
    "train": "output_dir init_checkpoint device max_iter eval_period log_period "
    "checkpointer.period",
}
"""The nodes that a LazyConfig must define, and the required keys of each."""

REAL = ("train.epochs", "optimizer.lr")
"""Keys that take a float even if the config has an integer, such as 12 epochs."""

SET_BY_RUN = ("optimizer.params.model", "dataloader.train.start_iter")
"""Keys that every run sets itself, so that an override would have no effect."""


def load_lazy_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> DictConfig:
    """Load a LazyConfig, apply ``key=value`` overrides and check both.

    Args:
        path: a .py file, which is executed, that defines ``model``, ``dataloader``, ``optimizer``,
            ``lr_multiplier`` and ``train``; or the yaml file that a run of a LazyConfig has saved.
        overrides: as Detectron2's ``LazyConfig.apply_overrides`` takes them. The user types them,
            so they may name any callable.
        trust: whether a yaml file may also name any callable.

    Returns:
        The config.

    Raises:
        UserError: the file is missing or faulty, a key is unknown, a value has a wrong type, or a
            yaml file names a callable that is not on the list of
            :mod:`ranking_det.engine.safe_config`.
    """
    check_file(path, "--config-file")
    load = LazyConfig.load if path.endswith(".py") or trust else load_saved_config
    try:
        cfg = load(path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program and can raise anything
        raise UserError(f"{path}: {_describe(error)}") from error
    absent = [name for name in REQUIRED if name not in cfg]
    if absent:
        raise UserError(_undefined(path, absent))
    apply_overrides(cfg, overrides)
    required = [f"{name}.{key}" for name, keys in REQUIRED.items() for key in keys.split()]
    absent = [key for key in required if _select(cfg, key) is None]
    if absent:
        raise UserError(_undefined(path, absent))
    return cfg


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply ``key=value`` overrides to a config in place, check it, and resolve its targets.

    Args:
        cfg: the config.
        overrides: as Detectron2's ``LazyConfig.apply_overrides`` takes them.

    Raises:
        UserError: a key is unknown, or a value has a wrong type.
    """
    for override in overrides:
        _apply(cfg, override)
    _check_nodes(cfg, "")


def _describe(error: BaseException) -> str:
    """Return the type, the message and the place of an error of a config."""
    cause = error.__cause__
    if isinstance(cause, SyntaxError):  # Detectron2's own message has no line
        return f"{error} ({cause.msg}, line {cause.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    config_frames = [frame for frame in frames if frame.filename != inspect.getfile(LazyConfig)]
    place, text = config_frames[-1], " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text.removesuffix(':')} ({place.filename}:{place.lineno})"


def _undefined(path: str, keys: Sequence[str]) -> str:
    return f"{path}: expected definitions of {', '.join(keys)}, got none (for examples: configs/)"


def _apply(cfg: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"overrides: expected key=value, got {override!r}")
    _check_override_key(cfg, key)
    if key in SET_BY_RUN:
        raise UserError(f"{key}: expected no override, because the run sets it, got {value!r}")
    before = _select(cfg, key)
    has_numbers = _has_numbers(before)  # a list is changed in place
    try:
        LazyConfig.apply_overrides(cfg, [override])
    except (HydraException, ValidationError) as error:
        raise UserError(
            f"{key}: expected a number or a word, a list as [a,b], or a quoted string as "
            f"'{key}=\"text\"', got {value!r}"
        ) from error
    except (OmegaConfBaseException, NotImplementedError) as error:
        raise UserError(f"{override!r}: {str(error).splitlines()[0]}") from error
    parent, _, name = key.rpartition(".")
    node = _select(cfg, parent) if parent else cfg
    after = _select(cfg, key)
    _check_type(key, before, after, node)
    if has_numbers and not _has_numbers(after):
        raise UserError(f"{key}: expected numbers, got {after!r}")
    if name == "_target_":
        _drop_arguments(node)


def _drop_arguments(node: DictConfig) -> None:
    """Remove the arguments of the previous target that the new target does not take."""
    target = target_of(node)
    accepted = None if target is None else parameters(target)
    for key in list(node) if accepted is not None else ():
        if key != "_target_" and key not in accepted:
            del node[key]


def _select(cfg: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error


def _check_override_key(cfg: DictConfig, key: str) -> None:
    """Check that a key is in the config, or in the signature of its node's ``_target_``."""
    node: Any = cfg
    where = ""
    for part in key.split("."):
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"{where}: expected an index from 0 to {len(node) - 1}, got {part!r}"
                )
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part not in node:
                _check_new_key(node, part, where)
                return
            node = node[part]
        else:
            raise UserError(f"{where}: expected a node with a key {part!r}, got {node!r}")
        where = f"{where}.{part}" if where else part


def _check_new_key(node: DictConfig, key: str, where: str) -> None:
    target = target_of(node)
    accepted = {} if target is None else parameters(target)
    if accepted is None or key in accepted:
        return
    known = {*map(str, node), *accepted} - {"_target_"}
    raise UserError(f"{where or 'config'}: no key {key!r}{nearest(key, known)}")


def _check_type(key: str, before: Any, after: Any, parent: Any) -> None:
    """Check that an override keeps the type of a value; an int may replace a float."""
    name = key.rpartition(".")[2]
    if after is None and _may_be_none(parent, name):
        return
    if before is None and isinstance(_default(parent, name), bool):
        before = _default(parent, name)
    if isinstance(before, (DictConfig, ListConfig)):
        if not isinstance(after, type(before)):
            kind = "a list" if isinstance(before, ListConfig) else "a config node"
            raise UserError(f"{key}: expected {kind}, got {after!r}")
    elif isinstance(before, (bool, int, float, str)):
        is_real = isinstance(before, float) or key in REAL
        if type(after) is not type(before) and not (is_real and type(after) in (int, float)):
            raise UserError(f"{key}: expected {type(before).__name__}, got {after!r}")


def _has_numbers(node: Any) -> bool:
    """Return whether a list is not empty and has only numbers."""
    values = list(node) if isinstance(node, ListConfig) else []
    return bool(values) and all(type(value) in (int, float) for value in values)


def _default(node: Any, name: str) -> Any:
    """Return the default of an argument of a node's target; None without one."""
    target = target_of(node) if isinstance(node, DictConfig) else None
    argument = None if target is None else (parameters(target) or {}).get(name)
    return None if argument is None else argument.default


def _may_be_none(node: Any, name: str) -> bool:
    """Return whether a node's target allows None for an argument, as default or by annotation."""
    target = target_of(node) if isinstance(node, DictConfig) else None
    if target is None:
        return False
    argument = (parameters(target) or {}).get(name)
    if argument is not None and argument.default is None:
        return True
    try:
        callee = target.__init__ if inspect.isclass(target) else target
        hint = typing.get_type_hints(callee).get(name)
    except (NameError, TypeError, AttributeError):
        return False
    return type(None) in typing.get_args(hint)


def target_of(node: DictConfig) -> Callable[..., Any] | None:
    """Return the callable that a node names; None if it names none.

    Args:
        node: a node of the config; a saved config has the name of the callable as text.
    """
    target = node.get("_target_")
    if isinstance(target, str):
        try:
            target = pydoc.locate(target)
        except pydoc.ErrorDuringImport:
            return None
    return target if callable(target) else None


def _resolve_target(node: DictConfig, node_name: str) -> None:
    """Replace the name of a node's target by the callable.

    The name stays if OmegaConf would copy the callable, as it does with dataclasses, or cannot hold
    it, such as ``dict``. LazyCall writes the names of dataclasses, too.

    Raises:
        UserError: the target is neither a callable nor a node that builds one.
    """
    name, target = node["_target_"], target_of(node)
    if target is None and not isinstance(name, DictConfig):
        expected = "a function or class that can be imported"
        raise UserError(f"{node_name}._target_: expected {expected}, got {show(name)}")
    if isinstance(name, str):
        with suppress(ValidationError):
            node["_target_"] = target
        if node["_target_"] is not target:
            node["_target_"] = name


def _check_nodes(node: DictConfig | ListConfig, where: str) -> None:
    """Resolve each node's target; check its keys, and the values of this project's targets."""
    if isinstance(node, DictConfig) and "_target_" in node:
        _resolve_target(node, where)
    target = target_of(node) if isinstance(node, DictConfig) else None
    is_ours = getattr(target, "__module__", "").startswith("ranking_det.")
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if key == "_target_" or OmegaConf.is_missing(node, key):
            continue
        if target is not None:
            check_key(target, key, where)
        child = f"{where}.{key}" if where else str(key)
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            raise UserError(f"{child}: {str(error).splitlines()[0]}") from error
        check_size(child, value)
        if key == "freeze_at" and getattr(target, "__module__", "").startswith("detectron2."):
            check_freeze_at(child, value)
        if is_ours and target is not None and not isinstance(value, DictConfig):
            check_value(target, key, value, where)
        if isinstance(value, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(
            node, key
        ):
            _check_nodes(value, child)
