"""A model on the Hub is planned without its weights."""

from neuropatch.methods._base import Limits
from neuropatch.planning.ways import PlanOptions, plan_run


def test_a_hub_model_is_planned_from_its_config_and_headers(hub, make_model, tmp_path):
    folder = tmp_path / "model"
    model = make_model("llama", "bfloat16", vocab_size=20_000)
    model.save_pretrained(folder)
    hub.add_user("ada")
    hub.upload("ada/model", {path.name: path for path in folder.iterdir()})
    hub.log.clear()
    options = PlanOptions(limits=Limits(memory=10**9), flops=1e9, device="cpu")
    plan = plan_run("ada/model", options)
    assert (plan.chosen, plan.dtype) == ("full", "bfloat16")
    assert plan.outline.numel == sum(p.numel() for p in model.parameters())
    got = hub.log.downloads
    assert set(got) == {"ada/model/config.json", "ada/model/model.safetensors"}
    # The first request for a header is for 100 kB.
    assert got["ada/model/model.safetensors"] <= 100_000
    assert (folder / "model.safetensors").stat().st_size > 900_000
