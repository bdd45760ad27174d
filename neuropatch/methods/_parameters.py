"""A method's parameters from what the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from neuropatch.errors import UsageError
from neuropatch.methods._base import Method

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WHAT = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def parse_parameters(method: Method, given: Mapping[str, Any]) -> Any:
    """The method's config: its defaults, and what is given in their place.

    Args:
        method: The method.
        given: Values by parameter; texts are read as the parameter's type, None keeps a default.

    Raises:
        UsageError: If the method has no such parameter, or a value is out of range.
    """
    hints = get_type_hints(method.config)
    known = {field.name: _types(hints[field.name]) for field in fields(method.config)}
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            raise UsageError(
                f"{method.name} has no parameter '{name}'",
                hint=f"it has {', '.join(known)}",
            )
        values[name] = _parse(name, value, known[name]) if isinstance(value, str) else value
    return method.config(**values)


def _types(hint: Any) -> tuple[type, ...]:
    return tuple(get_args(hint)) or (hint,)


def _parse(name: str, text: str, types: tuple[type, ...]) -> Any:
    if NoneType in types and text == "none":
        return None
    for kind in (bool, int, float, str):
        if kind not in types:
            continue
        try:
            return _TRUTHS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            pass
    wanted = " or ".join(_WHAT[kind] for kind in types if kind is not NoneType)
    raise UsageError(f"{name} is '{text}'", hint=f"give {wanted}")
