"""What the definition format can say, against the reshapes that transformers itself does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from neuropatch.errors import ArchitectureError, ModelError
from neuropatch.models.binding import bind_dimensions
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.definition import parse_definition
from neuropatch.models.layout import Layout, RowMap, Signature, TensorSlot
from neuropatch.models.modules import resolve_parameters
from neuropatch.storage.safetensors_file import read_array, read_header


def _definition(roles, *, dimensions=None, prefixes=("model.layers.{layer}",), **stack):
    return parse_definition(
        {
            "name": "synthetic",
            "model_types": ["synthetic"],
            "dimensions": {
                "layers": ["num_hidden_layers"],
                "hidden": ["hidden_size"],
                "intermediate": ["intermediate_size"],
                "heads": ["num_attention_heads"],
                "kv_heads": ["num_key_value_heads", "num_kv_heads", "heads"],
                "head_dim": ["head_dim", "hidden/heads"],
                **(dimensions or {}),
            },
            "stacks": [
                {
                    "name": "decoder",
                    "layers": "layers",
                    "prefixes": list(prefixes),
                    "roles": roles,
                    **stack,
                }
            ],
        }
    )


def _layout(definition, config):
    return Layout(definition, Signature("synthetic", bind_dimensions(definition, config)))


def _qkv(path, parts, **fused):
    return {
        role: {
            "shape": [part, "hidden"],
            "storage": {"path": path, "fused": {"parts": parts, "part": number, **fused}},
        }
        for number, (role, part) in enumerate(zip("qkv", parts, strict=True))
    }


def _model(model_type, **sizes):
    config = AutoConfig.for_model(
        model_type,
        vocab_size=40,
        num_hidden_layers=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def _weights(model, layout):
    slots = resolve_parameters(model, layout, layout.matrices())
    return {slot.matrix: slot.weight() for slot in slots}


def _decoder(layer, role, expert=-1):
    return MatrixId("decoder", layer, expert, role)


@pytest.fixture
def x():
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


ATTENTION = ["heads*head_dim", "kv_heads*head_dim", "kv_heads*head_dim"]


def test_concatenated_gate_up_and_qkv(x):
    """Phi-3: gate then up, and q then k then v, one after the other."""
    model = _model(
        "phi3",
        hidden_size=12,
        intermediate_size=20,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    halves = {"parts": ["intermediate", "intermediate"]}
    definition = _definition(
        {
            **{
                role: {
                    "shape": ["intermediate", "hidden"],
                    "storage": {
                        "path": "mlp.gate_up_proj.weight",
                        "fused": {**halves, "part": part},
                    },
                }
                for part, role in enumerate(("gate", "up"))
            },
            **_qkv("self_attn.qkv_proj.weight", ATTENTION),
        }
    )
    layout = _layout(definition, model.config.to_dict())
    weights = _weights(model, layout)
    for layer in range(2):
        module = model.model.layers[layer]
        # As Phi3MLP and Phi3Attention split their projections.
        gate, up = module.mlp.gate_up_proj(x).chunk(2, dim=-1)
        torch.testing.assert_close(x @ weights[_decoder(layer, "gate")].T, gate)
        torch.testing.assert_close(x @ weights[_decoder(layer, "up")].T, up)
        qkv = module.self_attn.qkv_proj(x)
        for role, wanted in zip("qkv", qkv.split([12, 4, 4], dim=-1), strict=True):
            torch.testing.assert_close(x @ weights[_decoder(layer, role)].T, wanted)


def test_qkv_interleaved_by_head(x):
    """GPT-NeoX: for each head its q, then its k, then its v."""
    model = _model("gpt_neox", hidden_size=12, intermediate_size=20, num_attention_heads=3)
    definition = _definition(
        _qkv("attention.query_key_value.weight", ["hidden"] * 3, groups="heads"),
        prefixes=["gpt_neox.layers.{layer}"],
    )
    weights = _weights(model, _layout(definition, model.config.to_dict()))
    fused = model.gpt_neox.layers[1].attention.query_key_value
    torch.nn.init.zeros_(fused.bias)
    # GPTNeoXAttention: view(*, heads, 3 * head_size), then chunk in three.
    for role, wanted in zip("qkv", fused(x).view(5, 3, 12).chunk(3, dim=-1), strict=True):
        torch.testing.assert_close(x @ weights[_decoder(1, role)].T, wanted.reshape(5, 12))


def test_qkv_grouped_by_key_head(x):
    """Falcon 40B: for each key head its group's q heads, then k, then v."""
    model = _model(
        "falcon",
        hidden_size=12,
        num_attention_heads=6,
        num_kv_heads=2,
        new_decoder_architecture=True,
        bias=False,
    )
    definition = _definition(
        _qkv("self_attention.query_key_value.weight", ATTENTION, groups="kv_heads"),
        prefixes=["transformer.h.{layer}"],
    )
    weights = _weights(
        model, _layout(definition, {"intermediate_size": 48, **model.config.to_dict()})
    )
    attention = model.transformer.h[0].self_attention
    q, k, v = attention._split_heads(attention.query_key_value(x)[None])
    # Falcon repeats each key head for its three query heads.
    wanted = {
        "q": q.reshape(5, 12),
        "k": k[0, :, ::3].reshape(5, 4),
        "v": v[0, :, ::3].reshape(5, 4),
    }
    for role, values in wanted.items():
        torch.testing.assert_close(x @ weights[_decoder(0, role)].T, values)


