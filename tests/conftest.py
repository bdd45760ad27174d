"""Fixtures that every package's tests share: tiny models, their layouts, and random patches.

All are factories with seeds: equal arguments give equal results. Torch and transformers are
imported by the fixtures that need them only.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import WEIGHT_KINDS, UnitEdit, WeightEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, cast, compute_dtype

# Tiny models run faster on one thread; tests of threading set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the user of this machine has defined is no matter of the tests.
os.environ["NEUROPATCH_ARCHITECTURES"] = os.devnull

# A busy machine must not fail a test; on CI the same examples are drawn every time.
settings.register_profile(
    "neuropatch",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("neuropatch")

# hidden (12), intermediate (20), heads * head_dim (24) and kv_heads * head_dim (8) all differ, so
# that no mistaken shape fits by chance.
_LLAMA_LIKE = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TINY = {
    "llama": {**_LLAMA_LIKE, "tie_word_embeddings": False},
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE | {"head_dim": 4},
    "qwen3": _LLAMA_LIKE | {"tie_word_embeddings": True},
    "gemma": _LLAMA_LIKE,
    "mixtral": _LLAMA_LIKE | {"head_dim": 4, "num_local_experts": 3, "num_experts_per_tok": 2},
    # Its attention is code of its own: samples are run one by one.
    "bloom": {
        "n_layer": 2,
        "hidden_size": 12,
        "n_head": 3,
        "vocab_size": 50,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "gpt2": {
        "n_layer": 2,
        "n_embd": 12,
        "n_inner": 20,
        "n_head": 3,
        "vocab_size": 50,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "bert": {
        "num_hidden_layers": 2,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_attention_heads": 3,
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        # Without it transformers warns that a causal model should be one.
        "is_decoder": True,
    },
}


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        help="cpu or cuda: where tests of operators run (default: everywhere that torch finds)",
    )


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory):
    """Processes that tests start must import the installed package, not the folder of this name."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard():
    """A shell starts background jobs with Ctrl-C ignored; the tests send themselves some."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_configs():
    """``config.json`` documents of tiny models, by model type; one row for each architecture."""
    return {name: {"model_type": name, **config} for name, config in _TINY.items()}


@pytest.fixture(scope="session")
def make_layout(tiny_configs):
    """``make_layout(model_type)``: the layout of a tiny model, without building the model."""

    def make(model_type="llama", **overrides):
        return Layout.from_config({**tiny_configs[model_type], **overrides})

    return make


@pytest.fixture(scope="session")
def make_model(tiny_configs):
    """``make_model(model_type, dtype)``: a new, random, tiny causal language model on the CPU."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(model_type="llama", dtype="float32", *, seed=0, **overrides):
        config = AutoConfig.for_model(**{**tiny_configs[model_type], **overrides})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        return model.to(getattr(torch, dtype)).eval()

    return make


@pytest.fixture(scope="session")
def make_base():
    """``make_base(layout, dtype)``: random weights ``[out, in]`` of every matrix of a layout."""

    def make(layout, dtype="F32", *, seed=0):
        rng = np.random.default_rng(seed)
        return {
            matrix: cast(rng.standard_normal(layout.shape(matrix)), FLOAT_DTYPES[dtype])
            for matrix in layout.matrices()
        }

    return make


@pytest.fixture(scope="session")
def base_of():
    """``base_of(model)``: the weights ``[out, in]`` of every matrix of a model in memory."""
    from neuropatch.models.modules import model_layout, resolve_parameters
    from neuropatch.patch.runtime import to_numpy

    def read(model):
        layout = model_layout(model)
        slots = resolve_parameters(model, layout, layout.matrices())
        return {slot.matrix: to_numpy(slot.weight()).copy() for slot in slots}

    return read


def _weight_edits(rng, base, matrix, kinds, count, taken):
    out, into = base[matrix].shape
    free = np.setdiff1d(np.arange(out * into), taken)
    chosen = rng.permutation(free)[: count * len(kinds)]
    for number, kind in enumerate(kinds):
        flat = chosen[number :: len(kinds)]
        if not flat.size:
            continue
        rows, columns = np.divmod(flat, into)
        before = base[matrix][rows, columns]
        wide = compute_dtype(before.dtype)
        value = {
            "zero": None,
            "scale": rng.uniform(-1, 1, len(flat)).astype(wide),
            "set": cast(rng.uniform(-1, 1, len(flat)), before.dtype),
            "add": rng.uniform(-1, 1, len(flat)).astype(wide),
        }[kind]
        yield WeightEdit.build(matrix, kind, rows, columns, before, value)


@pytest.fixture(scope="session")
def make_patch(make_base):
    """``make_patch(layout)``: a random patch.

    Arguments: ``base`` (weights by matrix; random in ``dtype`` if not given), ``matrices`` (all if
    not given), ``kinds`` of weight edits with ``count`` weights each a matrix, ``units``: kinds of
    unit edits (the blocks' ``down`` columns of scaled units are edited through them alone).
    """

    def make(
        layout,
        *,
        base=None,
        dtype="F32",
        matrices=None,
        kinds=WEIGHT_KINDS,
        units=(),
        count=3,
        seed=0,
        inverted=False,
    ):
        rng = np.random.default_rng(seed)
        base = make_base(layout, dtype, seed=seed) if base is None else base
        matrices = list(layout.matrices() if matrices is None else matrices)
        weight_edits, unit_edits = [], []
        for matrix in matrices:
            taken = np.empty(0, dtype=np.int64)
            if matrix.role == "down" and units:
                down = base[matrix]
                chosen = np.sort(rng.permutation(down.shape[1])[:2])
                for kind in units:
                    value = rng.uniform(-1, 1, 2).astype(np.float32)
                    before = down[:, chosen].T.copy() if kind == "scale" else None
                    if kind == "scale":
                        value[0] = 0
                        rows = np.arange(down.shape[0])[:, None]
                        taken = (rows * down.shape[1] + chosen).ravel()
                    unit_edits.append(UnitEdit(matrix.block, kind, chosen, value, before))
            weight_edits.extend(_weight_edits(rng, base, matrix, kinds, count, taken))
        metadata = PatchMetadata(
            layout.signature,
            BaseModel("example/tiny", "0" * 40),
            {"name": "random", "parameters": {"seed": seed}},
        )
        return NeuronPatch(metadata, tuple(weight_edits), tuple(unit_edits), inverted=inverted)

    return make


@pytest.fixture(scope="session")
def down():
    """``down(layer)``: the down projection of a layer of a dense decoder."""
    return lambda layer: MatrixId("decoder", layer, -1, "down")
