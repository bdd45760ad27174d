"""What produced a result: versions of the libraries that had a part in it."""

from __future__ import annotations

import platform

from neuropatch._version import __version__

LIBRARIES: tuple[str, ...] = (
    "huggingface-hub",
    "ml_dtypes",
    "numpy",
    "safetensors",
    "torch",
    "transformers",
)
"""Distributions whose versions can change a result."""


def library_versions(*more: str) -> dict[str, str]:
    """Versions of Python, neuropatch and the installed libraries, none of which is imported.

    Args:
        more: Distributions that have a part in this result besides :data:`LIBRARIES`.
    """
    # Loading it takes a fifth of the time in which a whole small checkpoint is patched.
    from importlib.metadata import PackageNotFoundError, version

    versions = {"neuropatch": __version__, "python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
