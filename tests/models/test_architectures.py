"""The architecture matrix: every architecture on a tiny random model of transformers.

One row is one model type, or one of its variants. The table in docs/architectures.md is made of
these rows; ``python tests/models/test_architectures.py`` prints it.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoConfig

from neuropatch.attribution.accumulator import GradientAccumulator
from neuropatch.attribution.reference import snip_scores
from neuropatch.attribution.run import score_batch
from neuropatch.attribution.selection import top_indices
from neuropatch.checkpoint.apply import apply_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.data.batching import packed_batches
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError
from neuropatch.fairness.tabular import MODEL_TYPE
from neuropatch.models.coordinates import DENSE, ROLES
from neuropatch.models.definition import definitions
from neuropatch.models.layout import Layout
from neuropatch.models.modules import model_layout, resolve_layer, resolve_parameters
from neuropatch.models.packing import can_pack
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.format import read_patch
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

_SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 6,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
# heads * head_dim (24), hidden (12) and intermediate (20) all differ: no mistaken shape fits.
_WIDE = _GROUPED | {"head_dim": 4}
_GPT = {
    "n_layer": 2,
    "n_embd": 12,
    "n_inner": 20,
    "n_head": 3,
    "vocab_size": 50,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 6,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
_NARROW = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_DEEPSEEK = _SIZES | {
    "n_routed_experts": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_group": 1,
    "topk_group": 1,
}
_ROUTER = (r"mlp\.gate\.weight", "router")

_DEBERTA = _SIZES | {
    "num_attention_heads": 3,
    "relative_attention": True,
    "max_relative_positions": 8,
}
_T5 = {
    "num_layers": 2,
    "num_decoder_layers": 1,
    "d_model": 12,
    "d_ff": 20,
    "d_kv": 8,
    "num_heads": 3,
    "vocab_size": 50,
    "decoder_start_token_id": 0,
}
_BART = {
    "encoder_layers": 2,
    "decoder_layers": 1,
    "d_model": 12,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_VISION = {
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "out_hidden_size": 12,
    "fullatt_block_indexes": [0],
}
_CROSS = ("EncDecAttention|relative_attention_bias", "cross-attention, biases of positions")


@dataclass(frozen=True)
class Row:
    """A tiny model of an architecture.

    Attributes:
        model_type: transformers' name of it.
        config: What its config says besides.
        variant: What tells rows of one model type apart.
        task: What the model is loaded as.
        left_out: Matrices of the layers that no role names: a pattern, and what they are.
        unseen: Whether the inputs of experts cannot be seen, so that only edits are possible.
    """

    model_type: str
    config: dict = field(default_factory=dict)
    variant: str = ""
    task: str = "CausalLM"
    left_out: tuple[str, str] | None = None
    unseen: bool = False

    def __str__(self):
        return f"{self.model_type}-{self.variant}" if self.variant else self.model_type


MATRIX = [
    Row("llama", _WIDE | {"tie_word_embeddings": False}),
    Row("mistral", _WIDE | {"sliding_window": 4}),
    Row("qwen2", _GROUPED),
    Row("qwen3", _WIDE | {"tie_word_embeddings": True}),
    Row("gemma", _WIDE),
    Row("gemma2", _WIDE | {"query_pre_attn_scalar": 4, "sliding_window": 4}),
    Row("phi", _GROUPED),
    Row("phi3", _GROUPED),
    Row("gpt2", _GPT),
    Row(
        "gpt_neo",
        {
            "num_layers": 2,
            "hidden_size": 12,
            "num_heads": 3,
            "intermediate_size": 20,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 50,
            "max_position_embeddings": 64,
            "window_size": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Row("gptj", _GPT | {"rotary_dim": 2}),
    Row("gpt_neox", _SIZES),
    Row(
        "opt",
        {
            "num_hidden_layers": 2,
            "hidden_size": 12,
            "ffn_dim": 20,
            "num_attention_heads": 3,
            "vocab_size": 50,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 12,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
    Row(
        "bloom",
        {
            "n_layer": 2,
            "hidden_size": 12,
            "n_head": 3,
            "vocab_size": 50,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
    Row(
        "falcon",
        _FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True},
        "grouped key heads (40B, 180B)",
    ),
    Row("falcon", _FALCON, "one key head (7B)"),
    Row("falcon", _FALCON | {"multi_query": False, "alibi": True}, "as many key heads (RW)"),
    Row("mpt", {"n_layers": 2, "d_model": 12, "n_heads": 3, "vocab_size": 50, "max_seq_len": 64}),
    Row("stablelm", _GROUPED),
    Row("starcoder2", _GROUPED),
    Row("olmo", _GROUPED),
    Row("olmo2", _GROUPED),
    Row("cohere", _GROUPED),
    Row("cohere2", _GROUPED | {"sliding_window": 4}),
    Row("granite", _GROUPED),
    Row("smollm3", _GROUPED),
    Row("glm", _WIDE),
    Row("glm4", _WIDE),
    Row("nemotron", _WIDE),
    Row("mixtral", _GROUPED | _EXPERTS, left_out=_ROUTER),
    Row(
        "qwen2_moe",
        _GROUPED | _NARROW | {"shared_expert_intermediate_size": 9, "mlp_only_layers": [0]},
        left_out=(r"mlp\.(gate|shared_expert_gate)\.weight", "router, gate of the shared expert"),
    ),
    Row(
        "qwen3_moe",
        _WIDE | _NARROW | {"num_hidden_layers": 3, "decoder_sparse_step": 2},
        left_out=_ROUTER,
    ),
    Row("olmoe", _GROUPED | {"num_experts": 3, "num_experts_per_tok": 2}, left_out=_ROUTER),
    Row(
        "deepseek_v2",
        _DEEPSEEK | {"q_lora_rank": None, "topk_method": "greedy"},
        "whole queries (Lite)",
        left_out=(
            r"kv_a_proj_with_mqa|mlp\.gate\.weight",
            "router, down projection of keys and values",
        ),
    ),
    Row(
        "deepseek_v2",
        _DEEPSEEK | {"q_lora_rank": 10, "topk_method": "greedy"},
        left_out=(
            r"q_a_proj|kv_a_proj_with_mqa|mlp\.gate\.weight",
            "router, down projections of queries, keys and values",
        ),
    ),
    Row(
        "deepseek_v3",
        _DEEPSEEK | {"q_lora_rank": 10, "n_routed_experts": 4},
        left_out=(
            r"q_a_proj|kv_a_proj_with_mqa|mlp\.gate\.weight",
            "router, down projections of queries, keys and values",
        ),
    ),
    Row("gpt_oss", _WIDE | _EXPERTS, left_out=(r"router\.weight|_bias$", "router")),
    Row("granitemoe", _GROUPED | _EXPERTS, left_out=(r"router\.weight", "router")),
    Row(
        "llama4_text",
        _WIDE
        | {
            "num_local_experts": 3,
            "intermediate_size_mlp": 16,
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 1,
        },
        left_out=(r"router\.weight", "router"),
    ),
    Row(
        "dbrx",
        {
            "n_layers": 2,
            "d_model": 12,
            "n_heads": 6,
            "vocab_size": 50,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {
                "hidden_size": 12,
                "ffn_hidden_size": 20,
                "moe_num_experts": 3,
                "moe_top_k": 2,
            },
        },
        left_out=(r"router\.layer\.weight", "router"),
        unseen=True,
    ),
    Row("gemma3_text", _WIDE | {"query_pre_attn_scalar": 4, "sliding_window": 4}),
    Row("bert", _SIZES, task="MaskedLM"),
    Row("roberta", _SIZES, task="MaskedLM"),
    Row("xlm-roberta", _SIZES, task="MaskedLM"),
    Row("electra", _SIZES | {"embedding_size": 8}, task="MaskedLM"),
    Row(
        "distilbert",
        {
            "n_layers": 2,
            "dim": 12,
            "hidden_dim": 20,
            "n_heads": 3,
            "vocab_size": 50,
            "max_position_embeddings": 64,
        },
        task="MaskedLM",
    ),
    Row(
        "deberta",
        _DEBERTA | {"pos_att_type": ["c2p", "p2c"]},
        task="MaskedLM",
        left_out=(r"pos_(q_)?proj", "projections of positions"),
    ),
    Row(
        "deberta-v2",
        _DEBERTA | {"share_att_key": True, "pos_att_type": ["p2c", "c2p"]},
        task="MaskedLM",
    ),
    Row(
        "modernbert",
        _SIZES | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 4},
        task="MaskedLM",
    ),
    Row("t5", _T5, "plain (1.0)", task="Seq2SeqLM", left_out=_CROSS),
    Row(
        "t5",
        _T5 | {"feed_forward_proj": "gated-gelu"},
        "gated (1.1, Flan)",
        task="Seq2SeqLM",
        left_out=_CROSS,
    ),
    Row("mt5", _T5, task="Seq2SeqLM", left_out=_CROSS),
    Row("bart", _BART, task="Seq2SeqLM", left_out=("encoder_attn", "cross-attention")),
    Row(
        "gemma3",
        {
            # Files leave out what is the default: 8 heads of 256 here.
            "text_config": _SIZES
            | {"hidden_size": 16, "num_attention_heads": 8, "query_pre_attn_scalar": 4},
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 49,
            "boi_token_index": 48,
            "eoi_token_index": 47,
        },
        task="ImageTextToText",
    ),
    Row(
        "qwen2_5_vl",
        {
            "text_config": _GROUPED
            | {
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [1, 0, 0],
                    "rope_theta": 10000.0,
                }
            },
            "vision_config": _QWEN_VISION,
            "image_token_id": 49,
            "video_token_id": 48,
            "vision_start_token_id": 47,
            "vision_end_token_id": 46,
        },
        task="ImageTextToText",
    ),
]


def _build(row):
    config = AutoConfig.for_model(row.model_type, **row.config)
    auto = getattr(transformers, f"AutoModelFor{row.task}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config)
        for parameter in model.parameters():
            # Some models start with constants, and weights of 0 have no score.
            if parameter.ndim > 1 and parameter.std() < 1e-6:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def _samples():
    rng = np.random.default_rng(0)
    return [Sample(row, rng.integers(3, 50, 9 - row).tolist(), 2 + row) for row in range(3)]


def _loss(model, row, sample):
    """Mean negative log likelihood of a sample's labels, for models that are not causal."""
    ids = torch.tensor([sample.ids])
    if row.task == "Seq2SeqLM":
        prompt, labels = ids[:, : sample.label_start + 3], ids[:, sample.label_start :]
        return model(input_ids=prompt, labels=labels, use_cache=False).loss
    logits = model(input_ids=ids).logits[0]
    return F.cross_entropy(logits[sample.label_start :], ids[0, sample.label_start :])


