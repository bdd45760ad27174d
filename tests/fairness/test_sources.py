"""Reading labelled files; every row here is invented."""

from __future__ import annotations

import random

import numpy as np
import pytest

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.schema import load_schema, schema_names
from neuropatch.fairness.sources import Reading, examples_of, load_examples

COLUMNS = ["age", "city", "sex", "hired"]
ROWS = [
    ["30", "Lund", "f", "yes"],
    ["41", "Oslo", "m", "no"],
    ["25", "Lund", "m", "yes"],
    ["52", "Bern", "f", "no"],
]
GENERIC = Reading(label="hired=yes", sensitive="sex")


def pums(style, count=40):
    """People in the columns of the Census, in the style of folktables or in lower case."""
    rng = random.Random(0)
    columns = ["AGEP", "SCHL", "WKHP", "SEX", "RAC1P", "ST", "PINCP", "WAGP", "PWGTP"]
    rows = [
        [
            str(rng.randint(20, 70)),
            str(rng.randint(1, 24)),
            "40.0",
            f"{1 + number % 2}.0",
            str(rng.randint(1, 3)),
            "6",
            str(60_000.0 if number % 3 else 20_000.0),
            "1",
            "10",
        ]
        for number in range(count)
    ]
    return [column if style == "folktables" else column.lower() for column in columns], rows


def test_generic_file(make_table):
    loaded = examples_of([make_table(COLUMNS, ROWS)], GENERIC)
    found = loaded.examples
    assert found.feature_names == ("age", "city")
    assert found.columns["age"].tolist() == [30, 41, 25, 52]
    assert found.columns["age"].dtype == np.float64
    assert found.columns["city"].dtype.kind == "U"
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.group_names == ("f", "m")
    assert found.groups.tolist() == [0, 1, 1, 0]
    assert (found.label, found.positive, found.sensitive) == ("hired=yes", "yes", "sex")
    assert loaded.record["features"] == ["age", "city"]
    assert loaded.notes == ()


def test_select(make_table):
    found = examples_of([make_table(COLUMNS, ROWS)], GENERIC).examples
    twice = found.select(np.array([3, 3]))
    assert len(twice) == 2
    assert twice.columns["city"].tolist() == ["Bern", "Bern"]
    assert twice.group_names == ("f", "m")
    assert found.select(found.labels == 1).columns["age"].tolist() == [30, 25]


def test_sensitive_attribute_is_a_feature_only_if_asked(make_table):
    table = make_table(COLUMNS, ROWS)
    kept = examples_of([table], Reading(label="hired=yes", sensitive="sex", keep_sensitive=True))
    assert "sex" in kept.examples.feature_names
    by_age = examples_of([table], Reading(label="hired=yes", sensitive="age>30")).examples
    assert by_age.group_names == ("age<=30", "age>30")
    assert by_age.groups.tolist() == [0, 1, 0, 1]
    assert by_age.feature_names == ("city", "sex")


def test_texts(make_table):
    reading = Reading(label="hired=yes", sensitive="sex", text_column="city")
    found = examples_of([make_table(COLUMNS, ROWS)], reading).examples
    assert found.is_text
    assert found.texts == ("Lund", "Oslo", "Lund", "Bern")
    assert found.feature_names == ()
    assert found.select(np.array([1])).texts == ("Oslo",)


def test_rows_that_miss_something_are_dropped_and_told(make_table):
    rows = [*ROWS, ["?", "Lund", "f", "yes"], ["44", "Lund", "", "yes"], ["44", "", "f", "NA"]]
    loaded = examples_of([make_table(COLUMNS, rows)], GENERIC)
    assert len(loaded.examples) == len(loaded.frame) == 4
    assert loaded.rows == 7
    assert loaded.notes == (
        "dropped 1 of 7 rows without a value of 'age'",
        "dropped 1 of 6 rows without a value of 'city'",
        "dropped 1 of 5 rows without a value of 'sex'",
    )


