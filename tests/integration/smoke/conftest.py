"""The packages of this folder's tests (`tests.integration.smoke.packages`), made once a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tasks.contracts import Image
from tasks.image import Engine
from tasks.smoke.run import COMPONENT
from tests.integration.smoke.bench import Bench, Spoil
from tests.integration.smoke.packages import Packages
from tests.integration.tiny import TinyModel


@pytest.fixture(scope="session")
def packages(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, tiny: Callable[[str], TinyModel]
) -> Iterator[Packages]:
    """Removed from the engine at the end."""
    with Packages(tmp_path_factory.mktemp("packages"), engine, tiny) as made:
        yield made


@pytest.fixture(scope="session")
def packaged(packages: Packages) -> Callable[[str], Bench]:
    """`packaged(runtime)`: the tiny model, packaged by the image stage."""
    return packages.tiny


@pytest.fixture
def compiled(packages: Packages) -> Callable[[str, int], Bench]:
    """`compiled(march, bits)`: the tiny model, packaged, with code for that level and vectors of so many bits."""
    return packages.compiled


@pytest.fixture
def eight_bits(packages: Packages) -> Bench:
    """The tiny model as another tool may quantise it, packaged."""
    return packages.eight_bits()


@pytest.fixture(scope="session")
def bench(packaged: Callable[[str], Bench]) -> Bench:
    """The package that most tests try and spoil: ONNX starts fastest."""
    return packaged("onnx")


@pytest.fixture
def spoil(bench: Bench, packages: Packages) -> Spoil:
    """`spoil(code)`: the good image with `code` run before the server; `files` are laid over it."""

    def spoiled(code: str = "", files: dict[str, bytes] | None = None) -> Image:
        return packages.spoiled(bench, code, files)

    return spoiled


@pytest.fixture(autouse=True)
def _nothing_is_left(bench: Bench) -> Iterator[None]:
    """Whatever a test does, no container of this process remains."""
    import docker

    yield
    client = docker.from_env()
    mine = {"label": [f"io.slipway.component={COMPONENT}", f"io.slipway.pid={os.getpid()}"]}
    left = client.containers.list(all=True, filters=mine)
    client.close()
    assert [container.name for container in left] == []
