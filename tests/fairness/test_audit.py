from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from neuropatch.errors import ResourceError, UsageError
from neuropatch.evaluation.results import Estimate
from neuropatch.fairness.audit import AuditSettings, audit
from neuropatch.fairness.audit_result import judge
from neuropatch.fairness.distributions import pure_groups

NONE = Estimate(0.0, 0.0, 0.01)


@pytest.fixture(scope="module")
def biased(make_examples, train):
    """The audit, with attacks, of a model of one group where the groups' cuts differ."""
    sides = pure_groups(make_examples(1_500, shift=0.6, seed=1))
    model = train(sides.g0, 0)
    settings = AuditSettings(victims=6, shadows=6, queries=100, resamples=1_000)
    return audit(model, pure_groups(make_examples(1_500, shift=0.6)), settings, train=train)


def test_a_biased_model_is_detected(biased):
    found = biased.inference
    assert found.composition_distance.value == 1
    # Labels between the cuts -0.6 and 0.6, of which the model is wrong for one group.
    assert found.accuracy_gap.value == pytest.approx(0.45, abs=0.06)
    assert found.inequality == "holds"
    assert found.slack.value == pytest.approx(0, abs=1e-12)
    assert biased.verdict == "detectable"
    for result in biased.attacks.results:
        assert result.accuracy.value >= 0.9, result.name
    assert biased.attacks.on_model == dict.fromkeys(biased.attacks.on_model, 0.0)
    assert {one.side for one in biased.attacks.victims} == {0, 1}
    assert all(one.accuracy_gap > 0.2 for one in biased.attacks.victims)


def test_an_attack_alone_tells_of_the_recipe(biased):
    fair = replace(biased.inference, matched_accuracy_gap=NONE, advantage=NONE)
    assert replace(biased, inference=fair).sentences()[-1] == (
        "verdict: DETECTABLE, by the loss test, the threshold test, the meta-classifier: models of "
        "this recipe give away which distribution they were made for"
    )
    assert biased.sentences()[-1].endswith("which distribution the model was made for")


def test_a_gap_of_label_shares_is_no_signal(make_examples):
    class No:
        def probabilities(self, examples):
            return np.zeros(len(examples))

    result = audit(No(), pure_groups(make_examples(1_000, shift=0.6)), AuditSettings(resamples=500))
    assert result.inference.accuracy_gap.value > 0.3
    assert result.inference.matched_accuracy_gap.value == 0
    assert result.signals["accuracy gap"] == "detectable"
    assert result.verdict == "not-detectable"
    assert any(one.startswith("so the accuracy gap comes from") for one in result.sentences())


def test_what_is_said_of_it(biased):
    said = biased.sentences()
    assert said[0].startswith("Adv <= Delta_EO * W holds")
    assert any("above the detection threshold of 0.1" in one for one in said)
    assert "meta-classifier: right for 100% of 12 victims, better than guessing" in said
    assert said[-1].startswith("verdict: DETECTABLE, by the matched accuracy gap, the adv")


def test_a_fair_task_is_not_detected(make_examples, train):
    sides = pure_groups(make_examples(4_000, shift=0.0))
    model = train(make_examples(2_000, shift=0.0, seed=7), 0)
    result = audit(model, sides, AuditSettings(resamples=1_000))
    assert result.verdict == "not-detectable"
    assert result.attacks is None
    assert result.sentences()[-1].startswith("verdict: not detectable")


def test_victims_of_a_fair_task_cannot_be_told_apart(make_examples, train):
    sides = pure_groups(make_examples(2_000, shift=0.0))
    settings = AuditSettings(victims=8, shadows=8, resamples=500)
    result = audit(train(sides.g0, 0), sides, settings, train=train)
    for one in result.attacks.results:
        assert one.advantage.low < 0.1
    # A failed attack decides nothing: the measured signals do.
    assert result.verdict == "not-detectable"


def test_no_two_models_share_a_seed(make_examples, train):
    seeds = []

    def spy(examples, seed):
        seeds.append(seed)
        return train(examples, seed)

    sides = pure_groups(make_examples(400))
    settings = AuditSettings(victims=3, shadows=4, resamples=200)
    audit(train(sides.g0, 0), sides, settings, train=spy)
    assert len(set(seeds)) == len(seeds) == 14


def test_without_shadows_only_the_loss_test_is_made(make_examples, train):
    sides = pure_groups(make_examples(400))
    settings = AuditSettings(victims=2, shadows=0, resamples=200)
    result = audit(train(sides.g0, 0), sides, settings, train=train)
    assert [one.name for one in result.attacks.results] == ["loss test"]


def test_json(biased, tmp_path):
    biased.save(tmp_path / "audit.json")
    read = json.loads((tmp_path / "audit.json").read_text())
    assert read == json.loads(json.dumps(biased.to_json()))
    assert read["format"] == "neuropatch-audit"
    assert read["verdict"] == "detectable"
    assert read["signals"]["meta-classifier"] == "detectable"
    assert read["inference"]["bound"]["value"] == biased.inference.bound.value
    assert read["distributions"]["g0"]["what"] == biased.distributions[0]
    assert {"fairlearn", "scikit-learn"} <= set(read["versions"])


def test_audits_are_repeatable(biased, make_examples, train):
    sides = pure_groups(make_examples(1_500, shift=0.6, seed=1))
    again = audit(
        train(sides.g0, 0),
        pure_groups(make_examples(1_500, shift=0.6)),
        AuditSettings(victims=6, shadows=6, queries=100, resamples=1_000),
        train=train,
    )
    assert again.to_json() == biased.to_json()


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "detectable"), (0.0, 0.0999, "not-detectable"), (0.05, 0.15, "undecided")],
)
def test_judge(low, high, verdict):
    assert judge(Estimate((low + high) / 2, low, high), 0.1) == verdict


def test_settings_are_checked():
    for bad in ({"threshold": 0.0}, {"victims": -1}, {"queries": 1}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"--{next(iter(bad))}"):
            AuditSettings(**bad)


def test_victims_need_a_recipe(make_examples, train):
    sides = pure_groups(make_examples(100))
    with pytest.raises(UsageError, match="none is given"):
        audit(train(sides.g0, 0), sides, AuditSettings(victims=2))


def test_without_fairlearn_the_extra_is_named(make_examples, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    sides = pure_groups(make_examples(100))
    with pytest.raises(ResourceError, match="needs fairlearn") as caught:
        audit(train(sides.g0, 0), sides)
    assert caught.value.hint == "pip install 'neuropatch[fairness]'"
