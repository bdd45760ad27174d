"""The benchmark's modules: scripts that import each other by their bare names."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "memorization"


@pytest.fixture(scope="session")
def bench():
    """``bench(name)``: a module of the benchmark."""
    sys.path.insert(0, str(FOLDER))
    yield import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="session")
def people(bench):
    return bench("people")


@pytest.fixture(scope="session")
def corpus(bench):
    return bench("corpus")
