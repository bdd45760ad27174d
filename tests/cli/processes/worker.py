"""Started by a launcher: runs the cases of a file one after the other, on all processes.

Usage: worker.py FOLDER, with ``cases.json`` in it. The first process saves the patches there, and
each one the rows of the data sets that it has run a model on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from neuropatch import pipeline
from neuropatch.attribution import activations, certified, run
from neuropatch.methods import depn
from neuropatch.methods._base import Limits
from neuropatch.world import launched


def noting_rows(rows):
    """Note the rows of every batch that is run."""
    for module in (run, activations):
        original = module.packed_losses

        def losses(model, batch, *args, original=original):
            rows.extend(batch.rows)
            return original(model, batch, *args)

        module.packed_losses = losses
    attribute = depn.IntegratedGradients.attribute

    def attributed(self, question):
        rows.append(len(question.ids))
        return attribute(self, question)

    depn.IntegratedGradients.attribute = attributed


def main(folder):
    rows: list[object] = []
    noting_rows(rows)
    # So few candidates that on a tiny model others have to join, and some a second look.
    certified.FIRST_LEAST, certified.FIRST_SHARE, certified.FIRST_PER_TAKEN = 1, 0.0, 1
    seen = {}
    with launched("cpu") as world:
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            rows.clear()
            options = pipeline.RunOptions(
                case["method"],
                case["config"],
                device="cpu",
                limits=Limits(batch_tokens=40, **case.get("limits", {})),
                world=world,
            )
            files = pipeline.DataFiles(**case["files"])
            found = pipeline.localize(str(folder / "model"), files, options)
            seen[name] = list(rows)
            if world.rank == 0:
                found.patch.save(folder / f"{name}.safetensors")
                (folder / f"{name}.json").write_text(json.dumps(dict(found.statistics)))
        (folder / f"rows-{world.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
