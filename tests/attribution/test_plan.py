import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.attribution.memory import (
    available_memory,
    format_size,
    parse_size,
    private_memory,
    release_free_memory,
    resident_memory,
)
from neuropatch.attribution.plan import plan_scores
from neuropatch.errors import ResourceError, UsageError
from neuropatch.models.definition import definitions


def plan(layout, budget, **options):
    defaults = {"weights": 1000, "batch_tokens": 1, "item_size": 4}
    return plan_scores(
        layout, layout.matrices(("gate", "up", "down")), budget=budget, **{**defaults, **options}
    )


def test_one_window_when_everything_fits(make_layout):
    layout = make_layout("llama", num_hidden_layers=6)
    whole = plan(layout, 10**9)
    assert len(whole.windows) == 1
    assert whole.scores == 6 * 3 * 12 * 20 * 4
    assert "one pass" in whole.sentence()


@given(extra=st.integers(0, 20_000))
def test_windows_cover_all_layers_in_order_within_the_budget(make_layout, extra):
    layout = make_layout("llama", num_hidden_layers=7)
    layer = 3 * 12 * 20 * 4
    smallest = plan(layout, 10**9).total - 7 * layer + layer
    found = plan(layout, smallest + extra)
    assert [m for window in found.windows for m in window] == layout.matrices(
        ("gate", "up", "down")
    )
    assert found.total <= smallest + extra
    assert found.scores == max(len(window) for window in found.windows) // 3 * layer
    # As few passes as that room allows.
    per_window = (layer + extra) // layer
    assert len(found.windows) == -(-7 // min(per_window, 7))


def test_less_than_one_layer_is_an_error_that_says_what_is_needed(make_layout):
    layout = make_layout("llama")
    needed = plan(layout, 10**9).total - 3 * 12 * 20 * 4
    with pytest.raises(ResourceError, match="needs about") as caught:
        plan(layout, needed - 1)
    assert "--max-memory" in caught.value.hint


def test_a_fused_tensor_is_counted_once(make_layout):
    layout = make_layout("gpt2")
    found = plan_scores(
        layout,
        layout.matrices(("q", "k", "v")),
        weights=0,
        batch_tokens=1,
        item_size=4,
        budget=10**9,
    )
    assert found.scores == 2 * 12 * 36 * 4


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("512MiB", 2**29),
        ("1.5 GB", 1_500_000_000),
        ("4096", 4096),
        ("2g", 2**31),
    ],
)
def test_sizes_are_parsed(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-1GB", "0", "nan", "1e400GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_sizes_are_formatted():
    assert [format_size(n) for n in (0, 999, 538_090_408, 2.1e13)] == [
        "0 B",
        "999 B",
        "538 MB",
        "21 TB",
    ]


def test_available_memory_is_what_the_kernel_says():
    assert 0 < available_memory() < 2**50


def test_mapped_files_are_no_private_memory():
    assert 0 < private_memory() < resident_memory()


def test_free_memory_goes_back_to_the_system():
    # Blocks below glibc's mmap threshold, with every other one freed: gaps that it would keep.
    blocks = [b"%d" % n * 20_000 for n in range(10_000, 12_000)]
    del blocks[::2]
    before = resident_memory()
    release_free_memory()
    assert before - resident_memory() > 50_000_000
    assert len(blocks) == 1000


def test_the_certified_mode_is_chosen_where_windows_would_be(make_layout):
    layout = make_layout("llama", num_hidden_layers=40, hidden_size=200, intermediate_size=900)
    whole = plan(layout, 10**10, share=1e-6)
    assert (whole.mode, whole.candidates) == ("full", 0)
    found = plan(layout, whole.total - 1, share=1e-6)
    assert found.mode == "certified"
    assert len(found.windows) == 1
    assert found.candidates > 0
    assert found.total < whole.total
    # Little beside the scores: bounds, and candidates.
    assert found.scores < 0.04 * whole.scores
    assert "because scores of all layers do not fit, and 2 windows of layers" in found.sentence()
    # The more weights are taken, the less there is to gain.
    assert plan(layout, whole.total - 1, share=0.01).mode == "windows"
    assert plan(layout, whole.total - 1, share=1e-6, obstacle=UsageError("no")).mode == "windows"


def test_the_certified_mode_is_the_last_resort_below_one_layer(make_layout):
    layout = make_layout("llama", hidden_size=200, intermediate_size=900)
    one_layer = plan(layout, 10**10).total - 3 * 200 * 900 * 4
    found = plan(layout, one_layer - 1, share=1e-6)
    assert found.mode == "certified"
    assert "not even the scores of one layer fit" in found.sentence()
    with pytest.raises(ResourceError, match="the certified mode needs about"):
        plan(layout, one_layer - 3 * 200 * 900 * 4, share=1e-6)


@pytest.mark.parametrize("mode", ["full", "windows", "certified"])
def test_a_mode_can_be_forced(make_layout, mode):
    layout = make_layout("llama")
    whole = plan(layout, 10**9)
    if mode == "windows":
        assert plan(layout, 10**9, mode=mode).mode == "windows"
        assert len(plan(layout, 10**9, mode=mode).windows) == 2
    else:
        assert plan(layout, 10**9, mode=mode).mode == mode
    if mode == "certified":
        assert ", as asked;" in plan(layout, 10**9, mode=mode).sentence()
    if mode == "full":
        with pytest.raises(ResourceError, match="scores of all layers need about") as caught:
            plan(layout, whole.total - 1, mode=mode)
        assert "--memory auto" in caught.value.hint


def test_modes_that_cannot_be_had_are_refused(make_layout):
    layout = make_layout("llama")
    with pytest.raises(UsageError, match="unknown --memory 'some'"):
        plan(layout, 10**9, mode="some")
    with pytest.raises(UsageError, match="float64"):
        plan(layout, 10**9, mode="certified", obstacle=UsageError("float64"))


def test_the_shape_of_the_largest_batch_and_its_experts_count(make_layout):
    layout = make_layout("mixtral", vocab_size=500)
    config = {"model_type": "mixtral", "num_experts_per_tok": 1}
    sparse = plan(layout, 10**9, batch_tokens=100, config=config).activations
    # Without a config all three experts are reckoned with.
    assert plan(layout, 10**9, batch_tokens=100).activations > sparse
    # Where few tokens are predicted, logits are not what decides the peak.
    few = plan(layout, 10**9, batch_tokens=100, labels=1, config=config).activations
    assert few < sparse


def test_every_mixture_says_how_many_experts_a_token_passes():
    mixtures = {d.name: d.per_token for d in definitions().values() if "experts" in d.dimensions}
    assert {"mixtral", "deepseek_v3", "qwen2_moe", "llama4", "dbrx"} <= set(mixtures)
    assert all(mixtures.values())
