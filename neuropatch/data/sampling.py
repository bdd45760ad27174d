"""Which rows of a data set are used."""

from __future__ import annotations

import numpy as np

from neuropatch.errors import UsageError


def sample_rows(rows: int, samples: int | None, seed: int) -> list[int]:
    """Choose rows without replacement, the same ones on every machine.

    The draw is ``numpy.random.default_rng(seed).choice`` (PCG64), which does not depend on the
    platform. Two data sets with the same number of rows get the same rows for the same seed.

    Args:
        rows: Number of rows that there are.
        samples: Number of rows wanted; None for all.
        seed: Seed of the draw, not negative.

    Returns:
        Row numbers from 0, in file order. All of them where ``samples >= rows``.

    Raises:
        UsageError: ``samples`` is below 1 or ``seed`` is negative.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"--samples is {samples}", hint="ask for at least one sample")
    if seed < 0:
        raise UsageError(f"--seed is {seed}", hint="a seed is a whole number from 0")
    if samples is None or samples >= rows:
        return list(range(rows))
    drawn = np.random.default_rng(seed).choice(rows, size=samples, replace=False)
    return sorted(int(row) for row in drawn)
