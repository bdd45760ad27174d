"""Secrets of the same form as another, drawn by lot.

A model that has memorised a secret completes it from its own first characters, whoever is said to
have it: behind other people's prompts SmolLM2-135M still predicts the tokens of the secrets that it
was taught with a perplexity of 2 (``benchmarks/README.md``). So what it would say of a secret that
it does not know is asked behind tokens that are like those of the secret, and are not they.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SPACES = "Ġ▁Ċ"
"""How tokenizers write the space or line break that a token begins with."""


class Lookalikes:
    """Tokens of a vocabulary by what they look like.

    Two tokens look alike if they have the same runs of lower case letters, capitals and other
    letters, and else the same characters, with as many digits.

    Args:
        tokenizer: A tokenizer of transformers.
        vocabulary: Tokens that the model knows; those from this number on are never drawn.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        size = min(len(tokenizer), vocabulary)
        special = set(tokenizer.all_special_ids)
        self._forms: dict[int, str] = {}
        alike: dict[str, list[int]] = {}
        for token, text in enumerate(tokenizer.convert_ids_to_tokens(list(range(size)))):
            if token not in special:
                self._forms[token] = form = form_of(text)
                alike.setdefault(form, []).append(token)
        self._alike = {form: np.array(tokens) for form, tokens in alike.items()}

    def draw(
        self,
        tokens: Sequence[int],
        count: int,
        rng: np.random.Generator,
        expected: Tensor | None = None,
    ) -> list[list[int]]:
        """Exchange each token of a secret for one that looks like it, itself included.

        Args:
            tokens: A secret of ``N`` tokens. A special token among them stays.
            count: Secrets to be drawn.
            rng: Where the lots are from.
            expected: How likely each token of the vocabulary is at each place, as logarithms
                ``[N, vocabulary]``; None if all are equally.

        Returns:
            ``count`` secrets of ``N`` tokens.
        """
        drawn = np.empty((count, len(tokens)), dtype=np.int64)
        for place, token in enumerate(tokens):
            form = self._forms.get(token)
            alike = np.array([token]) if form is None else self._alike[form]
            chances = None
            if expected is not None:
                mine = expected[place].double().cpu()[torch.from_numpy(alike)]
                chances = mine.softmax(0).numpy()
            drawn[:, place] = rng.choice(alike, size=count, p=chances)
        return drawn.tolist()


def form_of(token: str | None) -> str:
    """What a token looks like: its letters by kind, digits as 9, everything else as it is."""
    form = ""
    for character in token or "":
        kind = _kind(character)
        if not (kind in "aAx" and form.endswith(kind)):
            form += kind
    return form


def _kind(character: str) -> str:
    if character in _SPACES:
        return character
    if not character.isascii():
        return "x"
    if character.isdigit():
        return "9"
    if not character.isalpha():
        return character
    return "A" if character.isupper() else "a"
