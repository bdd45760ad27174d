"""The ways to run a localisation: what memory and time each needs, and which would be taken.

All of it follows from a model's config, and is computed by the code with which a run chooses its
own way (:mod:`neuropatch.attribution.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from neuropatch.attribution.certified import obstacle
from neuropatch.attribution.footprint import Footprint, footprint
from neuropatch.attribution.memory import available_memory, private_memory
from neuropatch.attribution.plan import PROCESS_BYTES, ScorePlan, choose, plan_ways
from neuropatch.attribution.rates import Rates, Work, estimate_seconds, measure_rates
from neuropatch.errors import ResourceError, UsageError
from neuropatch.methods._base import Limits, find_method
from neuropatch.methods._parameters import parse_parameters
from neuropatch.methods._scored import DataScoreConfig
from neuropatch.methods._weights import largest_share
from neuropatch.methods.spin import SpinConfig
from neuropatch.models.coordinates import parse_target
from neuropatch.models.loading import DTYPES, parse_device
from neuropatch.models.split import check_heads, splits_scores
from neuropatch.pipeline import DEFAULT_SAMPLES
from neuropatch.planning.outline import Outline, read_outline

DEFAULT_TOKENS = 128
"""Tokens of a sample when the user names no number."""

_WHOLE = "it needs the whole model in memory"


@dataclass(frozen=True)
class PlanOptions:
    """The run that is planned.

    Attributes:
        method: Name of a method that scores every weight: ``spin`` or ``snip``.
        config: The method's parameters, as values or as texts.
        datasets: Number of data sets, the general one included; None for the fewest that the
            method works on.
        samples: Samples of each.
        tokens: Tokens of each sample.
        dtype: As :class:`neuropatch.pipeline.RunOptions` has it.
        device: Likewise.
        limits: Likewise; nothing is resumed. The memory is that of each process.
        processes: Processes that share the work.
        flops: Floating-point operations in a second; None measures them here.
    """

    method: str = "spin"
    config: Mapping[str, Any] = field(default_factory=dict)
    datasets: int | None = None
    samples: int = DEFAULT_SAMPLES
    tokens: int = DEFAULT_TOKENS
    dtype: str = "auto"
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    processes: int = 1
    flops: float | None = None


@dataclass(frozen=True)
class Way:
    """One way to run.

    Attributes:
        name: What it is called.
        plan: The memory of each process.
        seconds: Estimated time; at the most, of a certified way.
        processes: Processes that share the work.
        read: Bytes of weights that are read from main memory or disk again and again.
        obstacle: Why ``localize`` does not run this way, as a clause, or None if it does.
        split: Whether each process holds a part of the weights only, which ``--tp`` asks for.
    """

    name: str
    plan: ScorePlan
    seconds: float
    processes: int = 1
    read: int = 0
    obstacle: str | None = None
    split: bool = False

    @property
    def passes(self) -> int:
        """Passes over each data set; at the most, of a certified way."""
        return 2 if self.plan.candidates else len(self.plan.windows)

    def to_json(self) -> dict[str, Any]:
        """The way in types that JSON knows."""
        return {
            "way": self.name,
            **self.plan.to_json(),
            "program_bytes": PROCESS_BYTES,
            "peak_bytes": self.plan.total,
            "passes": self.passes,
            "seconds": self.seconds,
            "processes": self.processes,
            "read_bytes": self.read,
            "fits": self.plan.fits,
            "localizes": self.obstacle is None,
            "obstacle": self.obstacle,
            "split": self.split,
        }


@dataclass(frozen=True)
class RunPlan:
    """All ways to make a run.

    Attributes:
        outline: The model.
        dtype: Its type in the run.
        matrices: Number of matrices that are scored.
        scored: Number of their weights.
        budget: Bytes that each process may take.
        ways: The ways.
        chosen: Name of the one that ``localize`` takes, or None.
        reason: Why that, as a clause; or why none, and what to do.
        rates: What times are computed with.
        work: All tokens.
    """

    outline: Outline
    dtype: str
    matrices: int
    scored: int
    budget: int
    ways: tuple[Way, ...]
    chosen: str | None
    reason: str
    rates: Rates
    work: Work

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "model": self.outline.name,
            "architecture": self.outline.layout.signature.model_type,
            "parameters": self.outline.numel,
            "dtype": self.dtype,
            "matrices": self.matrices,
            "scored_weights": self.scored,
            "budget_bytes": self.budget,
            "tokens": self.work.tokens,
            "rates": self.rates.to_json(),
            "ways": [way.to_json() for way in self.ways],
            "chosen": self.chosen,
            "reason": self.reason,
        }


def plan_run(model: str, options: PlanOptions | None = None) -> RunPlan:
    """What a localisation would need, and how it would be made.

    Args:
        model: A local folder, a ``config.json``, or ``user/name[@revision]`` on the Hub; of none
            of them weights are read.
        options: The run.

    Raises:
        UsageError: If an option is wrong, or the method does not score every weight.
        NeuropatchError: If the model cannot be read, or is of an unknown architecture.
    """
    options = options or PlanOptions()
    target, scope, amounts, least = _method(options)
    device = parse_device(options.device)
    outline = read_outline(model)
    return _Planner(outline, options, device, target, scope, amounts, least).plan()


def _method(options: PlanOptions) -> tuple[str, str, tuple[float, ...], int]:
    """Target, scope, amounts, and the fewest data sets of the method.

    Raises:
        UsageError: If it does not score every weight.
    """
    method = find_method(options.method)
    given = dict(options.config)
    if method.config is DataScoreConfig:
        given.setdefault("granularity", "weights")
    config = parse_parameters(method, given)
    if isinstance(config, SpinConfig):
        return config.target, config.scope, (config.p, config.q), 3
    if method.name == "snip" and not config.finds_units:
        return config.roles, config.scope, (config.amount, config.protected), 1
    raise UsageError(
        f"{method.name} does not score every weight, so there is nothing to choose between",
        hint="plan spin or snip; other methods take little beside the weights and a batch",
    )


class _Planner:
    """Plans one run."""

    def __init__(
        self,
        outline: Outline,
        options: PlanOptions,
        device: torch.device,
        target: str,
        scope: str,
        amounts: Sequence[float],
        datasets: int,
    ) -> None:
        self._outline, self._options, self._device = outline, options, device
        self._layout = outline.layout
        self._name = outline.dtype(options.dtype)
        self._dtype = DTYPES[self._name]
        self._matrices = self._layout.matrices(parse_target(target))
        self._share = largest_share(self._layout, self._matrices, scope, amounts)
        self._rates = _rates(options, self._dtype, device)
        # The last token of a sample predicts nothing.
        length = max(1, options.tokens - 1)
        self._samples = (options.datasets or datasets) * options.samples
        self._work = Work(self._samples * length, self._samples * length, length)
        self._budget = self._available()

    def plan(self) -> RunPlan:
        """All ways, and the one that is chosen."""
        processes = self._options.processes
        ways = plan_ways(self._layout, self._base(self._outline.numel), self._share)
        cost = self._footprint()
        name, reason = None, ""
        try:
            chosen = choose(
                ways,
                mode=self._options.limits.mode,
                share=self._share,
                obstacle=obstacle(self._dtype),
            )
            name, reason = chosen.mode, chosen.reason
        except ResourceError as error:
            reason = str(error)
        rows = [self._way(plan, cost) for plan in (ways.full, ways.windows, ways.certified)]
        if processes > 1:
            rows.append(self._split(processes))
        rows.append(self._offloaded(cost))
        return RunPlan(
            outline=self._outline,
            dtype=self._name,
            matrices=len(self._matrices),
            scored=sum(math.prod(self._layout.shape(matrix)) for matrix in self._matrices),
            budget=self._budget,
            ways=tuple(rows),
            chosen=name,
            reason=reason,
            rates=self._rates,
            work=self._work,
        )

    def _available(self) -> int:
        """Bytes that each process may take: as a run finds it out."""
        if self._options.limits.memory is not None:
            return self._options.limits.memory
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return (available_memory() + private_memory()) // self._options.processes

    def _footprint(self) -> Footprint:
        return footprint(
            self._layout,
            self._matrices,
            self._outline.config,
            item_size=self._dtype.itemsize,
            on_cpu=self._device.type == "cpu",
        )

    def _base(self, numel: int, shards: int = 1) -> ScorePlan:
        """A plan with everything but scores, for a process that holds so many parameters.

        Args:
            numel: Parameters that it holds.
            shards: Processes that hold a part of every matrix each, and run all samples; else they
                share the samples.
        """
        length, most = self._work.length, self._options.limits.batch_tokens
        packs = self._layout.signature.model_type not in self._layout.definition.unpacked
        fit = max(1, most // length) if packs else 1
        shares = self._options.processes if shards == 1 else 1
        tokens = min(fit, max(1, self._options.samples // shares)) * length
        activations = self._footprint().bytes(tokens, tokens)
        weights = numel * self._dtype.itemsize
        return ScorePlan((tuple(self._matrices),), weights, 0, activations, self._budget)

    def _way(self, plan: ScorePlan, cost: Footprint) -> Way:
        processes = self._options.processes
        name = "certified" if plan.candidates else plan.mode
        if name == "windows":
            name = f"{len(plan.windows)} windows"
        if processes > 1:
            name += f", samples over {processes}"
        return Way(name, plan, self._seconds(plan, cost) / processes, processes)

    def _seconds(self, plan: ScorePlan, cost: Footprint) -> float:
        return estimate_seconds(
            cost,
            self._work,
            self._rates,
            windows=len(plan.windows),
            certified=bool(plan.candidates),
        )

    def _best(self, base: ScorePlan, shards: int = 1) -> ScorePlan:
        """The way to keep scores that fits beside what else there is; else the least one."""
        ways = plan_ways(self._layout, base, self._share, shards=shards)
        reason = obstacle(self._dtype, split=shards > 1)
        try:
            return choose(ways, share=self._share, obstacle=reason)
        except ResourceError:
            others = (ways.windows,) if reason else (ways.windows, ways.certified)
            return min(others, key=lambda plan: plan.total)

    def _split(self, processes: int) -> Way:
        """Weights, and their scores, cut into parts for as many processes."""
        cut = self._outline.cut
        numel = -(-cut // processes) + self._outline.numel - cut
        plan = self._best(self._base(numel, processes), processes)
        seconds = self._seconds(plan, self._footprint()) / processes
        name = f"{_scores(plan)}, weights over {processes}"
        return Way(name, plan, seconds, processes, obstacle=self._no_split(processes), split=True)

    def _no_split(self, processes: int) -> str | None:
        """Why ``localize --tp`` does not take the model on so many processes, or None."""
        try:
            check_heads(self._layout, processes)
        except UsageError as error:
            return error.message
        rules = self._outline.rules
        for matrix in self._matrices:
            names = self._layout.memory(matrix).names
            if not any(splits_scores(rules.get(name)) for name in names):
                return f"the scores of '{names[0]}' cannot be split among processes"
        return None

    def _offloaded(self, cost: Footprint) -> Way:
        """Weights elsewhere: a layer is there while it is used, and the next one on its way."""
        layers = self._layers()
        outside = self._outline.numel - sum(layers.values())
        plan = self._best(self._base(outside + 2 * max(layers.values())))
        batches = math.ceil(self._work.tokens / self._options.limits.batch_tokens)
        way = Way(f"{_scores(plan)}, offload", plan, self._seconds(plan, cost), obstacle=_WHOLE)
        # Once in each forward pass, and once in each backward pass.
        streamed = sum(layers.values()) * self._dtype.itemsize
        return replace(way, read=2 * way.passes * batches * streamed)

    def _layers(self) -> dict[tuple[str, int], int]:
        """Weights of each layer's matrices, experts included."""
        found: dict[tuple[str, int], int] = {}
        for matrix in self._layout.matrices():
            place = (matrix.stack, matrix.layer)
            found[place] = found.get(place, 0) + math.prod(self._layout.shape(matrix))
        return found


def _scores(plan: ScorePlan) -> str:
    return f"{len(plan.windows)} windows" if plan.mode == "windows" else plan.mode


def _rates(options: PlanOptions, dtype: torch.dtype, device: torch.device) -> Rates:
    if options.flops is None:
        return measure_rates(dtype, device)
    return Rates(options.flops, None, measured=False)
