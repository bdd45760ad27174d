"""Parameters of the distillation."""

from __future__ import annotations

from dataclasses import dataclass

from neuropatch.errors import UsageError
from neuropatch.methods.contrast import ContrastConfig

SELECTIONS = ("contrast", "random")
"""How units are chosen."""

TEACHERS = ("lookalikes", "others", "edited")
"""What is learned on the records to forget."""


@dataclass(frozen=True)
class DistilConfig(ContrastConfig):
    """Parameters of the distillation, after those of the contrast that chooses the units.

    Attributes:
        select: ``contrast``, or ``random`` for the control: as many units drawn by lot.
        teacher: What is learned on the records to forget: ``lookalikes``, what the model predicts
            of secrets of the same form, drawn by lot, behind other people's prompts; ``others``,
            of the same secret behind their prompts; or ``edited``, what it predicts with the units
            of the contrast edited (``edit`` and ``strength``, which only this one takes).
        prompts: Other people's prompts that each secret is put behind.
        steps: Steps of training.
        learning_rate: The highest, as a share of the root mean square of the units' weights in
            all matrices of a role.
        batch_size: Records to forget in a step; of each other data set as many tokens.
        retain_weight: Weight of the divergence on each data set to retain.
        general_weight: Weight of the divergence on general text.
        crops: Copies of each record, besides itself, from which the beginning is cut off at a
            random place, so that what is learned does not hang on how a sentence begins.
        tokens: Most likely tokens of the teacher that are told apart; all others count as one.
        density: Share of the units' weights that the patch may change. Below 1 the second half of
            the steps trains only those that the first half changed most, relative to the size of
            weights of their role, and puts the others back.
        mixed: Whether matrix products of training are computed in bfloat16.

    Raises:
        UsageError: If a parameter is out of range.
    """

    lambda_retain: float = 1.0
    iterations: int = 1
    select: str = "contrast"
    teacher: str = "lookalikes"
    prompts: int = 16
    steps: int = 120
    learning_rate: float = 0.03
    batch_size: int = 16
    retain_weight: float = 20.0
    general_weight: float = 20.0
    crops: int = 1
    tokens: int = 128
    density: float = 1.0
    mixed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("select", SELECTIONS), ("teacher", TEACHERS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} is '{getattr(self, name)}'", hint=f"choose {' or '.join(known)}"
                )
        if self.teacher != "edited" and (self.edit, self.strength) != ("zero", None):
            raise UsageError(
                f"distil edits no activations: --edit {self.edit} says what its teacher does to "
                "them with teacher=edited",
                hint="leave it out, or add --set teacher=edited",
            )
        for name in ("steps", "batch_size", "tokens", "prompts"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="ask for at least 1")
        for name in ("retain_weight", "general_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}", hint="give 0 or more")
        if not 0 < self.learning_rate < 1:
            raise UsageError(
                f"learning_rate is {self.learning_rate}", hint="give a share between 0 and 1"
            )
        if not 0 < self.density <= 1:
            raise UsageError(
                f"density is {self.density}", hint="give a share above 0, and 1 at most"
            )
        if self.density < 1 and self.steps < 2:
            raise UsageError(
                f"density {self.density} needs steps before and after the choice of weights",
                hint="ask for 2 steps at least",
            )
        if self.crops < 0:
            raise UsageError(f"crops is {self.crops}", hint="give 0 or more")
