"""Layouts: sizes from untrusted configs, signatures, coordinates."""

import json
from importlib.resources import files

import pytest

from neuropatch.errors import ArchitectureError, UsageError
from neuropatch.models.coordinates import ROLES, BlockId, MatrixId, parse_target
from neuropatch.models.definition import definition_for, definitions, evaluate, parse_definition
from neuropatch.models.layout import Layout, Signature

DOCUMENTS = {
    entry.name: json.loads(entry.read_text(encoding="utf-8"))
    for entry in (files("neuropatch.models") / "_data" / "architectures").iterdir()
}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_bundled_definition_says_only_what_the_format_knows(name):
    document = DOCUMENTS[name]
    definition = parse_definition(document)
    assert f"{definition.name}.json" == name
    known = set(definition.dimensions)
    assert {"layers", "hidden", "intermediate", "vocabulary"} <= known
    for stack in definition.stacks:
        assert stack.roles
        sizes = [stack.layers, *([stack.experts] if stack.experts else [])]
        for role in (one for alternatives in stack.roles.values() for one in alternatives):
            sizes.extend([*role.shape, *(n for n in (role.when, role.unless) if n)])
            assert {n for n in (role.when, role.unless) if n} <= definition.optional
            assert {n for n in (role.inside, role.outside) if n} <= set(definition.layer_sets)
            for storage in (*role.disk, role.memory):
                assert storage.per_expert == role.memory.per_expert
                if storage.fused is not None:
                    sizes.extend([*storage.fused.parts, storage.fused.groups])
                    # The part that is the role's must be as high as the role.
                    assert storage.fused.parts[storage.fused.part] == role.shape[0]
        for size in sizes:
            assert evaluate(size, dict.fromkeys(known, 4)) is not None, size
    assert definition.unpacked <= set(definition.model_types)


def test_no_model_type_has_two_definitions():
    claimed = [
        name
        for document in DOCUMENTS.values()
        for name in [*document["model_types"], *document.get("towers", {})]
    ]
    assert len(claimed) == len(set(claimed)) == len(definitions())


@pytest.mark.parametrize(
    ("change", "named"),
    [({"name": "middle"}, "unknown stack"), ({"roles": {"gaet": {}}}, "unknown ['gaet']")],
)
def test_a_definition_with_an_unknown_stack_or_role_is_refused(change, named):
    document = DOCUMENTS["gpt2.json"]
    stack = {**document["stacks"][0], **change}
    with pytest.raises(ArchitectureError) as caught:
        parse_definition({**document, "stacks": [stack]})
    assert named in caught.value.message


@pytest.mark.parametrize("broken", ["shape", "roles"])
def test_a_definition_without_a_required_field_is_a_defect(broken):
    document = json.loads(json.dumps(DOCUMENTS["gpt2.json"]))
    stack = document["stacks"][0]
    del (stack["roles"]["up"] if broken == "shape" else stack)[broken]
    with pytest.raises(KeyError):
        parse_definition(document)


def test_an_unknown_storage_field_is_a_defect():
    document = json.loads(json.dumps(DOCUMENTS["gpt2.json"]))
    document["stacks"][0]["roles"]["up"]["storage"]["transpose"] = True
    with pytest.raises(TypeError, match="transpose"):
        parse_definition(document)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("hidden", 12),
        ("4*hidden", 48),
        ("hidden/heads", 4),
        ("heads * head_dim", 15),
        ("hidden/heads*2", 8),
        ("absent", None),
        ("null", None),
        ("hidden*absent", None),
    ],
)
def test_evaluate(expression, value):
    sizes = {"hidden": 12, "heads": 3, "head_dim": 5, "null": None}
    assert evaluate(expression, sizes) == value


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "12", [12], {}, 2**31, 10**400, float("nan")])
def test_a_size_that_is_no_size_is_refused(value, tiny_configs):
    with pytest.raises(ArchitectureError, match="which is not a size"):
        Layout.from_config({**tiny_configs["llama"], "hidden_size": value})


