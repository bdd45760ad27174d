"""Every method on models that have memorised invented people.

    python benchmarks/memorization/run.py SEED0 [SEED1 ...] --clean wiki.txt -o RESULTS
    python benchmarks/memorization/run.py --train SMOLLM2 --seeds 3 --clean wiki.txt -o RESULTS

Each SEED is a folder that ``train.py`` wrote; with ``--train`` they are made first. Every method
finds a patch for every task and number of units in a process of its own; the patch is applied in
memory, and measured on questions that are the same for all. RESULTS gets one JSON file a seed, to
which rows are added one by one; a run that was cut short goes on where it was. At the end the
tables are printed and written (``tables.md``, as ``report.py`` prints them), and figures drawn.

A variant of a method is ``--variant NAME=METHOD:parameter=value,parameter=value``. Two parameters
are not the method's: ``data`` is ``all``, or ``needs`` to withhold what the method could use but
does not need; ``records`` is how many of the records to forget it is given (all). A method that
finds weights gets as many of them as the given number of units has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _harness import environment
from corpus import CleanText, Question, clean_text, write_records
from evaluator import Evaluator, Sizes, is_verbatim
from figures import draw_categories, draw_methods, find_categories
from people import Population
from relearn import relearn
from report import markdown
from tasks import CATEGORY, Task, make_task
from train import FILE, tiny_clean_text
from variants import Variant, default_variants, find_patch

from neuropatch.evaluation.control import random_control
from neuropatch.models.loading import load_causal_model, load_tokenizer
from neuropatch.models.modules import model_layout
from neuropatch.patch.patch import NeuronPatch

UNITS = (10, 23, 46, 115, 230)
"""Numbers of units for category erasure; of SmolLM2's 46,080 the second is 0.05 %."""

UNITS_INDIVIDUAL = (23, 46, 92)
"""Numbers of units for individual erasure; the last is 0.2 % of SmolLM2's."""

GENERAL_ROWS, GENERAL_WORDS = 32, 64


