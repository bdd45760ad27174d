from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def population(people):
    return people.invent(120, seed=0)


@pytest.fixture(scope="module")
def make(bench, corpus, population):
    facts = corpus.public_facts(0)
    return lambda name, **options: bench("tasks").make_task(name, population, facts, **options)


def test_category_erasure_shows_half_of_the_people_and_asks_for_both(make, population):
    task = make("category")
    assert {one.category for one in task.forget} == {"phone"}
    assert {one.name for one in task.forget} == population.shown
    assert {one.name for one in task.erased["shown"]} <= population.shown
    assert {one.name for one in task.erased["unshown"]} <= population.unshown
    assert len(task.erased["shown"]) == len(task.erased["unshown"]) == 40
    for name, prompt_set in (("paraphrase", "paraphrase"), ("low-cue", "low-cue")):
        assert {one.prompt_set for one in task.erased[name]} == {prompt_set}
        asked = {one.name for one in task.erased[name]}
        assert asked & population.shown
        assert asked & population.unshown


@pytest.mark.parametrize("count", [1, 5, 20])
def test_individual_erasure_forgets_all_about_its_people_and_nothing_of_others(
    make, population, count
):
    task = make(f"people-{count}")
    forgotten = set(population.forget[count])
    assert {one.name for one in task.forget} == forgotten
    assert len(task.forget) == 2 * count
    for asked in task.erased.values():
        assert {one.name for one in asked} == forgotten
    for asked in task.kept.values():
        assert not forgotten & {one.name for one in asked}


@pytest.mark.parametrize("name", ["category", "people-5"])
def test_what_is_measured_as_kept_was_not_shown_as_to_be_kept(make, name):
    task = make(name)
    shown = {one.prompt for one in (*task.forget, *task.retain)}
    for group, asked in task.kept.items():
        if group != "retain, seen":
            assert not shown & {one.prompt for one in asked}, group
    assert not shown & {one.prompt for one in task.strangers}
    assert {"facts", "office phones"} < set(task.kept)


def test_tasks_are_the_same_each_time(make):
    assert make("category") == make("category")
    assert len(make("category", most=8).erased["shown"]) == 8
