"""What all methods share: what they are given, and their parameters."""

from dataclasses import dataclass, replace

import pytest

from neuropatch.errors import UsageError
from neuropatch.methods._base import Given, Limits, Method, find_method, method_names
from neuropatch.methods._parameters import parameters_of, parse_parameters


@dataclass(frozen=True)
class Config:
    """Parameters of the probe.

    Attributes:
        share: Part of it.
        steps: Steps that are taken.
        fast: Whether it hurries.
        limit: Most of it.
        name: Its name.
    """

    share: float = 0.5
    steps: int = 3
    fast: bool = False
    limit: int | None = 7
    name: str = "x"


@pytest.fixture
def method():
    return Method(
        name="probe",
        summary="a method of this test",
        paper="none",
        granularity="units",
        config=Config,
        needs=frozenset({"pii"}),
        takes=frozenset({"general"}),
        check=lambda layout, given, config: None,
        run=lambda inputs, config: None,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Given(), "probe needs --pii FILE"),
        (Given(pii=True, retain=("kept",)), "probe does not use --retain NAME=FILE"),
        (Given(pii=True, datasets=("a",)), "probe does not use --dataset NAME=FILE"),
        (Given(pii=True, kind="masked"), "probe is for causal language models"),
    ],
)
def test_data_that_is_missing_or_without_effect_is_refused(method, given, message):
    with pytest.raises(UsageError, match=message):
        method.check_given(given)


def test_data_that_is_needed_or_taken_is_accepted(method):
    method.check_given(Given(pii=True))
    method.check_given(Given(pii=True, general=True))


def test_parameters_are_read_as_their_types(method):
    texts = {"share": "0.25", "steps": "4", "fast": "yes", "limit": "none", "name": "7"}
    assert parse_parameters(method, texts) == Config(0.25, 4, True, None, "7")
    assert parse_parameters(method, {"limit": "9", "steps": None}) == Config(limit=9)
    assert parse_parameters(method, {"share": 0.1}) == Config(share=0.1)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"width": 3}, "probe has no parameter 'width'", "it has share, steps"),
        ({"steps": "4.5"}, "steps is '4.5'", "give a whole number"),
        ({"fast": "maybe"}, "fast is 'maybe'", "give true or false"),
        ({"limit": "many"}, "limit is 'many'", "give a whole number"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(method, given, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        parse_parameters(method, given)
    assert hint in caught.value.hint


def test_every_method_declares_itself():
    for name in method_names():
        method = find_method(name)
        assert method.name == name
        assert not method.summary.endswith(".")
        assert not method.needs & method.takes
        assert parse_parameters(method, {}) == method.config()


@dataclass(frozen=True)
class Wider(Config):
    """What more there is.

    Attributes:
        depth: How deep, as in :class:`neuropatch.patch.edits.UnitEdit`;
            ``none`` for no bound.
        share: The share: a number.

    Raises:
        UsageError: Never.
    """

    depth: float | None = None


def test_parameters_are_described_by_the_docstrings_of_config_and_parents(method):
    described = {one.name: one for one in parameters_of(replace(method, config=Wider))}
    assert list(described) == ["share", "steps", "fast", "limit", "name", "depth"]
    depth = described["depth"]
    assert (depth.kind, depth.default) == ("a number or none", None)
    assert depth.meaning == "How deep, as in UnitEdit; none for no bound."
    assert described["share"].meaning == "The share: a number."
    assert (described["limit"].kind, described["limit"].default) == ("a whole number or none", 7)
    assert described["steps"].meaning == "Steps that are taken."


@pytest.mark.parametrize("name", method_names())
def test_a_state_is_refused_where_none_is_saved(name, tmp_path):
    method, limits = find_method(name), Limits(resume=tmp_path / "patch.resume")
    configs = [method.config()]
    if name in ("snip", "wanda"):
        configs.append(method.config(granularity="weights"))
    for config in configs:
        method.check_resume(Limits(), config)
        saves = name in ("spin", "lpnl") or (name == "snip" and not config.finds_units)
        if saves:
            method.check_resume(limits, config)
            continue
        with pytest.raises(UsageError, match=f"method {name} saves no progress"):
            method.check_resume(limits, config)
