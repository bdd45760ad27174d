"""The data sets of the FFt benchmark, and the two distributions of each: pure groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuropatch.fairness.distributions import Distributions, load_distributions, parse_side
from neuropatch.fairness.examples import Examples
from neuropatch.fairness.sources import Reading


@dataclass(frozen=True)
class Setting:
    """One data set with a sensitive attribute.

    Attributes:
        files: Below the folder of the data.
        reading: How they are read.
        groups: Conditions of the two distributions; the first is the larger group.
        balanced: Whether rows are left out so that each side has both labels equally often.
    """

    files: tuple[str, ...]
    reading: Reading
    groups: tuple[str, str]
    balanced: bool = False

    def load(self, data: Path) -> Distributions:
        """The rows of both distributions."""
        _, distributions = load_distributions(
            [str(data / name) for name in self.files],
            self.reading,
            parse_side([self.groups[0]], "g0"),
            parse_side([self.groups[1]], "g1"),
        )
        if not self.balanced:
            return distributions
        return Distributions(*map(_balanced, distributions.sides), distributions.names)


def _balanced(examples: Examples) -> Examples:
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(examples.labels == label)) for label in (0, 1)]
    count = min(map(len, rows))
    return examples.select(np.sort(np.concatenate([one[:count] for one in rows])))


TABULAR = {
    "acs-20states": Setting(
        ("acs/acs_pums_20states.csv",), Reading("acs"), ("sex=male", "sex=female")
    ),
    "acs-2012": Setting(("acs/acs12_2000.csv",), Reading("acs"), ("gender=male", "gender=female")),
    "compas-race": Setting(
        ("compas/compas_two_years.csv",),
        Reading("compas", sensitive="race"),
        ("race=African-American", "race=Caucasian"),
    ),
    "compas-sex": Setting(
        ("compas/compas_two_years.csv",),
        Reading("compas", sensitive="sex"),
        ("sex=Male", "sex=Female"),
    ),
    "german": Setting(
        ("german_credit/german_credit.csv",),
        Reading("german_credit", sensitive="sex"),
        ("sex=male", "sex=female"),
    ),
    "adult": Setting(
        ("adult/adult_24k.csv",), Reading("adult", sensitive="sex"), ("sex=Male", "sex=Female")
    ),
}

TEXT = {
    "bios-accountant": Setting(
        ("bias_in_bios/bios_accountant.csv", "bias_in_bios/bios_28x10.csv"),
        Reading("bias_in_bios", label="profession=accountant"),
        ("gender=Male", "gender=Female"),
        # Of these files four rows in five are accountants.
        balanced=True,
    ),
}
