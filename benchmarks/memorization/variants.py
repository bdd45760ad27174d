"""Methods with parameters, and the patches that they find on a memorised model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _harness import in_child

from neuropatch.methods._base import find_method, method_names
from neuropatch.models.layout import Layout
from neuropatch.models.unit_weights import UNIT_ROLES


@dataclass(frozen=True)
class Variant:
    """A method with parameters.

    Attributes:
        name: What the tables call it.
        method: Name of the method.
        parameters: Its parameters; the number of units or weights is added to them.
        data: Kinds of data that it is given.
        records: How many of the records to forget it is given; None for all.
    """

    name: str
    method: str
    parameters: Mapping[str, str]
    data: tuple[str, ...]
    records: int | None = None

    def amount(self, units: int, layout: Layout) -> dict[str, int]:
        """The parameter that says how much is edited."""
        if self.parameters.get("granularity") != "weights":
            return {"max_neurons": units}
        roles = [matrix for matrix in layout.matrices(UNIT_ROLES) if matrix.layer == 0]
        return {"q": units * len(roles) * layout.signature.dimensions["hidden"]}

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``[NAME=]METHOD[:parameter=value,...]``."""
        head, _, tail = text.partition(":")
        name, _, method = head.rpartition("=")
        parameters = dict(one.split("=", maxsplit=1) for one in tail.split(",") if one)
        found = find_method(method)
        # What needs no data at all has use for some only with certain edits.
        records = parameters.pop("records", None)
        given = parameters.pop("data", "all" if found.needs else "needs")
        data = found.needs | found.takes if given == "all" else found.needs
        kinds = tuple(sorted(data - {"datasets"}))
        return cls(name or text, method, parameters, kinds, records and int(records))


def default_variants() -> tuple[list[Variant], list[str]]:
    """Every method that edits a given number of units; the names of those that do not."""
    found, others = [], []
    for name in method_names():
        method = find_method(name)
        if any(field.name == "max_neurons" for field in fields(method.config)):
            found.append(Variant.parse(name))
        else:
            others.append(name)
    return found, others


def find_patch(
    folder: Path,
    variant: Variant,
    amount: Mapping[str, int],
    files: Mapping[str, str],
    path: Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Find a patch in a process of its own, and write it.

    Args:
        folder: The memorised model.
        variant: What finds it.
        amount: The parameter that says how much is edited.
        files: Files of data by kind; the variant is given those that it wants.
        path: The patch file.
        seed: Seed of the localisation.

    Returns:
        What :func:`localise.localise` returns.
    """
    return in_child(
        Path(__file__).with_name("localise.py"),
        "localise",
        model=str(folder),
        method=variant.method,
        parameters={**variant.parameters, **amount},
        data={kind: files[kind] for kind in variant.data},
        output=str(path),
        seed=seed,
        records=variant.records,
        threads=torch.get_num_threads(),
    )
