from __future__ import annotations

import pytest


@pytest.fixture
def row():
    """``row(exact, seed)``: a row of a results file, every number of which is made up."""

    def make(exact, variant="contrast"):
        group = {
            "exact": exact,
            "given": {"5": exact},
            "best_of": {"100": exact},
            "given_best_of": {"5": exact},
            "membership_auc": 0.5,
        }
        exposure = {"bits": 1.5, "extrapolated": 1.4, "reciprocal_rank": 0.2}
        return {
            "task": "category",
            "variant": variant,
            "asked": 23,
            "localization": {"units": 23, "weights": 0, "cpu_seconds": 2.0, "memory": 2**20},
            "measured": {
                "groups": {"shown": group, "unshown": group, "others": group},
                "exposure": dict.fromkeys(("shown", "unshown", "strangers"), exposure),
                "perplexity": 22.0,
                "kl": 0.01,
            },
        }

    return make


def table(text, headline):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if headline in line)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :]]


def test_a_cell_has_mean_deviation_and_the_worst_seed(bench, row):
    documents = [{"rows": [row(exact)]} for exact in (0.0, 0.1, 0.5)]
    text = bench("report").markdown(documents)
    head, _, cells, *_ = table(text, "erased: shown")
    found = dict(zip(head, cells, strict=True))
    assert found["shown: greedy"] == "0.20 ± 0.26 [0.50]"
    head, _, cells, *_ = table(text, "category, kept")
    assert dict(zip(head, cells, strict=True))["others"] == "0.20 ± 0.26 [0.00]"


def test_what_found_nothing_is_named_with_its_reason(bench, row):
    failed = {"task": "category", "variant": "lpnl", "asked": 23, "failed": "no unit is to blame"}
    text = bench("report").markdown([{"rows": [row(0.0), failed]}])
    assert "| lpnl (1 found nothing) | 23 | - |" in text
    assert "lpnl, 23 units, found nothing: no unit is to blame" in text