@pytest.mark.parametrize("style", ["folktables", "lower"])
def test_acs_in_both_styles_gives_the_same_examples(make_table, style):
    columns, rows = pums(style)
    loaded = examples_of([make_table(columns, rows)], Reading("acs"))
    found = loaded.examples
    assert found.feature_names == ("AGEP", "SCHL", "WKHP", "RAC1P")
    assert found.group_names == ("female", "male")
    assert found.labels.tolist() == [int(number % 3 > 0) for number in range(40)]
    assert found.columns["WKHP"][0] == 40
    assert any("WAGP (a component of the income" in note for note in loaded.notes)
    by_state = examples_of(
        [make_table(columns, [[*row[:5], str(n % 2), *row[6:]] for n, row in enumerate(rows)])],
        Reading("acs", sensitive="STABBR"),
    )
    assert by_state.examples.group_names == ("0", "1")
    coded = examples_of([make_table(columns, rows)], Reading("acs", sensitive="sex=1")).examples
    assert coded.groups.tolist() == found.groups.tolist()


LSAC = {
    # The study's own columns, as in bar_pass_prediction.csv and lsac.sas7bdat.
    "study": (
        "decile1b,decile3,ID,decile1,sex,race,cluster,lsat,ugpa,zfygpa,DOB_yr,grad,zgpa,bar1,"
        "bar1_yr,bar2,bar2_yr,fulltime,fam_inc,age,gender,parttime,male,race1,race2,Dropout,other,"
        "asian,black,hisp,pass_bar,bar,tier,index6040,indxgrp,indxgrp2,dnn_bar_pass_prediction,gpa",
        "4,6,17,4,{sex},7,3,35.5,3.1,-0.2,68,Y,0.3,P,7,P,94,1,4,-61,{gender},0,{male},white,"
        "b white,NO,0,0,0,0,{label},a Passed 1st time,3,700.5,g 700+,g 700-760,0.97,3.1",
        ("female", "male"),
        "lsat ugpa zfygpa zgpa decile1b decile3 fulltime fam_inc tier race1",
    ),
    # law_school_clean.csv of the survey of Le Quy and others, whose codes are written 1.0.
    "clean": (
        "decile1b,decile3,lsat,ugpa,zfygpa,zgpa,fulltime,fam_inc,male,tier,race,pass_bar",
        "4.0,6.0,35.5,3.1,-0.2,0.3,1.0,4.0,{male}.0,3.0,White,{label}.0",
        ("female", "male"),
        "lsat ugpa zfygpa zgpa decile1b decile3 fulltime fam_inc tier race",
    ),
    # law.school.admissions of the R package fairml, and OpenML's copy.
    "first-time": (
        "age,decile1,decile3,fam_inc,lsat,ugpa,gender,race1,cluster,fulltime,bar",
        "62,4,6,4,35.5,3.1,{gender},white,3,TRUE,{word}",
        ("female", "male"),
        "lsat ugpa decile1 decile3 fulltime fam_inc cluster age race1",
    ),
    # law_data.csv of the counterfactual fairness paper.
    "first-attempt": (
        ",race,sex,LSAT,UGPA,region_first,ZFYA,sander_index,first_pf",
        "5,White,{sex},35.5,3.1,GL,-0.2,0.74,{label}.0",
        ("female", "male"),
        "LSAT UGPA ZFYA race",
    ),
}


@pytest.mark.parametrize("layout", LSAC)
def test_lsac_in_the_layouts_that_go_around(make_table, layout):
    header, row, groups, features = LSAC[layout]
    rows = [
        row.format(
            sex=1 + number % 2,
            male=number % 2,
            gender=("female", "male")[number % 2],
            label=int(number % 3 > 0),
            word=str(number % 3 > 0).upper(),
        ).split(",")
        for number in range(12)
    ]
    loaded = examples_of([make_table(header.split(","), rows)], Reading("lsac"))
    assert loaded.record["layout"] == layout
    found = loaded.examples
    assert found.feature_names == tuple(features.split())
    assert found.labels.tolist() == [int(number % 3 > 0) for number in range(12)]
    assert found.group_names == groups
    assert found.groups.tolist() == [number % 2 for number in range(12)]
    assert found.columns[features.split()[0]].tolist() == [35.5] * 12
    unknown = [note for note in loaded.notes if note.startswith("not used")]
    # A first column without a name is pandas' row number.
    assert unknown == (
        ["not used, as schema lsac does not know them: ''"] if layout == "first-attempt" else []
    )


