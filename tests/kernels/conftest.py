from __future__ import annotations

import pytest
import torch

from neuropatch.kernels import _backend


def _tensors(out, inp, lengths, *, dtype=torch.float32, seed=0):
    """Random arguments of snip_accumulate_: score, grad, input, offsets."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    score = torch.rand(out, inp, generator=generator)
    grad = torch.randn(tokens, out, generator=generator).to(dtype)
    x = torch.randn(tokens, inp, generator=generator).to(dtype)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return score, grad, x, offsets


@pytest.fixture
def make_tensors():
    return _tensors


def _instruction_sets():
    # AMX rounds float32 activations and has its own tests, test_snip_amx.py.
    return [c for c in _backend.available_choices() if c not in ("auto", "reference", "amx")]


def pytest_generate_tests(metafunc):
    """``device``: the one that ``--device`` names, or every one that torch finds."""
    chosen = metafunc.config.getoption("--device", default=None)
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if chosen not in (None, *found):
        raise pytest.UsageError(f"--device {chosen}: torch finds {' and '.join(found)} only")
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", [chosen] if chosen else found)


@pytest.fixture(params=["reference", *_instruction_sets()])
def path(request, monkeypatch):
    """Every implementation that this machine can run, one after another."""
    monkeypatch.setenv(_backend.ENVIRONMENT_VARIABLE, request.param)
    return request.param


@pytest.fixture
def choose_path(monkeypatch):
    """A function that forces an implementation."""
    return lambda choice: monkeypatch.setenv(_backend.ENVIRONMENT_VARIABLE, choice)


@pytest.fixture
def instruction_sets():
    """The instruction sets of the compiled kernels here, best first, without AMX."""
    return _instruction_sets()


@pytest.fixture
def threads():
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