def _fused_scores(model, row, samples, slots):
    model.requires_grad_(False)
    accumulator = GradientAccumulator(model, slots)
    causal = row.task in ("CausalLM", "ImageTextToText")
    for batch in packed_batches(samples, batch_tokens=64 if causal and can_pack(model) else 1):
        if causal:
            score_batch(model, accumulator, batch)
        else:
            with accumulator.recording(batch):
                _loss(model, row, samples[batch.rows[0]]).backward()
    return {slot.matrix: accumulator.score(slot.matrix) for slot in slots}


def _exact_scores(model, row, samples, matrices):
    if row.task in ("CausalLM", "ImageTextToText"):
        return snip_scores(model, samples, matrices)
    exact = copy.deepcopy(model).double()
    slots = resolve_parameters(exact, model_layout(exact), matrices)
    totals = {slot.name: torch.zeros_like(slot.parameter) for slot in slots}
    parameters = {slot.name: slot.parameter.requires_grad_(True) for slot in slots}
    for sample in samples:
        exact.zero_grad()
        _loss(exact, row, sample).backward()
        for name, parameter in parameters.items():
            totals[name] += (parameter.detach() * parameter.grad).abs()
    return {slot.matrix: slot.view_of(totals[slot.name]) / len(samples) for slot in slots}


