from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neuropatch.errors import UsageError
from neuropatch.kernels import KernelBackend, _backend, backends, cuda_kernels, snip_accumulate_
from neuropatch.kernels._registry import OPERATORS


def test_every_operator_is_reported_once():
    assert [backend.op for backend in backends()] == list(OPERATORS)


def test_auto_takes_the_best(choose_path, instruction_sets):
    choose_path("auto")
    for backend in backends():
        if instruction_sets:
            assert backend.backend == instruction_sets[0]
            assert "widest instruction set" in backend.reason
        else:
            assert backend.backend == "reference"
            assert "the compiled extension" in backend.reason


def test_an_empty_variable_means_auto(choose_path):
    choose_path("auto")
    auto = backends()
    choose_path("")
    assert backends() == auto


def test_forced(path):
    reason = f"forced by NEUROPATCH_KERNELS={path}"
    assert backends() == tuple(KernelBackend(name, path, reason) for name in OPERATORS)


def test_an_unavailable_choice_is_an_error(choose_path, make_tensors):
    choose_path("sse9")
    with pytest.raises(UsageError, match="NEUROPATCH_KERNELS=sse9 is not available") as caught:
        backends()
    assert "auto, reference" in caught.value.hint
    with pytest.raises(UsageError, match="NEUROPATCH_KERNELS=sse9"):
        snip_accumulate_(*make_tensors(2, 3, [4]))


@pytest.mark.skipif(_backend.MISSING is not None, reason="without the extension there is no choice")
def test_an_instruction_set_that_the_cpu_lacks_is_named(choose_path, monkeypatch):
    choose_path("amx")
    monkeypatch.setattr(_backend, "available_choices", lambda: ("auto", "reference", "avx2"))
    with pytest.raises(UsageError) as caught:
        backends()
    assert caught.value.message == (
        "NEUROPATCH_KERNELS=amx is not available here: this CPU, or its operating system, "
        "has no AMX with bfloat16 tiles"
    )
    assert caught.value.hint == "choose one of auto, reference, avx2"


def test_every_instruction_set_is_known(instruction_sets):
    assert set(instruction_sets) <= set(_backend.INSTRUCTION_SETS)
    known = list(_backend.INSTRUCTION_SETS)
    assert instruction_sets == sorted(instruction_sets, key=known.index)


def test_schemas_match_the_registered_ones():
    for name, operator in OPERATORS.items():
        registered = getattr(torch.ops.neuropatch, name).default._schema
        assert str(registered) == f"neuropatch::{operator.schema}"


def test_schemas_match_the_source():
    source = Path(__file__).parents[2] / "csrc/common/schemas.cpp"
    declared = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', source.read_text())
    texts = ["".join(re.findall(r'"([^"]*)"', declaration)) for declaration in declared]
    with_tensors = [text for text in texts if "Tensor" in text]
    assert sorted(with_tensors) == sorted(operator.schema for operator in OPERATORS.values())


def test_cuda_kernels_are_reported():
    kernels = cuda_kernels()
    assert set(kernels.ops) <= set(OPERATORS)
    assert bool(kernels.ops) == bool(kernels.targets)
    expected = "built into" if kernels.targets else "extension (was built without|is missing)"
    assert re.search(expected, kernels.reason)


@pytest.mark.parametrize(
    ("targets", "capability", "fits"),
    [
        (["sm_80"], (8, 0), True),
        (["sm_80"], (8, 9), True),
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "sm_90", "compute_90"], (7, 5), False),
        (["sm_80", "sm_90", "compute_90"], (12, 0), True),
        (["sm_90a"], (9, 0), True),
        (["compute_90a"], (10, 0), False),
        ([], (9, 0), False),
    ],
)
def test_which_gpus_are_served(targets, capability, fits):
    assert _backend.runs_on(targets, capability) is fits


def test_a_missing_extension_is_explained(tmp_path):
    reason = _backend.load_extension(tmp_path / "_C.abi3.so")
    assert "is missing" in reason
    assert "NEUROPATCH_BUILD=1" in reason


def test_an_extension_that_does_not_load_is_explained(tmp_path):
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"not a library")
    reason = _backend.load_extension(broken)
    assert f"cannot be loaded by torch {torch.__version__}" in reason
    assert str(broken) in reason


WITHOUT_EXTENSION = """
import pathlib, sys
package = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(package))
import torch
from neuropatch.errors import UsageError
from neuropatch.kernels import backends, cuda_kernels, snip_accumulate_
assert backends()[0].backend == "reference", backends()
assert not cuda_kernels().targets and "is missing" in cuda_kernels().reason
assert "is missing" in backends()[0].reason
score = torch.zeros(2, 3)
arguments = (score, torch.ones(5, 2), -torch.ones(5, 3), torch.tensor([0, 2, 5]))
snip_accumulate_(*arguments)
torch.ops.neuropatch.snip_accumulate_(*arguments)
assert torch.equal(score, torch.full((2, 3), 10.0))
import os
os.environ["NEUROPATCH_KERNELS"] = "avx2"
try:
    backends()
except UsageError as error:
    assert "choose one of auto, reference; the compiled extension is missing" in error.hint
else:
    raise AssertionError("a missing kernel was accepted")
"""


def test_everything_works_without_the_extension(tmp_path):
    """In a copy of the package that has Python files only, in a process of its own."""
    package = Path(_backend.__file__).parents[1]
    for source in [package / "errors.py", *(package / "kernels").rglob("*.py")]:
        target = tmp_path / "neuropatch" / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (tmp_path / "neuropatch/__init__.py").touch()
    environment = {k: v for k, v in os.environ.items() if k != _backend.ENVIRONMENT_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
