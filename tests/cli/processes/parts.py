"""Started by a launcher: runs the cases of a file on processes that hold parts of the weights.

Usage: parts.py FOLDER, with ``cases.json`` in it. The first process saves the patches there, and
each one the rows that it has run a model on, and the numbers of scores that it has held at a time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from neuropatch import pipeline
from neuropatch.attribution import accumulator, run
from neuropatch.methods._base import Limits
from neuropatch.world import launched


def main(folder):
    rows, scores = [], []
    losses, zeros = run.packed_losses, accumulator._zeros

    def noting_rows(model, batch, *args):
        rows.extend(batch.rows)
        return losses(model, batch, *args)

    def noting_scores(slot):
        made = zeros(slot)
        scores.append((str(slot.matrix), made.numel(), slot.weight().numel()))
        return made

    run.packed_losses, accumulator._zeros = noting_rows, noting_scores
    seen = {}
    with launched("cpu", split=True) as world:
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            rows.clear()
            scores.clear()
            options = pipeline.RunOptions(
                case["method"],
                case["config"],
                device="cpu",
                limits=Limits(batch_tokens=40, **case["limits"]),
                world=world,
            )
            files = pipeline.DataFiles(**case["files"])
            found = pipeline.localize(str(folder / case["model"]), files, options)
            seen[name] = {"rows": list(rows), "scores": list(scores)}
            if world.rank == 0:
                found.patch.save(folder / f"{name}.safetensors")
        (folder / f"seen-{world.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
