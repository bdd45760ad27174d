from __future__ import annotations

import json
import random
import shlex

import numpy as np
import pytest

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import ArchitectureError, CheckpointError, NeuropatchError
from neuropatch.models.coordinates import MatrixId
from neuropatch.storage.safetensors_file import serialize

UP = MatrixId("decoder", 1, -1, "up")
INDEX = "model.safetensors.index.json"


def edit_json(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("shards", [1, 3])
def test_locates_every_matrix(lab, tmp_path, shards):
    folder = lab.checkpoint(tmp_path / "m", shards=shards)
    checkpoint = Checkpoint.open(folder)
    assert len(checkpoint.headers) == shards
    tensors = lab.tensors(lab.configs["llama"])
    for matrix in checkpoint.layout.matrices():
        location = checkpoint.locate(matrix)
        assert np.array_equal(lab.values(folder, matrix), tensors[location.info.name])


def test_fused_and_transposed_parts(lab, tmp_path):
    folder = lab.checkpoint(tmp_path / "m", "gpt2")
    stored = lab.tensors(lab.configs["gpt2"])["transformer.h.1.attn.c_attn.weight"]
    for part, role in enumerate("qkv"):
        matrix = MatrixId("decoder", 1, -1, role)
        assert np.array_equal(lab.values(folder, matrix), stored[:, part * 8 : part * 8 + 8].T)


def test_the_other_prefix(lab, tmp_path):
    tensors = lab.tensors(lab.configs["llama"])
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    folder = lab.write(tmp_path / "m", lab.configs["llama"], bare)
    assert Checkpoint.open(folder).locate(UP).info.name == "layers.1.mlp.up_proj.weight"
    both = lab.write(tmp_path / "b", lab.configs["llama"], bare | tensors)
    with pytest.raises(CheckpointError, match="twice"):
        Checkpoint.open(both).locate(UP)


def test_symbolic_links_are_followed(lab, model, tmp_path):
    (tmp_path / "snapshot").mkdir()
    for path in model.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert Checkpoint.open(tmp_path / "snapshot").locate(UP).info.shape == (12, 8)


def test_source_is_a_hub_id_or_a_folder_name(lab, tmp_path):
    cached = lab.checkpoint(tmp_path / "models--org--small--x" / "snapshots" / "abc")
    source = Checkpoint.open(cached).source
    assert (source.name, source.revision) == ("org/small--x".replace("--", "/"), "abc")
    assert Checkpoint.open(lab.checkpoint(tmp_path / "mine")).source.name == "mine"


class TestFolder:
    def check(self, path, message, hint=""):
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(path)
        assert message in caught.value.message
        assert hint in (caught.value.hint or "")
        return caught.value

    def test_missing(self, tmp_path):
        self.check(tmp_path / "none", "no such folder")

    def test_a_file(self, model):
        self.check(model / "model.safetensors", "is a file", str(model))

    @pytest.mark.parametrize("as_folder", [True, False])
    def test_gguf(self, tmp_path, as_folder):
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        self.check(tmp_path if as_folder else tmp_path / "m.gguf", "GGUF", "convert")

    def test_no_config(self, tmp_path):
        self.check(tmp_path, "no config.json")

    def test_adapter(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        self.check(tmp_path, "adapter", "merge_and_unload")

    @pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": \ud800}', "[" * 100_000])
    def test_damaged_config(self, model, text):
        (model / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        self.check(model, "config.json")

    def test_config_with_infinity(self, lab, tmp_path):
        config = lab.configs["llama"] | {"time_step_limit": [0.0, float("inf")]}
        folder = lab.write(tmp_path / "m", config, lab.tensors(config))
        assert Checkpoint.open(folder).layout.signature.model_type == "llama"

    def test_unknown_architecture(self, model):
        edit_json(model / "config.json", lambda c: c.update(model_type="nonesuch"))
        with pytest.raises(ArchitectureError, match="nonesuch"):
            Checkpoint.open(model)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
    def test_pickles_are_refused_with_the_command(self, model, name):
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(b"")
        hostile = 'x"; import os; os.system("id") #'
        edit_json(model / "config.json", lambda c: c.update(architectures=[hostile]))
        hint = self.check(model, name, "python -c ").hint
        words = shlex.split(hint[hint.index("python") :])
        assert len(words) == 3
        compile(words[2], "command", "exec")
        assert "os.system" not in words[2]
        edit_json(model / "config.json", lambda c: c.update(architectures=["LlamaForCausalLM"]))
        assert "LlamaForCausalLM.from_pretrained" in self.check(model, name).hint

    def test_no_weights_names_what_is_there(self, model):
        (model / "model.safetensors").rename(model / "consolidated.safetensors")
        self.check(model, "it has consolidated.safetensors")

    def test_unreadable(self, model, monkeypatch):
        def denied(*_, **__):
            raise PermissionError(13, "Permission denied", str(model / "config.json"))

        monkeypatch.setattr(type(model), "open", denied)
        self.check(model, "Permission denied")


class TestShards:
    @pytest.fixture
    def folder(self, lab, tmp_path):
        return lab.checkpoint(tmp_path / "sharded", shards=3)

    def check(self, folder, message):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(folder)

    def test_missing_shard(self, folder):
        (folder / "model-00002-of-00003.safetensors").unlink()
        self.check(folder, "lacks model-00002-of-00003.safetensors: 1 of 3 shards")

    def test_broken_links(self, folder):
        shard = folder / "model-00002-of-00003.safetensors"
        shard.unlink()
        shard.symlink_to("../blobs/gone")
        self.check(folder, "lacks model-00002")
        (folder / INDEX).unlink()
        (folder / INDEX).symlink_to("../blobs/gone")
        self.check(folder, "not a readable index")

    @pytest.mark.parametrize(
        "name",
        ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "C:x.safetensors",
         "..", "", "x.bin", 5, None, "a\0.safetensors"],
    )  # fmt: skip
    def test_names_that_leave_the_folder(self, folder, name):
        edit_json(folder / INDEX, lambda i: i["weight_map"].update({"model.norm.weight": name}))
        self.check(folder, "not the name of a safetensors file")

    def test_tensor_in_another_shard(self, folder):
        def swap(index):
            index["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
            index["weight_map"]["model.embed_tokens.weight"] = "model-00003-of-00003.safetensors"
            index["weight_map"]["nothing"] = "model-00003-of-00003.safetensors"

        edit_json(folder / INDEX, swap)
        self.check(folder, "is in model-0000[13]-of-00003.safetensors, and it is not")

    def test_tensor_in_two_shards(self, lab, folder):
        name = sorted(lab.tensors(lab.configs["llama"]))[0]
        data = serialize({name: np.zeros((16, 8), np.float32)}, {})
        (folder / "extra.safetensors").write_bytes(data)
        edit_json(folder / INDEX, lambda i: i["weight_map"].update({name: "extra.safetensors"}))
        self.check(folder, "in two shards")

    def test_two_checkpoints_in_one_folder(self, folder, model):
        (model / "model.safetensors").rename(folder / "model.safetensors")
        self.check(folder, "has both")

    def test_an_index_of_one_file(self, lab, model):
        names = lab.tensors(lab.configs["llama"])
        index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
        (model / INDEX).write_text(json.dumps(index))
        assert list(Checkpoint.open(model).headers) == ["model.safetensors"]

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000,
                 '{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}'],
    )  # fmt: skip
    def test_damaged_index(self, folder, text):
        (folder / INDEX).write_text(text)
        self.check(folder, "index")

    def test_random_damage_is_always_a_clear_error(self, folder):
        rng = random.Random(0)
        names = [INDEX, "model-00001-of-00003.safetensors", "config.json"]
        originals = {name: (folder / name).read_bytes() for name in names}
        refused = []
        for _ in range(150):
            name = rng.choice(names)
            data = bytearray(originals[name])
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(min(len(data), 900))] = rng.randrange(256)
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
            (folder / name).write_bytes(data)
            try:
                checkpoint = Checkpoint.open(folder)
                for matrix in checkpoint.layout.matrices():
                    checkpoint.locate(matrix)
            except NeuropatchError as error:
                refused.append(error)
            (folder / name).write_bytes(originals[name])
        assert len(refused) > 100
        assert all(error.hint for error in refused)


class TestLocate:
    NAME = "model.layers.1.mlp.up_proj.weight"

    def locate(self, lab, tmp_path, replacement, **config):
        tensors = lab.tensors(lab.configs["llama"])
        del tensors[self.NAME]
        config = lab.configs["llama"] | config
        folder = lab.write(tmp_path / "m", config, tensors | replacement)
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(folder).locate(UP)
        return caught.value

    def test_missing(self, lab, tmp_path):
        error = self.locate(lab, tmp_path, {})
        assert f"no tensor '{self.NAME}' for decoder.1.up" in error.message

    def test_wrong_shape_names_both(self, lab, tmp_path):
        error = self.locate(lab, tmp_path, {self.NAME: np.zeros((8, 12), np.float32)})
        assert "(8, 12)" in error.message
        assert "(12, 8)" in error.message

    def test_integers(self, lab, tmp_path):
        error = self.locate(lab, tmp_path, {self.NAME: np.zeros((12, 8), np.uint8)})
        assert "U8" in error.message

    def test_quantised(self, lab, tmp_path):
        packed = {self.NAME: np.zeros((48, 1), np.uint8)}
        quantised = {"quant_method": "bitsandbytes"}
        error = self.locate(lab, tmp_path, packed, quantization_config=quantised)
        assert "bitsandbytes" in error.message
        assert "before quantisation" in error.hint
