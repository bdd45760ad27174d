"""What people see of a patch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from neuropatch.models.coordinates import ROLES
from neuropatch.patch.patch import NeuronPatch, roles_of

BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def patch_summary(patch: NeuronPatch) -> dict[str, Any]:
    """Counts of a patch by kind, role and layer, in types that JSON knows."""
    kinds: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    for edit in patch.weights:
        kinds[f"{edit.kind} weights"] += len(edit)
        roles[edit.matrix.role] += len(edit)
        layers[f"{edit.matrix.stack}.{edit.matrix.layer}"] += len(edit)
    for unit_edit in patch.units:
        kinds[f"{unit_edit.kind} units"] += len(unit_edit)
        layers[f"{unit_edit.block.stack}.{unit_edit.block.layer}"] += len(unit_edit)
    return {
        "edits": len(patch),
        "kinds": dict(kinds),
        "roles": {role: roles[role] for role in ROLES if roles[role]},
        "layers": dict(layers),
    }


def patch_lines(patch: NeuronPatch) -> list[str]:
    """A patch in words: what it edits, where, and where it comes from."""
    meta = patch.metadata
    size = meta.architecture.dimensions
    summary = patch_summary(patch)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary["kinds"].items())
    base = meta.base_model.name or "unknown"
    if meta.base_model.revision:
        base += f" at {meta.base_model.revision[:12]}"
    lines = [
        f"edits      {kinds}" + (" (inverted: taken back)" if patch.inverted else ""),
        f"base       {base} ({meta.architecture.model_type}, {size.get('layers')} layers, "
        f"hidden {size.get('hidden')}, MLP {size.get('intermediate')})",
        f"method     {_method(meta.method)}",
    ]
    for record in meta.datasets:
        used = record.get("used")
        count = record.get("rows") if used == "all" else len(used) if used else "?"
        lines.append(
            f"data       {record.get('name')}: {count} of {record.get('rows')} rows of "
            f"{record.get('source')}"
        )
    roles = ", ".join(f"{role} {count:,}" for role, count in summary["roles"].items())
    lines.append(f"roles      {roles or ', '.join(roles_of(patch))}")
    return [*lines, "layers", *histogram(layer_counts(patch))]


def layer_counts(patch: NeuronPatch) -> dict[str, int]:
    """Edits of every layer of the model, those without any included."""
    counts = patch_summary(patch)["layers"]
    total = patch.metadata.architecture.dimensions.get("layers", 0)
    stacks = sorted({name.partition(".")[0] for name in counts}) or ["decoder"]
    every = {f"{stack}.{layer}": 0 for stack in stacks for layer in range(total)}
    return {**every, **counts}


def histogram(counts: dict[str, int]) -> list[str]:
    """One line a name with a bar as long as its count."""
    most = max(counts.values(), default=0)
    width = max((len(name) for name in counts), default=0)
    lines = []
    for name, count in counts.items():
        eighths = round(count * BAR_WIDTH * 8 / most) if most else 0
        # A count that is not 0 is never drawn as nothing.
        full, part = divmod(max(eighths, 1 if count else 0), 8)
        bar = "█" * full + (_EIGHTHS[part] if part else "")
        lines.append(f"  {name:<{width}}  {count:>6,}  {bar}".rstrip())
    return lines


def _method(method: Any) -> str:
    parameters = method.get("parameters", {})
    shown = ", ".join(f"{name} {_value(parameters[name])}" for name in sorted(parameters))
    name = method.get("name", "unknown")
    if "of" in method:
        parts = method["of"] if isinstance(method["of"], list) else [method["of"]]
        shown = "of " + ", ".join(str(part.get("name")) for part in parts)
    paper = f" ({method['paper']})" if "paper" in method else ""
    return f"{name}{paper}" + (f": {shown}" if shown else "")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
