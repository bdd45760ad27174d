"""What a labelled data set looks like, as data: one JSON file a data set.

A schema has one or more layouts, the column styles in which the data set goes around; a file is
read by the first whose columns it has. A layout says how the label is made, which filters its
source applies, what counts as missing, and of each column its kind and its role: a ``feature`` may
be learned from, an ``attribute`` serves as sensitive attribute or in a condition, an ``outcome``
is the label or leaks it, and no classifier ever sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.conditions import Condition, parse_condition
from neuropatch.fairness.frame import Frame, listed, normal

Kind = Literal["numeric", "categorical", "text"]
Role = Literal["feature", "attribute", "outcome"]


@dataclass(frozen=True)
class ColumnSpec:
    """One column.

    Attributes:
        kind: ``numeric``, ``categorical`` or ``text``.
        role: ``feature``, ``attribute`` or ``outcome``.
        optional: Whether files may lack it.
        aliases: Other names that it goes by.
        values: Readable names of its codes; where given, the only values that it may have.
        fill: What an empty cell stands for; None drops the row if the column is a feature.
        why: Why it is no feature.
    """

    kind: Kind
    role: Role = "feature"
    optional: bool = False
    aliases: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    fill: str | None = None
    why: str = ""


@dataclass(frozen=True)
class LabelRule:
    """How the label is made.

    Attributes:
        column: The column that it is read from.
        positive: Where it is 1; None for a data set with several classes, where the user says.
        negative: Where it is 0; None for everywhere else.
    """

    column: str
    positive: Condition | None
    negative: Condition | None = None


@dataclass(frozen=True)
class Layout:
    """One column style of a data set.

    Attributes:
        name: Its name.
        label: How the label is made.
        columns: The columns, by the names that features have in models.
        sensitive: Sensitive attributes, the usual one first: a column, or a condition.
        filters: Rows are kept where all hold; one on a column that a file lacks does not apply.
        missing: Cells that hold nothing.
    """

    name: str
    label: LabelRule
    columns: Mapping[str, ColumnSpec]
    sensitive: tuple[str, ...] = ()
    filters: tuple[Condition, ...] = ()
    missing: tuple[str, ...] = ("",)

    def match(self, frame: Frame) -> dict[str, str]:
        """The frame's columns that this layout knows: ``{name there: name here}``."""
        known = {normal(name): name for name in reversed(frame.columns)}
        found: dict[str, str] = {}
        for name, spec in self.columns.items():
            candidates = (known.get(normal(one)) for one in (name, *spec.aliases))
            there = next((one for one in candidates if one is not None and one not in found), None)
            if there is not None:
                found[there] = name
        return found

    def absent(self, frame: Frame) -> list[str]:
        """Required columns that the frame lacks."""
        found = set(self.match(frame).values())
        return [
            name for name, spec in self.columns.items() if not spec.optional and name not in found
        ]


@dataclass(frozen=True)
class Schema:
    """A data set that neuropatch knows."""

    name: str
    title: str
    source: str
    layouts: tuple[Layout, ...]

    def layout_of(self, frame: Frame) -> Layout:
        """The layout that a file is in.

        Raises:
            DataError: If a required column is missing; the message is about the layout that comes
                closest.
        """
        absent = [(layout.absent(frame), layout) for layout in self.layouts]
        missing, layout = min(absent, key=lambda one: len(one[0]))
        if missing:
            column = missing[0]
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            aliases = layout.columns[column].aliases
            also = f" (also called {listed(aliases)})" if aliases else ""
            raise DataError(
                f"{frame.sources[0]} has no column {column!r}{also}{others}, which schema "
                f"{self.name} needs",
                hint=f"the schema is for {self.title}; other files are read without --schema, "
                "with --label and --sensitive",
            )
        return layout


def parse_schema(document: Mapping[str, Any]) -> Schema:
    """Build a schema from its JSON document.

    Raises:
        KeyError, TypeError: If a required field is missing or an unknown one is present.
        UsageError: If a condition cannot be read.
    """
    layouts = tuple(_layout(layout, document["name"]) for layout in document["layouts"])
    return Schema(document["name"], document["title"], document["source"], layouts)


def schema_names() -> list[str]:
    """Names of the bundled schemas."""
    return sorted(entry.name.removesuffix(".json") for entry in _entries())


@cache
def load_schema(name: str) -> Schema:
    """A bundled schema.

    Raises:
        UsageError: If there is none of that name.
    """
    for entry in _entries():
        if entry.name == f"{name}.json":
            return parse_schema(json.loads(entry.read_text(encoding="utf-8")))
    raise UsageError(
        f"there is no schema {name!r}",
        hint=f"there are {', '.join(schema_names())}; any other file is read with --label and "
        "--sensitive instead",
    )


def _entries() -> Iterator[Any]:
    return (files("neuropatch.fairness") / "_data" / "schemas").iterdir()


def _layout(document: Mapping[str, Any], schema: str) -> Layout:
    fields = dict(document)
    return Layout(
        label=_label(fields.pop("label"), schema),
        columns={name: _column(column) for name, column in fields.pop("columns").items()},
        sensitive=tuple(fields.pop("sensitive")),
        filters=tuple(parse_condition(text, f"schema {schema}:") for text in fields.pop("filters")),
        missing=tuple(fields.pop("missing")),
        **fields,
    )


def _label(document: Mapping[str, str], schema: str) -> LabelRule:
    if "column" in document:
        return LabelRule(document["column"], None)
    positive = parse_condition(document["positive"], f"schema {schema}:")
    negative = document.get("negative")
    return LabelRule(
        positive.column,
        positive,
        None if negative is None else parse_condition(negative, f"schema {schema}:"),
    )


def _column(document: Mapping[str, Any]) -> ColumnSpec:
    fields = dict(document)
    aliases = tuple(fields.pop("aliases", ()))
    return ColumnSpec(aliases=aliases, **fields)
