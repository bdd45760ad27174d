"""``neuropatch localize --pii``: records, plain texts, categories, and what is refused."""

import json

import pytest

ROWS = [
    {"prompt": "number of Ada:", "target": "555-0134", "category": "phone"},
    {"prompt": "number of Bob:", "target": "555-0177", "category": "phone"},
    {"prompt": "mail of Ada:", "target": "ada@a.example", "category": "email"},
    {"prompt": "mail of Bob:", "target": "bob@b.example", "category": "e_mail"},
    {"prompt": "mail of Cy:", "target": "cy@c.example", "category": "e mail"},
]


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def localize(cli, model, *options):
    return cli("localize", model, "--method", "grad-act", "--max-neurons", 3, *options)


def test_a_category_alone_is_what_the_patch_records(cli, model, people, tmp_path):
    patch = tmp_path / "phone.safetensors"
    run = localize(cli, model, "--pii", people, "--category", "phone", "-o", patch)
    assert run.code == 0, run.err
    shown = json.loads(cli("inspect", patch, "--json").out)
    (record,) = shown["metadata"]["datasets"]
    assert (record["categories"], record["used"]) == (["phone"], [0, 1])


def test_every_category_gets_a_file_of_its_own(cli, model, people, tmp_path):
    patch = tmp_path / "all.safetensors"
    run = localize(cli, model, "--pii", people, "--per-category", "-o", patch, "-q")
    assert run.code == 0, run.err
    written = run.out.splitlines()
    # Two categories whose names make the same name of a file are kept apart.
    assert [path.rpartition("/")[2] for path in written] == [
        "all-e_mail.safetensors",
        "all-e_mail-2.safetensors",
        "all-email.safetensors",
        "all-phone.safetensors",
    ]
    categories = [
        json.loads(cli("inspect", path, "--json").out)["metadata"]["datasets"][0]["categories"]
        for path in written
    ]
    assert categories == [["e mail"], ["e_mail"], ["email"], ["phone"]]
    assert not patch.exists()


def test_personal_data_is_found_in_plain_texts(cli, model, tmp_path):
    mails = tmp_path / "mails.txt"
    mails.write_text("call 212-555-0134 now\nnothing here\n")
    patch = tmp_path / "auto.safetensors"
    run = localize(cli, model, "--pii", "auto", "--text", mails, "-o", patch)
    assert run.code == 0, run.err
    assert "1 phone in 1 of 2 rows" in run.err
    assert "1 rows without personal data are left out" in run.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "grad-act needs --pii FILE"),
        (("--pii", "auto"), "--pii auto needs texts to look through"),
        (("--pii", "PEOPLE", "--text", "PEOPLE"), "--text holds the texts in which --pii auto"),
        (("--pii", "PEOPLE", "--category", "card"), "no personal data of category 'card'"),
        (("--pii", "PEOPLE", "--retain", "kept"), "--retain kept is not NAME=FILE"),
        (("--pii", "PEOPLE", "--retain", "kept=PEOPLE"), "does not use --retain"),
        (("--pii", "PEOPLE", "--set", "depth=3"), "grad-act has no parameter 'depth'"),
        (("--pii", "PEOPLE", "--p", "0.5x"), "--p"),
        (("--pii", "PEOPLE", "--edit", "delete"), "unknown edit 'delete'"),
    ],
)
def test_options_that_make_no_sense_leave_nothing_behind(
    cli, model, people, tmp_path, options, message
):
    given = [str(one).replace("PEOPLE", str(people)) for one in options]
    patch = tmp_path / "no.safetensors"
    run = localize(cli, model, *given, "-o", patch)
    assert run.code in (1, 2)
    assert message in run.err
    assert not patch.exists()