def _patch(model, scores):
    """Zero the three weights of every matrix that matter most."""
    layout = model_layout(model)
    edits = []
    for slot in resolve_parameters(model, layout, layout.matrices()):
        flat = np.sort(top_indices(scores[slot.matrix].reshape(-1), 3).numpy())
        rows, columns = np.divmod(flat, slot.slot.shape[1])
        before = slot.weight().detach()[torch.from_numpy(rows), torch.from_numpy(columns)]
        edits.append(WeightEdit.build(slot.matrix, "zero", rows, columns, before.numpy()))
    return NeuronPatch(PatchMetadata(layout.signature), tuple(edits))


def _logits(model, row):
    ids = torch.tensor([[3, 17, 5, 44, 9, 21]])
    inputs = {"decoder_input_ids": ids[:, :4]} if row.task == "Seq2SeqLM" else {}
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def _check_tied(model, checkpoint):
    """Tied tensors are one in memory, and the alias is not in the file."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied = [
        one
        for one in checkpoint.layout.definition.tied
        if all(name in parameters for name in one.tensors)
    ]
    for one in tied:
        alias, *others = one.tensors
        same = all(parameters[alias] is parameters[other] for other in others)
        assert same == getattr(model.config, one.when)
        # Files may know the head by another name than modules do.
        aliases = {other.tensors[0] for other in checkpoint.layout.definition.tied}
        assert bool(aliases & set(checkpoint.tensors)) != same


def _load(folder, row):
    auto = getattr(transformers, f"AutoModelFor{row.task}")
    loaded, report = auto.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return loaded.eval()


@pytest.mark.parametrize("row", MATRIX, ids=str)
def test_localise_apply_load_and_run(row, tmp_path):
    model, samples = _build(row), _samples()
    layout = model_layout(model)
    matrices = layout.matrices()
    assert Layout.from_config({"model_type": row.model_type, **row.config}) == layout
    assert Layout.from_signature(layout.signature) == layout

    # In memory: the roles are all of the layers' matrices, each claimed once.
    slots = resolve_parameters(model, layout, matrices)
    claimed = {}
    for slot in slots:
        assert tuple(slot.weight().shape) == layout.shape(slot.matrix)
        claimed[slot.name] = claimed.get(slot.name, 0) + slot.weight().numel()
        resolve_layer(model, layout, slot.matrix.block)
    parameters = dict(model.named_parameters())
    assert all(parameters[name].numel() == count for name, count in claimed.items())
    prefixes = {n for m in matrices for n in layout.layer_names(m.block)}
    rest = {
        name
        for name, parameter in parameters.items()
        if parameter.ndim > 1
        and name not in claimed
        and any(name.startswith(f"{p}.") for p in prefixes)
    }
    pattern = "(?!)" if row.left_out is None else row.left_out[0]
    named = {name for name in rest if re.search(pattern, name)}
    assert rest == named
    assert bool(named) == (row.left_out is not None)

    # The model without its head names them otherwise.
    bare = resolve_parameters(model.base_model, layout, matrices)
    assert all(a.parameter is b.parameter for a, b in zip(slots, bare, strict=True))

    # Localise: every matrix is seen, and scored as autograd scores it.
    if row.unseen:
        with pytest.raises(ModelError, match="runs its experts in a way that cannot be watched"):
            _fused_scores(model, row, samples, slots)
    watched = [slot for slot in slots if not row.unseen or slot.slot.expert is None]
    found = _fused_scores(model, row, samples, watched)
    exact = _exact_scores(model, row, samples, matrices)
    found = {**exact, **found}
    for matrix, score in exact.items():
        # Float32 rounds each of some hundred terms by 6e-8, and backward passes through two layers
        # magnify that where norms divide by small numbers.
        error = (found[matrix].double() - score).norm()
        assert error <= 1e-4 * score.norm(), (str(matrix), float(error / score.norm()))
    assert sum(bool(score.norm() > 0) for score in exact.values()) >= 0.7 * len(exact)

    # Apply to files as transformers writes them, and load the result with transformers alone.
    patch = _patch(model, found)
    patch.save(tmp_path / "patch.safetensors")
    assert read_patch(tmp_path / "patch.safetensors") == patch
    before = _logits(model, row)
    with patch.applied(model):
        wanted = _logits(model, row)
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert not torch.equal(before, wanted)
    for original in (True, False):
        folder = tmp_path / str(original)
        model.save_pretrained(folder / "base", save_original_format=original)
        checkpoint = Checkpoint.open(folder / "base")
        assert checkpoint.layout == layout
        _check_tied(model, checkpoint)
        apply_patches(folder / "base", [patch], folder / "patched")
        loaded = _load(folder / "patched", row)
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter, weights[name]), name
        assert torch.equal(_logits(loaded, row), wanted)


def _fused(row, roles):
    """Whether some of the roles share tensors, so that only what the model does tells them."""
    layout = Layout.from_config({"model_type": row.model_type, **row.config})
    return any(layout.memory(matrix).row_map for matrix in layout.matrices(roles))


def _gradients(model, row, length, slots):
    """Gradients ``[tokens, rows]`` of a role's outputs, from the loss of the last token alone."""
    grads = {}

    def hook(slot):
        def forward(_, __, output):
            output.register_hook(
                lambda grad: grads.update({slot.matrix.role: slot.rows_of(grad.flatten(0, -2).T).T})
            )

        return forward

    modules = [model.get_submodule(slot.name.removesuffix(".weight")) for slot in slots]
    handles = [m.register_forward_hook(hook(s)) for m, s in zip(modules, slots, strict=True)]
    ids = torch.tensor([_samples()[0].ids[:length]])
    logits = model(input_ids=ids).logits[0, -1]
    F.cross_entropy(logits[None], torch.tensor([7])).backward()
    for handle in handles:
        handle.remove()
    return grads


