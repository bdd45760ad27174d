"""Inputs and output gradients of experts whose weights are stacked in one parameter.

Such experts are no linear modules that a hook could be put on: one module holds the matrices of
all of them, and its forward gives every expert the tokens that the router chose for it. Two ways of
doing that are known:

- transformers' experts interface (``use_experts_implementation``): the module says how its weights
  are laid out and how gate and up meet, and any function may do the products. Here they are done
  expert by expert, with the tokens of an expert in the order of the row.
- One batched product over all experts, every expert being given all tokens (Llama 4, which scales
  an expert's input by 0 where the router did not choose it). The product is seen as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from neuropatch.attribution.seen import Seen, started
from neuropatch.errors import ModelError


@dataclass(frozen=True)
class ExpertWatch:
    """What to watch of one module of experts.

    Attributes:
        module: The module that holds the stacked parameters.
        names: The parameters to watch: their full names by attribute of the module.
        offsets: ``[samples + 1]`` int64 on the CPU: the tokens of each sample.
        take: Told of every expert that a backward pass goes through.
    """

    module: Any
    names: Mapping[str, str]
    offsets: torch.Tensor
    take: Callable[[Seen], None]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the length of a ``with`` block.

        Raises:
            ModelError: When the module runs, if it does so in neither of the known ways.
        """
        # An attribute of the instance hides the method, and leaves the class as it is.
        attributes = vars(self.module)
        before = attributes.get("forward")
        known = hasattr(self.module, "has_gate")
        attributes["forward"] = self._by_expert if known else self._batched(self.module.forward)
        try:
            yield
        finally:
            del attributes["forward"]
            if before is not None:
                attributes["forward"] = before

    def _by_expert(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """What transformers' own functions for experts compute, one expert after the other.

        Args:
            hidden: ``[tokens, hidden]``.
            chosen: ``[tokens, k]``, the experts of each token.
            weights: ``[tokens, k]``, what their outputs are multiplied with.
        """
        module = self.module
        output = torch.zeros_like(hidden)
        for expert in range(module.num_experts):
            tokens, place = torch.where(chosen == expert)
            if not len(tokens):
                continue
            bounds = torch.searchsorted(tokens.cpu(), self.offsets)
            x = hidden[tokens]
            if module.has_gate:
                x = module._apply_gate(self._product(x, "gate_up_proj", expert, bounds))
            else:
                x = module.act_fn(self._product(x, "up_proj", expert, bounds))
            y = self._product(x, "down_proj", expert, bounds)
            if module.has_post_expert_norm:
                y = module.post_expert_norm(y)
            y = y * weights[tokens, place, None]
            # A token is there once for each expert, so the order of this sum is the experts'.
            output.index_add_(0, tokens, y.to(output.dtype))
        return output

    def _product(
        self, x: torch.Tensor, attribute: str, expert: int, bounds: torch.Tensor
    ) -> torch.Tensor:
        weight = getattr(self.module, attribute)[expert]
        bias = getattr(self.module, f"{attribute}_bias")[expert] if self.module.has_bias else None
        y = F.linear(x, weight.T if self.module.is_transposed else weight, bias)
        if attribute in self.names:
            name, inputs = self.names[attribute], x.detach()
            y = started(y)
            y.register_hook(lambda grad: self.take(Seen(name, grad, inputs, bounds, expert)))
        return y

    def _batched(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def watched(*args: Any, **options: Any) -> torch.Tensor:
            with _BatchedProducts(self) as products:
                output = forward(*args, **options)
            if products.seen != set(self.names):
                raise ModelError(
                    f"{type(self.module).__name__} runs its experts in a way that cannot be "
                    f"watched, so the inputs of '{min(self.names.values())}' cannot be seen",
                    hint="choose other roles with --target, such as attn",
                )
            return output

        return watched


class _BatchedProducts(TorchFunctionMode):
    """Watches for ``torch.bmm`` of all tokens with the parameters."""

    def __init__(self, watch: ExpertWatch) -> None:
        super().__init__()
        self._watch = watch
        self._names = {id(getattr(watch.module, a)): a for a in watch.names}
        self.seen: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        attribute = self._names.get(id(args[1])) if func is torch.bmm else None
        if attribute is None or args[0].shape[1] != int(self._watch.offsets[-1]):
            return result
        self.seen.add(attribute)
        name, inputs, watch = self._watch.names[attribute], args[0].detach(), self._watch

        def backward(gradient: torch.Tensor) -> None:
            for expert, (grad, x) in enumerate(zip(gradient, inputs, strict=True)):
                watch.take(Seen(name, grad, x, watch.offsets, expert))

        result = started(result)
        result.register_hook(backward)
        return result