def test_a_config_may_leave_out_what_can_be_derived(tiny_configs):
    config = {**tiny_configs["qwen2"], "num_key_value_heads": None}
    del config["head_dim"]
    dimensions = Layout.from_config(config).signature.dimensions
    assert (dimensions["kv_heads"], dimensions["head_dim"]) == (3, 4)


def test_a_missing_size_is_named(tiny_configs):
    config = dict(tiny_configs["llama"])
    del config["intermediate_size"]
    with pytest.raises(ArchitectureError, match="does not say intermediate"):
        Layout.from_config(config)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 3}])
def test_a_config_without_a_model_type_is_refused(config):
    with pytest.raises(ArchitectureError, match="no model_type"):
        Layout.from_config(config)


def test_an_unknown_architecture_is_named_with_the_way_out():
    with pytest.raises(ArchitectureError, match="'mamba9' is not known") as caught:
        definition_for("mamba9")
    assert "neuropatch layout MODEL" in caught.value.hint


def test_a_signature_gives_the_layout_back(make_layout):
    layout = make_layout("gpt2")
    assert Layout.from_signature(layout.signature) == layout


def test_an_incomplete_signature_is_refused():
    with pytest.raises(ArchitectureError, match="lacks head_dim, heads"):
        Layout.from_signature(
            Signature("llama", dict.fromkeys(("layers", "hidden", "intermediate"), 4))
        )


def test_signatures_differ_in_words_and_may_differ_in_vocabulary(make_layout):
    mine, theirs = make_layout("llama").signature, make_layout("llama", hidden_size=16).signature
    assert mine.differences(theirs) == ["hidden 12 against 16"]
    assert mine.differences(make_layout("llama", vocab_size=99).signature) == []
    assert "model type llama against gpt2" in mine.differences(make_layout("gpt2").signature)


def test_matrices_come_in_canonical_order(make_layout):
    matrices = make_layout("llama").matrices()
    assert matrices == sorted(matrices, key=lambda matrix: matrix.sort_key)
    assert [matrix.role for matrix in matrices[:7]] == list(ROLES)
    assert make_layout("gpt2").matrices(["gate"]) == []


@pytest.mark.parametrize(
    "matrix",
    [
        MatrixId("decoder", 2, -1, "up"),
        MatrixId("decoder", -1, -1, "up"),
        MatrixId("decoder", 0, 0, "up"),
    ],
)
def test_a_matrix_that_does_not_exist_is_refused(matrix, make_layout):
    with pytest.raises(ArchitectureError, match="there is no matrix"):
        make_layout("llama").shape(matrix)


def test_an_unknown_stack_or_role_is_refused(make_layout):
    layout = make_layout("gpt2")
    with pytest.raises(ArchitectureError, match="no encoder stack"):
        layout.disk(MatrixId("encoder", 0, -1, "up"))
    with pytest.raises(ArchitectureError, match="no role 'gate'"):
        layout.memory(MatrixId("decoder", 0, -1, "gate"))


def test_coordinates_in_words():
    assert str(BlockId("decoder", 3)) == "decoder.3"
    assert str(MatrixId("encoder", 3, 7, "up")) == "encoder.3.expert7.up"


@pytest.mark.parametrize(
    ("target", "roles"),
    [
        ("mlp", ("gate", "up", "down")),
        ("attn", ("q", "k", "v", "o")),
        ("all", ROLES),
        ("o, down,o", ("down", "o")),
        ("mlp,q", ("gate", "up", "down", "q")),
    ],
)
def test_parse_target(target, roles):
    assert parse_target(target) == roles


@pytest.mark.parametrize("target", ["", "mpl", "mlp,,q"])
def test_an_unknown_target_is_refused(target):
    with pytest.raises(UsageError, match="unknown target"):
        parse_target(target)


SPARSE = {"num_hidden_layers": 6, "hidden_size": 12, "intermediate_size": 20}
SPARSE |= {"num_attention_heads": 3, "vocab_size": 50, "num_experts": 2}
SPARSE |= {"moe_intermediate_size": 7, "model_type": "qwen2_moe"}


