"""From data files to :class:`Examples`: by a schema, or by the flags that stand in for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuropatch.data.tables import Table, read_table
from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.conditions import Condition, parse_condition
from neuropatch.fairness.examples import Column, Examples, Integers
from neuropatch.fairness.frame import Cells, Frame, Mask, as_number, code, listed, shortened
from neuropatch.fairness.schema import ColumnSpec, LabelRule, Layout, load_schema

MOST_GROUPS = 50
MOST_CATEGORIES = 1_000
_ATTRIBUTE = ColumnSpec("categorical", "attribute")
_MISSING = ("", "?", "NA", "N/A", "nan", "NaN", "null", "None")


@dataclass(frozen=True)
class Reading:
    """How a labelled file is read.

    Attributes:
        schema: Name of a schema; None reads any file by ``label`` and ``sensitive``.
        label: Condition that makes the label 1, such as ``income=>50K``; needed without a schema,
            and for one with several classes; else it replaces the schema's.
        sensitive: The sensitive attribute: a column, or a condition such as ``age>25``; None takes
            the schema's first.
        text_column: The column of texts to classify; without a schema only. None reads a table.
        exclude: Columns that are no features.
        keep_sensitive: Whether the column of the sensitive attribute is a feature as well.
    """

    schema: str | None = None
    label: str | None = None
    sensitive: str | None = None
    text_column: str | None = None
    exclude: tuple[str, ...] = ()
    keep_sensitive: bool = False


@dataclass(frozen=True, eq=False)
class Loaded:
    """What files gave.

    Attributes:
        examples: The rows that are used.
        frame: The same rows with all columns, for conditions on them.
        rows: Number of rows of the files.
        notes: Sentences for the user: choices, rows dropped and why, filters that do not apply.
        record: Where the rows come from, in types that JSON knows.
    """

    examples: Examples
    frame: Frame
    rows: int
    notes: tuple[str, ...]
    record: dict[str, object]


def load_examples(specs: Sequence[str], reading: Reading) -> Loaded:
    """Read labelled files.

    Args:
        specs: Paths or Hub data sets, as :func:`neuropatch.data.sources.read_source` takes them,
            with the same columns; their rows follow each other.
        reading: How they are read.

    Raises:
        DataError: If a file cannot be read, a column is missing, or a cell cannot be what the
            schema says; the message names file, row and column.
        HubError: If a Hub request fails.
        UsageError: If the options do not fit each other.
    """
    return examples_of([read_table(spec) for spec in specs], reading)


def examples_of(tables: Sequence[Table], reading: Reading) -> Loaded:
    """Read tables; arguments and errors as :func:`load_examples`."""
    raw = Frame.read(tables)
    layout, notes = _layout(raw, reading)
    frame = _named(raw, layout)
    label = _label_rule(frame, layout, reading)
    sensitive, condition = _sensitive(layout, reading)
    if reading.schema is not None and reading.sensitive is None:
        notes.append(f"sensitive attribute: {sensitive} (to change it: --sensitive)")
    hidden = {frame.find(name) for name in reading.exclude} | {frame.find(label.column)}
    for name in reading.exclude:
        frame.cells(name)
    column = condition.column if condition is not None else sensitive
    frame.cells(column)
    if not reading.keep_sensitive:
        hidden.add(frame.find(column))
    features = {
        name: spec
        for name, spec in layout.columns.items()
        if name in frame.columns and spec.role == "feature" and name not in hidden
    }
    if not features:
        raise DataError(f"{frame.sources[0]} has no feature left", hint="exclude fewer columns")
    frame, dropped = _kept(frame, layout, [*features, column, label.column])
    notes.extend(dropped)
    labels = _labels(frame, label)
    groups, group_names = _groups(frame, sensitive, condition)
    positive = label.positive
    assert positive is not None
    examples = Examples(
        columns={
            name: _column(frame, name, spec)
            for name, spec in features.items()
            if spec.kind != "text"
        },
        texts=_texts(frame, features),
        labels=labels,
        groups=groups,
        group_names=group_names,
        sensitive=sensitive,
        label=str(positive),
        positive=positive.value,
    )
    record: dict[str, object] = {
        "schema": reading.schema,
        "layout": layout.name,
        "files": [{"source": table.source, "sha256": table.sha256} for table in tables],
        "rows": len(raw),
        "used": len(frame),
        "label": str(positive),
        "sensitive": sensitive,
        "groups": list(group_names),
        "features": list(features),
    }
    return Loaded(examples, frame, len(raw), tuple(notes), record)


def _layout(frame: Frame, reading: Reading) -> tuple[Layout, list[str]]:
    if reading.schema is None:
        return _generic(frame, reading), []
    if reading.text_column is not None:
        raise UsageError(
            "--text-column and --schema do not go together",
            hint="a schema knows its columns; leave one of the two out",
        )
    layout = load_schema(reading.schema).layout_of(frame)
    known = layout.match(frame)
    notes = []
    unknown = [name for name in frame.columns if name not in known]
    if unknown:
        notes.append(f"not used, as schema {reading.schema} does not know them: {listed(unknown)}")
    held_back = [
        f"{here} ({layout.columns[here].why})"
        for here in known.values()
        if layout.columns[here].role == "outcome" and here != layout.label.column
    ]
    if held_back:
        notes.append(f"no features, as they leak the label: {', '.join(held_back)}")
    return layout, notes


def _generic(frame: Frame, reading: Reading) -> Layout:
    """A layout for a file that no schema describes: kinds are read off the cells."""
    if reading.label is None or reading.sensitive is None:
        raise UsageError(
            "without --schema, --label and --sensitive are needed",
            hint="write --label income=high --sensitive sex, or name a --schema",
        )
    rule = LabelRule(parse_condition(reading.label, "--label").column, None)
    text = None
    if reading.text_column is not None:
        frame.cells(reading.text_column)
        text = frame.find(reading.text_column)
    excluded = {frame.find(one) for one in (*reading.exclude, rule.column)}
    columns = {}
    for name, cells in frame.columns.items():
        if text is not None:
            columns[name] = ColumnSpec("text") if name == text else _ATTRIBUTE
            continue
        present = {cell for cell in cells if cell not in _MISSING}
        numeric = bool(present) and all(as_number(cell) is not None for cell in present)
        columns[name] = ColumnSpec("numeric" if numeric else "categorical")
        if not numeric and name not in excluded:
            _check_categories(frame, name, present)
    return Layout("generic", rule, columns, missing=_MISSING)


def _check_categories(frame: Frame, name: str, present: set[str]) -> None:
    if len(present) > MOST_CATEGORIES:
        raise DataError(
            f"{frame.sources[0]}: {name!r} has {len(present):,} different values, such as "
            f"{shortened(min(present))}, too many for categories",
            hint=f"leave it out with --exclude {name}, or classify it with --text-column {name}",
        )


def _named(frame: Frame, layout: Layout) -> Frame:
    """The frame with the layout's names of columns and values; missing cells are empty."""
    match = layout.match(frame)
    columns, names = {}, {}
    for there, cells in frame.columns.items():
        here = match.get(there, there)
        spec = layout.columns.get(here)
        if spec is not None and spec.kind != "text":
            cells = np.array(
                ["" if cell in layout.missing else cell for cell in cells], dtype=object
            )
            if spec.kind == "categorical":
                cells = _categories(frame, there, cells, spec)
            if spec.fill is not None:
                cells = np.where(cells == "", spec.fill, cells)
            names[here] = spec.values
        columns[here] = cells
    return replace(frame, columns=columns, names=names)


