"""The two distributions of the distribution inference game, ``G0`` and ``G1``.

They are given by conditions on the rows (``sex=Male``), by the share of the rows that meets a
condition (``sex=Male:80%``), or by a file each. Without any of these they are the pure groups of
the sensitive attribute, the protocol of the FFt paper (arXiv 2606.01719). No row is in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.conditions import Condition, parse_condition
from neuropatch.fairness.examples import Examples, Integers
from neuropatch.fairness.frame import Frame, Mask
from neuropatch.fairness.sources import Loaded, Reading, load_examples

# Without a percent sign only 0 to 1, so that opens=12:30 is a condition.
_SHARE = re.compile(
    r"(?P<condition>.+[=<>].+):((?P<percent>\d+(\.\d+)?)%|(?P<part>0?\.\d+|[01](\.0*)?))", re.DOTALL
)


@dataclass(frozen=True)
class Side:
    """What an option says of one distribution.

    Attributes:
        conditions: All must hold.
        share: Share of the rows for which ``conditions``, here one, hold; None for all of them.
        file: A file that is the distribution, instead.
    """

    conditions: tuple[Condition, ...] = ()
    share: float | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """How people see it."""
        if self.file is not None:
            return self.file
        text = " and ".join(map(str, self.conditions))
        return text if self.share is None else f"{self.share:.0%} {text}"

    def holds(self, frame: Frame) -> Mask:
        """Where all conditions hold, ``[n]``; errors as :meth:`Condition.holds`."""
        met = np.ones(len(frame), dtype=bool)
        for condition in self.conditions:
            met &= condition.holds(frame, strict=True)
        return met


@dataclass(frozen=True, eq=False)
class Distributions:
    """Samples of the two distributions, without a common row.

    Attributes:
        g0: Rows of ``G0``.
        g1: Rows of ``G1``, with the same features and group names.
        names: What the two are, for people.
        notes: Sentences for the user.
    """

    g0: Examples
    g1: Examples
    names: tuple[str, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.g0) + len(self.g1)

    @property
    def sides(self) -> tuple[Examples, Examples]:
        """``G0`` and ``G1``."""
        return self.g0, self.g1


def parse_side(texts: Sequence[str], flag: str) -> Side | None:
    """Read what an option says of a distribution; None where it was not given.

    Args:
        texts: Conditions that must all hold; or one share, ``CONDITION:80%`` or ``CONDITION:0.8``;
            or one file.
        flag: The option, for messages.

    Raises:
        UsageError: If it cannot be read.
    """
    if not texts:
        return None
    share = _SHARE.fullmatch(texts[0])
    is_file = not any(operator in texts[0] for operator in "=<>")
    if len(texts) > 1 and (share or is_file):
        what = "a share" if share else "a file"
        raise UsageError(
            f"{flag} {texts[0]} is {what}, and {flag} {texts[1]} is given as well",
            hint="only conditions go together",
        )
    if is_file:
        return Side(file=texts[0])
    if share is None:
        return Side(tuple(parse_condition(text, flag) for text in texts))
    number = float(share["part"] or share["percent"]) / (100 if share["percent"] else 1)
    if number > 1:
        raise UsageError(
            f"{flag} {texts[0]}: the share is {number:.0%}", hint="write 0% to 100%, or 0 to 1"
        )
    return Side((parse_condition(share["condition"], flag),), number)


def load_distributions(
    data: Sequence[str],
    reading: Reading,
    g0: Side | None,
    g1: Side | None,
    *,
    match_labels: bool = False,
    seed: int = 0,
) -> tuple[Loaded, Distributions]:
    """Read the files and make the two distributions.

    Args:
        data: Files; none where ``g0`` and ``g1`` are files themselves.
        reading: How they are read.
        g0: What the user said of ``G0``.
        g1: What the user said of ``G1``; both None for pure groups.
        match_labels: Draw rows so that both have the label shares of all rows, in equal numbers.
        seed: Seed of the draws.

    Raises:
        DataError: As :func:`load_examples`; or a distribution lacks rows, or a row is in both.
        UsageError: If the options do not fit each other.
    """
    sides = [side for side in (g0, g1) if side is not None]
    from_files = [side.file for side in sides if side.file is not None]
    if len(sides) == 1:
        given, other = ("--g0", "--g1") if g0 is not None else ("--g1", "--g0")
        raise UsageError(f"{given} is given and {other} is not", hint="give both, or neither")
    if (len(from_files) == 1) or (from_files and data) or not (from_files or data):
        raise UsageError(
            "the rows come from --data, or from a file each for --g0 and --g1",
            hint="write --data FILE --g0 sex=Male --g1 sex=Female, or --g0 FILE --g1 FILE",
        )
    loaded = load_examples(from_files or data, reading)
    if g0 is None or g1 is None:
        return loaded, pure_groups(loaded.examples, match_labels=match_labels, seed=seed)
    if from_files:
        masks = loaded.frame.file == 0, loaded.frame.file == 1
        names = loaded.frame.sources[0], loaded.frame.sources[1]
        return loaded, _by_masks(loaded.examples, *masks, names, match_labels, seed)
    if g0.share is not None and g1.share is not None:
        return loaded, by_shares(loaded, g0, g1, match_labels=match_labels, seed=seed)
    if g0.share is not None or g1.share is not None:
        raise UsageError(
            "one of --g0 and --g1 is a share, the other is not",
            hint="write both as shares, such as --g0 sex=Male:80% --g1 sex=Male:20%",
        )
    masks = g0.holds(loaded.frame), g1.holds(loaded.frame)
    both = int(np.count_nonzero(masks[0] & masks[1]))
    if both:
        raise DataError(
            f"{both:,} rows are in both --g0 {g0.name} and --g1 {g1.name}",
            hint="write conditions that exclude each other, or shares such as sex=Male:80%",
        )
    names = g0.name, g1.name
    return loaded, _by_masks(loaded.examples, *masks, names, match_labels, seed)


def by_shares(
    loaded: Loaded, g0: Side, g1: Side, *, match_labels: bool = False, seed: int = 0
) -> Distributions:
    """Two samples of equal size, as large as the rows allow, with the shares that were asked for.

    Raises:
        DataError: If there are not enough rows.
        UsageError: If the two are shares of different conditions.
    """
    assert g0.share is not None
    assert g1.share is not None
    if g0.conditions != g1.conditions:
        raise UsageError(
            f"--g0 is a share of {g0.conditions[0]}, --g1 one of {g1.conditions[0]}",
            hint="give two shares of the same condition",
        )
    shares = g0.share, g1.share
    meets = g0.holds(loaded.frame)
    labels = loaded.examples.labels
    strata = [labels == 0, labels == 1] if match_labels else [np.ones(len(labels), dtype=bool)]
    pools = [(np.flatnonzero(one & meets), np.flatnonzero(one & ~meets)) for one in strata]
    weights = [float(np.mean(one)) for one in strata]
    most = min(
        min(_most(len(yes), sum(shares)), _most(len(no), 2 - sum(shares))) / weight
        for (yes, no), weight in zip(pools, weights, strict=True)
    )
    rng = np.random.default_rng(seed)
    taken: tuple[list[Integers], list[Integers]] = ([], [])
    for (yes, no), weight in zip(pools, weights, strict=True):
        size = _fitting(math.floor(most * weight + 1e-9), len(yes), len(no), shares)
        yes, no = rng.permutation(yes), rng.permutation(no)
        for share, rows in zip(shares, taken, strict=True):
            met = round(share * size)
            rows.extend([yes[:met], no[: size - met]])
            yes, no = yes[met:], no[size - met :]
    samples = [loaded.examples.select(np.sort(np.concatenate(one))) for one in taken]
    return _checked(
        samples[0],
        samples[1],
        (g0.name, g1.name),
        [f"drew {len(samples[0]):,} rows for G0 and {len(samples[1]):,} for G1, none for both"],
    )


def _most(rows: int, shares: float) -> float:
    """Largest size of each sample, if they take ``shares`` times that from ``rows`` rows."""
    return rows / shares if shares else math.inf


def _fitting(size: int, yes: int, no: int, shares: tuple[float, float]) -> int:
    """The size, less the one or two rows that the rounding of both shares may ask for too much."""
    while size:
        met = [round(share * size) for share in shares]
        if sum(met) <= yes and 2 * size - sum(met) <= no:
            break
        size -= 1
    return size


def pure_groups(examples: Examples, *, match_labels: bool = False, seed: int = 0) -> Distributions:
    """Pure groups: the two largest of the sensitive attribute, in the order of their names.

    Raises:
        DataError: If a group has rows of one label only.
    """
    sizes = np.bincount(examples.groups, minlength=len(examples.group_names))
    # By name, not by size: a few rows more or less must not exchange the two.
    first, second = sorted(np.argsort(-sizes, kind="stable")[:2])
    names = tuple(
        name if examples.sensitive.endswith(name) else f"{examples.sensitive}={name}"
        for name in (examples.group_names[first], examples.group_names[second])
    )
    made = _by_masks(
        examples,
        examples.groups == first,
        examples.groups == second,
        (names[0], names[1]),
        match_labels,
        seed,
    )
    note = f"pure groups: G0 is {names[0]}, G1 is {names[1]} (to change it: --g0, --g1)"
    return Distributions(made.g0, made.g1, made.names, (note, *made.notes))


def _by_masks(
    examples: Examples,
    first: Mask,
    second: Mask,
    names: tuple[str, str],
    match_labels: bool,
    seed: int,
) -> Distributions:
    notes = []
    unused = int(np.count_nonzero(~first & ~second))
    if unused:
        notes.append(f"{unused:,} of {len(examples):,} rows are in neither G0 nor G1")
    if not match_labels:
        return _checked(examples.select(first), examples.select(second), names, notes)
    index = [
        [np.flatnonzero(mask & (examples.labels == label)) for label in (0, 1)]
        for mask in (first, second)
    ]
    either = examples.labels[first | second]
    weights = [float(np.mean(either == label)) for label in (0, 1)]
    most = min(
        len(rows) / weight
        for side in index
        for rows, weight in zip(side, weights, strict=True)
        if weight
    )
    rng = np.random.default_rng(seed)
    samples = []
    for side in index:
        drawn = [
            rng.permutation(rows)[: math.floor(most * weight + 1e-9)]
            for rows, weight in zip(side, weights, strict=True)
        ]
        samples.append(examples.select(np.sort(np.concatenate(drawn))))
    notes.append(f"drew {len(samples[0]):,} rows for each of G0 and G1, with equal label shares")
    return _checked(samples[0], samples[1], names, notes)


def _checked(
    g0: Examples, g1: Examples, names: tuple[str, str], notes: Sequence[str]
) -> Distributions:
    for flag, side, name in (("G0", g0, names[0]), ("G1", g1, names[1])):
        for label in (0, 1):
            if label not in side.labels:
                raise DataError(
                    f"{flag} ({name}) has {len(side):,} rows and none with label {label}; label 1 "
                    f"is {side.label}",
                    hint="both labels are needed on both sides; widen the condition, or use more "
                    "rows",
                )
    return Distributions(g0, g1, names, tuple(notes))
