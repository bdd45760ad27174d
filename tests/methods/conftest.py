"""Records with personal data for tiny models, and a model in which single units carry it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from neuropatch.data.columns import Columns
from neuropatch.data.corpus import Corpus
from neuropatch.data.pii.corpus import PiiCorpus
from neuropatch.data.pii.records import Record, Span
from neuropatch.data.pii.tokens import encode_records
from neuropatch.data.tokenize import Sample, TokenizedCorpus
from neuropatch.methods._base import Inputs
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import model_layout, resolve_parameters

_CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789-+.:[]"


@pytest.fixture(scope="session")
def letters():
    """A tokenizer with one token for each character, fit for a vocabulary of 50."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(_CHARACTERS, start=3)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])))


@pytest.fixture(scope="session")
def make_records(letters):
    """``make_records(name, prompts, secrets)``: records whose texts are prompt and secret."""

    def make(name, prompts, secrets, category="phone"):
        records = [
            Record(row, prompt + secret, (Span(len(prompt), len(prompt + secret), category),))
            for row, (prompt, secret) in enumerate(zip(prompts, secrets, strict=True))
        ]
        return PiiCorpus(
            name=name,
            source=f"{name}.jsonl",
            revision=None,
            sha256="0" * 64,
            rows=len(records),
            used=tuple(range(len(records))),
            mode="marked",
            records=tuple(records),
            encoded=encode_records(records, letters),
            notes=(),
        )

    return make


@pytest.fixture(scope="session")
def make_texts():
    """``make_texts(name, n, seed)``: a general data set of invented tokens."""

    def make(name="general", n=6, seed=0):
        rng = np.random.default_rng(seed)
        samples = tuple(
            Sample(row, rng.integers(3, 46, int(rng.integers(6, 15))).tolist(), 1)
            for row in range(n)
        )
        return Corpus(
            name=name,
            source=f"{name}.txt",
            revision=None,
            sha256="1" * 64,
            rows=n,
            used=tuple(range(n)),
            columns=Columns((), "text"),
            tokenized=TokenizedCorpus(samples, 0, 0),
            notes=(),
        )

    return make


@pytest.fixture
def make_inputs(make_model, make_records, make_texts, letters):
    """``make_inputs(model_type, dtype)``: records of invented people and a general set."""

    def make(model_type="llama", dtype="float32", *, general=True, **options):
        prompts = ["ada: ", "bob said ", "mail to cy "]
        secrets = ["+1-555", "12-34", "a.b7"]
        return Inputs(
            model=make_model(model_type, dtype),
            pii=make_records("pii", prompts, secrets),
            general=make_texts() if general else None,
            tokenizer=letters,
            **options,
        )

    return make


@dataclass(frozen=True)
class Planted:
    """A model of which two units of the last block are known.

    Attributes:
        inputs: Records to forget (``q`` is followed by ``9``), and to retain (``w`` by ``3``).
        block: The block.
        private: The unit that makes ``9`` likely after ``q``.
        shared: The unit that makes ``9`` likely after ``q``, and ``3`` after ``w``.
    """

    inputs: Inputs
    block: BlockId
    private: int
    shared: int


@pytest.fixture
def planted(make_model, make_records, letters):
    """The model above in float64: units whose rows are the hidden state that they answer to."""
    model = make_model("llama", "float64").requires_grad_(False)
    layout, block = model_layout(model), BlockId("decoder", 1)
    # A residual stream beside which the units are small: norms are then nearly linear in them.
    model.model.embed_tokens.weight *= 50
    model.lm_head.weight *= 20
    prompts = [f"{a}{b}" for a in ("ab", "cd ", "e") for b in ("fg", "hi-")]
    forget = make_records("pii", [p + "q" for p in prompts], ["9"] * len(prompts))
    retain = make_records("kept", [p + "w" for p in prompts], ["3"] * len(prompts))
    x = {name: _state(model, corpus, block) for name, corpus in (("q", forget), ("w", retain))}
    only_q = x["q"] - x["w"] * (x["q"] @ x["w"]) / (x["w"] @ x["w"])
    private, shared = 4, 11
    to = {c: model.lm_head.weight[letters.convert_tokens_to_ids(c)] for c in "93"}
    _plant(model, layout, block, private, only_q, to["9"])
    _plant(model, layout, block, shared, x["q"] + x["w"], to["9"] + to["3"])
    inputs = Inputs(model=model, pii=forget, retain={"kept": retain}, tokenizer=letters)
    return Planted(inputs, block, private, shared)


def _state(model: Any, corpus: PiiCorpus, block: BlockId) -> torch.Tensor:
    """What the MLP of a block is given where the secrets are predicted, ``[hidden]``."""
    seen = []
    mlp = model.model.layers[block.layer].mlp
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
    for sample in corpus.samples:
        model(input_ids=torch.tensor([sample.ids[:-1]]))
    handle.remove()
    mean = torch.stack(seen).mean(dim=0)
    return mean / mean.norm()


def _plant(model: Any, layout: Any, block: BlockId, unit: int, state: Any, target: Any) -> None:
    rows = {"gate": state, "up": state, "down": 0.1 * target / target.norm()}
    matrices = [MatrixId(*block, role) for role in rows]
    for slot in resolve_parameters(model, layout, matrices):
        weight = slot.weight()
        if slot.matrix.role == "down":
            weight[:, unit] = rows["down"]
        else:
            weight[unit] = rows[slot.matrix.role]