def _categories(frame: Frame, name: str, cells: Cells, spec: ColumnSpec) -> Cells:
    named = {cell: spec.values.get(code(cell), code(cell)) for cell in set(cells)}
    if spec.values:
        allowed = {"", *spec.values.values()}
        for position, cell in enumerate(cells):
            if named[cell] not in allowed:
                raise DataError(
                    f"{frame.place(position)}: {name!r} is {shortened(cell)}",
                    hint=f"it may be {listed(tuple(spec.values))}",
                )
    return np.array([named[cell] for cell in cells], dtype=object)


def _label_rule(frame: Frame, layout: Layout, reading: Reading) -> LabelRule:
    if reading.label is not None:
        condition = parse_condition(reading.label, "--label")
        condition.holds(frame, strict=True)
        return LabelRule(condition.column, condition)
    if layout.label.positive is None:
        column = layout.label.column
        raise UsageError(
            f"{column!r} has several classes: which one is the label?",
            hint=f"write --label {column}=VALUE; its values are "
            f"{listed(sorted(set(frame.cells(column))))}",
        )
    return layout.label


def _sensitive(layout: Layout, reading: Reading) -> tuple[str, Condition | None]:
    chosen = reading.sensitive or layout.sensitive[0]
    if not any(operator in chosen for operator in "=<>"):
        return chosen, None
    condition = parse_condition(chosen, "--sensitive")
    return str(condition), condition


