"""The encoding of tabular rows, and configs that are not what they should be."""

from dataclasses import replace

import numpy as np
import pytest

from neuropatch.errors import DataError, ModelError
from neuropatch.fairness.encoding import (
    Category,
    Numeric,
    encode,
    fit_features,
    input_size,
    parse_features,
)


def test_numbers_are_standardised_and_categories_are_indicators(make_examples):
    examples = make_examples(50)
    features = fit_features(examples)
    encoded = encode(features, examples)
    assert encoded.dtype == np.float32
    assert encoded.shape == (50, 3) == (50, input_size(features))
    np.testing.assert_allclose([encoded[:, 0].mean(), encoded[:, 0].std()], [0, 1], atol=1e-6)
    assert (encoded[:, 1] == (examples.columns["kind"] == "a")).all()
    assert (encoded[:, 1] + encoded[:, 2] == 1).all()


def test_a_number_that_never_varies_stays_finite(make_examples):
    constant = replace(make_examples(20), columns={"x": np.full(20, 7.0)})
    features = fit_features(constant)
    assert features == (Numeric("x", 7.0, 1.0),)
    fresh = replace(constant, columns={"x": np.full(20, 9.0)})
    assert (encode(features, fresh) == 2).all()


def test_an_unknown_category_is_all_zeros(make_examples):
    examples = make_examples(20)
    features = fit_features(examples)
    fresh = replace(examples, columns={**examples.columns, "kind": np.full(20, "z")})
    assert (encode(features, fresh)[:, 1:] == 0).all()


def test_other_columns_are_ignored_whatever_their_order(make_examples):
    examples = make_examples(20)
    features = fit_features(examples)
    more = {"other": np.zeros(20), **dict(reversed(examples.columns.items()))}
    assert (encode(features, replace(examples, columns=more)) == encode(features, examples)).all()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"x": np.zeros(20)}, "no feature 'kind'"),
        ({"x": np.full(20, "a"), "kind": np.full(20, "a")}, "'x' holds categories"),
        ({"x": np.zeros(20), "kind": np.zeros(20)}, "'kind' holds numbers"),
    ],
)
def test_rows_of_another_table_are_refused(make_examples, columns, problem):
    features = fit_features(make_examples(20))
    with pytest.raises(DataError, match=problem):
        encode(features, replace(make_examples(20), columns=columns))


def test_texts_are_refused(make_examples):
    features = fit_features(make_examples(20))
    texts = replace(make_examples(20), columns={}, texts=("a",) * 20)
    for call in (lambda: encode(features, texts), lambda: fit_features(texts)):
        with pytest.raises(DataError, match="texts"):
            call()


def test_features_survive_their_json():
    features = (Numeric("age", 3.5, 2.0), Category("kind", ("a", "b")))
    assert parse_features([feature.to_json() for feature in features], "f") == features


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "not a list"),
        ([], "not a list"),
        (["age"], "has no name"),
        ([{"kind": "numeric"}], "has no name"),
        ([{"name": "a", "kind": "pickle"}], "neither numeric nor a category"),
        ([{"name": "a", "kind": "numeric", "mean": "0", "std": 1}], "mean of 'a'"),
        ([{"name": "a", "kind": "numeric", "mean": True, "std": 1}], "mean of 'a'"),
        ([{"name": "a", "kind": "numeric", "mean": 0, "std": float("nan")}], "std of 'a'"),
        ([{"name": "a", "kind": "numeric", "mean": 0, "std": 0}], "not positive"),
        ([{"name": "a", "kind": "category", "values": "ab"}], "not texts"),
        ([{"name": "a", "kind": "category", "values": ["b", "b"]}], "occurs twice"),
        ([{"name": "a", "kind": "category", "values": []}], "0 inputs"),
        ([{"name": "a", "kind": "numeric", "mean": 0, "std": 1}] * 2, "a feature occurs twice"),
    ],
)
def test_damaged_features_are_refused(document, problem):
    with pytest.raises(ModelError, match=problem):
        parse_features(document, "config.json")
