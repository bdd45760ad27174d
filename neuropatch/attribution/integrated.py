"""Integrated gradients of the probability of tokens with respect to MLP units.

For a token ``Y`` that a model predicts at one position from the text ``X``, and the activation
``h`` of the units of one layer at that position (Sundararajan et al., arXiv 1703.01365, with the
baseline 0 and a Riemann sum of ``m`` points; for personal data Wu et al., DEPN, arXiv 2310.20138,
equation 4),

    Att(h_k) = h_k * 1/m * sum over j = 1 to m of dP(Y | X, (j/m) h) / dh_k.

The obvious way takes ``layers * m`` passes over the whole text
(:func:`neuropatch.attribution.reference.integrated_gradients`). Here:

* In a causal model nothing before the predicting position depends on it. The text is read once,
  and every point is a single token that continues from the keys and values of its prefix, for all
  tokens that are asked about.
* Every point is computed only from its layer upward, in one pass for all layers
  (:mod:`neuropatch.attribution.joining`). That holds for masked models too, whose points are whole
  texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from neuropatch.attribution.joining import JoiningRows, plan_points, unit_modules
from neuropatch.attribution.run import frozen
from neuropatch.data.batching import IGNORE_INDEX
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId
from neuropatch.models.layout import Layout
from neuropatch.models.likelihood import logits_only_at
from neuropatch.models.shared_prefix import ReadText, continue_text, read_text
from neuropatch.models.token_nll import token_nll

# How far the negative log likelihood of a token, in nats, may lie from the one that the whole text
# gives. The two ways add up in different orders: in half precision logits of 20 are rounded to
# about 0.1, in float32 to about 1e-5.
_AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}
_AGREEMENT_HALF = 0.5


@dataclass(frozen=True)
class Question:
    """Tokens of one text that a model has to predict.

    Attributes:
        ids: What the model reads.
        positions: Where it predicts, ascending.
        targets: What should be predicted there.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


def causal_question(sample: Sample) -> Question:
    """The labels of a sample, each predicted from the tokens before it."""
    targets = sample.targets(IGNORE_INDEX)
    positions = [place for place, target in enumerate(targets) if target != IGNORE_INDEX]
    return Question(
        tuple(sample.ids[: positions[-1] + 1]),
        tuple(positions),
        tuple(targets[place] for place in positions),
    )


def masked_question(sample: Sample, mask: int, suffix: Sequence[int] = ()) -> Question:
    """The labels of a sample, all of them hidden from the model, each predicted in its place.

    Args:
        sample: The sample.
        mask: Id of the mask token.
        suffix: Ids that the tokenizer puts behind a text, such as SEP.
    """
    targets = sample.targets(IGNORE_INDEX)
    places = [place + 1 for place, target in enumerate(targets) if target != IGNORE_INDEX]
    hidden = set(places)
    ids = [mask if place in hidden else token for place, token in enumerate(sample.ids)]
    return Question((*ids, *suffix), tuple(places), tuple(sample.ids[place] for place in places))


@dataclass(frozen=True)
class Attributions:
    """What units have to do with the tokens of one question.

    Attributes:
        scores: ``Att`` of every unit for each token, ``[tokens, units]`` of each block, float32
            (float64 for a float64 model), on the model's device.
        probabilities: ``P(Y | X)`` of each token, ``[tokens]``.
    """

    scores: dict[BlockId, torch.Tensor]
    probabilities: torch.Tensor


