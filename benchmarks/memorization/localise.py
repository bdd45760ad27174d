"""Runs one method on a memorised model, in a process of its own, so that its memory is its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from _harness import memory_growth


def localise(
    model: str,
    method: str,
    parameters: dict[str, Any],
    data: dict[str, str],
    output: str,
    seed: int,
    threads: int,
    records: int | None = None,
) -> dict[str, Any]:
    """Find a patch and write it.

    Args:
        model: Folder of the memorised model.
        method: Name of a method.
        parameters: Its parameters, as values or texts.
        data: Files by kind of data.
        output: The patch file.
        seed: Seed of the choice of rows and of methods that draw.
        threads: Threads of torch.
        records: How many of the records to forget are given; None for all.

    Returns:
        Seconds of the method alone, by the clock and of all cores together, bytes that it took
        beyond the loaded model, how many parameters the patch edits, and the method's statistics
        and notes; or only the ``error`` that the method refused with, for to find nothing is a
        result.
    """
    from neuropatch.errors import NeuropatchError

    try:
        return _localise(model, method, parameters, data, output, seed, threads, records)
    except NeuropatchError as error:
        return {"error": str(error)}


def _localise(
    model: str,
    method: str,
    parameters: dict[str, Any],
    data: dict[str, str],
    output: str,
    seed: int,
    threads: int,
    records: int | None = None,
) -> dict[str, Any]:
    import torch

    from neuropatch.data.columns import ColumnOptions
    from neuropatch.data.corpus import load_corpus
    from neuropatch.data.pii.corpus import PiiOptions, load_pii
    from neuropatch.methods._base import Given, Inputs, find_method
    from neuropatch.methods._parameters import parse_parameters
    from neuropatch.models.loading import load_causal_model, load_tokenizer

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    chosen = find_method(method)
    tokenizer = load_tokenizer(Path(model))

    def corpus(name: str, samples: int | None = None) -> Any:
        return load_pii(
            data[name],
            name=name,
            samples=samples,
            seed=seed,
            options=PiiOptions(),
            tokenizer=tokenizer,
        )

    general = None
    if "general" in data:
        general = load_corpus(
            data["general"],
            name="general",
            samples=None,
            seed=seed,
            columns=ColumnOptions(),
            tokenizer=tokenizer,
        )
    inputs = Inputs(
        model=load_causal_model(Path(model), dtype="float32", device="cpu"),
        general=general,
        pii=corpus("pii", records) if "pii" in data else None,
        retain={"kept": corpus("retain")} if "retain" in data else {},
        tokenizer=tokenizer,
        seed=seed,
    )
    given = Given(
        general="general" in data, pii="pii" in data, retain=("kept",) * ("retain" in data)
    )
    chosen.check_given(given)
    config = parse_parameters(chosen, parameters)
    chosen.check(inputs.layout, given, config)
    with memory_growth() as memory:
        start, busy = time.perf_counter(), time.process_time()
        found = chosen.run(inputs, config)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
    found.patch.save(output)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory": memory.growth,
        "units": sum(len(edit.units) for edit in found.patch.units),
        "weights": sum(len(edit) for edit in found.patch.weights),
        "statistics": dict(found.statistics),
        "notes": list(found.notes),
    }
