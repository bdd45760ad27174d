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
    """Show versions, devices, memory, kernels and Hub access."""
    out = Output(json, quiet)
    from neuropatch.diagnosis import diagnose

    document = diagnose()
    kernels = ", ".join(f"{kernel['op']} {kernel['backend']}" for kernel in document["kernels"])
    out.result(document, lambda: print_lines(_lines(document)), essence=kernels)


def _lines(document: dict[str, Any]) -> list[str]:
    hub = document["hub"]
    rows = [
        *document["versions"].items(),
        ("memory", document["memory"]),
        *(("device", device) for device in document["devices"]),
        *(("kernel", f"{k['op']} {k['backend']}: {k['reason']}") for k in document["kernels"]),
        ("CUDA kernels", _cuda_kernels(document["cuda_kernels"])),
        ("Hub", hub["endpoint"] + (" (offline mode)" if hub["offline"] else "")),
        ("Hub token", f"present, from {hub['token']}" if hub["token"] else "none"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _cuda_kernels(kernels: dict[str, Any]) -> str:
    if not kernels["targets"]:
        return f"none: {kernels['reason']}"
    return f"{', '.join(kernels['ops'])} for {', '.join(kernels['targets'])}: {kernels['reason']}"
