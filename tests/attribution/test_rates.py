import pytest
import torch

from neuropatch.attribution.footprint import Footprint
from neuropatch.attribution.rates import Rates, Work, estimate_seconds, measure_rates

COST = Footprint(
    saved=100, gaps=0, passing=0, logits=8, linear=1000, scored=600, head=50, attended=20
)


def test_rates_are_measured():
    rates = measure_rates(torch.float32, torch.device("cpu"))
    # A product in the cache is quicker than a byte from memory on every machine that there is.
    assert rates.flops > rates.bytes > 1e6
    assert rates.measured


def test_products_forward_and_backward_and_scores():
    work = Work(tokens=10, labels=4, length=5)
    rates = Rates(1.0, None, measured=False)
    attention = 10 * 5 * 20 * (2 + 5)
    expected = 10 * 1000 * 4 + attention + 4 * 50 * 4 + 10 * 600 * 2
    assert estimate_seconds(COST, work, rates) == expected
    # Twice as many tokens of the same samples take twice the time.
    twice = Work(tokens=20, labels=8, length=5)
    assert estimate_seconds(COST, twice, rates) == 2 * expected


def test_windows_repeat_the_forward_pass_and_part_of_the_backward_pass():
    work = Work(tokens=1, labels=0, length=0)
    rates = Rates(1.0, None, measured=False)
    one, two, four = (estimate_seconds(COST, work, rates, windows=n) for n in (1, 2, 4))
    assert (one, two, four) == (5200, 4000 + 3000 + 1200, 8000 + 5000 + 1200)
    assert estimate_seconds(COST, work, rates, certified=True) == 8000


def test_bytes_take_time_beside_products():
    work = Work(tokens=1, labels=1, length=0)
    bare = estimate_seconds(COST, work, Rates(1.0, None))
    assert estimate_seconds(COST, work, Rates(1.0, 2.0)) - bare == pytest.approx(
        (6 * 100 + 8 * 8) / 2
    )