def test_lsac_drops_rows_without_an_outcome_and_names_what_leaks(make_table):
    header, row, *_ = LSAC["study"]
    values = {"sex": 1, "male": 0, "gender": "female"}
    rows = [row.format(**values, label=label).split(",") for label in ("1", "0", "")]
    rows.append(row.format(sex=2, male=1, gender="male", label="1").split(","))
    loaded = examples_of([make_table(header.split(","), rows)], Reading("lsac"))
    assert loaded.frame.row.tolist() == [0, 1, 3]
    assert "dropped 1 of 4 rows without a value of 'pass_bar'" in loaded.notes
    (leaking,) = (note for note in loaded.notes if note.startswith("no features"))
    outcomes = ["bar", "bar1", "bar1_yr", "bar2", "bar2_yr", "Dropout", "grad"]
    assert all(f"{name} (" in leaking for name in [*outcomes, "dnn_bar_pass_prediction"])


def test_every_feature_of_every_schema_is_read_and_nothing_that_leaks(make_table):
    assert schema_names() == ["acs", "adult", "bias_in_bios", "compas", "german_credit", "lsac"]
    for name in schema_names():
        for layout in load_schema(name).layouts:
            rows = [invented(layout, number) for number in range(60)]
            table = make_table(list(layout.columns), rows)
            label = f"{layout.label.column}=nurse" if layout.label.positive is None else None
            for sensitive in layout.sensitive:
                found = examples_of([table], Reading(name, label, sensitive)).examples
                roles = {layout.columns[feature].role for feature in found.feature_names}
                assert roles <= {"feature"}
                assert set(found.labels) == {0, 1}
                assert len(set(found.groups)) == 2
                assert found.is_text == (name == "bias_in_bios")


def invented(layout, number):
    """A row that passes the filters, with either label and two values of every attribute."""
    label = layout.label
    cells = {}
    for column, spec in layout.columns.items():
        if spec.values:
            cell = list(spec.values)[number % len(spec.values)]
        elif spec.kind == "numeric":
            cell = str(20 + (number * 7) % 30)
        else:
            cell = "ab"[number % 2]
        cells[column] = cell
    if label.positive is not None and label.positive.is_order:
        cells[label.column] = "90000" if number % 3 else "9000"
    elif label.positive is not None and not layout.columns[label.column].values:
        choice = label.positive if number % 3 else label.negative
        cells[label.column] = choice.value.split(",")[0]
    return list(cells.values())


def test_filters_are_those_of_the_source(make_table):
    columns = ["sex", "age", "race", "juv_fel_count", "juv_misd_count", "juv_other_count"]
    columns += ["priors_count", "c_charge_degree", "days_b_screening_arrest", "is_recid"]
    columns += ["score_text", "two_year_recid"]
    good = ["Male", "30", "A", "0", "0", "0", "1", "F", "-3", "0", "Low", "0"]
    rows = [good, [*good[:2], "B", *good[3:-1], "1"]]
    for column, cell in [
        ("days_b_screening_arrest", "31"),
        ("days_b_screening_arrest", "-31"),
        ("days_b_screening_arrest", ""),
        ("is_recid", "-1"),
        ("c_charge_degree", "O"),
        ("score_text", "N/A"),
    ]:
        row = list(good)
        row[columns.index(column)] = cell
        rows.append(row)
    loaded = examples_of([make_table(columns, rows)], Reading("compas"))
    assert loaded.frame.row.tolist() == [0, 1]
    assert "dropped 2 of 8 rows outside the filter days_b_screening_arrest>=-30" in loaded.notes


