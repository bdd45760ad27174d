"""What nvcc makes of the kernels: spills, occupancy and instructions, without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import CUDA, ROOT, cuda_headers
from .harness.machine_code import compile_cubin, find_tool, read_cubin

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

ARCHITECTURES = (80, 90)
SOURCES = sorted(path for path in CUDA.glob("*.cu") if path.name != "runtime.cu")

# Threads of a block, and the blocks that have to fit on a multiprocessor. Two register tiles of 64
# floats a thread let eight warps stay there; kernels that wait for memory need 32 of all 64.
THREADS_AND_BLOCKS = {
    "snip_accumulate_kernel 128": (256, 1),
    "snip_accumulate_kernel 64": (128, 2),
    "snip_at_tensor_kernel": (128, 8),
    "snip_at_float_kernel": (128, 8),
    "column_norms_kernel": (128, 8),
    "masked_units_kernel": (128, 8),
    "masked_units_backward_kernel": (128, 8),
    "sum_slabs_kernel": (128, 8),
    "add_sparse_linear_kernel": (128, 8),
    "start_top_kernel": (256, 4),
    "count_digit_kernel": (256, 4),
    "choose_digit_kernel": (256, 4),
    "collect_top_kernel": (256, 4),
    "list_top_kernel": (256, 4),
}


@pytest.fixture(scope="session")
def machine_code(tmp_path_factory):
    """All kernels of all architectures. Compiling fails where a register is spilled."""
    cuobjdump = find_tool("cuobjdump")
    assert cuobjdump, "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    folder = tmp_path_factory.mktemp("cubin")

    def read(job):
        source, architecture = job
        cubin = compile_cubin("nvcc", source, architecture, folder)
        return read_cubin(cuobjdump, cubin, architecture)

    jobs = [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        return [kernel for kernels in pool.map(read, jobs) for kernel in kernels]


@pytest.fixture(scope="session")
def occupancy(tmp_path_factory):
    """occupancy.cpp: NVIDIA's formula, and the shared memory that launchers ask for."""
    library = tmp_path_factory.mktemp("occupancy") / "occupancy.so"
    include = [f"-I{CUDA}", *(f"-isystem{folder}" for folder in cuda_headers())]
    flags = ["-std=c++20", "-O0", "-w", "-fPIC", "-shared", "-x", "c++", *include]
    source = ROOT / "tests/cuda/occupancy.cpp"
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def kind(kernel):
    """The key of THREADS_AND_BLOCKS."""
    name, _, parameters = kernel.name.partition("<")
    if name != "snip_accumulate_kernel":
        return name
    return f"{name} {parameters.split(',')[2].strip()}"


def named(machine_code, name):
    found = [kernel for kernel in machine_code if kernel.name.startswith(name)]
    assert found, f"there is no kernel {name}"
    return found


def test_every_kernel_is_there_for_every_architecture(machine_code):
    assert {kind(kernel) for kernel in machine_code} == THREADS_AND_BLOCKS.keys()
    names = [{k.name for k in machine_code if k.architecture == a} for a in ARCHITECTURES]
    assert names[0] == names[1]


def test_registers_hold_everything(machine_code):
    """No spills, no arrays in local memory."""
    for kernel in machine_code:
        assert kernel.count("LDL") == kernel.count("STL") == kernel.stack == 0, kernel


def test_every_address_has_a_known_space(machine_code):
    """Generic loads and stores would have to find out where an address points to."""
    for kernel in machine_code:
        assert kernel.count("LD") == kernel.count("ST") == kernel.count("ATOM") == 0, kernel


def test_occupancy(machine_code, occupancy):
    for kernel in machine_code:
        threads, floor = THREADS_AND_BLOCKS[kind(kernel)]
        dynamic = 0
        if "snip_accumulate" in kernel.name:
            rows = int(kind(kernel).split()[1])
            dynamic = occupancy.tile_shared_bytes(rows, 4 if "<float" in kernel.name else 2)
        blocks = occupancy.blocks_per_multiprocessor(
            kernel.architecture, kernel.registers, kernel.shared_bytes, dynamic, threads
        )
        assert blocks >= floor, (kernel, dynamic, blocks)


@pytest.mark.parametrize("element", ["__half", "__nv_bfloat16"])
def test_tensor_cores_are_fed_from_shared_memory(machine_code, element):
    for kernel in named(machine_code, f"snip_accumulate_kernel<{element}"):
        # Of each 16 tokens, a warp's 4 x 4 results; of a chunk, two steps.
        assert kernel.count("HMMA.16816.F32") == kernel.count("HMMA") == 2 * 16, kernel
        assert kernel.count("LDSM.16.MT88.4") == kernel.count("LDSM") == 2 * 6, kernel
        assert kernel.count("LDGSTS.E.BYPASS.128.ZFILL") == kernel.count("LDGSTS") > 0, kernel
        # One addition an element and sample, one for the score; none among the products.
        assert kernel.count("FADD") == 2 * 64, kernel
        assert kernel.count("FFMA") == 0, kernel


def test_float32_is_not_rounded_to_tf32(machine_code):
    for kernel in named(machine_code, "snip_accumulate_kernel<float"):
        assert kernel.count("HMMA") == 0, kernel
        assert kernel.count("FFMA") == 4 * 64, kernel
        # Two vectors of four of either matrix, for each of four tokens.
        assert kernel.count("LDS.128") == 4 * 4, kernel
        assert kernel.count("LDGSTS.E.BYPASS.128.ZFILL") == kernel.count("LDGSTS") > 0, kernel


def test_the_score_is_not_added_to_atomically(machine_code):
    for kernel in machine_code:
        atomics = sum(kernel.count(name) for name in ("ATOMG", "REDG", "RED", "ATOMS"))
        assert (atomics > 0) == kernel.name.startswith(("count_digit", "collect_top")), kernel


def test_exact_scores_take_the_same_instructions(machine_code):
    """Places get the bits of the whole matrix: from tensor cores where that one uses them."""
    for kernel in named(machine_code, "snip_at_tensor_kernel"):
        assert kernel.count("HMMA.16816.F32") == kernel.count("HMMA") > 0, kernel
    for kernel in named(machine_code, "snip_at_float_kernel"):
        assert kernel.count("HMMA") == 0 < kernel.count("FFMA"), kernel


def test_memory_is_read_in_wide_pieces(machine_code):
    for kernel in named(machine_code, "masked_units"):
        if not kernel.name.endswith(", 1>"):
            wide = kernel.count("LDG.E.128") + kernel.count("LDG.E.128.CONSTANT")
            assert wide >= 2, kernel
            assert kernel.count("STG.E.128") >= 1, kernel
