"""A patch made in another number format takes the values of the files."""

import numpy as np
import pytest

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.stored import as_stored
from neuropatch.models.layout import Layout
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, bits, cast


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_before_is_what_the_files_hold(lab, tmp_path, make_patch, model_type):
    config = lab.configs[model_type]
    layout = Layout.from_config(config)
    folder = lab.checkpoint(tmp_path / "model", model_type)
    checkpoint = Checkpoint.open(folder)
    stored = {matrix: lab.values(folder, matrix) for matrix in layout.matrices()}
    rounded = {m: cast(values, FLOAT_DTYPES["BF16"]) for m, values in stored.items()}
    made = make_patch(layout, base=rounded, kinds=("zero", "scale"), units=("scale", "steer"))
    wanted = make_patch(layout, base=stored, kinds=("zero", "scale"), units=("scale", "steer"))
    found = as_stored(made, checkpoint)
    assert isinstance(found, NeuronPatch)
    assert [edit.kind for edit in found.weights] == [edit.kind for edit in made.weights]
    for one, other in zip(found.weights, wanted.weights, strict=True):
        assert (one.matrix, one.rows.tolist()) == (other.matrix, other.rows.tolist())
        assert np.array_equal(bits(one.before), bits(other.before))
    for one, other in zip(found.units, wanted.units, strict=True):
        assert (one.kind, one.units.tolist()) == (other.kind, other.units.tolist())
        if other.before is not None:
            assert np.array_equal(bits(one.before), bits(other.before))
