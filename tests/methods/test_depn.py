"""DEPN against its definition: whole passes and Python sets."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from neuropatch.attribution import reference
from neuropatch.attribution.integrated import causal_question, masked_question
from neuropatch.attribution.joining import check_dense
from neuropatch.data.pii.corpus import PiiCorpus
from neuropatch.data.pii.records import Record, Span
from neuropatch.data.pii.tokens import EncodedRecords, PiiSample
from neuropatch.errors import DataError, ModelError, SelectionError, UsageError
from neuropatch.methods._base import Given, Inputs, Limits, find_method
from neuropatch.methods.depn import Aggregator, DepnConfig, localize
from neuropatch.models.coordinates import BlockId, MatrixId

A, B = BlockId("decoder", 0), BlockId("decoder", 1)
MASK, SUFFIX = 4, [2]


class Masking:
    """A tokenizer of BERT's kind, as far as DEPN asks it."""

    mask_token_id = MASK

    def __call__(self, texts, *, add_special_tokens, verbose):
        ids = [[1, 9, *SUFFIX] if add_special_tokens else [9] for _ in texts]
        return {"input_ids": ids}


@pytest.fixture
def people():
    """``people(texts)``: records of 10 tokens, 3 of them personal data in two spans."""

    def make(texts=4, seed=0):
        rng = np.random.default_rng(seed)
        samples, records = [], []
        for row in range(texts):
            span_of = [-1] * 10
            for place, span in ((3, 0), (7, 1), (8, 1)):
                span_of[place] = span
            ids = rng.integers(5, 50, 10).tolist()
            samples.append(PiiSample(row, ids, 1, tuple(span_of), ("name", "phone")))
            records.append(Record(row, "x" * 10, (Span(3, 4, "name"), Span(7, 9, "phone"))))
        return PiiCorpus(
            name="pii",
            source="people.jsonl",
            revision=None,
            sha256="0" * 64,
            rows=texts,
            used=tuple(range(texts)),
            mode="marked",
            records=tuple(records),
            encoded=EncodedRecords(tuple(samples), (), 0, {}, 0),
            notes=(),
        )

    return make


@pytest.fixture
def inputs(make_model, people, tiny_configs):
    """``inputs(kind)``: records and a tiny model, all on the CPU in float64."""

    def make(kind="causal", **options):
        if kind == "causal":
            return Inputs(model=make_model("llama", "float64"), pii=people(), **options)
        from transformers import AutoConfig, AutoModelForMaskedLM

        config = AutoConfig.for_model(**{**tiny_configs["bert"], "is_decoder": False})
        model = AutoModelForMaskedLM.from_config(config).double().eval()
        return Inputs(model=model, pii=people(), **{"tokenizer": Masking(), **options})

    return make


def defined_units(inputs, kind, config):
    """Units by the paper's words, and how many are left before the last step."""
    per_text = []
    for sample in inputs.pii.samples:
        secret = sample.secret()
        question = (
            causal_question(secret) if kind == "causal" else masked_question(secret, MASK, SUFFIX)
        )
        found = reference.integrated_gradients(
            inputs.model, question, kind=kind, steps=config.steps
        )
        per_text.append(
            {
                (block, unit): score
                for block, values in found.scores.items()
                for unit, score in enumerate(values.mean(dim=0).tolist())
            }
        )
    kept = [
        {
            unit
            for unit, score in text.items()
            if score >= config.text_threshold * max(text.values())
        }
        for text in per_text
    ]
    shared = {
        unit
        for unit in per_text[0]
        if sum(unit in one for one in kept) >= config.text_share * len(per_text)
    }
    total = {unit: sum(text[unit] for text in per_text) for unit in shared}
    top = sorted(total, key=lambda unit: -total[unit])[: config.max_neurons]
    return set(top), kept, shared


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_units_are_those_of_the_definition(inputs, kind):
    given = inputs(kind)
    config = DepnConfig(max_neurons=3, steps=6, text_threshold=0.2)
    expected, kept, shared = defined_units(given, kind, config)
    found = localize(given, config)
    assert {
        (edit.block, unit) for edit in found.patch.units for unit in edit.units.tolist()
    } == expected
    assert len(expected) == 3 < len(shared)
    assert all((edit.value == 0).all() for edit in found.patch.units)
    numbers = found.statistics
    assert numbers["texts"] == 4
    assert numbers["private_tokens"] == 12
    assert numbers["kept_in_a_text"]["mean"] == pytest.approx(np.mean([len(one) for one in kept]))
    assert numbers["kept_in_enough_texts"] == len(shared)
    assert numbers["selected"] == 3
    assert sum(layer["selected"] for layer in numbers["layers"]) == 3
    assert json.dumps(numbers)
    parameters = found.patch.metadata.method["parameters"]
    assert parameters["steps"] == 6
    assert parameters["text_threshold"] == 0.2


