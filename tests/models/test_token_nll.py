"""Losses of tokens and their gradients against float64."""

import pytest
import torch
import torch.nn.functional as F

from neuropatch.models.token_nll import token_nll

# Float32 keeps 6e-8 of each of a few roundings; bfloat16 rounds the gradient it returns by 4e-3.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 5e-7, torch.bfloat16: 4e-3}


def loss_and_gradient(function, logits, targets, above):
    leaf = logits.clone().requires_grad_()
    nll = function(leaf, targets)
    (nll * above).sum().backward()
    return nll.detach(), leaf.grad


def exact(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(1, 2), (7, 50), (45, 50_000)])
def test_loss_and_gradient_are_those_of_float64(dtype, shape):
    """45 rows of 50,000 take several chunks, the last of them not full."""
    generator = torch.Generator().manual_seed(0)
    logits = (10 * torch.randn(shape, generator=generator)).to(dtype)
    targets = torch.randint(shape[1], shape[:1], generator=generator)
    above = torch.rand(shape[0], generator=generator) + 0.5
    nll, gradient = loss_and_gradient(token_nll, logits, targets, above)
    assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    right, slope = loss_and_gradient(exact, logits.double(), targets, above.double())
    torch.testing.assert_close(nll.double(), right, rtol=1e-6, atol=1e-6)
    error = (gradient.double() - slope).norm() / slope.norm()
    assert error <= TOLERANCE[dtype]


def test_no_probability_is_lost_over_a_large_vocabulary():
    """The rows of the gradient sum to 0; torch's own softmax misses that by 1e-4 here."""
    logits = torch.full((3, 200_000), -0.7)
    logits[:, 7] = 5.0
    _, gradient = loss_and_gradient(token_nll, logits, torch.tensor([7, 7, 9]), torch.ones(3))
    # 200,000 probabilities of 3e-6, each rounded by 6e-8 of itself, leave 1e-8 and more of bias.
    assert gradient.double().sum(dim=1).abs().max() < 1e-6


def test_a_target_that_is_all_but_certain_keeps_the_digits_of_its_gradient():
    logits = torch.tensor([[20.0, 0.0, 0.5, -1.0]])
    _, gradient = loss_and_gradient(token_nll, logits, torch.tensor([0]), torch.ones(1))
    _, slope = loss_and_gradient(exact, logits.double(), torch.tensor([0]), torch.ones(1))
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-6, atol=0)


def test_large_logits_neither_overflow_nor_vanish():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e30, 0.0, 1e30]])
    nll, gradient = loss_and_gradient(token_nll, logits, torch.tensor([1, 2]), torch.ones(2))
    assert nll.tolist() == [1e4, 0.0]
    assert gradient.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_what_is_not_finite_stays_so():
    logits = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [1.0, 0.0]])
    nll = token_nll(logits, torch.tensor([1, 1, 1]))
    assert torch.isfinite(nll).tolist() == [False, False, True]


def test_without_gradients_nothing_is_kept():
    logits = torch.randn(4, 9, generator=torch.manual_seed(0))
    with torch.no_grad():
        nll = token_nll(logits, torch.tensor([0, 1, 2, 3]))
    assert not nll.requires_grad
    torch.testing.assert_close(nll, exact(logits, torch.tensor([0, 1, 2, 3])))
