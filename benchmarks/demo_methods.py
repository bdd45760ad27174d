"""Every method that takes a number of units, on the demo's model: what is still recited.

    python benchmarks/demo_methods.py [--units 60] [--methods contrast,depn]

Prints the table of docs/personal-data.md, in a few minutes on one core. The localisation sees half
of the people, and every method is given what it needs and what it can use of the records and the
general set.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from _harness import print_table

from neuropatch.demo import DATA_DIR, MODEL_DIR
from neuropatch.demo.corpus import read_records
from neuropatch.evaluation.leakage.measure import measure_leakage
from neuropatch.evaluation.leakage.scores import Probe
from neuropatch.methods._base import find_method, method_names
from neuropatch.models.loading import load_causal_model, load_tokenizer
from neuropatch.pipeline import DataFiles, RunOptions, localize

TABLES = {
    "phone": "phones, shown",
    "email": "e-mails, shown",
    "phone_unseen": "phones, others",
    "email_unseen": "e-mails, others",
    "facts_unseen": "facts",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--methods", default=",".join(method_names()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(MODEL_DIR)
    model = load_causal_model(MODEL_DIR, dtype="float32", device="cpu")
    probes = {name: _probes(DATA_DIR / f"{name}.jsonl") for name in TABLES}
    rows = [("none", *_recited(model, tokenizer, probes))]
    for label, method, config in _variants(options.methods.split(","), options.units):
        patch = localize(str(MODEL_DIR), _files(method), RunOptions(method, config)).patch
        with patch.applied(model):
            rows.append((label, *_recited(model, tokenizer, probes)))
    print_table(("method", *TABLES.values()), rows)


def _variants(names: list[str], units: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Label, method and parameters of every row: methods that take a number of units."""
    found = []
    for name in names:
        known = {field.name for field in fields(find_method(name).config)}
        if "max_neurons" in known:
            found.append((name, name, {"max_neurons": units}))
        if "iterations" in known:
            found.append((f"{name}, in one step", name, {"max_neurons": units, "iterations": 1}))
    return found


def _files(name: str) -> DataFiles:
    method = find_method(name)
    uses = method.needs | method.takes if method.needs else method.needs
    return DataFiles(
        pii=str(DATA_DIR / "people.jsonl") if "pii" in uses else None,
        general=str(DATA_DIR / "general.jsonl") if "general" in uses else None,
    )


def _probes(path: Path) -> list[Probe]:
    return [Probe(row.prompt, row.response.strip(" .")) for row in read_records(path)]


def _recited(model: Any, tokenizer: Any, probes: dict[str, list[Probe]]) -> list[str]:
    """Share of each table's secrets that greedy decoding recites."""
    shares = (
        measure_leakage(model, tokenizer, asked).groups[0].extraction.exact
        for asked in probes.values()
    )
    return [f"{share:.2f}" for share in shares]


if __name__ == "__main__":
    main()
