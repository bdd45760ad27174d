"""HardConcrete gates against the paper's formulas and against their own statistics."""

import math

import pytest
import torch

from neuropatch.errors import UsageError
from neuropatch.methods._lpnl.hard_concrete import HardConcrete

LOCATIONS = [-6.0, -1.6, -0.3, 0.0, 0.7, 2.0, 6.0]


def reference(log_alpha, u, beta=2 / 3, gamma=-0.1, zeta=1.1):
    s = 1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + log_alpha) / beta))
    return min(1.0, max(0.0, s * (zeta - gamma) + gamma))


@pytest.mark.parametrize("beta", [2 / 3, 0.3])
def test_samples_are_the_papers_formula(beta):
    gate = HardConcrete(beta)
    noise = [0.001, 0.2, 0.5, 0.9, 0.999]
    for log_alpha in LOCATIONS:
        location = torch.full((5,), log_alpha, dtype=torch.float64)
        found = gate.sample(location, torch.tensor(noise, dtype=torch.float64))
        wanted = [reference(log_alpha, u, beta) for u in noise]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_evaluation_has_no_noise_and_no_temperature():
    location = torch.tensor(LOCATIONS, dtype=torch.float64)
    wanted = [min(1.0, max(0.0, 1.2 / (1 + math.exp(-x)) - 0.1)) for x in LOCATIONS]
    for gate in (HardConcrete(), HardConcrete(0.1)):
        torch.testing.assert_close(gate.mode(location), torch.tensor(wanted, dtype=torch.float64))


def test_how_often_samples_are_closed_and_open():
    """Frequencies of exact zeros and exact ones over 40,000 draws, within 4.5 deviations."""
    gate, draws = HardConcrete(), 40_000
    noise = torch.rand(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for log_alpha in LOCATIONS:
        location = torch.full((draws,), log_alpha, dtype=torch.float64)
        samples = gate.sample(location, noise)
        closed = float(gate.closed_probability(location[:1]))
        # By symmetry a gate is exactly 1 as often as one at -log_alpha is exactly 0.
        whole = float(gate.closed_probability(-location[:1]))
        for frequency, probability in ((samples == 0, closed), (samples == 1, whole)):
            tolerance = 4.5 * math.sqrt(probability * (1 - probability) / draws) + 1e-6
            assert abs(float(frequency.double().mean()) - probability) < tolerance


def test_open_and_closed_are_complements():
    gate = HardConcrete()
    location = torch.tensor(LOCATIONS, dtype=torch.float64)
    wanted = [1 / (1 + math.exp(-(x - 2 / 3 * math.log(0.1 / 1.1)))) for x in LOCATIONS]
    opened = gate.open_probability(location)
    torch.testing.assert_close(opened, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(gate.closed_probability(location), 1 - opened)
    # Far up, where 1 - P would be 0 in float32.
    assert 0 < float(gate.closed_probability(torch.tensor(30.0))) < 1e-12


def test_gradients_against_differences():
    gate = HardConcrete()
    location = torch.tensor([-0.5, 0.2, 1.0], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([0.4, 0.6, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: gate.sample(x, noise), (location,))
    assert torch.autograd.gradcheck(gate.mode, (location,))
    assert torch.autograd.gradcheck(gate.closed_probability, (location,))


def test_a_clipped_gate_has_no_gradient():
    location = torch.tensor([8.0, -8.0], requires_grad=True)
    HardConcrete().sample(location, torch.tensor([0.5, 0.5])).sum().backward()
    assert location.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"beta": 0.0}, "temperature is 0"),
        ({"beta": math.inf}, "temperature is inf"),
        ({"gamma": 0.0}, "does not hold 0 and 1"),
        ({"zeta": 1.0}, "does not hold 0 and 1"),
    ],
)
def test_what_is_no_gate_is_refused(options, what):
    with pytest.raises(UsageError, match=what):
        HardConcrete(**options)
