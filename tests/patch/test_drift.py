"""How far a model is from what a patch was made for."""

import json
import math
import warnings

import numpy as np

from neuropatch.patch.drift import Drift
from neuropatch.storage.dtypes import FLOAT_DTYPES


def test_drift_per_role():
    drift = Drift()
    base = np.array([3.0, 4.0, 0.0, 0.0], dtype=np.float32)
    drift.add("q", base, base)
    drift.add("up", base, base + np.array([0, 0, 1, 0], dtype=np.float32))
    drift.add("up", base, base)
    assert (drift.weights, drift.unequal) == (12, 1)
    assert [role for role, _ in drift] == ["up", "q"]
    up = drift.roles["up"]
    assert (up.weights, up.equal) == (8, 7)
    assert up.relative == math.sqrt(1 / 50)
    assert drift.roles["q"].relative == 0
    assert drift.sentences() == ["up: 7 of 8 weights equal the patch's base, relative change 0.14"]
    assert drift.to_json()["q"] == {"weights": 4, "equal": 4, "relative_change": 0.0}


def test_equal_means_bit_for_bit_in_the_models_format():
    drift = Drift()
    held = np.array([1.0, 1.003, -0.0], dtype=np.float32).astype(FLOAT_DTYPES["BF16"])
    drift.add("q", np.array([1.0, 1.003, 0.0], dtype=np.float32), held)
    assert drift.roles["q"].equal == 2
    assert drift.roles["q"].relative == 0


def test_damaged_weights_give_valid_json_and_no_warning():
    drift = Drift()
    zero = np.zeros(1, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drift.add("up", zero, zero + 1)
        drift.add("q", zero, zero + np.float32(np.nan))
        drift.add("k", zero + 1, zero + np.float32(np.inf))
    assert drift.roles["up"].relative == math.inf
    document = drift.to_json()
    assert [entry["relative_change"] for entry in document.values()] == [None, None, None]
    json.dumps(document, allow_nan=False)
