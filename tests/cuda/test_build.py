"""The part of setup.py that decides about CUDA kernels, with a stand-in for nvcc."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

ROOT = Path(__file__).parents[2]

# Notes its arguments; answers -dryrun as nvcc does; writes the object it was asked for.
NVCC = """#!/bin/sh
echo "$@" >> {folder}/calls
case " $* " in
  *" --version "*) echo 'Cuda compilation tools, release 12.8, V12.8.93' ;;
  *" -dryrun "*) echo '#$ LIBRARIES=  "-L{folder}/lib/stubs" "-L{folder}/lib"' >&2 ;;
  *) {compile} ;;
esac
"""
WRITE_OBJECT = 'while [ "$1" != -o ]; do shift; done; echo object > "$2"'


@pytest.fixture
def build(monkeypatch, tmp_path):
    """``build(**environment)``: the names of setup.py, read in that environment."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("NEUROPATCH_BUILD", "NEUROPATCH_CUDA", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))

    def read(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        names = runpy.run_path(str(ROOT / "setup.py"))
        # Functions look names up in this dictionary, which is not the one run_path returns.
        names["add_cuda"].__globals__["CUDA_OBJECTS"] = tmp_path / "objects"
        return SimpleNamespace(**names)

    return read


@pytest.fixture
def nvcc(tmp_path):
    """``nvcc(compile)``: puts a compiler into ``$CUDA_HOME/bin``; it runs that shell command."""

    def write(compile=WRITE_OBJECT):
        (tmp_path / "bin").mkdir(exist_ok=True)
        script = tmp_path / "bin/nvcc"
        script.write_text(NVCC.format(folder=tmp_path, compile=compile))
        script.chmod(0o755)
        return tmp_path / "calls"

    return write


def test_kernels_are_added(build, nvcc, tmp_path, capsys):
    calls = nvcc()
    names = build()
    (extension,) = names.EXTENSIONS
    names.add_cuda(extension)
    sources = {path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")}
    assert {Path(path).stem for path in extension.extra_objects} == sources
    assert all(Path(path).is_file() for path in extension.extra_objects)
    assert ("WITH_CUDA", None) in extension.define_macros
    assert "csrc/cuda/snip_accumulate.cpp" in extension.sources
    assert extension.library_dirs[-1] == str(tmp_path / "lib")
    assert "cudart_static" in extension.libraries
    compiled = calls.read_text().splitlines()[1]
    assert "--compress-mode=size" in compiled
    for code in ("80,code=sm_80", "90,code=sm_90", "90,code=compute_90"):
        assert f"-gencode arch=compute_{code}" in compiled
    assert "CUDA kernels for sm_80, sm_90, compute_90 by" in capsys.readouterr().err


def test_nothing_is_compiled_twice(build, nvcc, monkeypatch):
    calls = nvcc()
    sources = len(list((ROOT / "csrc/cuda").glob("*.cu")))

    def compiled(**environment):
        calls.write_text("")
        names = build(**environment)
        names.add_cuda(names.EXTENSIONS[0])
        return sum(" -c " in f" {line}" and "-dryrun" not in line for line in calls.open())

    assert compiled() == sources
    assert compiled() == 0
    assert compiled(TORCH_CUDA_ARCH_LIST="8.6") == sources
    assert compiled() == 0


def test_a_failed_source_is_compiled_again(build, nvcc):
    nvcc("exit 3")
    names = build()
    names.add_cuda(names.EXTENSIONS[0])
    assert not names.EXTENSIONS[0].extra_objects
    nvcc()
    names.add_cuda(names.EXTENSIONS[0])
    assert names.EXTENSIONS[0].extra_objects


@pytest.mark.parametrize(
    ("compile", "reason"), [(None, "no nvcc was found"), ("exit 3", "nvcc failed")]
)
def test_without_a_working_compiler(build, nvcc, capsys, compile, reason):
    """``auto`` goes on and says so, ``1`` stops."""
    if compile:
        nvcc(compile)
    names = build()
    names.add_cuda(names.EXTENSIONS[0])
    assert not names.EXTENSIONS[0].extra_objects
    assert f"{reason}" in (err := capsys.readouterr().err)
    assert "; building without CUDA kernels" in err
    names = build(NEUROPATCH_CUDA="1")
    with pytest.raises(SystemExit, match=f"{reason}.*NEUROPATCH_CUDA=1 asks for CUDA kernels"):
        names.add_cuda(names.EXTENSIONS[0])


def test_zero_leaves_them_out(build, nvcc, capsys):
    calls = nvcc()
    names = build(NEUROPATCH_CUDA="0")
    names.add_cuda(names.EXTENSIONS[0])
    assert not calls.exists()
    assert "NEUROPATCH_CUDA=0: building without CUDA kernels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listed", "targets"),
    [
        ("", ["sm_80", "sm_90", "compute_90"]),
        ("8.6", ["sm_86"]),
        ("7.0 7.5 8.0+PTX", ["sm_80", "compute_80"]),
        ("9.0a;10.0", ["sm_90a", "sm_100"]),
    ],
)
def test_architectures(build, listed, targets):
    assert build(TORCH_CUDA_ARCH_LIST=listed).cuda_targets() == targets


@pytest.mark.parametrize(
    ("listed", "reason"),
    [("Ampere", r"names Ampere, which is not like 8\.0"), ("7.0,7.5", "no architecture of 8.0 or")],
)
def test_architectures_that_cannot_be_built(build, nvcc, capsys, listed, reason):
    nvcc()
    names = build(TORCH_CUDA_ARCH_LIST=listed)
    names.add_cuda(names.EXTENSIONS[0])
    assert not names.EXTENSIONS[0].extra_objects
    assert re.search(f"{reason}.*; building without CUDA kernels", capsys.readouterr().err)
    names = build(NEUROPATCH_CUDA="1")
    with pytest.raises(SystemExit, match=f"{reason}.*NEUROPATCH_CUDA=1 asks for CUDA kernels"):
        names.add_cuda(names.EXTENSIONS[0])


def test_wishes_that_cannot_be_met(build):
    with pytest.raises(SystemExit, match="NEUROPATCH_CUDA=yes is none of auto, 0, 1"):
        build(NEUROPATCH_CUDA="yes")
    with pytest.raises(SystemExit, match="NEUROPATCH_CUDA=1 needs what NEUROPATCH_BUILD=0"):
        build(NEUROPATCH_CUDA="1", NEUROPATCH_BUILD="0")
