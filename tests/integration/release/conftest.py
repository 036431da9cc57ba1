"""Routers and arms of models that no other run has; what a test leaves running, it removes."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.contracts import digest_of
from tasks.image import Engine
from tasks.release.contracts import Deployed
from tasks.release.removal import remove_all
from tasks.settings import Settings
from tests.integration.smoke.packages import Packages
from tests.integration.tiny import TinyModel


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


@pytest.fixture
def model(engine: Engine, settings: Settings) -> Iterator[str]:
    name = f"release-test-{uuid.uuid4().hex[:8]}"
    yield name
    remove_all(name, engine, settings)
    assert engine.containers(f"io.slipway.model={name}") == ()


@pytest.fixture
def port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="session")
def packages(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, tiny: Callable[[str], TinyModel]
) -> Iterator[Packages]:
    """Removed from the engine at the end."""
    with Packages(tmp_path_factory.mktemp("packages"), engine, tiny) as made:
        yield made


@pytest.fixture(scope="session")
def deployed(packages: Packages) -> Deployed:
    """The tiny model as ONNX, as it would be released."""
    return deployed_as(packages, "first")


def deployed_as(packages: Packages, package: str) -> Deployed:
    """The tiny model's image under the digest of some package."""
    image = packages.tiny("onnx").good
    return Deployed(package=digest_of(package), image=image.digest, reference=image.reference, format=image.format)
