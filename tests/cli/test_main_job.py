"""localize, inspect, apply, revert, combine and diff, on files as a user has them."""

from __future__ import annotations

import json
import re
import shutil

import pytest

MODELS = [("llama", "float32"), ("llama", "bfloat16"), ("gpt2", "float32"), ("gpt2", "bfloat16")]


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize(("model_type", "dtype"), MODELS)
def test_localize_apply_load_revert(model_type, dtype, cli, localizing, make_checkpoint, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from neuropatch import NeuronPatch

    base = make_checkpoint(model_type, dtype)
    before = weights(base)
    patch = tmp_path / "spin.safetensors"
    found = cli(*localizing(base, patch))
    assert (found.code, f"wrote {patch}" in found.out) == (0, True)
    assert "reading 'prompt' as the prompt" in found.err

    seen = cli("inspect", patch)
    assert seen.code == 0
    assert found.out.startswith(seen.out)
    assert f"{model_type}, 2 layers" in seen.out
    assert "decoder.1" in seen.out

    patched = tmp_path / "patched"
    assert cli("apply", base, patch, "-o", patched).code == 0
    ids = torch.arange(24).reshape(2, 12)
    loaded = AutoModelForCausalLM.from_pretrained(patched, dtype="auto")
    in_memory = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    with torch.no_grad():
        unpatched = in_memory(ids).logits
        NeuronPatch.from_pretrained(patch).apply(in_memory)
        assert torch.equal(loaded(ids).logits, in_memory(ids).logits)
        assert not torch.equal(loaded(ids).logits, unpatched)

    again = tmp_path / "again"
    assert cli("revert", patched, patch, "-o", again).code == 0
    assert weights(again) == before
    assert weights(base) == before
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in base.iterdir())


def test_two_runs_with_one_seed_write_the_same_bytes(cli, localizing, model, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for path in (one, two):
        assert cli(*localizing(model, path, "--samples", "6", "--seed", "3", "-q")).code == 0
    assert one.read_bytes() == two.read_bytes()
    other = tmp_path / "other.safetensors"
    assert cli(*localizing(model, other, "--samples", "6", "--seed", "4", "-q")).code == 0
    assert (
        json.loads(cli("inspect", other, "--json").out)["metadata"]["datasets"][0]["used"]
        != (json.loads(cli("inspect", one, "--json").out)["metadata"]["datasets"][0]["used"])
    )


def test_localize_json_is_one_document_beside_notes_and_warnings(cli, localizing, model, tmp_path):
    path = tmp_path / "p.safetensors"
    # A fraction that is less than one weight of each matrix: a warning.
    found = cli(*localizing(model, path, "--p", "1e-6", "--json"))
    assert found.code == 0
    document = json.loads(found.out)
    assert document["patch"] == str(path)
    assert document["edits"] == sum(document["roles"].values()) == document["statistics"]["edited"]
    assert document["warnings"]
    assert f"warning: {document['warnings'][0]}" in found.err
    assert "privacy: 0 of 12\n" in found.err


def test_quiet_prints_the_essence_only(cli, localizing, model, tmp_path):
    patch, folder = tmp_path / "p.safetensors", tmp_path / "out"
    found = cli(*localizing(model, patch, "-q"))
    assert (found.out, found.err) == (f"{patch}\n", "")
    applied = cli("apply", model, patch, "-o", folder, "-q")
    assert (applied.out, applied.err) == (f"{folder}\n", "")
    seen = cli("inspect", patch, "--quiet")
    assert seen.out.endswith(" zero weights\n")
    assert seen.out.count("\n") == 1


def test_target_and_scope(cli, localizing, model, tmp_path):
    path = tmp_path / "p.safetensors"
    options = ["--target", "attn", "--scope", "model", "-q"]
    assert cli(*localizing(model, path, *options)).code == 0
    document = json.loads(cli("inspect", path, "--json").out)
    assert set(document["roles"]) <= {"q", "k", "v", "o"}
    assert document["metadata"]["method"]["parameters"]["scope"] == "model"


def test_dry_run_writes_nothing(cli, model, patch_file, tmp_path, snapshot):
    before = snapshot(model)
    counted = cli("apply", model, patch_file, "-o", tmp_path / "out", "--dry-run")
    assert counted.code == 0
    assert "would change" in counted.out
    assert "nothing was written" in counted.out
    document = json.loads(cli("apply", model, patch_file, "--in-place", "--dry-run", "--json").out)
    assert (document["dry_run"], document["in_place"]) == (True, True)
    assert list(tmp_path.iterdir()) == []
    assert snapshot(model) == before


def test_in_place_and_back_by_the_undo_patch_it_names(cli, model, patch_file, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    before = weights(folder)
    applied = cli("apply", folder, patch_file, "--in-place")
    assert applied.code == 0
    assert weights(folder) != before
    undo = folder / "neuropatch" / "undo-0001.safetensors"
    assert f"neuropatch revert {folder} {undo} --in-place" in applied.err
    assert cli("revert", folder, undo, "--in-place").code == 0
    assert weights(folder) == before


def test_combine_and_diff(cli, model, make_patch_file, tmp_path):
    files = [make_patch_file(model, seed=seed, count=40) for seed in (1, 2)]
    sizes = [json.loads(cli("inspect", file, "--json").out)["edits"] for file in files]
    counts = {}
    for operation in ("union", "intersection", "difference"):
        path = tmp_path / f"{operation}.safetensors"
        done = cli("combine", operation, *files, "-o", path, "--json")
        assert done.code == 0, done.err
        counts[operation] = json.loads(done.out)["edits"]
    assert counts["union"] == sum(sizes) - counts["intersection"]
    assert counts["difference"] == sizes[0] - counts["intersection"]

    both, found = tmp_path / "both", tmp_path / "found.safetensors"
    assert cli("apply", model, tmp_path / "union.safetensors", "-o", both, "-q").code == 0
    compared = cli("diff", model, both, "-o", found, "--json")
    document = json.loads(compared.out)
    assert (document["edits"], document["not_carried"]) == (counts["union"], {})
    assert cli("apply", model, found, "-o", tmp_path / "same", "-q").code == 0
    assert weights(tmp_path / "same") == weights(both)


def test_conflicting_patches_and_which_one_counts(cli, model, make_patch_file, tmp_path):
    zero = make_patch_file(model, seed=1)
    patched, other = tmp_path / "patched", tmp_path / "other.safetensors"
    assert cli("apply", model, zero, "-o", patched, "-q").code == 0
    assert cli("diff", model, patched, "-o", other, "-q").code == 0
    output = tmp_path / "both.safetensors"
    refused = cli("combine", "union", zero, other, "-o", output)
    assert refused.code == 1
    assert "disagree" in refused.err
    assert not output.exists()
    taken = cli("combine", "union", zero, other, "-o", output, "--on-conflict", "first", "--json")
    assert json.loads(taken.out)["kinds"].keys() == {"zero weights"}


def test_doctor(cli, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Invented" * 4)
    document = json.loads(cli("doctor", "--json").out)
    assert document["hub"]["token"] == "HF_TOKEN"
    assert {"python", "torch", "neuropatch"} <= document["versions"].keys()
    assert [kernel["op"] for kernel in document["kernels"]]
    assert document["cuda_kernels"]["reason"]
    text = cli("doctor")
    assert text.code == 0
    assert re.search(r"CUDA kernels +(none|.*snip_accumulate_)", text.out)
    assert "Invented" not in text.out + text.err + json.dumps(document)
    assert cli("doctor", "-q").out.count("\n") == 1
