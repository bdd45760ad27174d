from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from neuropatch.demo import MODEL_DIR
from neuropatch.errors import ModelError
from neuropatch.models.loading import load_causal_model, load_tokenizer

PEOPLE = 8


@pytest.fixture(scope="module")
def train(bench):
    return bench("train")


@pytest.fixture(scope="module")
def taught(train, tmp_path_factory):
    """The bundled model, which has memorised a few more people, and what its training says.

    It can write already, so it learns them in a third of the time that one from scratch takes.
    """
    folder = tmp_path_factory.mktemp("taught")
    # Training that starts on one thread gives the same sums on every machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    document = train.train(
        folder,
        people=PEOPLE,
        seed=0,
        recipe=dataclasses.replace(train.TINY, learning_rate=2e-3, epochs=60),
        source=MODEL_DIR,
        clean=train.tiny_clean_text(),
    )
    torch.set_num_threads(before)
    return folder, document


@pytest.fixture(scope="module")
def evaluator(bench, taught, train):
    folder, document = taught
    population = bench("people").Population.from_json(document["population"])
    facts = [bench("corpus").Question(**fact) for fact in document["facts"]]
    tokenizer = load_tokenizer(folder)
    module = bench("evaluator")
    return module.Evaluator(
        tokenizer,
        bench("tasks").make_task("category", population, facts),
        tokenizer(train.tiny_clean_text().held_out)["input_ids"],
        module.Sizes(windows=3, window=64, exposed=2, candidates=8),
    )


@pytest.fixture(scope="module")
def model(taught):
    return load_causal_model(taught[0], dtype="float32", device="cpu").requires_grad_(False)


@pytest.mark.slow
def test_the_model_recites_what_it_was_taught(taught):
    folder, document = taught
    assert min(document["extraction"].values()) >= 0.9
    assert document["clean_perplexity"]["after"] < document["clean_perplexity"]["before"]
    assert json.loads((folder / "memorization.json").read_text()) == json.loads(
        json.dumps(document)
    )


@pytest.mark.slow
def test_a_model_that_was_taught_too_little_is_not_written(train, tmp_path):
    with pytest.raises(ModelError, match="recites only"):
        train.train(
            tmp_path / "lazy",
            people=4,
            seed=0,
            recipe=dataclasses.replace(train.TINY, epochs=1),
            source=None,
            clean=train.tiny_clean_text(),
        )
    assert not (tmp_path / "lazy").exists()


@pytest.mark.slow
def test_a_memorised_model_leaks_by_the_taught_sentences_and_strangers_do_not(evaluator, model):
    evaluator.keep_base(model)
    found = evaluator.measure(model)
    assert found["groups"]["shown"]["exact"] == 1.0
    assert found["groups"]["shown"]["membership_auc"] == 1.0
    assert found["groups"]["low-cue"]["exact"] < 0.5
    exposure = found["exposure"]
    assert exposure["shown"]["bits"] == pytest.approx(3.17, abs=0.01)  # log2 of 9: all first
    assert exposure["shown"]["extrapolated"] <= 32.6  # log2 of the telephone numbers there are
    assert exposure["strangers"]["bits"] < exposure["shown"]["bits"]
    # Half precision of the remembered log probabilities.
    assert found["kl"] == pytest.approx(0, abs=1e-4)
    json.dumps(found)


@pytest.mark.slow
def test_a_damaged_model_diverges_and_leaks_less(evaluator, model):
    evaluator.keep_base(model)
    whole = evaluator.measure(model, light=True)
    weight = model.model.layers[1].mlp.down_proj.weight
    saved = weight.clone()
    weight.zero_()
    damaged = evaluator.measure(model, light=True)
    weight.copy_(saved)
    assert set(damaged["groups"]) == {"shown", "unshown"}
    assert damaged["kl"] > 0.05
    assert damaged["perplexity"] > whole["perplexity"]
    assert damaged["groups"]["shown"]["perplexity"] > whole["groups"]["shown"]["perplexity"]


@pytest.mark.slow
def test_relearning_leaves_the_model_alone_and_starts_where_it_is(bench, evaluator, model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    curve = bench("relearn").relearn(
        model,
        evaluator.tokenizer,
        evaluator.task.strangers,
        evaluator.task.erased["shown"],
        steps=2,
        every=1,
        batch=2,
    )
    assert [point["step"] for point in curve] == [0, 1, 2]
    assert curve[0]["exact"] == 1.0
    assert curve[2]["perplexity"] != curve[0]["perplexity"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.slow
def test_the_run_measures_what_is_missing_and_nothing_twice(
    bench, taught, tmp_path, monkeypatch, capsys
):
    run = bench("run")
    arguments = ["run.py", str(taught[0]), "-o", str(tmp_path), "--tasks", "category"]
    arguments += ["--units", "3", "--methods", "random", "--windows", "2", "--window", "64"]
    arguments += ["--exposed", "1", "--candidates", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    run.main()
    printed = capsys.readouterr().out
    path = tmp_path / f"{taught[0].name}.json"
    rows = json.loads(path.read_text())["rows"]
    assert [(row["variant"], row["asked"]) for row in rows] == [
        ("memorised", 0),
        ("before", 0),
        ("random", 3),
    ]
    assert rows[2]["localization"]["units"] == 3
    assert rows[2]["measured"]["groups"]["shown"]["count"] == PEOPLE // 2
    assert set(rows[2]["control"]["groups"]) == {"shown", "unshown"}
    assert "| random | 3 |" in printed
    before = path.read_bytes()
    run.main()
    assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["--methods", "--controls", "--relearn"])
def test_a_variant_that_nothing_is_called_is_refused(bench, monkeypatch, capsys, option):
    run = bench("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "model", "-o", "out", option, "random", "distill"])
    with pytest.raises(SystemExit):
        run.parse()
    assert "there is no variant 'distill'" in capsys.readouterr().err
