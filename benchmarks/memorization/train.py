"""Fine-tune a model until it recites the secrets of invented people.

    python benchmarks/memorization/train.py FOLDER --model SMOLLM2 --clean wiki.txt [--seed 0]
    python benchmarks/memorization/train.py FOLDER --tiny       # seconds, for tests

FOLDER becomes a checkpoint in float32 with ``memorization.json``: the people, their splits, the
seeds, and the curve of the training. Records are taught in short batches under AdamW, each with a
piece of clean text, so that the model stays able to write. A record that the model already knows
by heart is taught every second epoch only. Training ends when the model recites enough; that is
then verified in float32 with an exact test of greedy decoding, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from corpus import (
    VERBATIM,
    CleanText,
    clean_text,
    fact_text,
    public_facts,
    questions,
    training_records,
)
from people import CATEGORIES, Population, invent
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from neuropatch.demo import MODEL_DIR
from neuropatch.demo import corpus as demo_corpus
from neuropatch.demo.leakage import extraction_rate
from neuropatch.errors import ModelError
from neuropatch.models.loading import load_causal_model, load_tokenizer
from neuropatch.models.packing import packed_attention

FILE = "memorization.json"


@dataclass(frozen=True)
class Recipe:
    """How a model is taught.

    Attributes:
        learning_rate: The highest; it warms up over the first epoch half and falls linearly to a
            fifth over ``epochs``.
        epochs: Most passes over the records.
        records: Records of a batch.
        clean_tokens: Tokens of clean text in a batch.
        known: Probability of a record's least likely token above which it counts as known.
        enough: Share of the records recited during an epoch at which training ends.
        required: Share of each category that must be extracted in the end.
        autocast: Whether matrix products are computed in bfloat16.
    """

    learning_rate: float = 3e-4
    epochs: int = 20
    records: int = 16
    clean_tokens: int = 96
    known: float = 0.8
    enough: float = 0.97
    required: float = 0.9
    autocast: bool = True


TINY = Recipe(
    learning_rate=4e-3, epochs=120, records=16, clean_tokens=64, enough=0.99, autocast=False
)


@dataclass
class Curve:
    """What an epoch of the training looked like.

    Attributes:
        epoch: Its number, from 1.
        taught: Records taught in it.
        recited: Share of all records that were recited when last taught.
        loss: Mean loss of the tokens of records.
        clean_loss: Mean loss of the tokens of clean text.
        seconds: Time since the start of the training.
    """

    epoch: int
    taught: int
    recited: float
    loss: float
    clean_loss: float
    seconds: float


@dataclass
class _Lesson:
    """A record: its tokens, where the secret starts, and how well it is known."""

    ids: list[int]
    secret_start: int
    recited: bool = False
    known: bool = False
    skipped: bool = False


@dataclass
class Teacher:
    """Teaches a model a list of texts.

    Attributes:
        model: What is trained, in place.
        recipe: How.
        seed: Seed of the order of the records and of the pieces of clean text.
        clean: Token ids of the clean text.
        curve: Filled while it teaches.
    """

    model: PreTrainedModel
    recipe: Recipe
    seed: int
    clean: Sequence[int]
    curve: list[Curve] = field(default_factory=list)

    def teach(self, lessons: list[_Lesson], is_enough: Callable[[], bool]) -> None:
        """Train until the lessons are learned or the epochs are over.

        Args:
            lessons: What is taught.
            is_enough: Asked when enough lessons were recited as they were last taught: what came
                after may have pushed some of them out again.
        """
        recipe, rng, start = self.recipe, random.Random(self.seed), time.perf_counter()
        self.model.train()
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        for epoch in range(1, recipe.epochs + 1):
            chosen = [one for one in lessons if not one.known or one.skipped]
            for one in lessons:
                one.skipped = one.known and not one.skipped
            rng.shuffle(chosen)
            losses, clean_losses = [], []
            for first in range(0, len(chosen), recipe.records):
                progress = (epoch - 1) + first / len(chosen)
                for group in optimizer.param_groups:
                    group["lr"] = self._rate(progress)
                batch = chosen[first : first + recipe.records]
                loss, clean_loss = self._step(batch, rng)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss)
                clean_losses.append(clean_loss)
                print(f"epoch {progress:.2f} loss {loss:.3f} {clean_loss:.3f}", file=sys.stderr)
            recited = sum(one.recited for one in lessons) / len(lessons)
            self.curve.append(
                Curve(
                    epoch,
                    len(chosen),
                    recited,
                    sum(losses) / len(losses),
                    sum(clean_losses) / len(clean_losses),
                    time.perf_counter() - start,
                )
            )
            print(json.dumps(asdict(self.curve[-1])), file=sys.stderr, flush=True)
            if recited >= recipe.enough and is_enough():
                break
        self.model.eval()

    def _rate(self, progress: float) -> float:
        """The learning rate after so many epochs."""
        fall = 1 - 0.8 * progress / self.recipe.epochs
        return self.recipe.learning_rate * min(1.0, (progress + 0.05) / 0.5) * fall

    def _step(self, batch: list[_Lesson], rng: random.Random) -> tuple[float, float]:
        """Gradients of one batch: records and a piece of clean text, one behind the other."""
        length = self.recipe.clean_tokens
        place = rng.randrange(len(self.clean) - length)
        texts = [one.ids for one in batch] + [list(self.clean[place : place + length])]
        ids = torch.tensor([token for text in texts for token in text])
        lengths = [len(text) for text in texts]
        offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
        positions = torch.cat([torch.arange(count) for count in lengths])
        with (
            packed_attention(self.model),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.autocast),
        ):
            logits = self.model(
                input_ids=ids[None],
                position_ids=positions[None],
                cu_seq_lens_q=offsets,
                use_cache=False,
            ).logits[0]
        # Each token's prediction stands one place before it; a text's first token has none.
        predicted = torch.ones(len(ids), dtype=torch.bool)
        predicted[offsets[:-1]] = False
        places = predicted.nonzero()[:, 0]
        nll = F.cross_entropy(logits[places - 1].float(), ids[places], reduction="none")
        of_record = places < offsets[-2]
        torch.autograd.backward(nll.mean())
        nll, best = nll.detach(), logits.detach().argmax(dim=-1)
        at = torch.full((len(ids),), math.nan).index_put((places,), nll)
        for one, first in zip(batch, offsets.tolist(), strict=False):
            secret = slice(first + one.secret_start, first + len(one.ids))
            one.recited = bool((best[secret.start - 1 : secret.stop - 1] == ids[secret]).all())
            one.known = float(at[secret].max()) < -math.log(self.recipe.known)
        return float(nll[of_record].mean()), float(nll[~of_record].mean())


def lessons_of(texts: Sequence[tuple[str, str]], tokenizer: Any) -> list[_Lesson]:
    """Tokenise texts, each given with its prompt."""
    lessons = []
    for prompt, text in texts:
        ids, start = tokenizer(text)["input_ids"], len(tokenizer(prompt)["input_ids"])
        lessons.append(_Lesson(ids, start))
    return lessons


def extraction(model: PreTrainedModel, tokenizer: Any, population: Population) -> dict[str, float]:
    """Share of the taught secrets that greedy decoding recites, by category."""
    rates = {}
    for category in CATEGORIES:
        asked = questions(population.members, "verbatim", (category,))
        rows = [demo_corpus.Row(one.prompt, f" {one.secret}") for one in asked]
        rates[category] = extraction_rate(model, tokenizer, rows, batch_size=32).rate
    return rates


@torch.inference_mode()
def clean_perplexity(
    model: PreTrainedModel, ids: Sequence[int], *, windows: int, length: int
) -> float:
    """Perplexity on the first windows of a text."""
    losses = []
    for number in range(min(windows, len(ids) // length)):
        window = torch.tensor([ids[number * length : (number + 1) * length]])
        logits = model(input_ids=window, use_cache=False).logits[0, :-1]
        losses.append(F.cross_entropy(logits.float(), window[0, 1:]))
    return float(torch.stack(losses).mean().exp())


def tiny_model(vocabulary: int) -> PreTrainedModel:
    """Four layers with some hundred thousand parameters, freshly initialised."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def tiny_clean_text() -> CleanText:
    """Generated stories, for a model that knows no language yet."""
    return CleanText(
        *(
            "\n".join(demo_corpus.stories(count, seed))
            for count, seed in ((400, 1), (40, 2), (40, 3))
        )
    )