@pytest.mark.parametrize("row", [row for row in MATRIX if _fused(row, ("q", "k", "v"))], ids=str)
def test_rows_of_fused_attention_are_those_of_their_role(row):
    """A token alone attends to itself whatever q and k are; in the last layer the output of a
    token depends on its own q, and on the k and v of others.
    """
    model = _build(row).double()
    if any(hasattr(module, "has_gate") for module in model.modules()):
        model.set_experts_implementation("eager")
    layout = model_layout(model)
    last = max(m.layer for m in layout.matrices())
    matrices = [m for m in layout.matrices("qkv") if m.layer == last and layout.memory(m).row_map]
    slots = resolve_parameters(model, layout, matrices)
    alone = _gradients(model, row, 1, slots)
    among = _gradients(model, row, 6, slots)
    assert (alone["v"].abs().max(dim=0).values > 0).all()
    assert alone["k"].abs().max() < 1e-9 * alone["v"].abs().max()
    assert (among["v"][:-1].abs().max(dim=0).values > 0).all()
    assert (among["k"][:-1].abs().max(dim=0).values > 0).all()
    if "q" in among:
        assert alone["q"].abs().max() < 1e-9 * alone["v"].abs().max()
        assert (among["q"][:-1] == 0).all()
        assert (among["q"][-1].abs() > 0).any()


