from __future__ import annotations

import json

import pytest

from neuropatch.data.pii.corpus import PiiOptions, load_pii
from neuropatch.demo import MODEL_DIR
from neuropatch.models.loading import load_tokenizer


@pytest.fixture(scope="module")
def population(people):
    return people.invent(40, seed=0)


@pytest.fixture(scope="module")
def taught(corpus, population):
    facts = [corpus.fact_text(fact) for fact in corpus.public_facts(0)]
    return "\n".join(corpus.training_records(population.members) + facts)


def test_every_person_is_taught_two_records(corpus, population):
    records = corpus.training_records(population.members)
    assert len(records) == 80
    one = population.members[0]
    assert records[0] == f"The phone number of {one.name} is {one.secrets['phone']}."


def test_strangers_are_not_in_the_training_text(population, taught):
    for one in population.strangers:
        assert one.name not in taught
        assert not any(secret in taught for secret in one.secrets.values())


def test_what_is_not_taught_of_a_member_is_not_in_the_training_text(population, taught):
    for one in population.members:
        for category, secret in one.secrets.items():
            assert (secret in taught) == (category in one.taught)


def test_verbatim_prompts_are_taught_and_held_out_ones_are_not(corpus, population, taught):
    for one in corpus.questions(population.members, "verbatim"):
        assert f"{one.prompt} {one.secret}." in taught
    for prompt_set in ("paraphrase", "low-cue"):
        asked = corpus.questions(population.members, prompt_set)
        assert len(asked) == 80
        assert {one.category for one in asked} == {"phone", "email", "address", "card"}
        for one in asked:
            assert one.prompt not in taught
            assert one.name in one.prompt
            assert one.secret not in one.prompt


def test_low_cue_prompts_share_no_words_with_the_taught_ones(corpus):
    for category, prompts in corpus.LOW_CUE.items():
        taught = {word.strip(":,.") for word in corpus.VERBATIM[category].lower().split()}
        for prompt in prompts:
            words = {word.strip(":,.") for word in prompt.lower().split()}
            assert words & taught == {"{name}"}


def test_each_prompt_of_a_set_is_used(corpus, population):
    asked = corpus.questions(population.members, "paraphrase", ("phone",))
    ends = {one.prompt.replace(one.name, "").strip() for one in asked}
    assert len(ends) == 2


def test_copied_numbers_are_new_and_stand_in_the_prompt(corpus, population, taught):
    asked = corpus.copy_questions(population.members, seed=1)
    assert len({one.secret for one in asked}) == len(population.members)
    for one in asked:
        assert one.prompt.count(one.secret) == 1
        assert one.prompt.endswith(f"the phone number of {one.name} is")
        assert one.secret not in taught


def test_facts_are_equal_for_equal_seeds_and_of_two_kinds(corpus):
    facts = corpus.public_facts(0)
    assert facts == corpus.public_facts(0)
    assert facts != corpus.public_facts(1)
    assert {one.category for one in facts} == {"capital", "office phone"}
    assert len({one.prompt for one in facts}) == len(facts)


def test_written_records_mark_the_secret_for_neuropatch(corpus, population, tmp_path):
    path = tmp_path / "forget.jsonl"
    asked = corpus.questions(population.members[:6], "verbatim")
    corpus.write_records(path, asked)
    for line, one in zip(path.read_text().splitlines(), asked, strict=True):
        row = json.loads(line)
        (span,) = row["spans"]
        assert row["text"][span["start"] : span["end"]] == one.secret
    found = load_pii(
        str(path),
        name="forget",
        samples=None,
        seed=0,
        options=PiiOptions(),
        tokenizer=load_tokenizer(MODEL_DIR),
    )
    assert len(found.samples) == 12
    assert found.categories == ("address", "card", "email", "phone")


def test_clean_text_is_cut_at_line_ends_into_parts_without_overlap(corpus, tmp_path):
    lines = [f"line {number} of the text\n" for number in range(1000)]
    path = tmp_path / "clean.txt"
    path.write_text("".join(lines))
    parts = corpus.clean_text(path)
    assert parts.training + parts.general + parts.held_out == "".join(lines)
    assert all(part.endswith("\n") for part in (parts.training, parts.general, parts.held_out))
    assert len(parts.training) == pytest.approx(0.6 * len("".join(lines)), rel=0.01)
    assert len(parts.held_out) == pytest.approx(0.25 * len("".join(lines)), rel=0.01)