@pytest.fixture(scope="module")
def mixture():
    model = _model(
        "qwen3_moe",
        hidden_size=12,
        intermediate_size=20,
        moe_intermediate_size=7,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=3,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    halves = {"parts": ["expert_width", "expert_width"]}
    definition = _definition(
        {
            **{
                role: {
                    "shape": ["expert_width", "hidden"],
                    "disk": {"path": f"mlp.experts.{{expert}}.{role}_proj.weight"},
                    "memory": {
                        "path": "mlp.experts.gate_up_proj",
                        "stacked": True,
                        "fused": {**halves, "part": part},
                    },
                }
                for part, role in enumerate(("gate", "up"))
            },
            "down": {
                "shape": ["hidden", "expert_width"],
                "disk": {"path": "mlp.experts.{expert}.down_proj.weight"},
                "memory": {"path": "mlp.experts.down_proj", "stacked": True},
            },
            "q": {
                "shape": ["heads*head_dim", "hidden"],
                "storage": {"path": "self_attn.q_proj.weight"},
            },
        },
        dimensions={
            "experts": ["num_experts", "num_local_experts"],
            "expert_width": ["moe_intermediate_size"],
        },
        experts="experts",
    )
    return model, _layout(definition, model.config.to_dict())


def test_experts_are_stacked_in_memory_and_single_on_disk(mixture, tmp_path):
    model, layout = mixture
    model.save_pretrained(tmp_path)
    header = read_header(tmp_path / "model.safetensors")
    weights = _weights(model, layout)
    assert len(weights) == 2 * (3 * 3 + 1)
    for matrix, weight in weights.items():
        slot = layout.disk(matrix)
        (name,) = slot.names
        stored = read_array(header.path, header.tensors[name])
        assert stored.shape == slot.stored_shape
        np.testing.assert_array_equal(stored, weight.numpy())


def test_offsets_into_a_stacked_fused_tensor(mixture):
    model, layout = mixture
    matrix = _decoder(1, "up", expert=2)
    (slot,) = resolve_parameters(model, layout, [matrix])
    rows, columns = np.divmod(np.arange(7 * 12), 12)
    flat = slot.parameter.detach().reshape(-1)[torch.from_numpy(slot.slot.offsets(rows, columns))]
    torch.testing.assert_close(flat.view(7, 12), slot.parameter[2, 7:])


def test_mixture_blocks_hold_experts_apart_from_attention(mixture):
    _, layout = mixture
    blocks = list(layout.blocks())
    assert blocks[:4] == [BlockId("decoder", 0, expert) for expert in (-1, 0, 1, 2)]
    assert layout.matrices(["q"]) == [_decoder(0, "q"), _decoder(1, "q")]
    for missing in (_decoder(0, "gate"), _decoder(0, "q", 0), _decoder(0, "up", 3)):
        with pytest.raises(ArchitectureError, match=r"no matrix .* 2 layers with 3 experts"):
            layout.shape(missing)


def test_alternating_rows_and_transposed_experts():
    """GPT-OSS: experts stored [in, out], whose output columns alternate gate and up."""
    roles = {
        role: {
            "shape": ["intermediate", "hidden"],
            "storage": {
                "path": "mlp.experts.gate_up_proj",
                "stacked": True,
                "transposed": True,
                "fused": {
                    "parts": ["intermediate", "intermediate"],
                    "part": part,
                    "groups": "intermediate",
                },
            },
        }
        for part, role in enumerate(("gate", "up"))
    }
    model = _model(
        "gpt_oss",
        hidden_size=12,
        intermediate_size=20,
        num_local_experts=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
    )
    definition = _definition(
        roles, dimensions={"experts": ["num_local_experts"]}, experts="experts"
    )
    layout = _layout(definition, model.config.to_dict())
    weights = _weights(model, layout)
    stored = model.model.layers[1].mlp.experts.gate_up_proj.detach()
    # GptOssExperts: gate, up = gate_up[..., ::2], gate_up[..., 1::2].
    for part, role in enumerate(("gate", "up")):
        torch.testing.assert_close(weights[_decoder(1, role, 2)], stored[2, :, part::2].T)
    slot = layout.memory(_decoder(1, "up", 2))
    offset = slot.offsets(np.array([4]), np.array([9]))
    assert stored.reshape(-1)[int(offset[0])] == stored[2, 9, 2 * 4 + 1]


def test_two_stacks():
    """T5: an encoder and a decoder whose feed-forward blocks have other numbers."""

    def stack(name, layer):
        path = f"layer.{layer}.DenseReluDense.wo.weight"
        return {
            "name": name,
            "layers": f"{name}_layers",
            "prefixes": [f"{name}.block.{{layer}}"],
            "roles": {"down": {"shape": ["hidden", "intermediate"], "storage": {"path": path}}},
        }

    definition = parse_definition(
        {
            "name": "synthetic",
            "model_types": ["synthetic"],
            "dimensions": {
                "encoder_layers": ["num_layers"],
                "decoder_layers": ["num_decoder_layers", "num_layers"],
                "hidden": ["d_model"],
                "intermediate": ["d_ff"],
            },
            "stacks": [stack("encoder", 1), stack("decoder", 2)],
        }
    )
    config = AutoConfig.for_model(
        "t5", num_layers=2, num_decoder_layers=1, d_model=12, d_ff=20, d_kv=4, num_heads=3,
        vocab_size=40,
    )  # fmt: skip
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_config(config)
    layout = _layout(definition, config.to_dict())
    weights = _weights(model, layout)
    assert list(weights) == [
        MatrixId("encoder", 0, -1, "down"),
        MatrixId("encoder", 1, -1, "down"),
        MatrixId("decoder", 0, -1, "down"),
    ]
    wanted = model.decoder.block[0].layer[2].DenseReluDense.wo.weight
    torch.testing.assert_close(weights[MatrixId("decoder", 0, -1, "down")], wanted.detach())
    with pytest.raises(ArchitectureError, match=r"no matrix decoder\.1\.down"):
        layout.shape(MatrixId("decoder", 1, -1, "down"))


def test_layers_that_share_one_tensor_are_refused(make_model):
    model = make_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    layout = _layout(
        _definition(
            {
                "down": {
                    "shape": ["hidden", "intermediate"],
                    "storage": {"path": "mlp.down_proj.weight"},
                }
            }
        ),
        model.config.to_dict(),
    )
    with pytest.raises(ModelError, match=r"decoder\.0\.down and decoder\.1\.down share one tensor"):
        resolve_parameters(model, layout, layout.matrices())


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    groups=st.integers(1, 3),
    into=st.integers(1, 3),
    experts=st.none() | st.integers(1, 3),
    transposed=st.booleans(),
)
def test_offsets_and_coordinates_are_inverse(sizes, groups, into, experts, transposed):
    """The matrices that share a tensor divide its positions among them."""
    rows, stride = sum(sizes) * groups, sum(sizes)
    stored = (into, rows) if transposed else (rows, into)
    stored = stored if experts is None else (experts, *stored)
    positions = np.arange(int(np.prod(stored)))
    owners = np.zeros(len(positions), dtype=int)
    for expert in [None] if experts is None else range(experts):
        for part, size in enumerate(sizes):
            slot = TensorSlot(
                names=("w",),
                shape=(size * groups, into),
                stored_shape=stored,
                transposed=transposed,
                expert=expert,
                row_map=RowMap(sum(sizes[:part]), size, stride) if len(sizes) > 1 else None,
            )
            tensor = positions.reshape(stored)[() if expert is None else expert]
            matrix = tensor.T if transposed else tensor
            # By explicit reshape: groups of rows, each holding a run of every part.
            start = sum(sizes[:part])
            wanted = matrix.reshape(groups, stride, into)[:, start : start + size]
            row, column = np.divmod(np.arange(size * groups * into), into)
            np.testing.assert_array_equal(slot.offsets(row, column), wanted.reshape(-1))
            mine, found_rows, found_columns = slot.find(positions)
            np.testing.assert_array_equal(np.flatnonzero(mine), np.sort(wanted, axis=None))
            np.testing.assert_array_equal(slot.offsets(found_rows, found_columns), positions[mine])
            owners += mine
    assert (owners == 1).all()


def test_a_definition_that_uses_an_unknown_size_says_so():
    storage = {"path": "mlp.up_proj.weight"}
    definition = _definition({"up": {"shape": ["width", "hidden"], "storage": storage}})
    config = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "intermediate_size": 4,
        "num_attention_heads": 2,
    }
    with pytest.raises(ArchitectureError, match="does not define 'width'"):
        _layout(definition, config).shape(_decoder(0, "up"))


def test_groups_that_do_not_divide_a_fused_tensor_are_refused():
    definition = _definition(_qkv("qkv", ["hidden"] * 3, groups="heads"))
    layout = _layout(
        definition,
        {
            "num_hidden_layers": 1,
            "hidden_size": 10,
            "intermediate_size": 4,
            "num_attention_heads": 3,
        },
    )
    with pytest.raises(ArchitectureError, match="10, 10, 10 rows do not fall into 3 equal groups"):
        layout.disk(_decoder(0, "q"))
