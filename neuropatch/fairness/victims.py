"""Victims and shadows: models trained by one recipe on samples of ``G0`` and of ``G1``.

Rows are divided first, so that no model of the adversary has seen a row of a victim, and nobody was
trained on the query rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neuropatch.errors import DataError
from neuropatch.fairness.attacks import Responses, query
from neuropatch.fairness.classifier import Trainer
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Examples, Integers

QUERIES = 0.2
"""Share of the rows of each distribution that is left for queries; victims and shadows share the
rest equally, or victims have it all where there are no shadows."""

SAMPLE = 0.8
"""Share of its part, of the smaller distribution, on which one model is trained."""


@dataclass(frozen=True, eq=False)
class Division:
    """The rows of both distributions, divided; every row is in one part only."""

    victims: Distributions
    shadows: Distributions | None
    queries: Distributions


@dataclass(frozen=True, eq=False)
class Population:
    """Responses of models trained on ``G0`` and on ``G1``, as many on each side."""

    g0: tuple[Responses, ...]
    g1: tuple[Responses, ...]


def divide(
    distributions: Distributions, seed: int, *, shadows: bool, most_queries: int
) -> Division:
    """Divide rows among victims, shadows and queries, alike in label and group.

    Args:
        distributions: The rows.
        seed: Seed of the division.
        shadows: Whether there will be shadows.
        most_queries: Most query rows of each distribution; the others of their part go unused.

    Raises:
        DataError: If a part of a distribution has not both labels.
    """
    rng = np.random.default_rng(seed)
    trained = 1 - QUERIES
    shares = [trained / 2, trained / 2] if shadows else [trained, 0.0]
    parts = [cut_rows(side, shares, rng) for side in distributions.sides]
    queries = [np.sort(rng.permutation(one[2])[:most_queries]) for one in parts]

    def part(index: list[Integers], name: str) -> Distributions:
        chosen = distributions.g0.select(index[0]), distributions.g1.select(index[1])
        for flag, side, whole in zip(("G0", "G1"), chosen, distributions.sides, strict=True):
            if len(set(side.labels)) < 2:
                raise DataError(
                    f"{flag} has {len(whole):,} rows, too few to divide: the {name} get no row of "
                    "one label",
                    hint="audit without --victims, or use more rows",
                )
        return Distributions(*chosen, distributions.names)

    return Division(
        victims=part([one[0] for one in parts], "victims"),
        shadows=part([one[1] for one in parts], "shadows") if shadows else None,
        queries=part(queries, "queries"),
    )


def train_population(
    train: Trainer,
    rows: Distributions,
    queries: Distributions,
    *,
    count: int,
    seed: int,
    advance: Callable[[], None],
) -> Population:
    """Train models and ask each for the query rows.

    Every model gets a sample of its own, of the same size on both sides, so that the size of its
    training data gives nothing away.

    Args:
        train: The recipe.
        rows: What they are trained on.
        queries: What they are asked for.
        count: Number of models on each side.
        seed: Seed of the samples; model ``i`` of side ``b`` is trained with seed ``2 i + b``
            drawn from it.
        advance: Told of each model that is done.

    Raises:
        DataError: If a sample has one label only.
    """
    size = int(SAMPLE * min(len(rows.g0), len(rows.g1)))
    seeds = np.random.SeedSequence(seed).generate_state(2 * count)
    seen: tuple[list[Responses], list[Responses]] = ([], [])
    for number in range(count):
        for side in (0, 1):
            drawn = int(seeds[2 * number + side])
            model = train(_sample(rows.sides[side], size, drawn), drawn)
            seen[side].append(query(model, queries))
            advance()
    return Population(tuple(seen[0]), tuple(seen[1]))


def cut_rows(
    examples: Examples, shares: Sequence[float], rng: np.random.Generator
) -> list[Integers]:
    """Row numbers of random parts that are alike in label and group, and of what is left."""
    found: list[list[Integers]] = [[] for _ in range(len(shares) + 1)]
    cells = examples.groups * 2 + examples.labels
    for cell in np.unique(cells):
        rows = rng.permutation(np.flatnonzero(cells == cell))
        cuts = np.round(np.cumsum(shares) * len(rows)).astype(int)
        for pieces, piece in zip(found, np.split(rows, cuts), strict=True):
            pieces.append(piece)
    return [np.sort(np.concatenate(pieces)) for pieces in found]


def _sample(examples: Examples, size: int, seed: int) -> Examples:
    rows = np.random.default_rng(seed).choice(len(examples), size=size, replace=False)
    sample = examples.select(np.sort(rows))
    if len(set(sample.labels)) < 2:
        raise DataError(
            f"a sample of {size:,} rows has one label only, and cannot be trained on",
            hint="audit without --victims, or use more rows",
        )
    return sample
