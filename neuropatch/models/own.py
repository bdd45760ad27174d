"""The user's own definitions of architectures: JSON documents in a folder of settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuropatch.errors import ArchitectureError, OutputError

FOLDER_VARIABLE = "NEUROPATCH_ARCHITECTURES"
"""Environment variable that names another folder."""


def own_folder() -> Path:
    """Folder of the user's definitions, which need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "neuropatch" / "architectures"


def own_documents() -> Iterator[tuple[Path, Any]]:
    """Every file of the folder, with the document in it.

    Raises:
        ArchitectureError: If a file is not JSON.
    """
    for path in sorted(own_folder().glob("*.json")):
        try:
            yield path, json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArchitectureError(
                f"{path} is not readable JSON: {error}", hint="correct it, or remove it"
            ) from None


def keep_document(document: Mapping[str, Any]) -> Path:
    """Write a definition into the folder, as the file of its name.

    Raises:
        ArchitectureError: If its name cannot be that of a file.
        OutputError: If it cannot be written.
    """
    name = document["name"]
    if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) or name.startswith("."):
        raise ArchitectureError(
            f"the model type {name!r} is no name of an architecture", hint="check config.json"
        )
    path = own_folder() / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}",
            hint=f"set {FOLDER_VARIABLE} to a folder that can be written to",
        ) from None
    return path
