"""Membership: does the loss tell what the model was trained on?

The attack of Yeom et al. (2018, arXiv 1709.01604): what the model was trained on has the lower
loss. Its area under the ROC curve is the probability that a member's loss is below a stranger's,
0.5 for a model that tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuropatch.errors import DataError
from neuropatch.evaluation.leakage.scores import SecretScores


def membership_auc(members: Sequence[SecretScores], strangers: Sequence[SecretScores]) -> float:
    """Area under the ROC curve of the mean loss of a secret's tokens; equal losses count half.

    Raises:
        DataError: A side is empty.
    """
    if not members or not strangers:
        raise DataError(
            "membership compares two groups, and one is empty",
            hint="give secrets of members and of strangers",
        )
    inside, outside = ([float(np.mean(one.nll)) for one in side] for side in (members, strangers))
    gaps = np.subtract.outer(outside, inside)
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
