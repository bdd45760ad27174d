"""Samples of invented tokens."""

import numpy as np
import pytest

from neuropatch.data.tokenize import Sample


@pytest.fixture(scope="session")
def make_samples():
    """``make_samples(n, seed)``: samples of 3 to 14 tokens of a vocabulary of 50."""

    def make(n, seed=0):
        rng = np.random.default_rng(seed)
        samples = []
        for row in range(n):
            length = int(rng.integers(3, 15))
            ids = rng.integers(3, 50, length).tolist()
            samples.append(Sample(row, ids, int(rng.integers(1, length))))
        return samples

    return make
