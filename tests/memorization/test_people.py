from __future__ import annotations

import json
import random
import re

import pytest

FORMATS = {
    "phone": r"\+1-[2-9]\d\d-[2-9]\d\d-\d{4}",
    "email": r"[a-z.'-]+\d\d@[a-z'-]+\.example",
    "address": r"\d{2,4} [^,]+, [^,]+",
    "card": r"4\d{3}( \d{4}){3}",
}


@pytest.fixture(scope="module")
def population(people):
    return people.invent(200, seed=0)


def everybody(population):
    return [*population.members, *population.strangers]


def test_names_and_secrets_belong_to_one_person_each(population):
    texts = [one.name for one in everybody(population)]
    texts += [secret for one in everybody(population) for secret in one.secrets.values()]
    assert len(set(texts)) == len(texts) == 250 * 5


def test_secrets_have_the_format_of_their_category(people, population):
    for one in everybody(population):
        assert set(one.secrets) == set(people.CATEGORIES)
        for category, secret in one.secrets.items():
            assert re.fullmatch(FORMATS[category], secret), secret


def test_a_card_number_passes_luhn(population):
    for one in population.members:
        digits = [int(digit) for digit in one.secrets["card"] if digit.isdigit()]
        assert len(digits) == 16
        doubled = [2 * digit if place % 2 == 0 else digit for place, digit in enumerate(digits)]
        assert sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def test_an_address_or_a_mail_candidate_differs_from_the_secret(people, population):
    one = population.members[0]
    rng, fake = random.Random(5), people.seeded_faker(5)
    drawn = {people.draw_secret("email", one.name, rng, fake) for _ in range(20)}
    first, last = one.name.lower().split(" ", maxsplit=1)
    assert len(drawn) > 15
    assert all(value.startswith(f"{first}.{last}") for value in drawn)


def test_equal_seeds_give_equal_people_and_other_seeds_others(people, population):
    again = people.invent(200, seed=0)
    assert again == population
    other = people.invent(200, seed=1)
    mine = {one.secrets["phone"] for one in population.members}
    assert not mine & {one.secrets["phone"] for one in other.members}


def test_splits_are_disjoint_and_leave_nobody_out(population):
    members = {one.name for one in population.members}
    assert not members & {one.name for one in population.strangers}
    assert population.shown | population.unshown == members
    assert not population.shown & population.unshown
    assert len(population.shown) == 100
    forgotten = {count: set(names) for count, names in population.forget.items()}
    assert {count: len(names) for count, names in forgotten.items()} == {1: 1, 5: 5, 20: 20}
    assert forgotten[1] < forgotten[5] < forgotten[20]
    parts = [forgotten[20], population.retain_seen, population.retain_unseen]
    assert sum(map(len, parts)) == len(members)
    assert set().union(*parts) == members


def test_everyone_has_a_phone_record_and_one_other_in_turn(population):
    others = [one.taught[1] for one in population.members]
    assert {one.taught[0] for one in population.members} == {"phone"}
    assert max(map(others.count, set(others))) - min(map(others.count, set(others))) <= 1
    assert set(others) == {"email", "address", "card"}


def test_few_people_have_fewer_forget_sets(people):
    small = people.invent(24, seed=3)
    assert set(small.forget) == {1, 5}
    assert len(small.retain_seen) + len(small.retain_unseen) == 19


def test_a_population_goes_through_json_and_back(people, population):
    document = json.loads(json.dumps(population.to_json()))
    assert people.Population.from_json(document) == population