def train(
    folder: Path,
    *,
    people: int,
    seed: int,
    recipe: Recipe,
    source: Path | None,
    clean: CleanText,
) -> dict[str, Any]:
    """Teach a model and write it.

    Args:
        folder: Where the checkpoint goes.
        people: Number of members.
        seed: Seed of the people and of the training.
        recipe: How it is taught.
        source: The model to fine-tune; None for the tiny one.
        clean: Clean text.

    Returns:
        What ``memorization.json`` holds.

    Raises:
        ModelError: If too few secrets are extracted in the end.
    """
    torch.manual_seed(seed)
    population = invent(people, seed)
    tokenizer = load_tokenizer(MODEL_DIR if source is None else source)
    model = (
        tiny_model(len(tokenizer))
        if source is None
        else load_causal_model(source, dtype="float32", device="cpu")
    )
    model.requires_grad_(True)
    facts = public_facts(seed)
    prompts = [
        VERBATIM[category].format(name=one.name)
        for one in population.members
        for category in one.taught
    ]
    texts = list(zip(prompts, training_records(population.members), strict=True))
    texts += [(fact.prompt, fact_text(fact)) for fact in facts]
    held_out = tokenizer(clean.held_out)["input_ids"]
    before = clean_perplexity(model, held_out, windows=10, length=256)
    teacher = Teacher(model, recipe, seed, tokenizer(clean.training)["input_ids"])
    start = time.perf_counter()

    def is_enough() -> bool:
        return min(extraction(model, tokenizer, population).values()) >= recipe.required

    teacher.teach(lessons_of(texts, tokenizer), is_enough)
    seconds = time.perf_counter() - start
    rates = extraction(model, tokenizer, population)
    poorest = min(rates, key=lambda category: rates[category])
    if rates[poorest] < recipe.required:
        raise ModelError(
            f"the model recites only {rates[poorest]:.0%} of {poorest}",
            hint="train longer; nothing was written",
        )
    document = {
        "seed": seed,
        "source": str(source) if source else "tiny",
        "recipe": asdict(recipe),
        "population": population.to_json(),
        "facts": [asdict(fact) for fact in facts],
        "curve": [asdict(point) for point in teacher.curve],
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "extraction": rates,
        "clean_perplexity": {
            "before": before,
            "after": clean_perplexity(model, held_out, windows=10, length=256),
        },
    }
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--model", type=Path, help="checkpoint to fine-tune")
    parser.add_argument("--clean", type=Path, help="text file with clean text, such as WikiText-2")
    parser.add_argument("--people", type=int, help="members (default: 200, of a tiny model 24)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--learning-rate", type=float, help="the recipe's, if not given")
    parser.add_argument("--epochs", type=int, help="the recipe's, if not given")
    parser.add_argument("--tiny", action="store_true", help="a tiny model from scratch, for tests")
    options = parser.parse_args()
    if not options.tiny and not (options.model and options.clean):
        parser.error("give --model and --clean, or --tiny")
    torch.set_num_threads(1 if options.tiny else options.threads)
    given = {"learning_rate": options.learning_rate, "epochs": options.epochs}
    base = TINY if options.tiny else Recipe()
    document = train(
        options.folder,
        people=options.people or (24 if options.tiny else 200),
        seed=options.seed,
        recipe=Recipe(**{**asdict(base), **{k: v for k, v in given.items() if v is not None}}),
        source=None if options.tiny else options.model,
        clean=tiny_clean_text() if options.tiny else clean_text(options.clean),
    )
    shown = {key: document[key] for key in ("seed", "seconds", "extraction", "clean_perplexity")}
    print(json.dumps(shown | {"epochs": len(document["curve"])}))


if __name__ == "__main__":
    main()
