"""``neuropatch doctor``."""

from __future__ import annotations

from typing import Any

import typer

from . import options
from .output import Output, print_lines

EPILOG = options.examples("neuropatch doctor", "neuropatch doctor --json")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("doctor", epilog=EPILOG)(doctor)


def doctor(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show versions, devices, memory, kernels and Hub access of this installation."""
    from neuropatch.diagnosis import diagnose

    document = diagnose()
    Output(json, quiet).result(document, lambda: print_lines(_lines(document)))


def _lines(document: dict[str, Any]) -> list[str]:
    hub = document["hub"]
    lines = [
        *(f"{name:<16} {version}" for name, version in document["versions"].items()),
        f"{'memory':<16} {document['memory']}",
    ]
    for device in document["devices"]:
        lines.append(f"{'device':<16} {device}")
    for kernel in document["kernels"]:
        lines.append(f"{kernel['op']:<16} {kernel['backend']}: {kernel['reason']}")
    lines.append(f"{'Hub':<16} {hub['endpoint']}" + (" (offline mode)" if hub["offline"] else ""))
    lines.append(f"{'Hub token':<16} {'present' if hub['token'] else 'none'}")
    return lines
