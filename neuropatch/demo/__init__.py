"""A small language model that has memorised invented people, for ``neuropatch demo``.

The model, the records that it memorised and clean text are bundled in ``_data``; see
:mod:`neuropatch.demo.corpus` for the text and :mod:`neuropatch.demo.train` for the training.
"""

from __future__ import annotations

from pathlib import Path

DATA_DIR = Path(__file__).parent / "_data"
"""The bundled files: JSONL records, clean text, and the model in ``model/``."""

MODEL_DIR = DATA_DIR / "model"
"""The bundled checkpoint, a directory that ``from_pretrained`` of transformers loads."""
