"""What patches and groups of patches are called, in characters that can be shown anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from neuropatch.errors import UsageError
from neuropatch.hub.names import parse_hub_name
from neuropatch.methods._base import GENERAL, PII
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import PATCH_FILE

LONGEST = 60
"""Characters of a name that are shown."""

Grouping = Literal["auto", "category", "dataset", "method", "patch"]
"""What patches are grouped by; ``auto`` takes what all of them record."""

NOT_RECORDED = "not recorded"


def shown(text: object) -> str:
    """A text on one line of at most :data:`LONGEST` characters, all of them visible.

    Names come from files and from the metadata of patches that somebody else made.
    """
    visible = "".join(c if c.isprintable() else "\ufffd" for c in str(text)).strip()
    return visible if len(visible) <= LONGEST else visible[: LONGEST - 1] + "…"


def patch_names(arguments: Sequence[str]) -> list[str]:
    """Short names of patches, from how the user named them; no two are equal.

    Files of one name have as many of their folders before it as tell them apart.

    Args:
        arguments: Files, folders or Hub names.

    Raises:
        UsageError: If one patch is named twice.
    """
    for argument in arguments:
        if arguments.count(argument) > 1:
            raise UsageError(f"{argument} is given twice", hint="name each patch once")
    long = [_name(argument) for argument in arguments]
    short = [parts[-1] for parts in long]
    for depth in range(2, max(map(len, long), default=0) + 1):
        short = [
            str(Path(*parts[-depth:])) if short.count(name) > 1 else name
            for parts, name in zip(long, short, strict=True)
        ]
    names = [
        shown(argument if short.count(name) > 1 else name)
        for argument, name in zip(arguments, short, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: number + 1].count(name)})"
        for number, name in enumerate(names)
    ]


def _name(argument: str) -> tuple[str, ...]:
    """The name of a patch, with the folders that it lies in before it."""
    path = Path(argument)
    if path.name == PATCH_FILE and path.parent.name:
        return path.parent.parts
    if path.suffix == ".safetensors":
        return (*path.parts[:-1], path.stem)
    found = None if path.exists() else parse_hub_name(argument)
    return (found.repo,) if found is not None else path.resolve().parts[-1:]


def group_names(patches: Sequence[PatchMetadata], names: Sequence[str], by: Grouping) -> list[str]:
    """The group of each patch.

    ``category`` joins the categories of personal data of a patch's data sets, ``dataset`` the
    data sets' names, ``method`` is the method's name. ``auto`` is the first of ``category`` and
    ``dataset`` that every patch records, otherwise ``patch``: each its own group.

    Args:
        patches: Metadata of each patch.
        names: Name of each patch.
        by: What to group by.
    """
    if by == "patch":
        return list(names)
    found: list[list[str]] = []
    for way in ("category", "dataset") if by == "auto" else (by,):
        found = [_GROUPS[way](metadata) for metadata in patches]
        if by != "auto" or all(found):
            return [shown(" + ".join(map(shown, parts)) or NOT_RECORDED) for parts in found]
    return list(names)


def check_grouping(by: str) -> Grouping:
    """A grouping by its name.

    Raises:
        UsageError: If it is unknown.
    """
    known: tuple[Grouping, ...] = get_args(Grouping)
    for grouping in known:
        if by == grouping:
            return grouping
    raise UsageError(f"--by is '{by}'", hint=f"choose {', '.join(known)}")


def _categories(metadata: PatchMetadata) -> list[str]:
    """Categories of the personal data that is forgotten; of what is retained if that is all."""
    with_categories = [r for r in metadata.datasets if isinstance(r.get("categories"), list)]
    forgotten = [record for record in with_categories if record.get("name") == PII]
    return sorted({str(one) for r in forgotten or with_categories for one in r["categories"]})


def _datasets(metadata: PatchMetadata) -> list[str]:
    """The data sets that the neurons were looked for on, without those that are only protected."""
    forgotten = [record for record in metadata.datasets if record.get("name") == PII]
    if forgotten:
        # Every one of them has the same name; their files tell them apart.
        return sorted({str(record.get("source", PII)) for record in forgotten})
    names = {str(record["name"]) for record in metadata.datasets if "name" in record}
    return sorted(names - {GENERAL} or names)


def _method(metadata: PatchMetadata) -> list[str]:
    name: Any = metadata.method.get("name")
    return [] if name is None else [str(name)]


_GROUPS: Mapping[str, Callable[[PatchMetadata], list[str]]] = {
    "category": _categories,
    "dataset": _datasets,
    "method": _method,
}