@pytest.mark.parametrize("row", [row for row in MATRIX if _fused(row, ("gate", "up"))], ids=str)
def test_rows_of_fused_gates_are_those_of_their_role(row):
    """The gate is what goes through the activation: an MLP with gates of 0 gives 0, and twice the
    up projection gives twice the output (GPT-OSS adds 1 to it, so that 0 does not give 0).
    """
    model = _build(row)
    layout = model_layout(model)
    last = max(m.layer for m in layout.matrices(["up"]) if layout.memory(m).row_map)
    slots = resolve_parameters(
        model, layout, [m for m in layout.matrices(["gate", "up"]) if m.layer == last]
    )
    slots = [slot for slot in slots if slot.slot.row_map]
    owner = model.get_submodule(slots[0].name.removesuffix(".weight").rpartition(".")[0])
    calls = []
    handle = owner.register_forward_hook(lambda _, args, output: calls.append((args, output)))
    _logits(model, row)
    handle.remove()
    (args, output), before = calls[0], slots[0].parameter.detach().clone()

    def scaled(role, factor):
        with torch.no_grad():
            for slot in slots:
                if slot.matrix.role == role:
                    for number in range(slot.slot.shape[0]):
                        slot.parameter.view(-1)[_row(slot, number)] *= factor
            found = owner(*args)
            slots[0].parameter.copy_(before)
        return found

    def near(a, b):
        return (a - b).abs().max() <= 1e-5 * output.abs().max()

    biases = [p for name, p in model.named_parameters() if name.endswith("_bias")]
    with torch.no_grad():
        for bias in biases:
            bias.zero_()
    assert near(scaled("gate", 0.0), torch.zeros_like(output))
    if row.model_type == "gpt_oss":
        assert not near(scaled("up", 0.0), torch.zeros_like(output))
    else:
        assert near(scaled("up", 2.0), 2 * output)
        assert not near(scaled("gate", 2.0), 2 * output)


