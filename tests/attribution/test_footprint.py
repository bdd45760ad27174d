"""What is estimated of a batch against what autograd and the tap really keep."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from neuropatch.attribution.footprint import footprint
from neuropatch.attribution.run import frozen
from neuropatch.attribution.tap import LinearTap
from neuropatch.data.tokenize import Sample
from neuropatch.models.coordinates import parse_target
from neuropatch.models.likelihood import packed_losses
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.models.packing import batches_for

# Large enough that what is kept of a token beside vectors (a number here and there, a rotation)
# does not count, and all widths differ.
_SIZES = {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 28,
}
_TOKENS = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GPT2 = {"n_layer": 4, "n_embd": 96, "n_inner": 160, "n_head": 4}
_MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
CASES = {
    "llama": ("llama", "float32", "mlp", _SIZES),
    "attention too": ("llama", "float32", "all", _SIZES),
    "16 bits": ("llama", "bfloat16", "mlp", _SIZES),
    "composed activation": ("gpt2", "float32", "mlp", _GPT2),
    "stacked experts": ("mixtral", "float32", "mlp", _SIZES),
    "shared expert": (
        "qwen2_moe",
        "float32",
        "mlp",
        _SIZES | _MIXTURE | {"shared_expert_intermediate_size": 72},
    ),
}


def kept(model, layout, matrices):
    """Bytes of all that is kept of a batch between its passes, and its tokens."""
    slots = resolve_parameters(model, layout, matrices)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages, alive = {}, []

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            # As long as it lives nothing else has its address.
            alive.append(tensor)
        return tensor

    def take(seen):
        note(seen.input)

    samples = [Sample(row, [3 + row] * 49, 1) for row in range(2)]
    (batch,) = batches_for(model, samples, batch_tokens=1024)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    tap = LinearTap(model, slots).watching(batch, take)
    with frozen(model), hooks, tap:
        packed_losses(model, batch).sum().backward()
    return sum(storages.values()), batch.input_ids.numel()


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_of_a_token(case):
    model_type, dtype, target, sizes = CASES[case]
    config = AutoConfig.for_model(model_type, **sizes, **_TOKENS)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    layout = model_layout(model)
    matrices = layout.matrices(parse_target(target))
    bytes_, tokens = kept(model, layout, matrices)
    estimate = footprint(
        layout, matrices, model.config.to_dict(), item_size=next(model.parameters()).itemsize
    )
    # The logits of the loss, of which the gradient is what is kept.
    measured = bytes_ - 4 * tokens * model.config.vocab_size
    # Below the first MLP nothing is kept, one attention and norm of four: 10 % at most of these.
    ratio = tokens * estimate.saved / measured
    assert 0.97 < ratio < 1.13, ratio


def of_experts(make_layout, count, width, per_token):
    sizes = {"num_local_experts": count, "intermediate_size": width}
    layout = make_layout("mixtral", **sizes)
    config = {"model_type": "mixtral", "num_experts_per_tok": per_token}
    return footprint(layout, layout.matrices(("gate", "up", "down")), config, item_size=4)


def test_experts_count_as_often_as_a_token_passes_one(make_layout):
    one, two = (of_experts(make_layout, 6, 20, times) for times in (1, 2))
    hidden, layers = 12, 2
    # Input, output twice, and four vectors of the expert's width; four bytes each.
    assert two.saved - one.saved == layers * 4 * (3 * hidden + 4 * 20)
    assert two.linear - one.linear == two.scored - one.scored == layers * 3 * hidden * 20
    assert of_experts(make_layout, 9, 20, 2) == two
    wider = of_experts(make_layout, 6, 30, 2)
    assert wider.saved - two.saved == layers * 4 * 2 * 4 * 10


def test_a_token_may_pass_all_experts_where_nothing_says_how_many(make_layout):
    assert of_experts(make_layout, 6, 20, None) == of_experts(make_layout, 6, 20, 6)


def test_logits_or_gradients_decide_the_peak(make_layout):
    layout = make_layout("llama")
    cost = footprint(layout, layout.matrices(("up",)), {}, item_size=4)
    assert cost.logits == 2 * 4 * layout.signature.dimensions["vocabulary"]
    kept_bytes = 10 * (cost.saved + cost.gaps)
    assert cost.bytes(10, 0) == kept_bytes + 10 * cost.passing
    assert cost.bytes(10, 100) == kept_bytes + 100 * cost.logits