@pytest.mark.parametrize(
    ("said", "layers"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"decoder_sparse_step": 2}, (1, 3, 5)),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3, 4]}, (1, 5)),
        ({"mlp_only_layers": None}, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_which_layers_have_experts(said, layers):
    layout = Layout.from_config({**SPARSE, **said})
    assert layout.signature.layers == {"sparse": layers}
    for layer in range(6):
        experts = {m.expert for m in layout.matrices(["up"]) if m.layer == layer}
        assert experts == ({0, 1} if layer in layers else {-1})
        dense = MatrixId("decoder", layer, -1, "up")
        assert (layer in layers) != (dense in layout.matrices())
    assert Layout.from_signature(layout.signature) == layout


def test_a_list_of_layers_counts_before_a_step(make_layout):
    config = {**SPARSE, "model_type": "llama4_text", "intermediate_size_mlp": 16}
    config["num_local_experts"] = 2
    layout = Layout.from_config({**config, "moe_layers": [4, 1, 9], "interleave_moe_layer_step": 3})
    assert layout.signature.layers == {"sparse": (1, 4)}


@pytest.mark.parametrize(
    "said",
    [
        {"decoder_sparse_step": 0},
        {"decoder_sparse_step": -1},
        {"decoder_sparse_step": "2"},
        {"decoder_sparse_step": True},
        {"mlp_only_layers": 3},
        {"mlp_only_layers": [-1]},
        {"mlp_only_layers": ["a"]},
        {"num_hidden_layers": 2**30},
    ],
)
def test_a_config_that_does_not_say_which_layers_have_experts_is_refused(said):
    with pytest.raises(ArchitectureError, match="layers"):
        Layout.from_config({**SPARSE, **said})


def test_an_optional_size_is_no_size_at_all():
    with_one = Layout.from_config({**SPARSE, "shared_expert_intermediate_size": 9})
    without = Layout.from_config({**SPARSE, "shared_expert_intermediate_size": 0})
    shared = MatrixId("decoder", 0, -1, "up")
    assert with_one.shape(shared) == (9, 12)
    with pytest.raises(ArchitectureError, match="there is no matrix"):
        without.shape(shared)


def test_signatures_differ_in_their_sparse_layers():
    mine = Layout.from_config(SPARSE).signature
    theirs = Layout.from_config({**SPARSE, "mlp_only_layers": [2]}).signature
    assert mine.differences(theirs) == ["the sparse layers"]


def test_a_signature_without_its_sparse_layers_is_refused():
    signature = Layout.from_config(SPARSE).signature
    with pytest.raises(ArchitectureError, match="lacks sparse"):
        Layout.from_signature(Signature("qwen2_moe", signature.dimensions))
    outside = MatrixId("decoder", 9, 0, "up")
    with pytest.raises(ArchitectureError, match="6 layers with 2 experts"):
        Layout.from_signature(signature).shape(outside)


def test_a_text_model_has_the_signature_of_its_tower(tiny_configs):
    text = {k: v for k, v in tiny_configs["llama"].items() if k != "model_type"}
    alone = Layout.from_config({"model_type": "gemma3_text", **text})
    assert Layout.from_config({"model_type": "gemma3", "text_config": text}) == alone
    # Qwen2.5-VL's own files have the sizes at the top level.
    flat = Layout.from_config({"model_type": "qwen2_5_vl", **text})
    assert flat.signature.model_type == "qwen2_5_vl_text"
    assert flat.signature.dimensions["hidden"] == 12


@pytest.mark.parametrize("model_type", ["gemma3", "qwen2_5_vl"])
def test_what_a_tower_leaves_out_is_what_transformers_takes(model_type):
    from transformers import AutoConfig

    whole = AutoConfig.for_model(model_type).to_dict()
    bare = {"model_type": model_type, "text_config": {}}
    assert Layout.from_config(bare) == Layout.from_config(whole)
