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
    assert set(document) <= {"name", "model_types", "dimensions", "stacks", "tied"}
    assert f"{definition.name}.json" == name
    known = set(definition.dimensions)
    assert {"layers", "hidden", "intermediate", "vocabulary"} <= known
    for stack in definition.stacks:
        assert stack.roles
        sizes = [stack.layers, *([stack.experts] if stack.experts else [])]
        for role in stack.roles.values():
            sizes.extend(role.shape)
            for storage in (role.disk, role.memory):
                if storage.fused is not None:
                    sizes.extend([*storage.fused.parts, storage.fused.groups])
                    # The part that is the role's must be as high as the role.
                    assert storage.fused.parts[storage.fused.part] == role.shape[0]
        for size in sizes:
            assert evaluate(size, dict.fromkeys(known, 4)) is not None, size


def test_no_model_type_has_two_definitions():
    claimed = [name for document in DOCUMENTS.values() for name in document["model_types"]]
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


def test_an_unknown_architecture_is_named_with_those_that_are_known():
    with pytest.raises(ArchitectureError, match="'mamba9' is not known") as caught:
        definition_for("mamba9")
    assert "llama" in caught.value.hint


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
