"""LazyConfigs: loading them, and checking their keys, their values and the overrides.

Detectron2 accepts a mistyped override silently: it adds a key that nobody reads.
"""

from __future__ import annotations

import inspect
import pydoc
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import LazyConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ranking_det.components import check_key, check_value, parameters
from ranking_det.engine.run_checks import check_file
from ranking_det.engine.safe_config import load_saved_config
from ranking_det.user_errors import UserError, nearest

REQUIRED = {
    "model": "",
    "dataloader": "train test evaluator",
    "optimizer": "lr",
    "lr_multiplier": "",
    "train": "output_dir init_checkpoint device max_iter eval_period log_period "
    "checkpointer.period",
}
"""What a LazyConfig must define, and the keys in it."""


def load_lazy_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> DictConfig:
    """Load a LazyConfig, apply ``key=value`` overrides and check both.

    Args:
        path: a .py file that defines ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier``
            and ``train``, which is a program; or the yaml file that a run has left of one.
        overrides: as Detectron2's ``LazyConfig.apply_overrides`` takes them. They are the user's
            own, and may name anything.
        trust: whether a yaml file, too, may call whatever it names.

    Returns:
        The config.

    Raises:
        UserError: the file is missing or faulty, a key is unknown, or a value has a wrong type;
            or a yaml file names what is not on the list of
            :mod:`ranking_det.engine.safe_config`.
    """
    check_file(path, "the config file")
    load = LazyConfig.load if path.endswith(".py") or trust else load_saved_config
    try:
        cfg = load(path)
    except UserError:
        raise
    except Exception as error:  # a config is a program; anything can go wrong in it
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{path}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        ) from error
    absent = [name for name in REQUIRED if name not in cfg]
    if absent:
        raise UserError(f"{path}: must define {', '.join(absent)}, as configs/shapes/ do")
    for override in overrides:
        _apply(cfg, override)
    _check_nodes(cfg, "")
    required = [f"{name}.{key}" for name, keys in REQUIRED.items() for key in keys.split()]
    absent = [key for key in required if _select(cfg, key) is None]
    if absent:
        raise UserError(f"{path}: must define {', '.join(absent)}, as configs/common/ do")
    for key in ("train.max_iter", "train.log_period", "train.checkpointer.period"):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key} must be an integer of at least 1, got {value!r}")
    return cfg


def _apply(cfg: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not an override of the form key=value")
    _check_override_key(cfg, key)
    before = _select(cfg, key)
    try:
        LazyConfig.apply_overrides(cfg, [override])
    except (HydraException, OmegaConfBaseException, NotImplementedError) as error:
        raise UserError(f"{override!r}: {str(error).splitlines()[0]}") from error
    parent, _, name = key.rpartition(".")
    node = _select(cfg, parent) if parent else cfg
    _check_type(key, before, _select(cfg, key), node)
    if name == "_target_":
        _drop_arguments(node)


def _drop_arguments(node: DictConfig) -> None:
    """Leave out those of what the node called before that the new target does not take."""
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
    """A key is valid if it is in the config, or in the signature of its node's ``_target_``."""
    node: Any = cfg
    where = ""
    for part in key.split("."):
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"{where}: has entries 0 to {len(node) - 1}, got {part!r}")
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part not in node:
                _check_new_key(node, part, where)
                return
            node = node[part]
        else:
            raise UserError(f"{where} is {node!r} and has no key {part!r}")
        where = f"{where}.{part}" if where else part


def _check_new_key(node: DictConfig, key: str, where: str) -> None:
    target = target_of(node)
    accepted = {} if target is None else parameters(target)
    if accepted is None or key in accepted:
        return
    known = {*map(str, node), *accepted} - {"_target_"}
    raise UserError(f"no key {key!r} in {where or 'the config'}{nearest(key, known)}")


def _check_type(key: str, before: Any, after: Any, parent: Any) -> None:
    """A plain value is replaced by one of its type; an int may stand for a float."""
    if after is None and _may_be_none(parent, key.rpartition(".")[2]):
        return
    if isinstance(before, (DictConfig, ListConfig)):
        if not isinstance(after, type(before)):
            raise UserError(f"{key} is a node of the config and cannot become {after!r}")
    elif isinstance(before, (bool, int, float, str)):
        wider = isinstance(before, float) and type(after) is int
        if type(after) is not type(before) and not wider:
            raise UserError(f"{key} must be {type(before).__name__}, got {after!r}")


def _may_be_none(node: Any, name: str) -> bool:
    """Whether what the node calls has None as an argument's default, or in its annotation."""
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
    """What a node calls; a config that was saved has its name."""
    target = node.get("_target_")
    if isinstance(target, str):
        target = pydoc.locate(target)
    return target if callable(target) else None


def _check_nodes(node: DictConfig | ListConfig, where: str) -> None:
    """Check the keys of every node against its target, and the values of this project's own."""
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
        if is_ours and target is not None and not isinstance(value, DictConfig):
            check_value(target, key, value, where)
        if isinstance(value, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(
            node, key
        ):
            _check_nodes(value, child)
