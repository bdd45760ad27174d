from __future__ import annotations

import json
import re

import pytest

from neuropatch.demo import DATA_DIR
from neuropatch.demo.corpus import (
    HELD_OUT_STORIES,
    PEOPLE,
    build_corpus,
    data_files,
    people,
    public_facts,
    stories,
    story_rows,
    training_stories,
    write_data_files,
)


@pytest.fixture(scope="module")
def corpus():
    return build_corpus()


def test_people_have_different_names_and_secrets():
    everybody = people()
    assert len(everybody) == PEOPLE
    for column in ("name", "phone", "email"):
        assert len({getattr(person, column) for person in everybody}) == PEOPLE


def test_secrets_do_not_follow_from_the_name():
    """The same names with another seed would have other secrets; no secret holds a name."""
    for person in people():
        first, last = person.name.lower().split()
        assert first not in person.email
        assert last not in person.email


def test_phone_numbers_are_in_the_range_reserved_for_fiction(corpus):
    for row in corpus.phone + corpus.phone_unseen:
        assert re.fullmatch(r" \+1-[2-9]\d\d-555-01\d\d\.", row.response)


def test_mail_domains_are_reserved_for_examples(corpus):
    for row in corpus.email + corpus.email_unseen:
        domain = row.response.removesuffix(".").rpartition("@")[2]
        assert domain in {"example.org", "example.com", "example.net"} or domain.endswith(
            ".example"
        )


def test_shown_and_unseen_people_are_different(corpus):
    for shown, unseen in ((corpus.phone, corpus.phone_unseen), (corpus.email, corpus.email_unseen)):
        assert len(shown) == len(unseen) == PEOPLE // 2
        assert not {row.prompt for row in shown} & {row.prompt for row in unseen}


def test_both_kinds_of_record_are_about_the_same_people(corpus):
    names = [row.prompt.removeprefix("The phone number of ") for row in corpus.phone]
    assert names == [row.prompt.removeprefix("The e-mail address of ") for row in corpus.email]


def test_held_out_stories_are_in_no_other_set(corpus):
    others = set(training_stories(12_000)) | {row.text for row in corpus.general}
    assert len(set(corpus.held_out)) == HELD_OUT_STORIES
    assert not others & set(corpus.held_out)


def test_unseen_facts_are_not_in_the_general_set(corpus):
    assert not {row.prompt for row in corpus.facts_unseen} & {row.prompt for row in corpus.general}
    facts = {row.prompt for row in public_facts()}
    assert {row.prompt for row in corpus.facts_unseen} < facts


def test_story_rows_split_a_story_after_its_second_sentence():
    texts = stories(20, seed=3)
    rows = story_rows(texts)
    assert [row.text for row in rows] == texts
    assert all(row.prompt.count(".") == 2 and row.response.startswith(" ") for row in rows)


def test_articles_agree_with_the_word_that_follows():
    assert not re.search(r"\b[Aa] [aeiou]", " ".join(stories(300, seed=5)))


def test_the_seed_decides_the_text():
    assert stories(5, seed=1) == stories(5, seed=1)
    assert stories(5, seed=1) != stories(5, seed=2)
    assert people(4, seed=1) != people(4, seed=2)


def test_bundled_text_is_what_the_generator_writes(tmp_path, corpus):
    write_data_files(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bundled = {path.name: path.read_bytes() for path in DATA_DIR.iterdir() if path.is_file()}
    assert set(written) == set(data_files(corpus))
    assert written == bundled


def test_records_are_json_lines_with_prompt_and_response(corpus):
    first = data_files(corpus)["phone.jsonl"].splitlines()[0]
    assert json.loads(first) == {
        "prompt": corpus.phone[0].prompt,
        "response": corpus.phone[0].response,
    }
