"""A method's parameters: what they are, and their values from what the user wrote."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from neuropatch.errors import UsageError
from neuropatch.methods._base import Method

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WHAT = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: Its name.
        kind: What its values are, in words.
        default: Its value if the user gives none.
        meaning: What it is, from the config's docstring.
    """

    name: str
    kind: str
    default: Any
    meaning: str


def parameters_of(method: Method) -> tuple[Parameter, ...]:
    """The parameters of a method, in the order of its config."""
    hints = get_type_hints(method.config)
    meanings: dict[str, str] = {}
    for parent in reversed(method.config.__mro__):
        meanings |= _documented(parent)
    return tuple(
        Parameter(
            field.name, _words(_types(hints[field.name])), field.default, meanings[field.name]
        )
        for field in fields(method.config)
    )


def _documented(config: type) -> dict[str, str]:
    """The attributes that a class documents, by name."""
    text = inspect.cleandoc(config.__doc__ or "")
    section = re.search(r"^Attributes:\n((?:[ \t].*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {name: _unmarked(re.sub(r"\s+", " ", meaning)) for name, meaning in entries}


def _unmarked(text: str) -> str:
    """A docstring's text without its marks: ``x`` and :class:`~a.b.C` become x and C."""
    return re.sub(r":\w+:`~?(?:[^`]*\.)?([^`.]+)`", r"\1", text).replace("``", "")


def _words(types: tuple[type, ...]) -> str:
    words = [_WHAT[kind] for kind in types if kind is not NoneType]
    return " or ".join([*words, "none"] if NoneType in types else words)


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
    raise UsageError(f"{name} is '{text}'", hint=f"give {_words(types)}")