class IntegratedGradients:
    """Integrated gradients of one model.

    Args:
        model: A language model in evaluation mode.
        layout: Its layout.
        kind: ``causal`` or ``masked``.
        steps: Points ``m`` of a layer.
        batch_tokens: Most tokens of a pass.
        note: Told if the model's texts cannot be continued from their prefixes.

    Raises:
        ModelError: If the model is a mixture of experts, or lacks a module.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        *,
        kind: str = "causal",
        steps: int = 20,
        batch_tokens: int = 1024,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._model = model
        self._modules = unit_modules(model, layout)
        self._steps = steps
        self._batch_tokens = batch_tokens
        self._note = note
        self._causal = kind == "causal"
        self._continues = self._causal
        self._device = next(model.parameters()).device

    def attribute(self, question: Question) -> Attributions:
        """Attributions of every token of a question.

        Raises:
            ModelError: If a probability is not a number.
        """
        with frozen(self._model), torch.enable_grad():
            try:
                found = (self._continued if self._continues else self._whole)(question)
            except _CannotContinueError as reason:
                self._continues = False
                self._note(
                    f"single tokens cannot continue the texts of this model ({reason}): every "
                    "interpolation point reads its whole text, which takes longer"
                )
                found = self._whole(question)
        if not torch.isfinite(found.probabilities).all():
            raise ModelError(
                "the probability of a token is not a number",
                hint="the model overflows in this dtype; use --dtype float32",
            )
        return found

    def _continued(self, question: Question) -> Attributions:
        """Single tokens behind prefixes."""
        ids = torch.tensor([question.ids], device=self._device)
        text = read_text(self._model, ids, question.positions)
        if text is None:
            raise _CannotContinueError("it keeps no keys and values of all tokens")
        targets = torch.tensor(question.targets, device=self._device)
        expected = token_nll(text.logits, targets)
        plan = plan_points(len(self._modules), self._steps, max(1, self._batch_tokens - 1))
        rows = 1 + max(sum(map(len, points.joining.values())) for points in plan)
        at_once = max(1, self._batch_tokens // rows)
        parts = []
        for start in range(0, len(targets), at_once):
            some = slice(start, start + at_once)
            passes = [JoiningRows(self._modules, points) for points in plan]
            try:
                found = [
                    self._continue(one, text, question.positions[some], targets[some])
                    for one in passes
                ]
            except ModelError as error:
                raise _CannotContinueError(str(error)) from error
            if not _agree(found[0], expected[some], text.logits.dtype):
                raise _CannotContinueError("a token alone is not what it is in its text")
            parts.append(self._attributions(passes, found[0]))
        return _joined(parts)

    def _continue(
        self,
        joining: JoiningRows,
        text: ReadText,
        positions: Sequence[int],
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """One pass; returns the plain rows' negative log likelihoods ``[positions]``."""
        with joining.watching():
            logits = continue_text(self._model, text, positions)
        rows = logits.shape[1]
        return self._differentiate(logits, targets.repeat_interleave(rows)).view(-1, rows)[:, 0]

    def _whole(self, question: Question) -> Attributions:
        """Whole texts, one position after the other."""
        parts = []
        for position, target in zip(question.positions, question.targets, strict=True):
            # A causal model sees nothing behind the position.
            length = position + 1 if self._causal else len(question.ids)
            ids = torch.tensor([question.ids[:length]], device=self._device)
            most = max(1, self._batch_tokens // length - 1)
            plan = plan_points(len(self._modules), self._steps, most)
            passes = [JoiningRows(self._modules, points, token=position) for points in plan]
            found = [self._read(joining, ids, target) for joining in passes]
            parts.append(self._attributions(passes, found[0]))
        return _joined(parts)

    def _read(self, joining: JoiningRows, ids: torch.Tensor, target: int) -> torch.Tensor:
        """One pass; returns the plain row's negative log likelihood ``[1]``."""
        rows = 1 + sum(map(len, joining.points.joining.values()))
        wanted = torch.zeros(rows, ids.shape[1], dtype=torch.bool, device=ids.device)
        wanted[:, joining.token] = True
        with joining.watching(), logits_only_at(self._model, wanted):
            logits = self._model(input_ids=ids, use_cache=False).logits
        return self._differentiate(logits, torch.full((rows,), target, device=ids.device))[:1]

    def _differentiate(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Differentiate all probabilities; returns negative log likelihoods ``[rows]``."""
        nll = token_nll(logits.flatten(0, -2), targets)
        nll.neg().exp().sum().backward()
        return nll.detach()

    def _attributions(self, passes: Sequence[JoiningRows], nll: torch.Tensor) -> Attributions:
        scores = {
            modules.block: torch.stack(
                [one.integrals[modules.block] for one in passes if modules.block in one.integrals]
            ).sum(dim=0)
            / self._steps
            for modules in self._modules
        }
        return Attributions(scores, nll.neg().exp())


class _CannotContinueError(Exception):
    """A model's texts cannot be continued by single tokens; says why."""


def _agree(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    tolerance = _AGREEMENT.get(dtype, _AGREEMENT_HALF)
    return bool((found - expected).abs().max() <= tolerance)


def _joined(parts: Sequence[Attributions]) -> Attributions:
    """Attributions of all tokens, from those of some."""
    return Attributions(
        {block: torch.cat([part.scores[block] for part in parts]) for block in parts[0].scores},
        torch.cat([part.probabilities for part in parts]),
    )
