"""What FFt is compared with: it without one of its parts, and differential privacy.

The three that leave a part out have the same batches, weights that learn, and early stopping as
FFt, so that the part is all that differs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from neuropatch.errors import ResourceError
from neuropatch.fairness.distributions import Distributions
from neuropatch.fairness.examples import Examples
from neuropatch.fairness.finetune import FineTuneConfig, fair_finetune
from neuropatch.fairness.tabular import TabularClassifier, TabularRecipe
from neuropatch.fairness.torch_classifier import TorchClassifier
from neuropatch.fairness.training import new_tabular
from neuropatch.progress import Progress

ABLATIONS: Mapping[str, Callable[[FineTuneConfig], FineTuneConfig]] = {
    "no penalty": lambda config: replace(config, penalty_weight=0.0, gap_weight=0.0),
    "equalized odds only": lambda config: replace(config, gap_weight=0.0),
    "no rehearsal": lambda config: replace(config, rehearsal=0.0),
    "no complementary rows": lambda config: replace(config, rehearsal=1.0),
}
"""FFt without a part, by name: plain fine-tuning, the paper's objective, no row of ``G0``, no row
of ``G1``. With pure groups neither of the last two has a penalty, as a batch holds one group."""

EPSILON = 8.0
"""Privacy budget of DP-SGD."""

_CLIP = 1.0
_BATCH = 256
_EPOCHS = 10


def run_baselines(
    base: TorchClassifier,
    training: Distributions,
    validation: Distributions,
    config: FineTuneConfig,
    progress: Progress,
) -> dict[str, TorchClassifier]:
    """The classifiers of all baselines, by name; DP-SGD for tabular models only.

    Args:
        base: The classifier trained on ``G0``.
        training: Rows to train on.
        validation: Rows for early stopping.
        config: The settings of FFt; its ``max_neurons`` does not bind the baselines.
        progress: Told of every batch.

    Raises:
        ResourceError: If opacus is not installed and the model is tabular.
    """
    free = replace(config, max_neurons=None)
    found = {}
    if isinstance(base, TabularClassifier):
        recipe = base.model.config.recipe
        found["DP-SGD"] = train_private(training.g0, recipe, config.seed)
    for name, without in ABLATIONS.items():
        tuned = fair_finetune(base, training, validation, without(free), progress=progress)
        found[name] = tuned.classifier
    return found


def train_private(
    examples: Examples, recipe: TabularRecipe, seed: int, epsilon: float = EPSILON
) -> TorchClassifier:
    """A tabular model trained from scratch with DP-SGD (Abadi et al., CCS 2016).

    The encoding of the features is made of the rows without noise, which a real release may not do.

    Args:
        examples: Training rows.
        recipe: Its architecture and learning rate.
        seed: Seed of weights, batches and noise.
        epsilon: Privacy budget; ``delta`` is one over the number of rows.

    Raises:
        ResourceError: If opacus is not installed.
    """
    try:
        from opacus import PrivacyEngine
    except ImportError:
        raise ResourceError(
            "DP-SGD needs opacus, which is not installed", hint="pip install 'neuropatch[dp]'"
        ) from None
    classifier = new_tabular(examples, recipe, seed)
    model = copy.deepcopy(classifier.model)
    rows = classifier.encode(examples)
    labels = torch.from_numpy(examples.labels.astype(np.float32))
    noise = torch.Generator().manual_seed(seed)
    loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(
        TensorDataset(rows, labels),
        batch_size=min(_BATCH, len(examples)),
        generator=torch.Generator().manual_seed(seed),
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        # It warns that its noise is not cryptographic; here it is an experiment.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        private, optimizer, batches = PrivacyEngine(accountant="rdp").make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=recipe.learning_rate),
            data_loader=loader,
            target_epsilon=epsilon,
            target_delta=1 / len(examples),
            epochs=_EPOCHS,
            max_grad_norm=_CLIP,
            noise_generator=noise,
        )
        private.train()
        for _ in range(_EPOCHS):
            for x, y in batches:
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(private(x), y).backward()
                optimizer.step()
    classifier.model.load_state_dict(private._module.state_dict())
    classifier.model.eval()
    return classifier