def _kept(frame: Frame, layout: Layout, needed: list[str]) -> tuple[Frame, list[str]]:
    """Rows that pass the filters and miss nothing, and what became of the others."""
    notes = []
    for condition in layout.filters:
        if frame.find(condition.column) is None:
            notes.append(f"no column {condition.column}: the filter {condition} does not apply")
            continue
        frame = _drop(frame, condition.holds(frame), f"outside the filter {condition}", notes)
    for name in dict.fromkeys(needed):
        present = frame.cells(name) != ""
        frame = _drop(frame, present, f"without a value of {name!r}", notes)
    return frame, notes


def _drop(frame: Frame, keep: Mask, why: str, notes: list[str]) -> Frame:
    lost = int(np.count_nonzero(~keep))
    if not lost:
        return frame
    notes.append(f"dropped {lost:,} of {len(frame):,} rows {why}")
    if lost == len(frame):
        raise DataError(
            f"{frame.sources[0]}: every row that was left is {why}", hint="check the column"
        )
    return frame.select(keep)


def _labels(frame: Frame, rule: LabelRule) -> Integers:
    assert rule.positive is not None
    positive = rule.positive.holds(frame)
    if rule.negative is not None:
        neither = np.flatnonzero(~positive & ~rule.negative.holds(frame))
        if len(neither):
            cell = frame.cells(rule.column)[neither[0]]
            raise DataError(
                f"{frame.place(neither[0])}: the label {rule.column!r} is {shortened(cell)}",
                hint=f"it should be {rule.positive.value} or {rule.negative.value}",
            )
    if positive.all() or not positive.any():
        which = "every" if positive.any() else "no"
        raise DataError(
            f"{frame.sources[0]}: {which} row has {rule.positive}",
            hint="a classifier needs both; check --label",
        )
    return positive.astype(np.int64)


def _groups(
    frame: Frame, sensitive: str, condition: Condition | None
) -> tuple[Integers, tuple[str, ...]]:
    if condition is not None:
        holds = condition.holds(frame, strict=True)
        names: tuple[str, ...] = (condition.opposite(), str(condition))
        groups = holds.astype(np.int64)
    else:
        cells = frame.cells(sensitive)
        names = tuple(sorted(set(cells)))
        position = {name: index for index, name in enumerate(names)}
        groups = np.array([position[cell] for cell in cells], dtype=np.int64)
    if len(names) > MOST_GROUPS:
        raise DataError(
            f"{frame.sources[0]}: {sensitive!r} has {len(names)} different values, too many groups",
            hint=f"make two groups of them, such as --sensitive '{sensitive}>25'",
        )
    if len(set(groups)) < 2:
        raise DataError(
            f"{frame.sources[0]}: every row has the same value of {sensitive!r}",
            hint="rows of at least two groups are needed to compare them",
        )
    return groups, names


def _column(frame: Frame, name: str, spec: ColumnSpec) -> Column:
    if spec.kind == "numeric":
        return frame.numbers(name)
    return frame.cells(name).astype(np.str_)


def _texts(frame: Frame, features: dict[str, ColumnSpec]) -> tuple[str, ...] | None:
    name = next((name for name, spec in features.items() if spec.kind == "text"), None)
    return None if name is None else tuple(frame.cells(name))
