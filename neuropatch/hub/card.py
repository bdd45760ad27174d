"""The card of a patch or of a patched model: README.md with metadata that the Hub reads.

Relations to the base, in the words that the Hub knows: a patch is an ``adapter`` (a small file that
is applied to the base), a patched model a ``finetune`` (changed weights of the same shape; the
Hub has no nearer word, and the text says that nothing was trained).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from neuropatch.hub.cardfile import inert, table
from neuropatch.hub.licence import Licence
from neuropatch.hub.measured import (
    Measured,
    eval_results,
    hub_dataset,
    measured,
    result_table,
)
from neuropatch.hub.names import is_hub_id
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

PATCH_TAG = "neuron-patch"
"""Tag of the repos that hold a patch."""

MODEL_TAG = "neuropatch-model"
"""Tag of the repos that hold a patched model."""

MARK = "<!-- Written by neuropatch. Without this line the next push leaves the file alone. -->"
"""In every card of ours: a card without it is somebody's own work, and is kept."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_ROWS = 40


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        repo: The repo it is for.
        kind: Whether the repo holds a ``patch`` or a ``model``.
        base: The base model.
        licence: The licence to publish under.
        patches: The patch; or those that are in the model, with their Hub names where they have
            one.
        results: A document of results; None without an evaluation.
        exact: Whether a model is known to be the base but for the patches' edits.
    """

    repo: str
    kind: Literal["patch", "model"]
    base: BaseModel
    licence: Licence
    patches: tuple[tuple[str | None, NeuronPatch], ...]
    results: Mapping[str, Any] | None = None
    exact: bool = False


def make_card(facts: CardFacts) -> str:
    """The card as the text of README.md, the same for the same facts."""
    from huggingface_hub import ModelCard

    document = facts.results
    if document is None:
        # A patch brings its own results; those of several patches say nothing of their union.
        alone = facts.patches[0][1].metadata if len(facts.patches) == 1 else None
        document = alone.evaluation if alone is not None else None
    results = [] if document is None else measured(document, what="the patch's evaluation")
    body = "\n".join([*_body(facts, results), "", MARK, ""])
    card = ModelCard(f"---\n{_metadata(facts, results).to_yaml()}\n---\n\n{body}")
    return str(card)


def _metadata(facts: CardFacts, results: Sequence[Measured]) -> ModelCardData:
    from huggingface_hub import ModelCardData

    patch = facts.kind == "patch"
    licence = facts.licence
    own_terms = licence.id == "other"
    based = is_hub_id(facts.base.name)
    return ModelCardData(
        license=licence.id,
        license_name=licence.name if own_terms else None,
        license_link=licence.link if own_terms else None,
        base_model=facts.base.name if based else None,
        base_model_relation=("adapter" if patch else "finetune") if based else None,
        library_name="neuropatch" if patch else "transformers",
        pipeline_tag="text-generation",
        tags=["neuropatch", PATCH_TAG if patch else MODEL_TAG, "model-editing"],
        datasets=_hub_datasets(facts.patches) or None,
        model_name=facts.repo.partition("/")[2] if results else None,
        eval_results=eval_results(results) or None,
    )


def _hub_datasets(patches: Sequence[tuple[str | None, NeuronPatch]]) -> list[str]:
    """Ids of the Hub data sets that the patches were made with, without their local files."""
    sources = [
        str(record.get("source")) for _, patch in patches for record in patch.metadata.datasets
    ]
    found = [hub_dataset(source) for source in sources]
    return list(dict.fromkeys(dataset[0] for dataset in found if dataset))


def _body(facts: CardFacts, results: Sequence[Measured]) -> list[str]:
    return [
        f"# {facts.repo.partition('/')[2]}",
        "",
        *_summary(facts),
        "",
        "## Use",
        "",
        *_use(facts),
        *[line for name, patch in facts.patches for line in _patch(name, patch)],
        "",
        "## Before and after",
        "",
        *_results(results),
        "",
        "## Limits",
        "",
        *_limits(facts),
    ]


def _summary(facts: CardFacts) -> list[str]:
    base = _base_link(facts.base)
    if facts.kind == "patch":
        return [
            f"A neuron patch: a small, reversible edit of a few weights of {base}. It is no model "
            "of its own; it is applied to that model, and can be taken out again byte for byte.",
        ]
    if not facts.patches:
        return [f"A model edited from {base} with neuropatch, without training."]
    count = sum(len(patch) for _, patch in facts.patches)
    edits = f"{count:,} edits of single weights or units by neuron patches"
    if not facts.exact:
        return [f"A model made from {base}, with {edits}. The edits took no training."]
    return [
        f"{base} with {edits}. Nothing was trained: every other weight is that of the base, bit "
        "for bit."
    ]


def _use(facts: CardFacts) -> list[str]:
    python = ["```python", "from transformers import AutoModelForCausalLM"]
    base = facts.base.name
    if facts.kind == "model":
        load = f'model = AutoModelForCausalLM.from_pretrained("{facts.repo}")'
        return [*python, "", load, "```"]
    if base is None or not is_hub_id(base):
        return [
            "```python",
            "from neuropatch import NeuronPatch",
            "",
            f'NeuronPatch.from_pretrained("{facts.repo}").apply(model)',
            "```",
        ]
    return [
        *python,
        "from neuropatch import NeuronPatch",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{base}"{_revision(facts.base)})',
        f'NeuronPatch.from_pretrained("{facts.repo}").apply(model)',
        "```",
        "",
        "Or in files, without loading the model:",
        "",
        "```",
        f"neuropatch apply {base} {facts.repo} -o patched-model",
        "```",
    ]


def _patch(name: str | None, patch: NeuronPatch) -> list[str]:
    kinds: Counter[str] = Counter()
    for edit in patch.weights:
        kinds[f"{edit.kind} weights of {edit.matrix.role}"] += len(edit)
    for unit_edit in patch.units:
        kinds[f"{unit_edit.kind} MLP units"] += len(unit_edit)
    title = "## The patch" if name is None else f"## The patch {inert(name)}"
    edits = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.items())
    undone = ["", "Inverted: it takes these edits back."] if patch.inverted else []
    return ["", title, "", f"Edits: {edits}.", *undone, *_method(patch.metadata)]


def _method(meta: PatchMetadata) -> list[str]:
    method = meta.method
    lines = ["", f"Method: {inert(method.get('name', 'unknown'))}"]
    if "paper" in method:
        lines[-1] += f", paper: {inert(method['paper'])}"
    parameters = method.get("parameters")
    if isinstance(parameters, dict) and parameters:
        rows = [
            [inert(key), inert(_value(parameters[key]))] for key in sorted(parameters)[:_MOST_ROWS]
        ]
        lines += ["", *table(["parameter", "value"], rows)]
    if meta.datasets:
        rows = [_data_row(record) for record in meta.datasets[:_MOST_ROWS]]
        lines += ["", *table(["data set", "source", "rows used"], rows)]
    versions = ", ".join(f"{name} {meta.versions[name]}" for name in sorted(meta.versions))
    return [*lines, "", f"Made with {inert(versions)}."] if versions else lines


def _value(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _data_row(record: Mapping[str, Any]) -> list[str]:
    rows, used = record.get("rows"), record.get("used")
    count = rows if used == "all" else len(used) if isinstance(used, list) else "?"
    source = str(record.get("source"))
    # A folder on somebody's machine is nobody's business.
    shown = source if hub_dataset(source) else source.replace("\\", "/").split("/")[-1]
    return [inert(record.get("name")), inert(shown), inert(f"{count} of {rows}")]


def _results(results: Sequence[Measured]) -> list[str]:
    if not results:
        return ["No evaluation was published with it: measure it before you rely on it."]
    verdicts = [f"- {inert(one.verdict)}" for one in results if one.verdict]
    return [
        *result_table(results),
        "",
        "In parentheses: 95 % bootstrap intervals; for random patches, the range over them.",
        "",
        *verdicts,
    ]


def _limits(facts: CardFacts) -> list[str]:
    base = "the base model"
    lines = [
        "- It changes how likely the model is to show a behaviour. It proves nothing about what "
        "the model cannot do: other prompts may still bring the behaviour out.",
        f"- What the data sets above do not show, the method did not see. {base.capitalize()}'s "
        "other limits, risks and terms hold unchanged.",
        "- Abilities can suffer. The table shows what was measured, and nothing else was.",
    ]
    if facts.kind == "patch":
        lines.append(
            "- It is made for this base model. On a fine-tune of it, neuropatch tells how far the "
            "weights have drifted; on another architecture it refuses."
        )
    return lines


def _base_link(base: BaseModel) -> str:
    if base.name is None:
        return "its base model"
    if not is_hub_id(base.name):
        return inert(base.name)
    at = f" at commit `{base.revision[:12]}`" if _has_commit(base) and base.revision else ""
    return f"[`{base.name}`](https://huggingface.co/{base.name}){at}"


def _revision(base: BaseModel) -> str:
    return f', revision="{base.revision}"' if _has_commit(base) else ""


def _has_commit(base: BaseModel) -> bool:
    return base.revision is not None and _COMMIT.fullmatch(base.revision) is not None
