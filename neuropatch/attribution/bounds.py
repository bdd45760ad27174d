"""Upper bounds of every score of a matrix, from two vectors.

For tokens ``t`` of any number of samples, and any ``w_t > 0``, Cauchy and Schwarz give

    sum over samples b of | sum over t of b: g_ti x_tj |
        <= sum over all t of (w_t |g_ti|) (|x_tj| / w_t)
        <= sqrt(sum_t (w_t g_ti)^2) * sqrt(sum_t (x_tj / w_t)^2) = rows_i * columns_j

so that ``|W_ij| * rows_i * columns_j / samples`` is never below the score. The weights ``w_t``
balance the two factors, ``w_t^2 = |x_t| / |g_t|``: without them a token with a huge input that
nothing depends on (the first token of most models) would make every bound useless. On SmolLM2 this
bound of rank one is tighter than that of rank ``samples`` made of unweighted norms.

Everything here that proves something is rounded in one direction: sides up, and bounds up by
:class:`Rounding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from neuropatch.errors import ModelError
from neuropatch.kernels import snip_column_norms
from neuropatch.models.coordinates import MatrixId
from neuropatch.world import World

TILE = 1 << 17
"""Bounds that are looked at together: 1 MB of float64."""


@dataclass(frozen=True)
class Rounding:
    """What float32 arithmetic can add to a score, proved from above.

    A score is a chain of products and sums in float32: over the tokens of a sample, over samples
    and batches, then times ``|W|`` and divided. In any order and with or without fused
    operations each of its ``m`` steps makes it larger by at most ``1 + 2**-24``, so all of them by
    less than ``1 + m * 2**-23`` (for any ``m`` below ``2**24``), or, near zero, by half of the
    smallest float32 a step. Flushing to zero makes nothing larger than the sum of magnitudes is.

    Attributes:
        factor: Factor for all relative errors.
        offset: Absolute error of the sum over tokens and samples.
    """

    factor: float
    offset: float

    @classmethod
    def of(cls, lengths: Sequence[int], batches: int) -> Rounding:
        """The rounding of a run over samples of ``lengths`` tokens in ``batches`` batches."""
        # 16 more for the product with |W|, the division, and the sides, which are within 2**-21.
        steps = max(lengths) + len(lengths) + batches + 16
        return cls(1 + steps * 2.0**-23, (sum(lengths) + len(lengths)) * 2.0**-149)

    def raise_(self, weight: torch.Tensor, sums: torch.Tensor, samples: int) -> torch.Tensor:
        """Upper bounds of computed scores from upper bounds of exact sums, both float64."""
        return weight * (sums * self.factor + self.offset) / samples + 2.0**-148


@dataclass
class RankOneBound:
    """The two sides of the bound of one matrix, of all tokens seen so far.

    Attributes:
        rows: ``[out]`` float32.
        columns: ``[in]`` float32.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def none(cls, shape: tuple[int, int], device: torch.device) -> RankOneBound:
        """The bound of no tokens for a matrix ``[out, in]``."""
        return cls(torch.zeros(shape[0], device=device), torch.zeros(shape[1], device=device))

    def add(self, grad: torch.Tensor, input: torch.Tensor) -> None:
        """Take in tokens: ``[tokens, out]`` gradients and ``[tokens, in]`` inputs."""
        of_grad, of_input = _token_weights(grad, input)
        whole = torch.tensor([0, len(grad)])
        self.rows = _joined(self.rows, snip_column_norms(grad, whole, of_grad)[0])
        self.columns = _joined(self.columns, snip_column_norms(input, whole, of_input)[0])

    def of_all(self, world: World) -> RankOneBound:
        """The bound of the tokens of all processes."""
        if world.size == 1:
            return self
        return RankOneBound(_of_all(self.rows, world), _of_all(self.columns, world))

    def without(self, part: RankOneBound, batches: int) -> RankOneBound:
        """The bound of the tokens that are not in ``part``, a bound of the first ``batches``."""
        return RankOneBound(
            _remaining(self.rows, part.rows, batches),
            _remaining(self.columns, part.columns, batches),
        )

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """``rows_i * columns_j`` of weights at flat indices ``[n]``, float32, rounded up."""
        into = len(self.columns)
        exact = self.rows[index // into].double() * self.columns[index % into].double()
        return _rounded_up(exact)

    def tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The products ``rows_i * columns_j`` in float32, some rows at a time, with the first."""
        step = max(1, TILE // len(self.columns))
        for start in range(0, len(self.rows), step):
            yield start, torch.outer(self.rows[start : start + step], self.columns)


@dataclass
class Bound:
    """The bound of one matrix over a pass, in two parts whose sum is below that of the whole.

    A weight that was far below the threshold can reach it only by the tokens since, and of those
    the second part knows.

    Attributes:
        past: Tokens up to the last :meth:`settle`.
        now: Tokens since then.
    """

    past: RankOneBound
    now: RankOneBound

    @classmethod
    def none(cls, shape: tuple[int, int], device: torch.device) -> Bound:
        """The bound of no tokens for a matrix ``[out, in]``."""
        return cls(RankOneBound.none(shape, device), RankOneBound.none(shape, device))

    @classmethod
    def loaded(cls, state: Mapping[str, torch.Tensor]) -> Bound:
        """From saved sides."""
        past = RankOneBound(state["past.rows"], state["past.columns"])
        return cls(past, RankOneBound(state["now.rows"], state["now.columns"]))

    def state(self) -> dict[str, torch.Tensor]:
        """All sides, for saving."""
        return {
            "past.rows": self.past.rows,
            "past.columns": self.past.columns,
            "now.rows": self.now.rows,
            "now.columns": self.now.columns,
        }

    def settle(self) -> None:
        """Begin the second part anew."""
        self.past = self.whole()
        self.now = RankOneBound(torch.zeros_like(self.now.rows), torch.zeros_like(self.now.columns))

    def whole(self) -> RankOneBound:
        """Both parts as one, which is less tight."""
        return RankOneBound(
            _joined(self.past.rows, self.now.rows), _joined(self.past.columns, self.now.columns)
        )

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """Bounds of ``sum over samples of |dL_b/dW|`` at flat indices ``[n]``, float32."""
        return _rounded_up(self.past.at(index).double() + self.now.at(index).double())

    def check_finite(self, matrix: MatrixId, weight: torch.Tensor) -> None:
        """Refuse a matrix ``[out, in]`` whose scores overflow.

        Raises:
            ModelError: If a weight or a side is not finite.
        """
        sides = [side for part in (self.past, self.now) for side in (part.rows, part.columns)]
        extremes = [extreme for v in (*sides, weight) for extreme in torch.aminmax(v)]
        if not all(torch.isfinite(extreme) for extreme in extremes):
            raise ModelError(
                f"scores of {matrix} are not finite",
                hint="the model overflows in this dtype; use --dtype float32",
            )

    def reaching(
        self, weight: torch.Tensor, limit: float, samples: int, slack: Rounding
    ) -> torch.Tensor:
        """Flat indices, ascending, of all weights whose score may be ``limit`` or more.

        Weights whose score is certainly 0 are left out, whatever the limit.

        Args:
            weight: ``[out, in]``, finite.
            limit: Not negative.
            samples: What sums are divided by.
            slack: Rounding of the run.
        """
        past, now, into = self.past, self.now, weight.shape[1]
        largest = float(_largest(weight))
        # Most weights are sorted out by a quick product in float32, for whose four roundings, and
        # those near zero, this leaves room; the others are looked at exactly.
        needed = (limit - 2.0**-148) * samples - largest * (slack.offset + 2.0**-146)
        least = needed / slack.factor * (1 - 1e-6) - 2.0**-147
        highest = past.rows.double() * past.columns.max() + now.rows.double() * now.columns.max()
        hot = (highest * largest >= least).nonzero().squeeze(1)
        found = [hot[:0]]
        for rows in hot.split(max(1, TILE // into)):
            sums = torch.outer(past.rows[rows], past.columns)
            sums += torch.outer(now.rows[rows], now.columns)
            hit = (sums.mul_(weight[rows].abs().float()) >= least).nonzero()
            index = rows[hit[:, 0]] * into + hit[:, 1]
            of = weight[index // into, index % into].abs().double()
            exact = self.at(index).double()
            reach = (slack.raise_(of, exact, samples) >= limit) & (of > 0) & (exact > 0)
            found.append(index[reach])
        return torch.cat(found)


def _largest(weight: torch.Tensor) -> torch.Tensor:
    low, high = torch.aminmax(weight)
    return torch.maximum(-low, high)


def _token_weights(grad: torch.Tensor, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors ``[tokens]`` of gradients and inputs; a token without a gradient counts nowhere.

    Any factors give a bound if their product is 1, or, where a gradient is zero, whatever they
    are. Float32 rounds the product by less than ``2**-22``, for which :class:`Rounding` has room.
    """
    of_grad = torch.linalg.vector_norm(grad, dim=1, dtype=torch.float32)
    of_input = torch.linalg.vector_norm(input, dim=1, dtype=torch.float32)
    ratio = of_input.sqrt() / of_grad.sqrt()
    usable = torch.isfinite(ratio) & (ratio > 0)
    ratio = torch.where(usable, ratio, 1.0)
    inverse = ratio.reciprocal()
    silent = (of_grad == 0).nonzero().squeeze(1)
    # The norm of tiny values may have underflowed.
    silent = silent[~(grad[silent] != 0).any(dim=1)]
    inverse[silent] = 0
    return ratio, inverse


def _joined(norms: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return _rounded_up((norms.double().square() + more.double().square()).sqrt())


def _of_all(norms: torch.Tensor, world: World) -> torch.Tensor:
    squares = norms.double().square()
    world.sum_([squares])
    return _rounded_up(squares.sqrt())


def _remaining(norms: torch.Tensor, part: torch.Tensor, batches: int) -> torch.Tensor:
    # A part is rounded up twice in its first batch and once in every other one, each time by at
    # most one float32, which is 2**-23 of it or 2**-149: what is taken away is surely in it.
    steps = batches + 2
    least = (part.double() * (1 - steps * 2.0**-22) - steps * 2.0**-149).clamp(min=0)
    return _rounded_up((norms.double().square() - least.square()).clamp(min=0).sqrt())


def _rounded_up(values: torch.Tensor) -> torch.Tensor:
    nearest = values.float()
    above = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return torch.where(nearest.double() < values, above, nearest)