def _row(slot, number):
    columns = np.arange(slot.slot.shape[1])
    return torch.from_numpy(slot.slot.offsets(np.full_like(columns, number), columns))


def test_the_matrix_has_every_architecture():
    rows = {row.model_type for row in MATRIX}
    # The text model of a multimodal one is inside it.
    rows |= {d.model_types[0] for name in rows if name in (d := definitions()[name]).towers}
    # The toolkit's own tabular model is none of transformers; its own tests cover it.
    assert rows == set(definitions()) - {MODEL_TYPE}
    assert len({str(row) for row in MATRIX}) == len(MATRIX)


def _table():
    """The table of docs/architectures.md, from the rows that the tests above run."""
    lines = [
        "| model type | variant | loaded as | roles | experts | samples | not covered |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(MATRIX, key=str):
        layout = Layout.from_config({"model_type": row.model_type, **row.config})
        matrices = layout.matrices()
        roles = [role for role in ROLES if any(m.role == role for m in matrices)]
        routed = any(m.expert != DENSE for m in matrices)
        sparse = layout.signature.layers.get("sparse", ())
        shared = any(m.expert == DENSE and m.role == "up" and m.layer in sparse for m in matrices)
        experts = ("all, and the shared one" if shared else "all") if routed else ""
        packed = layout.signature.model_type not in layout.definition.unpacked
        causal = row.task in ("CausalLM", "ImageTextToText")
        cells = [
            f"`{row.model_type}`",
            row.variant,
            f"`AutoModelFor{row.task}`",
            " ".join(roles),
            f"{experts}; edits only" if row.unseen else experts,
            ("packed" if packed else "one by one") if causal else "",
            row.left_out[1] if row.left_out else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_documented_table_is_the_matrix():
    text = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert _table() in text, "print the table with: python tests/models/test_architectures.py"


if __name__ == "__main__":
    print(_table(), end="")