def test_the_batch_size_changes_nothing(inputs):
    config = DepnConfig(max_neurons=3)
    found = [localize(inputs(limits=Limits(batch_tokens=size)), config) for size in (1024, 16)]
    assert found[0].patch.units == found[1].patch.units


def test_the_aggregator():
    aggregator = Aggregator(threshold=0.5)
    aggregator.add({A: np.array([4.0, 2.0, 1.9]), B: np.array([-9.0, 0.0, 3.0])})
    aggregator.add({A: np.array([0.1, 8.0, 1.0]), B: np.array([1.0, 0.0, 4.0])})
    # A text of which no unit raises a probability keeps none, and counts as a text.
    aggregator.add({A: np.array([-1.0, -2.0, 0.0]), B: np.zeros(3)})
    assert aggregator.kept == [3, 2, 0]

    def shared(share):
        return {block: units.tolist() for block, units in aggregator.shared(share).items()}

    assert shared(1 / 3) == {A: [0, 1], B: [2]}
    assert shared(0.5) == {A: [1], B: [2]}
    assert shared(1.0) == {}
    scores = aggregator.scores(aggregator.shared(0.5))
    assert scores[A].tolist() == [0, 8, 0]
    assert scores[B].tolist() == [0, 0, 7]


def test_texts_that_share_no_unit(inputs):
    with pytest.raises(SelectionError, match="no unit is kept in 100% of the 4 texts") as caught:
        localize(inputs(), DepnConfig(max_neurons=1, text_threshold=0.9, text_share=1.0))
    assert "--set text_share=0." in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"text_threshold": 0.0}, "text_threshold is 0"),
        ({"text_share": 1.5}, "text_share is 1.5"),
        ({"max_neurons": 0}, "--max-neurons is 0"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        DepnConfig(**wrong)


def test_what_cannot_work_is_refused_before_the_model_is_loaded(make_layout):
    method = find_method("depn")
    method.check_given(Given(pii=True, kind="masked"))
    method.check(make_layout("llama"), Given(pii=True), DepnConfig(max_neurons=1))
    with pytest.raises(UsageError, match="depn needs --pii"):
        method.check_given(Given())
    with pytest.raises(SelectionError, match="less than one"):
        method.check(make_layout("llama"), Given(pii=True), DepnConfig())
    mixture = SimpleNamespace(matrices=lambda roles: [MatrixId("decoder", 0, 3, "down")])
    with pytest.raises(ModelError, match=r"decoder\.0\.expert3"):
        check_dense(mixture)


def test_a_masked_model_needs_a_mask_and_room_for_it(inputs):
    without = SimpleNamespace(mask_token_id=None)
    with pytest.raises(DataError, match="no mask token"):
        localize(inputs("masked", tokenizer=without), DepnConfig(max_neurons=1))
    given = inputs("masked")
    given.model.config.max_position_embeddings = 10
    with pytest.raises(DataError, match="row 1 has 11 tokens, and the model takes 10") as caught:
        localize(given, DepnConfig(max_neurons=1))
    assert "--max-length 9" in caught.value.hint
