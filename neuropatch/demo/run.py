"""The whole job on the bundled model: localise, apply, measure beside random patches, revert."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.staging import check_output, staged_folder
from neuropatch.data.columns import ColumnOptions
from neuropatch.data.corpus import load_corpus
from neuropatch.demo import DATA_DIR, MODEL_DIR
from neuropatch.demo.corpus import read_records
from neuropatch.demo.leakage import extraction_rate
from neuropatch.errors import CheckpointError
from neuropatch.evaluation.control import random_control
from neuropatch.evaluation.measure import Variant, measure_text
from neuropatch.evaluation.perplexity import perplexity
from neuropatch.models.loading import load_causal_model, load_tokenizer
from neuropatch.patch.patch import NeuronPatch
from neuropatch.pipeline import DataFiles, DataOptions, RunOptions, localize
from neuropatch.progress import Progress

CONFIG = {"p": 0.0125, "q": 0.015, "target": "all", "scope": "model"}
"""SPIN's amounts, chosen on this very model: a share of all its weights."""

SAMPLES = 160
CONTROL_SEEDS = (0, 1, 2)

RECORDS = {
    "phone": "phone numbers, people shown",
    "phone_unseen": "phone numbers, people not shown",
    "email": "e-mail addresses, people shown",
    "email_unseen": "e-mail addresses, people not shown",
    "facts_unseen": "public facts of the same form",
}
"""Tables of records by the name of their file, and what they are called."""


@dataclass(frozen=True)
class DemoRow:
    """One measured quantity.

    Attributes:
        name: What was measured.
        before: The bundled model's value.
        after: The patched model's value.
        controls: The value under each random patch of the same size.
        is_share: Whether it is a share of recited records, or else a perplexity.
    """

    name: str
    before: float
    after: float
    controls: tuple[float, ...]
    is_share: bool


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        folder: The folder that holds the model, the patch, the patched model and the data.
        patch: The patch.
        weights: Number of weights that patches may edit in this model.
        rows: The measurements.
        prompt: A prompt for a private record.
        answers: What the model and the patched model write after it.
    """

    folder: Path
    patch: NeuronPatch
    weights: int
    rows: tuple[DemoRow, ...]
    prompt: str
    answers: tuple[str, str]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return {
            "folder": str(self.folder),
            "edits": len(self.patch),
            "weights": self.weights,
            "rows": [
                {
                    "name": row.name,
                    "before": row.before,
                    "after": row.after,
                    "controls": list(row.controls),
                }
                for row in self.rows
            ],
            "prompt": self.prompt,
            "answers": list(self.answers),
        }


def run_demo(output: Path, progress: Progress) -> DemoResult:
    """Localise, apply, measure and revert on the bundled model.

    Args:
        output: Folder to create; it appears whole or not at all.
        progress: Told how far it is.

    Raises:
        OutputError: If the folder exists, or cannot be written.
        CheckpointError: If reverting does not give the bytes of the model back.
    """
    check_output(output, MODEL_DIR)
    with staged_folder(output) as folder:
        shutil.copytree(DATA_DIR, folder, dirs_exist_ok=True)
        patch = _localize(progress)
        patch.save(folder / "patch.safetensors")
        apply_patches(folder / "model", [patch], folder / "model-patched")
        _check_revert(folder, patch)
        return _measure(output, patch, progress)


def _localize(progress: Progress) -> NeuronPatch:
    found = localize(
        str(MODEL_DIR),
        DataFiles(
            datasets={name: str(DATA_DIR / f"{name}.jsonl") for name in ("phone", "email")},
            general=str(DATA_DIR / "general.jsonl"),
        ),
        RunOptions(
            config=CONFIG,
            data=DataOptions(samples=SAMPLES),
            dtype="float32",
            device="cpu",
            progress=progress,
        ),
    )
    return found.patch


def _check_revert(folder: Path, patch: NeuronPatch) -> None:
    """Take the patch out of the patched model's files, and compare them with the original's."""
    again = folder / "model-reverted"
    revert_patches(folder / "model-patched", [patch], again)
    names = [path.name for path in MODEL_DIR.iterdir()]
    _, different, missing = filecmp.cmpfiles(MODEL_DIR, again, names, shallow=False)
    if different or missing:
        raise CheckpointError(f"reverting did not give back {', '.join(different + missing)}")
    shutil.rmtree(again)


def _measure(output: Path, patch: NeuronPatch, progress: Progress) -> DemoResult:
    tokenizer = load_tokenizer(MODEL_DIR)
    model = load_causal_model(MODEL_DIR, dtype="float32", device="cpu")
    variants = [
        Variant("the model"),
        Variant("the patch", patch),
        *(
            Variant(f"random patch {seed}", random_control(patch, model, seed))
            for seed in CONTROL_SEEDS
        ),
    ]
    tables = {name: read_records(DATA_DIR / f"{name}.jsonl") for name in RECORDS}
    progress.start("reciting", len(variants) * len(tables))
    rates: dict[str, list[float]] = {name: [] for name in tables}
    answers: list[str] = []
    # A record of a person whom the localising never saw.
    prompt = tables["phone_unseen"][0].prompt
    for variant in variants:
        with variant.held(model):
            for name, records in tables.items():
                rates[name].append(extraction_rate(model, tokenizer, records).rate)
                progress.advance()
            answers.append(_complete(model, tokenizer, prompt))
    rows = [
        DemoRow(RECORDS[name], values[0], values[1], tuple(values[2:]), is_share=True)
        for name, values in rates.items()
    ]
    rows.append(_perplexity(model, tokenizer, variants, progress))
    return DemoResult(
        folder=output,
        patch=patch,
        weights=sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2),
        rows=tuple(rows),
        prompt=prompt,
        answers=(answers[0], answers[1]),
    )


def _perplexity(
    model: Any, tokenizer: Any, variants: Sequence[Variant], progress: Progress
) -> DemoRow:
    """Perplexity a token of stories that no part of the demo has seen."""
    stories = load_corpus(
        str(DATA_DIR / "held_out.jsonl"),
        name="held_out",
        samples=None,
        seed=0,
        columns=ColumnOptions(),
        tokenizer=tokenizer,
    ).samples
    progress.start("clean text", len(variants) * len(stories))
    scores = measure_text(model, stories, variants, progress)
    before, after, *controls = perplexity(scores.nll.sum(axis=1) / scores.tokens.sum()).tolist()
    return DemoRow("perplexity of clean text", before, after, tuple(controls), is_share=False)


def _complete(model: Any, tokenizer: Any, prompt: str) -> str:
    """What the model writes after a prompt, up to the end of the line."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        written = model.generate(
            ids, max_new_tokens=24, do_sample=False, attention_mask=torch.ones_like(ids)
        )
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip().partition("\n")[0]
