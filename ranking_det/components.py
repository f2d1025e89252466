"""Build components from config nodes; check their keys and types against the constructors.

The constructor of a component is the only place that defines its arguments, types and defaults.
Configs are checked against it.
"""

from __future__ import annotations

import inspect
import pydoc
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ranking_det.user_errors import UserError, nearest


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return the keyword arguments that ``target`` takes.

    Args:
        target: a class or function.

    Returns:
        The parameters by name; None if ``target`` takes any keyword or has no signature.
    """
    constructor = getattr(target, "__init__", None) if inspect.isclass(target) else None
    if getattr(constructor, "__module__", None) == "torch.nn.modules.module":
        # nn.Module's own constructor declares *args and **kwargs, but refuses all of them.
        return {}
    arguments: dict[str, inspect.Parameter] = {}
    for callee in _callees(target):
        try:
            signature = inspect.signature(callee).parameters.values()
        except (TypeError, ValueError):
            return None
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        arguments = {p.name: p for p in signature if p.kind not in variable} | arguments
        if all(p.kind is not p.VAR_KEYWORD for p in signature):
            return arguments
    return None


def _callees(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the target, and the bases to which a class of this package may pass arguments on."""
    if not inspect.isclass(target) or not target.__module__.startswith(f"{__package__}."):
        return [target]
    return [target, *(base for base in target.__mro__[1:] if "__init__" in vars(base))]


def check_key(target: Callable[..., Any], key: str, node_name: str) -> None:
    """Raise UserError unless ``target`` takes a keyword argument ``key``.

    Args:
        target: a class or function.
        key: the argument's name.
        node_name: the node's name in messages, such as ``model.assigner``.

    Raises:
        UserError: ``target`` has no such argument; the message suggests the nearest name.
    """
    accepted = parameters(target)
    if accepted is not None and key not in accepted:
        raise UserError(
            f"{node_name}: {_name(target)} has no argument {key!r}{nearest(key, accepted)}"
        )


def check_value(target: Callable[..., Any], key: str, value: Any, node_name: str) -> None:
    """Raise UserError unless ``value`` has the type that ``target`` declares for ``key``.

    An int is accepted for a float. An annotation that is a module or tensor rejects only plain
    values.

    Args:
        target: a class or function.
        key: the argument's name.
        value: the argument's value.
        node_name: the node's name in messages, such as ``model.assigner``.

    Raises:
        UserError: the value has another type.
    """
    functions = (c.__init__ if inspect.isclass(c) else c for c in _callees(target))
    try:
        hint = next((h[key] for h in map(typing.get_type_hints, functions) if key in h), None)
    except (NameError, TypeError, AttributeError):
        return
    if hint is not None and not _fits(value, hint):
        expected = f"{_describe(hint)} for {_name(target)}"
        raise UserError(f"{node_name}.{key}: expected {expected}, got {value!r}")


def build_component(
    node: Mapping[str, Any], namespace: ModuleType, node_name: str, **defaults: Any
) -> Any:
    """Build a component from a yaml node such as ``{NAME: ATSS, TOPK: 9}``.

    Args:
        node: NAME and the constructor's arguments in capitals. An argument that is itself a node
            with a NAME, or a list of such nodes, is built first, from the same namespace.
        namespace: the package or module that lists the constructors in ``__all__``. A NAME with a
            dot is imported instead, so custom components need no registration.
        node_name: the node's name in messages.
        defaults: default arguments; the arguments of the node override them.

    Returns:
        The constructed object.

    Raises:
        UserError: a name is unknown, an argument is unknown or missing, or a type or value is
            wrong.
    """
    if "NAME" not in node:
        suggestion = nearest("", component_names(namespace))
        raise UserError(f"{node_name}.NAME: expected a component's name, got none{suggestion}")
    target = _resolve(str(node["NAME"]), namespace, node_name)
    arguments = dict(defaults)
    for upper, value in node.items():
        if upper == "NAME":
            continue
        key = upper.lower()
        check_key(target, key, node_name)
        arguments[key] = _build_value(target, key, value, namespace, f"{node_name}.{upper}")
    try:
        return target(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{node_name}: {error}") from error


def component_names(namespace: ModuleType) -> list[str]:
    """List the components of a package: its classes that have a ``forward`` method.

    Args:
        namespace: a package or module with ``__all__``.

    Returns:
        The names, in the order of ``__all__``.
    """
    members = {name: getattr(namespace, name) for name in namespace.__all__}
    return [name for name, c in members.items() if inspect.isclass(c) and hasattr(c, "forward")]


def _build_value(
    target: Callable[..., Any], key: str, value: Any, namespace: ModuleType, node_name: str
) -> Any:
    """Build one argument of a node: a plain value, a node, or a list of nodes."""
    if isinstance(value, Mapping):
        return build_component(value, namespace, node_name)
    if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        return [
            build_component(entry, namespace, f"{node_name}[{i}]") for i, entry in enumerate(value)
        ]
    check_value(target, key, value, node_name.rpartition(".")[0])
    return value


def _resolve(name: str, namespace: ModuleType, node_name: str) -> Callable[..., Any]:
    if "." in name:
        constructor = pydoc.locate(name)
        if not callable(constructor):
            raise UserError(
                f"{node_name}.NAME: expected a class that can be imported, got {name!r}"
            )
        return constructor
    valid_names = component_names(namespace)
    if name not in valid_names:
        expected = f"a component of {namespace.__name__}"
        raise UserError(
            f"{node_name}.NAME: expected {expected}, got {name!r}{nearest(name, valid_names)}"
        )
    component: Callable[..., Any] = getattr(namespace, name)
    return component


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", repr(target))


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value fits an annotation; other values always fit."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return not isinstance(value, (str, int, float, Mapping))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str, types.NoneType):
        return isinstance(value, hint)
    # The annotation is a class such as a module or tensor, which a plain value cannot be.
    return not isinstance(value, (bool, int, float, str)) or not isinstance(hint, type)
