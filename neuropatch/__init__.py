"""neuropatch: find the few neurons that cause an unwanted behaviour, and patch them.

``import neuropatch`` is cheap: public names load their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuropatch._version import __version__

if TYPE_CHECKING:
    from neuropatch.errors import NeuropatchError
    from neuropatch.patch.patch import NeuronPatch

_HOMES = {
    "NeuronPatch": "neuropatch.patch.patch",
    "NeuropatchError": "neuropatch.errors",
}

__all__ = ["NeuronPatch", "NeuropatchError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'neuropatch' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
