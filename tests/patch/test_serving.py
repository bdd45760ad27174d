import pytest
import torch

from neuropatch.errors import ModelError, PatchMismatchError, UsageError
from neuropatch.models.modules import model_layout
from neuropatch.patch.serving import serving

MODEL_TYPES = ["llama", "gpt2", "qwen3"]

# The layers' own outputs are rounded before they are corrected, so half-precision results differ
# from those of edited weights by a unit or two of logits below 1.
ATOL = {"float32": 2e-6, "float64": 1e-13, "bfloat16": 3e-2, "float16": 3e-3}


@pytest.fixture
def tokens():
    return torch.randint(3, 50, (5, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_served(make_model, make_patch, base_of):
    """A model and three patches for it: all kinds of weight edits, scaled units, and both."""

    def make(model_type, dtype="float32"):
        model = make_model(model_type, dtype)
        layout, base = model_layout(model), base_of(model)
        patches = {
            "weights": make_patch(layout, base=base, seed=1),
            "units": make_patch(layout, base=base, kinds=(), units=("scale",), seed=2),
            "both": make_patch(layout, base=base, units=("scale",), count=9, seed=3),
        }
        return model, patches

    return make


def state(model):
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def alone(model, patches, rows, tokens):
    """Logits of each row from the model with that row's patch written into its weights."""
    results = []
    for name, row in zip(rows, tokens, strict=True):
        if name is None:
            results.append(model(row[None]).logits)
        else:
            with patches[name].applied(model):
                results.append(model(row[None]).logits)
    return torch.cat(results)


@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_each_row_is_answered_with_its_patch(make_served, tokens, model_type, dtype):
    model, patches = make_served(model_type, dtype)
    rows = ["units", None, "both", "both", "weights"]
    before = state(model)
    with torch.no_grad():
        wanted = alone(model, patches, rows, tokens)
        with serving(model, patches, rows):
            served = model(tokens).logits
            assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
        after = model(tokens).logits
        with serving(model, patches, [None] * 5):
            plain = model(tokens).logits
    torch.testing.assert_close(served, wanted, rtol=0, atol=ATOL[dtype])
    assert torch.equal(plain, after)
    assert not any(module._forward_hooks for module in model.modules())
    # Every patch does something. Scaled units move a tiny model least.
    moved = (served - after).abs().amax((1, 2))
    assert (moved[2:] > 2 * ATOL[dtype]).all()
    assert moved[0] > (2 * ATOL[dtype] if dtype in ("float32", "float64") else 0)
    assert torch.equal(served[1], after[1])


def test_rows_change_between_batches(make_served, tokens):
    model, patches = make_served("llama")
    with torch.no_grad(), serving(model, patches, ["units"] * 5) as served:
        for rows in (["both", "units", None, "weights", "both"], [None] * 5, ["weights"] * 5):
            served.rows = rows
            assert served.rows == tuple(rows)
            logits = model(tokens).logits
            # Rows of the batch do not touch each other: each as it is when served by itself.
            for number, name in enumerate(rows):
                served.rows = [name]
                own = model(tokens[number : number + 1]).logits
                torch.testing.assert_close(logits[number : number + 1], own, rtol=0, atol=1e-6)


def test_generation_with_a_cache(make_served, tokens):
    """One token at a time after the prompt."""
    model, patches = make_served("llama")
    rows = ["weights", "both", None, "units", "both"]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        with serving(model, patches, rows):
            together = model.generate(tokens, attention_mask=mask, **options)
        for name, row, found in zip(rows, tokens, together, strict=True):
            with serving(model, patches, [name]):
                own = model.generate(row[None], attention_mask=mask[:1], **options)
            assert torch.equal(own[0], found)


def test_gradients_of_the_input(make_served, tokens):
    model, patches = make_served("gpt2", "float64")
    model.requires_grad_(False)
    rows = ["both", "weights", None, "units", "both"]
    embedded = model.get_input_embeddings()(tokens)

    def gradient(function):
        x = embedded.clone().requires_grad_()
        (found,) = torch.autograd.grad(function(x).sin().sum(), x)
        return found

    with serving(model, patches, rows):
        served = gradient(lambda x: model(inputs_embeds=x).logits)
    wanted = []
    for number, name in enumerate(rows):
        with serving(model, {}, [None]) if name is None else patches[name].applied(model):
            wanted.append(
                gradient(lambda x, n=number: model(inputs_embeds=x[n : n + 1]).logits)[number]
            )
    torch.testing.assert_close(served, torch.stack(wanted), rtol=0, atol=1e-12)


def test_an_inverted_patch_on_a_patched_model(make_served, tokens):
    model, patches = make_served("llama")
    with torch.no_grad():
        plain = model(tokens).logits
        patches["both"].apply(model)
        with serving(model, {"undo": patches["both"].invert()}, ["undo"] * 5):
            undone = model(tokens).logits
    torch.testing.assert_close(undone, plain, rtol=0, atol=2e-6)


def test_a_drifted_model_is_changed_from_where_it_is(make_served, tokens):
    """Zeroed is zero, whatever stood there."""
    model, patches = make_served("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        wanted = alone(model, patches, ["both"] * 5, tokens)
        with serving(model, patches, ["both"] * 5):
            torch.testing.assert_close(model(tokens).logits, wanted, rtol=0, atol=2e-6)


def test_steering_is_refused_in_one_line(make_model, make_patch, base_of):
    model = make_model("llama")
    patch = make_patch(model_layout(model), base=base_of(model), units=("steer",))
    with (
        pytest.raises(UsageError, match=r"patch 'moved' steers units of decoder\.0"),
        serving(model, {"moved": patch}, ["moved"]),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_rows_must_be_known_and_as_many_as_the_batch(make_served, tokens):
    model, patches = make_served("llama")
    with pytest.raises(UsageError, match="no patch is called 'unit'"):
        serving(model, patches, ["unit"]).__enter__()
    with torch.no_grad(), serving(model, patches, ["units"] * 4) as served:
        with pytest.raises(UsageError, match=r"shape \(5, 7, 12\), but rows names 4"):
            model(tokens)
        with pytest.raises(UsageError, match="no patch is called 'other'"):
            served.rows = ["other"] * 5
        assert served.rows == ("units",) * 4


def test_another_architecture_is_refused(make_served, make_model, tokens):
    _, patches = make_served("llama")
    other = make_model("llama", intermediate_size=24)
    with (
        pytest.raises(PatchMismatchError, match="intermediate 20 against 24"),
        serving(other, patches, [None]),
    ):
        pass


def test_a_layer_that_is_not_linear_is_refused(make_served):
    model, patches = make_served("llama")
    linear = model.model.layers[0].mlp.up_proj

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = linear.weight

        def forward(self, x):
            return 2 * linear(x)

    model.model.layers[0].mlp.up_proj = Adapted()
    with (
        pytest.raises(ModelError, match=r"'model\.layers\.0\.mlp\.up_proj\.weight' belongs to"),
        serving(model, patches, [None]),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_after_an_error(make_served):
    model, patches = make_served("gpt2")
    with (
        pytest.raises(RuntimeError, match="midway"),
        serving(model, patches, [None]),
    ):
        raise RuntimeError("midway")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_fused_tensor_is_corrected_once_for_all_its_roles(make_served):
    """GPT-2's q, k and v share one layer."""
    model, patches = make_served("gpt2")
    with serving(model, patches, [None]):
        hooks = {n: len(m._forward_hooks) for n, m in model.named_modules() if m._forward_hooks}
    assert set(hooks.values()) == {1}
    roles = {edit.matrix.role for edit in patches["weights"].weights}
    assert {"q", "k", "v"} <= roles
    assert sum("c_attn" in name for name in hooks) == 2
