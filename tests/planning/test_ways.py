"""Plans from configs alone: three well-known models, and the same choice as a run makes."""

from __future__ import annotations

import json

import pytest
from transformers import (
    DeepseekV3Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from neuropatch.data.columns import Columns
from neuropatch.data.corpus import Corpus
from neuropatch.data.tokenize import Sample, TokenizedCorpus
from neuropatch.errors import CheckpointError, ModelError, UsageError
from neuropatch.methods._base import Inputs, Limits
from neuropatch.methods.spin import SpinConfig, localize
from neuropatch.planning.outline import read_outline
from neuropatch.planning.ways import PlanOptions, plan_run

MISTRAL_7B = MistralConfig(
    vocab_size=32768,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
LLAMA_3_70B = LlamaConfig(
    vocab_size=128256,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
)
MIXTRAL_8X7B = MixtralConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_local_experts=8,
    num_experts_per_tok=2,
)
QWEN3_30B_A3B = Qwen3MoeConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
)
# Four of its 61 layers, three of them dense.
DEEPSEEK_V3 = DeepseekV3Config(num_hidden_layers=4)

GB = 10**9


@pytest.fixture
def saved(tmp_path):
    """``saved(config)``: the path of a ``config.json``, and nothing else."""

    def save(config, **more):
        document = {**config.to_dict(), "dtype": "bfloat16", **more}
        path = tmp_path / f"{config.model_type}.json"
        path.write_text(json.dumps(document))
        return str(path)

    return save


def options(**given):
    # Nothing is measured where times do not matter.
    return PlanOptions(**{"device": "cpu", "flops": 1e12, **given})


def way(plan, start):
    (found,) = [
        one
        for one in plan.ways
        if one.name.startswith(start) and one.obstacle is None and not one.split
    ]
    return found