class Bench:
    """One memorised model, and what was measured of it.

    Args:
        folder: The model.
        clean: Clean text, cut as for its training.
        output: The results; rows that it holds already are not measured again.
        options: The command line.
    """

    def __init__(
        self, folder: Path, clean: CleanText, output: Path, options: argparse.Namespace
    ) -> None:
        self.folder, self.output, self.options = folder, output, options
        self.about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        self.population = Population.from_json(self.about["population"])
        self.facts = [Question(**fact) for fact in self.about["facts"]]
        self.tokenizer = load_tokenizer(folder)
        self.model = load_causal_model(folder, dtype="float32", device="cpu")
        self.model.requires_grad_(False)
        self.clean = clean
        self.held_out = self.tokenizer(clean.held_out, verbose=False)["input_ids"]
        self.scratch = output.with_suffix("")
        self.scratch.mkdir(parents=True, exist_ok=True)
        taught = {key: self.about[key] for key in ("seed", "extraction", "clean_perplexity")}
        self.document: dict[str, Any] = {"model": taught, "rows": []}
        if output.is_file():
            self.document = json.loads(output.read_text(encoding="utf-8"))
        self.document.setdefault("environment", environment())

    def row(self, task: str, name: str, units: int) -> dict[str, Any] | None:
        """The row of a task, variant and number of units, if it was measured."""
        key = (task, name, units)
        for row in self.document["rows"]:
            if (row["task"], row["variant"], row["asked"]) == key:
                found: dict[str, Any] = row
                return found
        return None

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the file at once: an interrupt must not lose what is done."""
        self.document["rows"].append(row)
        self._write()
        print(f"{self.output.name}: {row['task']} {row['variant']} {row['asked']}", file=sys.stderr)

    def _write(self) -> None:
        text = json.dumps(self.document, indent=1) + "\n"
        temporary = self.output.with_suffix(".json.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.output)

    def run(self, name: str, variants: Sequence[Variant], counts: Sequence[int]) -> None:
        """All rows of a task."""
        task = make_task(name, self.population, self.facts, most=self.options.people)
        evaluator = Evaluator(self.tokenizer, task, self.held_out, self.options.sizes)
        files = self.files(task)
        wanted = [
            (variant, count)
            for variant in variants
            for count in counts
            if self.row(name, variant.name, count) is None
        ]
        if wanted:
            evaluator.keep_base(self.model)
        for label, model in (("memorised", self.folder), ("before", self._before())):
            if model is not None and self.row(name, label, 0) is None:
                start = time.perf_counter()
                loaded = load_causal_model(model, dtype="float32", device="cpu")
                measured = evaluator.measure(loaded)
                seconds = time.perf_counter() - start
                self.add(_row(name, label, 0) | {"measured": measured, "evaluation_s": seconds})
        for variant, count in wanted:
            self.add(self._patched(task, evaluator, files, variant, count))
        for variant in variants:
            if variant.name in self.options.relearn:
                for count in counts:
                    self._relearn(task, variant, count)

    def categories(self, variant: Variant, units: int) -> list[str]:
        """Patches for each category of personal data."""
        task = make_task(CATEGORY, self.population, self.facts, most=self.options.people)
        return find_categories(
            self.folder,
            task,
            self.files(task),
            variant,
            units,
            self.scratch,
            seed=self.population.seed,
        )

    def _before(self) -> Path | None:
        """The model before it memorised, if there was one and it is there."""
        source = Path(self.about["source"])
        return source if (source / "config.json").is_file() else None

    def files(self, task: Task) -> dict[str, str]:
        """The data that methods are given, as files."""
        paths = {
            kind: str(self.scratch / f"{task.name}.{kind}.jsonl")
            for kind in ("pii", "retain", "general")
        }
        write_records(Path(paths["pii"]), task.forget)
        write_records(Path(paths["retain"]), task.retain)
        words = self.clean.general.split(" ")
        rows = [
            {"text": " ".join(words[start : start + GENERAL_WORDS]).strip()}
            for start in range(0, len(words), GENERAL_WORDS)
        ]
        general = [row for row in rows if row["text"]][:GENERAL_ROWS]
        Path(paths["general"]).write_text(
            "".join(json.dumps(row) + "\n" for row in general), encoding="utf-8"
        )
        return paths

    def _patched(
        self,
        task: Task,
        evaluator: Evaluator,
        files: Mapping[str, str],
        variant: Variant,
        count: int,
    ) -> dict[str, Any]:
        row = _row(task.name, variant.name, count)
        path = self._patch_file(task, variant, count)
        found = find_patch(
            self.folder,
            variant,
            variant.amount(count, model_layout(self.model)),
            files,
            path,
            seed=self.population.seed,
        )
        if "error" in found:
            return row | {"failed": found["error"]}
        row["localization"] = found
        patch = NeuronPatch.from_pretrained(path)
        start = time.perf_counter()
        with patch.applied(self.model):
            row["measured"] = evaluator.measure(self.model, deep_below=self.options.deep_below)
        row["evaluation_s"] = time.perf_counter() - start
        if self.options.controls is None or variant.name in self.options.controls:
            control = random_control(patch, self.model, seed=self.population.seed)
            with control.applied(self.model):
                row["control"] = evaluator.measure(self.model, light=True)
        return row

    def _patch_file(self, task: Task, variant: Variant, count: int) -> Path:
        name = variant.name.replace("/", "_")
        return self.scratch / f"{task.name}.{name}.{count}.safetensors"

    def _relearn(self, task: Task, variant: Variant, count: int) -> None:
        """Train the patched model on other people, and add to its row what comes back."""
        row = self.row(task.name, variant.name, count)
        if row is None or "measured" not in row or "relearning" in row:
            return
        verbatim = [one for group in task.erased.values() if is_verbatim(group) for one in group]
        patch = NeuronPatch.from_pretrained(self._patch_file(task, variant, count))
        with patch.applied(self.model):
            row["relearning"] = relearn(self.model, self.tokenizer, task.strangers, verbatim)
        self._write()


def _row(task: str, variant: str, asked: int) -> dict[str, Any]:
    return {"task": task, "variant": variant, "asked": asked}


def trained(options: argparse.Namespace) -> list[Path]:
    """Train the models that are not there yet."""
    folders = []
    for seed in range(options.seeds):
        folder = options.output / f"model{seed}"
        folders.append(folder)
        if (folder / FILE).is_file():
            continue
        command = [sys.executable, str(Path(__file__).with_name("train.py")), str(folder)]
        command += ["--model", str(options.train), "--clean", str(options.clean)]
        subprocess.run([*command, "--seed", str(seed)], check=True)
    return folders


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="*", help="folders that train.py wrote")
    parser.add_argument("--train", type=Path, help="train models from this one first")
    parser.add_argument("--seeds", type=int, default=3, help="with --train: how many")
    parser.add_argument("--clean", type=Path, help="the clean text; none for tiny models")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tasks", nargs="+", help="category, people-1, ... (default: all)")
    parser.add_argument("--methods", nargs="+", help="variants by name (default: all)")
    parser.add_argument("--variant", action="append", default=[], help="see above; repeatable")
    parser.add_argument("--units", type=int, nargs="+", help="numbers of units")
    parser.add_argument("--people", type=int, default=40, help="most people asked of a group")
    parser.add_argument("--relearn", nargs="*", default=[], help="variants to relearn")
    parser.add_argument("--controls", nargs="*", help="variants with a random control (all)")
    parser.add_argument(
        "--deep-below",
        type=float,
        default=1.0,
        help="measure exposure only where greedy extraction is at most this share (default: 1)",
    )
    parser.add_argument(
        "--figures",
        default="contrast",
        help="variant whose patches for every category of personal data are drawn",
    )
    parser.add_argument("--figure-units", type=int, default=46, help="units of each of them")
    parser.add_argument(
        "--rows-only",
        action="store_true",
        help="stop before tables and figures, as where other seeds are measured elsewhere",
    )
    parser.add_argument("--threads", type=int, default=2)
    for one in fields(Sizes):
        parser.add_argument(f"--{one.name}", type=int, default=one.default)
    options = parser.parse_args()
    if bool(options.models) == bool(options.train):
        parser.error("give folders of models, or --train")
    units, options.others = default_variants()
    options.variants = units + [Variant.parse(text) for text in options.variant]
    known = {one.name for one in options.variants}
    named = [*(options.methods or ()), *(options.controls or ()), *options.relearn]
    for name in named:
        if name not in known:
            parser.error(f"there is no variant '{name}'; name it with --variant {name}=METHOD:...")
    options.sizes = Sizes(**{one.name: getattr(options, one.name) for one in fields(Sizes)})
    return options


def main() -> None:
    """Measure what is missing, and print the tables."""
    options = parse()
    torch.set_num_threads(options.threads)
    variants = options.variants
    drawn = next((one for one in variants if one.name == options.figures), None)
    drawn = drawn or Variant.parse(options.figures)
    if options.methods:
        variants = [one for one in variants if one.name in options.methods]
    elif options.others:
        print(f"name a --variant to measure {', '.join(options.others)}", file=sys.stderr)
    clean = tiny_clean_text() if options.clean is None else clean_text(options.clean)
    options.output.mkdir(parents=True, exist_ok=True)
    outputs, categories = [], []
    for folder in options.models or trained(options):
        outputs.append(options.output / f"{folder.name}.json")
        bench = Bench(folder, clean, outputs[-1], options)
        sizes = sorted(bench.population.forget)
        for name in options.tasks or [CATEGORY, *(f"people-{size}" for size in sizes)]:
            counts = UNITS if name == CATEGORY else UNITS_INDIVIDUAL
            bench.run(name, variants, options.units or counts)
        if not options.rows_only:
            categories += bench.categories(drawn, options.figure_units)
    if options.rows_only:
        return
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in outputs]
    (options.output / "figures").mkdir(exist_ok=True)
    draw_methods(documents, outputs, options.output / "figures" / "methods")
    draw_categories(categories, options.output / "figures" / "categories")
    tables = markdown(documents)
    (options.output / "tables.md").write_text(f"{tables.strip()}\n", encoding="utf-8")
    print(tables)


if __name__ == "__main__":
    main()
