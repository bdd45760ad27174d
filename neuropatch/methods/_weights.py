"""What methods that find weights share: groups, and runs over data sets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from neuropatch.attribution.certified import obstacle
from neuropatch.attribution.certified_run import CertifiedRun
from neuropatch.attribution.memory import available_memory, private_memory
from neuropatch.attribution.plan import ScorePlan, plan_scores
from neuropatch.attribution.run import TopWeightsRun, Wanted
from neuropatch.attribution.selection import IndexSets, amount_of
from neuropatch.attribution.state import RunState, fingerprint_of, fingerprint_of_weights
from neuropatch.data.batching import largest_batch
from neuropatch.data.tokenize import Sample
from neuropatch.methods._base import Inputs, Limits
from neuropatch.methods._memory import Reach
from neuropatch.methods._rankings import Ranking, RankingKey, rank_weights, ranked_matrices
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.models.packing import can_pack
from neuropatch.models.split import held_bytes
from neuropatch.patch.metadata import PatchMetadata


def weight_groups(
    layout: Layout, matrices: Sequence[MatrixId], scope: str
) -> list[tuple[list[MatrixId], int]]:
    """The groups within which amounts of weights are counted, with their numbers of weights.

    Args:
        layout: The model's layout.
        matrices: The matrices, in canonical order.
        scope: One of :data:`neuropatch.attribution.selection.SCOPES`.
    """
    groups: dict[Hashable, list[MatrixId]] = {}
    for matrix in matrices:
        group = {"matrix": matrix, "layer": matrix[:2], "model": None}[scope]
        groups.setdefault(group, []).append(matrix)
    return [
        (members, sum(math.prod(layout.shape(matrix)) for matrix in members))
        for members in groups.values()
    ]


def largest_share(
    layout: Layout, matrices: Sequence[MatrixId], scope: str, amounts: Sequence[float]
) -> float:
    """The largest share of a group's weights that any of some amounts takes."""
    sizes = {size for _, size in weight_groups(layout, matrices, scope)}
    return max(amount_of(amount, size) / size for size in sizes for amount in amounts)


def coupled_sets(conflicting: Mapping[str, IndexSets], general: IndexSets) -> IndexSets:
    """The weights in the top of every conflicting set, and not in the general one.

    Args:
        conflicting: Top weights of each conflicting data set.
        general: Top weights of the general data set.
    """
    none: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    first, *rest = conflicting.values()
    coupled: IndexSets = {}
    for matrix, chosen in first.items():
        for other in rest:
            chosen = np.intersect1d(chosen, other.get(matrix, none), assume_unique=True)
        chosen = np.setdiff1d(chosen, general.get(matrix, none), assume_unique=True)
        if len(chosen):
            coupled[matrix] = chosen
    return coupled


def top_snip_weights(
    inputs: Inputs,
    wanted: Mapping[str, Wanted],
    matrices: Sequence[MatrixId],
    scope: str,
    metadata: PatchMetadata,
) -> dict[str, IndexSets]:
    """The weights with the largest ``mean over samples of |W * dL/dW|``, of every data set.

    Args:
        inputs: The model and the resources; told the plan.
        wanted: Samples and amount of each data set, in the order in which they are run.
        matrices: The matrices to look at, in canonical order.
        scope: Within what the top weights are taken.
        metadata: What a saved state must agree with.

    Raises:
        ModelError: If a loss or score is not finite.
        OutputError: If the saved state belongs to another run.
        ResourceError: If the scores do not fit the memory.
    """
    if inputs.memory is not None and inputs.memory.reach is not None:
        return {
            name: _rankings(inputs, name, one, inputs.memory.reach)[tuple(matrices), scope].top(
                one.amount
            )
            for name, one in wanted.items()
        }
    amounts = [one.amount for one in wanted.values()]
    share = largest_share(inputs.layout, matrices, scope, amounts)
    samples = [one.samples for one in wanted.values()]
    plan = _plan(inputs, matrices, samples, inputs.limits, share)
    inputs.note(f"plan: {plan.sentence()}")
    run = (CertifiedRun if plan.candidates else TopWeightsRun)(
        inputs.model,
        inputs.layout,
        wanted,
        scope=scope,
        plan=plan,
        batch_tokens=inputs.limits.batch_tokens,
        state=_state(inputs, metadata, plan),
        progress=inputs.progress,
        world=inputs.world,
    )
    sets = run.run()
    if isinstance(run, CertifiedRun):
        for name, cost in run.costs.items():
            inputs.note(f"{name}: {cost.sentence()}")
    return sets


def _rankings(inputs: Inputs, name: str, wanted: Wanted, reach: Reach) -> dict[RankingKey, Ranking]:
    """All that can be asked of a data set, from one pass over it (in as many windows as needed)."""

    def compute() -> dict[RankingKey, Ranking]:
        matrices = ranked_matrices(inputs.layout, reach)
        # Of a ranking all scores down to the last are wanted, for which bounds are of no use.
        mode = "windows" if inputs.limits.mode == "certified" else inputs.limits.mode
        limits = replace(inputs.limits, mode=mode)
        plan = _plan(inputs, matrices, [wanted.samples], limits, 1.0)
        inputs.note(f"plan: {plan.sentence()}")
        return rank_weights(inputs, name, wanted.samples, reach, plan)

    return inputs.remember(("weights", name), compute)


def _plan(
    inputs: Inputs,
    matrices: Sequence[MatrixId],
    datasets: Sequence[Sequence[Sample]],
    limits: Limits,
    share: float,
) -> ScorePlan:
    model = inputs.model
    parameters = list(model.parameters())
    weights = sum(map(held_bytes, parameters))
    devices = {parameter.device for parameter in parameters}
    batch_tokens = limits.batch_tokens if can_pack(model) else 1
    sizes = [largest_batch(samples, batch_tokens=batch_tokens) for samples in datasets]
    budget = limits.memory
    if budget is None:
        if parameters[0].device.type == "cuda":
            budget = sum(torch.cuda.mem_get_info(device)[0] for device in devices) + weights
        else:
            # What the process holds already is part of what the plan counts.
            budget = available_memory() // inputs.world.local_size + private_memory()
        # All processes must take the same way.
        budget = inputs.world.least(budget)
    return plan_scores(
        inputs.layout,
        matrices,
        weights=weights,
        batch_tokens=max(tokens for tokens, _ in sizes),
        labels=max(labels for _, labels in sizes),
        item_size=parameters[0].element_size(),
        config=model.config.to_dict(),  # type: ignore[operator, union-attr]
        on_cpu=parameters[0].device.type == "cpu",
        budget=budget,
        mode=limits.mode,
        share=share,
        obstacle=obstacle(parameters[0].dtype, len(devices), split=inputs.world.splits),
        shards=inputs.world.size if inputs.world.splits else 1,
    )


def _state(inputs: Inputs, metadata: PatchMetadata, plan: ScorePlan) -> RunState | None:
    if inputs.limits.resume is None:
        return None
    run = {
        **metadata.to_json(),
        "mode": plan.mode,
        "windows": [len(window) for window in plan.windows],
        "weights": fingerprint_of_weights(inputs.model),
    }
    return RunState(inputs.limits.resume, fingerprint_of(run), inputs.world)
