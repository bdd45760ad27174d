"""Metrics of group fairness under their usual names, computed by ``fairlearn``."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from neuropatch.errors import DataError, ResourceError
from neuropatch.fairness.examples import Integers

FEW_ROWS = 20
"""Below this many rows of a group and label, a rate is said to be rough."""


@dataclass(frozen=True)
class GroupRow:
    """One group: rates under the names of ``fairlearn``, NaN where no row says anything."""

    group: str
    rows: int
    positives: int
    accuracy: float
    selection_rate: float
    true_positive_rate: float
    false_positive_rate: float


@dataclass(frozen=True)
class GroupMetrics:
    """Group fairness of one set of predictions.

    Attributes:
        groups: The groups that the rows have, in the order of their names.
        demographic_parity_difference: Largest difference of two groups' selection rates.
        demographic_parity_ratio: Smallest ratio of two groups' selection rates.
        equalized_odds_difference: The larger of the differences in true and false positive rate.
        equalized_odds_ratio: The smaller of the ratios of both rates.
        equal_opportunity_difference: Largest difference of two groups' true positive rates.
        left_out: Groups with one label only: they are in no difference or ratio.
    """

    groups: tuple[GroupRow, ...]
    demographic_parity_difference: float
    demographic_parity_ratio: float
    equalized_odds_difference: float
    equalized_odds_ratio: float
    equal_opportunity_difference: float
    left_out: tuple[str, ...]

    def notes(self) -> list[str]:
        """Sentences about predictions and groups that say little or nothing."""
        rates = {one.selection_rate for one in self.groups}
        found = []
        if rates in ({0.0}, {1.0}):
            found.append(f"the model predicts {rates.pop():g} for every row: no groups differ")
        found.extend(
            f"group {one.group} has only {min(one.positives, one.rows - one.positives)} rows of "
            "one label: its rates are rough"
            for one in self.groups
            if one.group not in self.left_out
            and min(one.positives, one.rows - one.positives) < FEW_ROWS
        )
        found.extend(f"group {name} has rows of one label only" for name in self.left_out)
        return found


def require_fairlearn() -> ModuleType:
    """``fairlearn.metrics``, which the extra ``neuropatch[fairness]`` installs.

    Raises:
        ResourceError: If it is not installed.
    """
    try:
        import fairlearn.metrics
    except ImportError:
        raise ResourceError(
            "the audit needs fairlearn, which is not installed",
            hint="pip install 'neuropatch[fairness]'",
        ) from None
    return fairlearn.metrics  # type: ignore[no-any-return]


def group_metrics(
    labels: Integers, predictions: Integers, groups: Integers, names: tuple[str, ...]
) -> GroupMetrics:
    """Group fairness of predictions.

    Args:
        labels: ``[n]``, 0 or 1.
        predictions: ``yhat``, ``[n]``, 0 or 1.
        groups: ``[n]``, index into ``names``.
        names: Names of the groups.

    Raises:
        DataError: If no group has rows of both labels.
        ResourceError: If fairlearn is not installed.
    """
    fair = require_fairlearn()
    rows = []
    for group in np.unique(groups):
        of = groups == group
        truth, guesses = labels[of], predictions[of]
        positives = int(truth.sum())
        rows.append(
            GroupRow(
                group=names[group],
                rows=len(truth),
                positives=positives,
                accuracy=float(np.mean(truth == guesses)),
                selection_rate=float(fair.selection_rate(truth, guesses)),
                true_positive_rate=_rate(guesses[truth == 1]),
                false_positive_rate=_rate(guesses[truth == 0]),
            )
        )
    single = tuple(one.group for one in rows if one.positives in (0, one.rows))
    if len(single) == len(rows):
        raise DataError(
            "no group has rows of both labels, so that errors cannot be compared",
            hint="use more rows, or another label",
        )
    of_row = np.array(names)[groups]
    kept = ~np.isin(of_row, single)
    arguments = {
        "y_true": labels[kept],
        "y_pred": predictions[kept],
        "sensitive_features": of_row[kept],
    }
    return GroupMetrics(
        groups=tuple(rows),
        demographic_parity_difference=float(fair.demographic_parity_difference(**arguments)),
        demographic_parity_ratio=_ratio(fair.demographic_parity_ratio(**arguments)),
        equalized_odds_difference=float(fair.equalized_odds_difference(**arguments)),
        equalized_odds_ratio=_ratio(fair.equalized_odds_ratio(**arguments)),
        equal_opportunity_difference=float(fair.equal_opportunity_difference(**arguments)),
        left_out=single,
    )


def _rate(guesses: Integers) -> float:
    return float(guesses.mean()) if len(guesses) else float("nan")


def _ratio(value: float) -> float:
    # Rates that are all 0 have no ratio; they are equal.
    return 1.0 if np.isnan(value) else float(value)
