"""How tests call kernels: arguments, errors, and what is compiled when."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .harness import Toolchain, cuda_headers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (np.zeros(1), np.zeros(128, np.float32), 1),
            "argument 0 of tile_sum is an array of float64",
        ),
        ((np.zeros(1, np.float32), [0] * 128, 1), "argument 1 of tile_sum has to be an array"),
        ((np.zeros(1, np.float32), np.zeros(256, np.float32)[::2], 1), "argument 1 .* contiguous"),
        ((np.zeros(1, np.float32), np.zeros(128, np.float32)), "takes 3 arguments, not 2"),
    ],
)
def test_wrong_arguments(toys, arguments, message):
    with pytest.raises(TypeError, match=message):
        toys.run("tile_sum", *arguments)


def test_an_array_that_must_not_be_written(toys):
    sums = np.zeros(1, np.float32)
    sums.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        toys.run("tile_sum", sums, np.zeros(128, np.float32), 1)


def test_an_unknown_kernel(toys):
    with pytest.raises(KeyError, match="no kernel is bound as tile_product"):
        toys.run("tile_product")


SCALARS = (0.5, 1e300, 2**62 + 1, True, 1, 255)
RESULT = [0.5, 1e300, (2**62 + 1) % 1000, 1, 1, 255, 1, 1]


def test_scalars_and_null(toys):
    out = np.zeros(8)
    toys.run("scalars", out, *SCALARS, None)
    assert out.tolist() == RESULT
    # A void pointer takes an array of any type.
    toys.run("scalars", out, *SCALARS, np.zeros(1, ml_dtypes.bfloat16))
    assert out.tolist() == [*RESULT[:7], 0]


@pytest.mark.slow
def test_scalars_and_null_in_a_program(toys):
    out = np.zeros((2, 4))
    assert toys.report("address", "scalars", out, *SCALARS, None) == ""
    assert out.ravel().tolist() == RESULT


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 65536, 1, 1, 1, 0), "the grid of a launch has 1 x 65536 x 1, which is too many"),
        ((0, 1, 1, 1, 1, 0), "the grid of a launch has 0 x 1 x 1"),
        ((1, 1, 33, 32, 1, 0), "the block of a launch has 33 x 32 x 1, which is too many"),
        ((1, 1, 1, 1, 65, 0), "the block of a launch has 1 x 1 x 65, which is too many"),
        ((1, 1, 32, 1, 1, 232449), "232449 bytes of shared memory, and a block can have 232448"),
    ],
)
def test_launches_that_no_device_takes(toys, shape, message):
    with pytest.raises(toys.error, match=message):
        toys.run("launch", *shape)


def test_the_largest_launch(toys):
    toys.run("launch", 2, 2, 32, 32, 1, 232448)


def test_what_has_not_changed_is_not_compiled_again(tmp_path):
    toolchain = Toolchain(tmp_path)
    source = tmp_path / "a.cpp"

    def build(*flags):
        return toolchain.run("a.o", [*flags, "-c", str(source)], [source])

    source.write_text("int a;")
    first = build()
    time = first.stat().st_mtime_ns
    assert (build(), first.stat().st_mtime_ns) == (first, time)
    with_flag = build("-g")
    source.write_text("int b;")
    changed = build("-g")
    # Only the latest is kept.
    assert len({first, with_flag, changed}) == 3
    assert list(tmp_path.glob("*.o")) == [changed]


def test_errors_of_the_compiler_are_shown(tmp_path):
    source = tmp_path / "a.cpp"
    source.write_text("int a = b;")
    with pytest.raises(RuntimeError, match="was not declared in this scope"):
        Toolchain(tmp_path).run("a.o", ["-c", str(source)], [source])
    assert not list(tmp_path.glob("*.o"))


def test_headers_of_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="pip install nvidia-cuda-runtime nvidia"):
        cuda_headers()
    folder = tmp_path / "nvidia/cu13/include"
    folder.mkdir(parents=True)
    (folder / "cuda_bf16.h").touch()
    # The package was looked for before it existed.
    monkeypatch.setattr("sys.path_importer_cache", {})
    assert cuda_headers() == [folder]


def test_a_sanitizer_that_needs_less_random_addresses(toys, toolchain, tmp_path, monkeypatch):
    program, setarch = tmp_path / "program", tmp_path / "setarch"
    program.write_text(
        '#!/bin/sh\n[ "$RANDOMIZE" = no ] || { echo unexpected memory mapping >&2; exit 66; }\n'
    )
    setarch.write_text('#!/bin/sh\n[ "$1" = --addr-no-randomize ] && RANDOMIZE=no exec "$2"\n')
    for script in (program, setarch):
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(toolchain, "program", lambda *_: program)
    assert toys.report("thread", "tile_product") == ""


@pytest.mark.parametrize("command", ["kill -SEGV $$", "exit 1", "echo 'out of memory' >&2"])
def test_a_program_that_breaks(toys, toolchain, tmp_path, monkeypatch, command):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)
    monkeypatch.setattr(toolchain, "program", lambda *_: program)
    with pytest.raises(RuntimeError, match=r"the program ended with (-11|1|0): "):
        toys.report("thread", "tile_sum")