def test_one_class_against_the_others(make_table):
    columns = ["hard_text", "profession", "gender"]
    rows = [["a", "nurse", "Female"], ["b", "poet", "Male"], ["c", "13", "0"], ["d", "dj", "1"]]
    table = make_table(columns, rows)
    with pytest.raises(UsageError, match="'profession' has several classes") as caught:
        examples_of([table], Reading("bias_in_bios"))
    assert "--label profession=VALUE" in caught.value.hint
    found = examples_of([table], Reading("bias_in_bios", label="profession=nurse")).examples
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.groups.tolist() == [0, 1, 1, 0]
    assert found.positive == "nurse"


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(), "--label and --sensitive are needed"),
        (Reading(label="hired=yes"), "--label and --sensitive are needed"),
        (Reading(label="hired=maybe", sensitive="sex"), "no row has hired=maybe"),
        (Reading(label="fired=yes", sensitive="sex"), "no column 'fired'"),
        (Reading(label="hired=yes", sensitive="gender"), "no column 'gender'"),
        (Reading(label="hired=yes,no", sensitive="sex"), "every row has hired=yes,no"),
        (Reading(label="hired=yes", sensitive="sex", exclude=("cty",)), "no column 'cty'"),
        (Reading(label="hired=yes", sensitive="sex", exclude=("age", "city")), "no feature left"),
        (Reading("adult"), "has no column 'workclass'"),
        (Reading("adlt"), "no schema 'adlt'"),
        (Reading("adult", text_column="city"), "do not go together"),
    ],
)
def test_mistakes(make_table, reading, message):
    with pytest.raises((DataError, UsageError), match=message):
        examples_of([make_table(COLUMNS, ROWS)], reading)


def test_bad_values_are_named_with_their_row(make_table):
    columns, rows = pums("folktables")
    bad = [list(row) for row in rows]
    bad[6][0] = "forty"
    with pytest.raises(DataError, match=r"rows.csv: row 7: 'AGEP' is 'forty', not a number"):
        examples_of([make_table(columns, bad)], Reading("acs"))
    bad = [list(row) for row in rows]
    bad[4][3] = "3"
    with pytest.raises(DataError, match=r"rows.csv: row 5: 'SEX' is '3'") as caught:
        examples_of([make_table(columns, bad)], Reading("acs"))
    assert "it may be '1', '2'" in caught.value.hint


def test_too_many_groups_and_categories(make_table):
    rows = [
        [str(number), "x", f"id{number}", "yes" if number % 2 else "no"] for number in range(60)
    ]
    with pytest.raises(DataError, match="'sex' has 60 different values, too many groups"):
        examples_of([make_table(COLUMNS, rows)], GENERIC)
    rows = [
        [f"t{number}", "x", "fm"[number % 2], "yes" if number % 3 else "no"]
        for number in range(1001)
    ]
    with pytest.raises(DataError, match="'age' has 1,001 different values") as caught:
        examples_of([make_table(COLUMNS, rows)], GENERIC)
    assert "--exclude age" in caught.value.hint
    excluded = Reading(label="hired=yes", sensitive="sex", exclude=("age",))
    assert examples_of([make_table(COLUMNS, rows)], excluded).examples.feature_names == ("city",)


def test_files_follow_each_other_and_need_the_same_columns(make_table, tmp_path):
    (tmp_path / "a.csv").write_text("age,sex,hired\n30,f,yes\n40,m,no\n")
    (tmp_path / "b.jsonl").write_text('{"hired": "no", "age": 50, "sex": "f"}\n')
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")]
    loaded = load_examples(paths, GENERIC)
    assert loaded.examples.columns["age"].tolist() == [30, 40, 50]
    assert loaded.frame.file.tolist() == [0, 0, 1]
    assert loaded.frame.place(2) == "b.jsonl: row 1"
    with pytest.raises(DataError, match="differ in the column 'city'"):
        examples_of([make_table(COLUMNS, ROWS), make_table(["age", "sex", "hired"], [])], GENERIC)