@pytest.mark.parametrize(
    ("config", "parameters", "scored"),
    [
        (MISTRAL_7B, 7_248_023_552, 32 * 3 * 4096 * 14336),
        (LLAMA_3_70B, 70_553_706_496, 80 * 3 * 8192 * 28672),
        (MIXTRAL_8X7B, 46_702_792_704, 32 * 8 * 3 * 4096 * 14336),
        (QWEN3_30B_A3B, 30_532_122_624, 48 * 128 * 3 * 2048 * 768),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_config_alone_says_what_the_weights_and_scores_take(saved, config, parameters, scored):
    plan = plan_run(saved(config), options(limits=Limits(memory=10**13)))
    assert plan.outline.numel == parameters
    assert (plan.dtype, plan.scored, plan.chosen) == ("bfloat16", scored, "full")
    full = way(plan, "full").plan
    assert (full.weights, full.scores) == (2 * parameters, 4 * scored)
    assert full.windows == way(plan, "certified").plan.windows
    assert way(plan, "2 windows").plan.scores == pytest.approx(full.scores / 2)


@pytest.mark.parametrize(
    ("config", "memory", "chosen", "why"),
    [
        (MISTRAL_7B, 64 * GB, "full", "scores of all layers fit"),
        (MISTRAL_7B, 40 * GB, "certified", "2 windows of layers take longer"),
        (MISTRAL_7B, 24 * GB, "certified", "windows of layers take longer"),
        (LLAMA_3_70B, 128 * GB, None, "the limit is 128 GB"),
        (LLAMA_3_70B, 183 * GB, "certified", "not even the scores of one layer fit"),
        (MIXTRAL_8X7B, 128 * GB, "certified", "windows of layers take longer"),
    ],
    ids=str,
)
def test_the_choice_and_why(saved, config, memory, chosen, why):
    plan = plan_run(saved(config), options(limits=Limits(memory=memory)))
    assert plan.chosen == chosen
    assert why in plan.reason
    assert [one for one in plan.ways if one.plan.mode == chosen and not one.plan.fits] == []
    assert json.loads(json.dumps(plan.to_json()))["chosen"] == chosen


def test_many_weights_and_a_float_type_without_the_certified_mode_take_windows(saved):
    limits = Limits(memory=40 * GB)
    plan = plan_run(saved(MISTRAL_7B), options(limits=limits, config={"q": 0.01}))
    assert plan.chosen == "windows"
    assert "0.01 of the weights are too many" in plan.reason


@pytest.mark.parametrize("mode", ["full", "windows", "certified"])
def test_a_way_can_be_forced(saved, mode):
    plan = plan_run(saved(MISTRAL_7B), options(limits=Limits(memory=64 * GB, mode=mode)))
    assert (plan.chosen, plan.reason) == (mode, "as asked")
    small = plan_run(saved(MISTRAL_7B), options(limits=Limits(memory=GB, mode=mode)))
    assert small.chosen is None
    assert "the limit is 1 GB" in small.reason


def test_deepseek_has_dense_layers_shared_and_routed_experts(saved):
    plan = plan_run(saved(DEEPSEEK_V3), options(limits=Limits(memory=10**13)))
    assert plan.scored == 3 * 7168 * (3 * 18432 + 257 * 2048)
    # Of the 257 experts of its last layer a token passes nine.
    attention = plan.outline.layout.matrices(("q", "k", "v", "o"))
    mlp = 3 * 7168 * (3 * 18432 + 9 * 2048)
    linear = mlp + sum(map(_numel, map(plan.outline.layout.shape, attention)))
    head = 129280 * 7168
    seconds = way(plan, "full").seconds * 1e12 / plan.work.tokens
    attended = 4 * 128 * 192 * plan.work.length
    assert seconds == pytest.approx(4 * (linear + head) + 2 * mlp + 7 * attended)


def _numel(shape):
    return shape[0] * shape[1]


def test_processes_share_time_and_the_free_memory(saved):
    path = saved(MISTRAL_7B)
    one, four = (
        plan_run(path, options(processes=n, limits=Limits(memory=64 * GB))) for n in (1, 4)
    )
    alone, shared = way(one, "full"), way(four, "full, samples over 4")
    assert shared.seconds == pytest.approx(alone.seconds / 4)
    assert shared.plan.total == alone.plan.total
    (split,) = [row for row in four.ways if row.split]
    # Norms are not cut.
    outside = 2 * 65 * 4096
    assert split.plan.weights == outside + (alone.plan.weights - outside) // 4
    assert split.plan.scores == alone.plan.scores // 4
    # All run every sample, and what a process keeps of it is not counted as shared.
    assert split.plan.activations == alone.plan.activations
    assert split.obstacle is None
    assert split.name == "full, weights over 4"
    free = [plan_run(path, options(processes=n)).budget for n in (1, 4)]
    assert free[1] < free[0] / 2


@pytest.mark.parametrize(
    ("config", "processes", "reason"),
    [
        (MISTRAL_7B, 3, "the 32 heads of this model cannot be split among 3 processes"),
        (MIXTRAL_8X7B, 2, "the scores of 'model.layers.0.mlp.experts.gate_up_proj' cannot be"),
    ],
)
def test_what_tensor_parallelism_cannot_run_is_no_way_to_localize(config, processes, reason, saved):
    plan = plan_run(saved(config), options(processes=processes))
    (split,) = [row for row in plan.ways if row.split]
    assert split.obstacle.startswith(reason)


def test_offload_holds_two_layers_and_reads_all_of_them_for_every_batch(saved):
    plan = plan_run(saved(LLAMA_3_70B), options(limits=Limits(memory=128 * GB)))
    row = plan.ways[-1]
    assert row.name.endswith("offload")
    layer = 3 * 8192 * 28672 + 2 * 8192 * (8192 + 1024)
    assert row.plan.weights == 2 * (plan.outline.numel - 78 * layer)
    assert row.plan.fits
    batches = -(-plan.work.tokens // 1024)
    assert row.read == 2 * 2 * batches * 80 * layer * row.passes


def test_a_run_is_planned_as_it_is_made(make_model, tmp_path):
    """The same choice, with the same sizes, from the config as from the model in memory."""
    model = make_model("mixtral")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    samples = tuple(Sample(row, [3 + row] * 10, 1) for row in range(6))
    tokens = TokenizedCorpus(samples, 0, 0)
    corpora = [
        Corpus(name, "x.csv", None, "0" * 64, 6, tuple(range(6)), Columns(("a",), "b"), tokens, ())
        for name in ("one", "two", "general")
    ]
    given = {"p": 0.1, "q": 0.3}
    plan = plan_run(
        str(tmp_path),
        options(config=given, samples=6, tokens=10, limits=Limits(memory=10**9)),
    )
    total = way(plan, "full").plan.total
    for memory in (10**9, total, total - 1):
        limits, notes = Limits(memory=memory), []
        inputs = Inputs(
            model, {one.name: one for one in corpora[:2]}, corpora[2], limits=limits,
            note=notes.append,
        )  # fmt: skip
        localize(inputs, SpinConfig(**given))
        found = plan_run(str(tmp_path), options(config=given, samples=6, tokens=10, limits=limits))
        name = "full" if memory >= total else "2 windows"
        assert found.chosen == name.removeprefix("2 ")
        assert notes[0] == f"plan: {way(found, name).plan.sentence()}"


def test_headers_say_the_type_that_a_config_leaves_out(make_model, tmp_path):
    make_model("llama", "bfloat16").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["dtype"]
    path.write_text(json.dumps(config))
    outline = read_outline(str(tmp_path))
    assert outline.dtype("auto") == "bfloat16"
    assert outline.dtype("float32") == "float32"
    (tmp_path / "model.safetensors").unlink()
    assert read_outline(str(tmp_path)).dtype("auto") == "float32"


def test_what_cannot_be_planned_is_refused(saved, tiny_configs, tmp_path):
    path = saved(MISTRAL_7B)
    with pytest.raises(UsageError, match="contrast does not score every weight"):
        plan_run(path, options(method="contrast"))
    assert plan_run(path, options(method="snip", limits=Limits(memory=10**12))).chosen == "full"
    with pytest.raises(UsageError, match="in float8_e4m3fn cannot be scored"):
        plan_run(saved(MISTRAL_7B, dtype="float8_e4m3fn"), options())
    masked = tmp_path / "bert.json"
    masked.write_text(json.dumps({**tiny_configs["bert"], "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ModelError, match="masked language model"):
        plan_run(str(masked), options())
    with pytest.raises(ModelError, match="there is no folder"):
        plan_run("nowhere/to/be/found", options())
    masked.write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        plan_run(str(masked), options())
