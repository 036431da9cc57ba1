"""The Docker engine and tiny packages, made once a session. What a test starts or builds, it removes."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tasks.image import Engine, connect
from tests.integration.tiny import TinyModel, TinyModels

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that `make setup` found or started."""
    return connect()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """`tiny(runtime)`: the same small model as this runtime's files, written when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("tiny")).of
