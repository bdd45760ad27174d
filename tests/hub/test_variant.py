"""Patched models on the Hub: what is copied, what is uploaded, and what is never here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from neuropatch import NeuronPatch
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.errors import (
    CheckpointError,
    HubError,
    ModelError,
    PatchMismatchError,
    ResourceError,
)
from neuropatch.hub.branch import Destination
from neuropatch.hub.licence import Terms
from neuropatch.hub.push_model import prepare_model
from neuropatch.hub.resolve import resolve_model
from neuropatch.patch.metadata import BaseModel

CARD = b"---\nlicense: mit\n---\n# base\n"
OTHERS = {"original/model.pth": b"pickle", "pytorch_model.bin": b"pickle", "run.py": b"code"}
VARIANT = Destination("bob/variant")


@pytest.fixture(scope="module")
def base(make_model, tmp_path_factory):
    """The folder of a tiny model in several weight files."""
    folder = tmp_path_factory.mktemp("variant") / "base"
    make_model("llama").save_pretrained(folder, max_shard_size="6KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("the licence")
    return folder


@pytest.fixture
def commit(hub, base, monkeypatch):
    """``ada/model`` on the Hub, at this commit; ``bob`` is logged in."""
    hub.add_user("ada")
    monkeypatch.setenv("HF_TOKEN", hub.add_user("bob"))
    files = {path.name: path for path in base.iterdir()}
    return hub.upload("ada/model", {**files, **OTHERS, "README.md": CARD})


@pytest.fixture
def make_file(base, make_patch, down, tmp_path):
    """``make_file(base=...)``: a patch of one matrix of the model, in a file."""

    def make(source=BaseModel("ada/model"), *, folder=base, kinds=("zero",), units=(), name="p"):  # noqa: B008
        checkpoint = Checkpoint.open(folder)
        wanted = make_patch(checkpoint.layout, matrices=[down(1)], kinds=kinds, units=units)
        patch = make_plan(checkpoint, [wanted]).undo_patch()
        metadata = replace(
            patch.metadata, base_model=source, method={"name": "hand", "parameters": {}}
        )
        return str(replace(patch, metadata=metadata).save(tmp_path / f"{name}.safetensors"))

    return make


@pytest.fixture
def edited(base, down):
    return Checkpoint.open(base).locate(down(1)).shard


def push(model, patches, *, apply=True, to=VARIANT, **options):
    with prepare_model(str(model), patches, to, apply=apply, **options) as prepared:
        return prepared.run()


def ways(result):
    return {file.path: file.way for file in result.files}


def expected(base, patches, tmp_path):
    """What ``apply -o`` writes for the same patches."""
    folder = tmp_path / "expected"
    apply_patches(base, [NeuronPatch.from_pretrained(patch) for patch in patches], folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


def test_only_edited_weight_files_move(hub, commit, base, make_file, edited, tmp_path):
    file = make_file()
    hub.log.clear()
    result = push("ada/model", [file])
    shards = sorted(Checkpoint.open(base).headers)
    assert len(shards) > 3
    assert {path for path, way in ways(result).items() if way == "copy"} == {*shards} - {edited}
    # What went up is that one weight file, byte for byte; small files are in the commit.
    assert list(hub.log.uploads.values()) == [(base / edited).stat().st_size]
    files = hub.files("bob/variant")
    card = files.pop("README.md").decode()
    assert files == expected(base, [file], tmp_path)
    assert len(hub.commits("bob/variant")) == 2
    assert result.made
    assert result.warnings == ()
    assert "base_model: ada/model\n" in card
    assert f"commit `{commit[:12]}`" in card
    assert "neuropatch-model" in ModelCard(card).data.tags


def test_no_weights_stay_here(hub, commit, make_file, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    push("ada/model", [make_file()])
    assert list(scratch.iterdir()) == []
    assert not list(tmp_path.glob("hf-home/hub/**/*.safetensors"))


def test_again_makes_no_second_commit(hub, commit, make_file):
    file = make_file()
    first = push("ada/model", [file])
    hub.log.clear()
    again = push("ada/model", [file])
    assert (again.commit, again.made) == (first.commit, False)
    assert set(ways(again).values()) == {"keep"}
    assert hub.log.lfs_bytes == 0
    assert len(hub.commits("bob/variant")) == 2


def test_a_preview_is_what_happens(hub, commit, make_file):
    file = make_file()
    with prepare_model("ada/model", [file], VARIANT, apply=True) as prepared:
        preview = prepared.preview()
        assert ("model", "bob/variant") not in hub.store.repos
        result = prepared.run()
    assert preview.files == result.files
    assert (preview.uploaded, preview.copied) == (result.uploaded, result.copied)
    assert sorted(preview.notes[0].partition(": ")[2].split(", ")) == sorted(OTHERS)


@pytest.mark.parametrize("how", ["no hashes", "refused", "failed"])
def test_a_hub_that_cannot_copy(how, hub, commit, base, make_file, tmp_path):
    if how == "no hashes":
        hub.app.xet_hashes = False
    elif how == "refused":
        hub.fail("/lfs-files/duplicate", status=403, times=1000)
    else:
        hub.app.copies = False
    file = make_file()
    result = push("ada/model", [file])
    assert "copy" not in ways(result).values()
    files = hub.files("bob/variant")
    files.pop("README.md")
    assert files == expected(base, [file], tmp_path)
    assert len(hub.commits("bob/variant")) == 2


@pytest.mark.parametrize("path", ["/lfs-files/duplicate", "/commit/", "/resolve/", "/storage/"])
@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"lose_answer": True}, {"cut_answer": 0.3}], ids=str
)
def test_failures_that_pass(path, fault, hub, commit, base, make_file, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    file = make_file()
    happened = hub.fail(path, **fault)
    push("ada/model", [file])
    assert happened.hits == 1
    files = hub.files("bob/variant")
    files.pop("README.md")
    assert files == expected(base, [file], tmp_path)
    assert len(hub.commits("bob/variant")) == 2


def test_a_damaged_weight_file_is_not_published(hub, commit, base, make_file, edited):
    entry = hub.repo("ada/model").find("main").tree[edited]
    stored = hub.store.objects.path(entry.sha256)
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(HubError, match=f"{edited} was damaged on the way"):
        push("ada/model", [make_file()])
    assert len(hub.commits("bob/variant")) == 1


def test_a_drifted_model_gets_an_undo_patch(hub, commit, make_model, make_file, tmp_path):
    tuned = tmp_path / "tuned"
    make_model("llama", seed=5).save_pretrained(tuned, max_shard_size="6KB")
    hub.upload("ada/tuned", {**{p.name: p for p in tuned.iterdir()}, "README.md": CARD})
    file = make_file()
    result = push("ada/tuned", [file])
    assert result.warnings[0] == "the model is not the patch's base:"
    assert "down: 0 of 3 weights equal the patch's base" in result.warnings[1]
    undo = "neuropatch/undo-0001.safetensors"
    files = hub.files("bob/variant")
    files.pop("README.md")
    wanted = expected(tuned, [file], tmp_path)
    assert {k: v for k, v in files.items() if k != undo} == {
        k: v for k, v in wanted.items() if k != undo
    }
    # A variant of the variant keeps the undo patch; this one changes nothing, so it gets no other.
    push(
        "bob/variant@main", [f"hf://bob/variant/{undo}"], to=Destination("bob/other"),
        terms=Terms("mit"),
    )  # fmt: skip
    others = [path for path in hub.files("bob/other") if path.startswith("neuropatch/")]
    assert others == [undo]
    # Taken back: the fine-tune's own bytes.
    taken = NeuronPatch.from_pretrained(f"hf://bob/variant/{undo}")
    assert taken.metadata.base_model.name == "ada/tuned"
    folder = tmp_path / "again"
    revert_patches(resolve_model("bob/variant").folder, [taken], folder)
    for path in tuned.glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_local_model_shares_files_with_its_base(hub, commit, base, make_file, edited, tmp_path):
    file = make_file()
    result = push(base, [file])
    shards = {*Checkpoint.open(base).headers}
    assert {path for path, way in ways(result).items() if way == "copy"} == shards - {edited}
    files = hub.files("bob/variant")
    files.pop("README.md")
    assert files == expected(base, [file], tmp_path)


def test_a_folder_that_was_patched_before(hub, commit, base, make_file, edited, tmp_path):
    file = make_file()
    folder = tmp_path / "patched"
    apply_patches(base, [NeuronPatch.from_pretrained(file)], folder)
    result = push(folder, [file], apply=False)
    assert ways(result)[edited] == "upload"
    assert (
        sum(way == "copy" for way in ways(result).values())
        == len(Checkpoint.open(base).headers) - 1
    )
    assert "`hand`" in hub.files("bob/variant")["README.md"].decode()
    with pytest.raises(PatchMismatchError, match="does not hold this patch"):
        push(base, [file], apply=False)
    stated = push(
        folder, [], apply=False, base_model=f"ada/model@{commit}", to=Destination("bob/third")
    )
    assert ways(stated) == ways(result)
    assert "base_model: ada/model" in hub.files("bob/third")["README.md"].decode()
    with pytest.raises(HubError, match="ada/nothing was not found"):
        push(folder, [], apply=False, base_model="ada/nothing")


def test_a_folder_with_a_card(hub, commit, base, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(base, folder)
    own = "---\nlicense: mit\ntags: [neuropatch]\n---\n# mine\n"
    (folder / "README.md").write_text(own)
    push(folder, [], apply=False)
    assert hub.files("bob/variant")["README.md"].decode() == own
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    push(folder, [], apply=False, to=Destination("bob/other"))
    card = ModelCard(hub.files("bob/other")["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert "neuropatch" in card.data.tags


def test_a_card_that_the_hub_refuses(hub, commit, base, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(base, folder)
    (folder / "README.md").write_text("---\ntags: [neuropatch]\nlicense: mit\nbase_model: 3\n---\n")
    with pytest.raises(HubError, match=r"metadata of README\.md are not valid") as caught:
        push(folder, [], apply=False)
    assert "base_model" in caught.value.message
    assert len(hub.commits("bob/variant")) == 1


def test_weights_of_another_layout_do_not_stay(hub, commit, make_file):
    hub.upload("bob/variant", {"model.safetensors": b"old", "notes.txt": b"mine"})
    file = make_file()
    result = push("ada/model", [file])
    assert ways(result)["model.safetensors"] == "delete"
    assert "model.safetensors" not in hub.files("bob/variant")
    assert hub.files("bob/variant")["notes.txt"] == b"mine"
    assert not push("ada/model", [file]).made


def test_a_revision(hub, commit, base, make_file, make_model, tmp_path):
    other = tmp_path / "other"
    make_model("llama", seed=3).save_pretrained(other, max_shard_size="6KB")
    hub.upload("ada/model", {path.name: path for path in other.iterdir()})
    file = make_file()
    result = push(f"hf://ada/model@{commit}", [file])
    assert result.warnings == ()
    files = hub.files("bob/variant")
    files.pop("README.md")
    assert files == expected(base, [file], tmp_path)


def test_the_model_s_own_repo(hub, commit, make_file, edited, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.add_user("ada", "hf_" + "InventedSecond" * 2))
    result = push("ada/model", [make_file()], to=Destination("ada/model"))
    assert [p for p, way in ways(result).items() if way == "upload"] == [edited]
    assert hub.files("ada/model")["README.md"] == CARD


def test_refused_before_anything_is_sent(
    hub, commit, make_file, make_patch, make_layout, down, tmp_path
):
    hub.upload("ada/bare", {"config.json": b"{}"})
    file = make_file()
    gpt2 = make_patch(make_layout("gpt2")).save(tmp_path / "gpt2.safetensors")
    steering = make_patch(make_layout("llama"), matrices=[down(0)], kinds=(), units=("steer",))
    steer = steering.save(tmp_path / "steer.safetensors")
    for model, patch, error, message in [
        ("ada/bare", file, ModelError, "has no safetensors weights"),
        ("ada/nothing", file, HubError, "ada/nothing .*was not found"),
        ("nothing", file, ModelError, "there is no folder"),
        ("hf://ada/model/config.json", file, ModelError, "names a file in a repo"),
        ("ada/model", str(gpt2), PatchMismatchError, "another architecture than ada/model"),
        ("ada/model", str(steer), PatchMismatchError, "steers units"),
    ]:
        with pytest.raises(error, match=message):
            push(model, [patch])
    assert ("model", "bob/variant") not in hub.store.repos


def test_a_full_disk(hub, commit, make_file, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="does not fit") as caught:
        push("ada/model", [make_file()])
    assert "TMPDIR" in (caught.value.hint or "")
    assert len(hub.commits("bob/variant")) == 1


def test_a_local_fine_tune_makes_no_claim_about_its_weights(
    hub, commit, make_model, make_file, tmp_path
):
    tuned = tmp_path / "tuned"
    make_model("llama", seed=5).save_pretrained(tuned, max_shard_size="6KB")
    result = push(tuned, [make_file()])
    assert "copy" not in ways(result).values()
    assert result.warnings[0] == "the model is not the patch's base:"
    card = hub.files("bob/variant")["README.md"].decode()
    assert "bit for bit" not in card
    assert "base_model: ada/model" in card
    other = Destination("bob/other")
    hub.upload("ada/parent", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    push(tuned, [make_file()], to=other, base_model="ada/parent")
    assert "base_model: ada/parent" in hub.files("bob/other")["README.md"].decode()


@pytest.fixture
def float8(hub, commit, base, down, tmp_path):
    """``float8(apart)``: ``ada/float8``, whose ``down`` of layer 1 is float8; its folder.

    Its scales are in the same weight file, or apart in another one.
    """

    def make(apart):
        folder = shutil.copytree(base, tmp_path / "float8")
        location = Checkpoint.open(folder).locate(down(1))
        name, shard = location.info.name, location.shard
        other = next(one for one in Checkpoint.open(folder).headers if one != shard)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        weights = load_file(folder / shard)
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        scales = {f"{name}_scale": torch.full((1,), 0.25)}
        home = other if apart else shard
        index["weight_map"][f"{name}_scale"] = home
        rest = load_file(folder / other)
        save_file(weights | ({} if apart else scales), folder / shard)
        save_file(rest | (scales if apart else {}), folder / other)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        hub.upload(
            "ada/float8", {path.name: path for path in folder.iterdir()} | {"README.md": CARD}
        )
        return folder

    return make


def test_a_float8_model(hub, float8, make_file, tmp_path):
    folder = float8(apart=False)
    file = make_file(BaseModel("ada/float8"), folder=folder, kinds=("zero", "scale"))
    assert NeuronPatch.from_pretrained(file).weights[0].before.dtype == np.float32
    result = push("ada/float8", [file])
    files = hub.files("bob/variant")
    del files["README.md"]
    assert files == expected(folder, [file], tmp_path)
    assert result.warnings == ()


def test_what_a_float8_model_cannot_hold_is_told(hub, float8, make_file, tmp_path):
    folder = float8(apart=False)
    patch = NeuronPatch.from_pretrained(make_file(BaseModel("ada/float8"), folder=folder))
    scaled = [
        replace(edit, kind="scale", value=np.full(len(edit), 0.77, np.float32))
        for edit in patch.weights
    ]
    odd = replace(patch, weights=tuple(scaled))
    result = push("ada/float8", [str(odd.save(tmp_path / "odd.safetensors"))])
    (said,) = result.warnings
    assert "weights in quantised tensors were rounded" in said
    assert said in apply_patches(folder, [odd], tmp_path / "local").notes


def test_scales_in_another_weight_file(hub, float8, make_file):
    folder = float8(apart=True)
    file = make_file(BaseModel("ada/float8"), folder=folder)
    hub.log.clear()
    with pytest.raises(CheckpointError, match="its scales are in two weight files"):
        push("ada/float8", [file])
    assert not hub.log.uploads
    # A local copy has both files.
    apply_patches(folder, [NeuronPatch.from_pretrained(file)], folder.parent / "out")
