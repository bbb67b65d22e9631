"""Tiny CSM deployments, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.csm.model import CsmModel, load_csm
from scripts.fixtures.tiny_csm import make_tiny_csm
from tests.backends.csm.paths import copy_tiny8


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete deployment in the transformers layout."""
    return make_tiny_csm(tmp_path_factory.mktemp("csm") / "transformers")


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the original layout."""
    return make_tiny_csm(tmp_path_factory.mktemp("csm") / "original", "original")


@pytest.fixture(scope="session")
def tiny8(tmp_path_factory: pytest.TempPathFactory) -> CsmModel:
    """The model of the reference data."""
    return load_csm(copy_tiny8(tmp_path_factory.mktemp("tiny8"), "original", "original"))
