"""README.md files of the Hub: reading their metadata, and text in them that cannot act.

Whatever a patch says of itself was written by others. In a card it may be read, and nothing else:
it ends neither the metadata nor a table cell, and is no link, no image and no HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST = 200


def card_metadata(text: bytes) -> Mapping[str, Any]:
    """The metadata of a card; empty where it has none that can be read."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    match = REGEX_YAML_BLOCK.search(text.decode("utf-8-sig", "replace"))
    if match is None:
        return {}
    try:
        found = yaml.safe_load(match.group(2))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def plain(value: object) -> str:
    """A value as text on one line of at most 200 characters, without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def inert(value: object) -> str:
    """A value as Markdown that shows just its characters: a code span."""
    # Nothing in a code span is markup, save the mark that ends it; a pipe ends a table cell even
    # there, and Markdown has no way to write it that holds outside a table as well.
    text = plain(value).replace("`", "ˋ").replace("|", "¦")
    return f"`{text}`" if text else "-"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; cells are Markdown without line breaks and pipes."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
