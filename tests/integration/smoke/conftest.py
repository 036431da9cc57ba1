"""A good image, made by the image stage itself, and a way to spoil it.

A bad image is the good one with a `sitecustomize.py`, which Python runs before the server: it replaces what the server
is about to import. Nothing of the harness is replaced, and every failure happens for real, in a real container.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.contract import Tolerance
from tasks.contracts import Image
from tasks.image import Engine, build
from tasks.image.context import Context
from tasks.settings import Settings
from tasks.smoke.catalogue import instance_type
from tasks.smoke.instruction_set import Host
from tasks.smoke.run import COMPONENT
from tasks.store import LocalStore, put_file, put_tree
from tests import samples
from tests.integration.smoke.bench import MIB, PATIENT, Bench, Spoil
from tests.integration.tiny import PREPROCESS, SIGNATURE, TinyModel, write_eight_bits, write_golden


@pytest.fixture(scope="session")
def packaged(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, tiny: Callable[[str], TinyModel]
) -> Iterator[Callable[[str], Bench]]:
    """`packaged(runtime)`: the tiny model, packaged by the image stage; removed from the engine at the end."""
    made: dict[str, Bench] = {}
    # A name of its own, so that two runs of this suite do not remove each other's images.
    name = f"smoke-test-{uuid.uuid4().hex[:8]}"

    def make(runtime: str) -> Bench:
        if runtime not in made:
            made[runtime] = _package(name, tiny(runtime), tmp_path_factory.mktemp(f"smoke-{runtime}"), engine)
        return made[runtime]

    yield make
    for bench in made.values():
        engine.remove_image(bench.good.reference)


class Compiled(TinyModel):
    """The tiny model compiled by torch: a folder, of another format of the same runtime."""

    format, root = "torch-aoti", "."


@pytest.fixture
def compiled(
    tmp_path: Path, engine: Engine, tiny: Callable[[str], TinyModel], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, int], Bench]]:
    """`compiled(march, bits)`: the tiny model, packaged, with code for that level and vectors of so many bits."""
    import torch

    from tasks.export.conversion import Source
    from tasks.export.torch_to_aoti import export

    made: list[Bench] = []

    def make(march: str, bits: int) -> Bench:
        monkeypatch.setattr(
            "tasks.export.torch_to_aoti._PORTABLE", {"x86_64": {"cpp.march": march, "cpp.simdlen": bits}}
        )
        folder = tmp_path / "files"
        folder.mkdir()
        program = torch.export.load(tiny("torch").path)
        source = Source(SimpleNamespace(native=program), tiny("torch").path)  # type: ignore[arg-type]
        assert "avx512f" in export(source, SIGNATURE, folder).needs
        name = f"smoke-test-{uuid.uuid4().hex[:8]}"
        made.append(_package(name, Compiled("torch", folder), tmp_path, engine))
        return made[-1]

    yield make
    for bench in made:
        engine.remove_image(bench.good.reference)


class EightBits(TinyModel):
    """The tiny model with weights of eight bits: exact with VNNI, and saturating without."""

    format = "onnx-int8"


@pytest.fixture
def eight_bits(tmp_path: Path, engine: Engine) -> Iterator[Bench]:
    """The tiny model as another tool may quantise it, packaged."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_eight_bits(folder)
    bench = _package(f"smoke-test-{uuid.uuid4().hex[:8]}", EightBits("onnx", folder), tmp_path, engine)
    yield bench
    engine.remove_image(bench.good.reference)


@pytest.fixture(scope="session")
def bench(packaged: Callable[[str], Bench]) -> Bench:
    """The package that most tests try and spoil: ONNX starts fastest."""
    return packaged("onnx")


@pytest.fixture
def spoil(bench: Bench) -> Iterator[Spoil]:
    """`spoil(code)`: the good image with `code` run before the server; `files` are laid over it."""
    tags = []

    def build_bad(code: str = "", files: dict[str, bytes] | None = None) -> Image:
        tag = f"{bench.good.reference}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryFile() as stream:
            context = Context(stream)
            context.add_bytes("Dockerfile", f"FROM {bench.good.reference}\nCOPY over /\n".encode())
            context.add_bytes("over/opt/serving/sitecustomize.py", textwrap.dedent(code).encode())
            for path, content in (files or {}).items():
                context.add_bytes(f"over/{path}", content)
            built = bench.engine.build(context.finish(), tag, {}, {})
        tags.append(tag)
        return bench.good.model_copy(update={"reference": tag, "digest": built.id})

    yield build_bad
    for tag in tags:
        bench.engine.remove_image(tag)


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


def _package(name: str, tiny: TinyModel, folder: Path, engine: Engine) -> Bench:
    store = LocalStore(folder / "store")
    signature = {"inputs": SIGNATURE.inputs, "outputs": SIGNATURE.outputs, "dynamic": SIGNATURE.dynamic}
    spec = samples.spec(folder, name=name, **signature, preprocess=PREPROCESS, serving=PATIENT)
    export = samples.export(store, tiny.format).model_copy(
        update={"runtime": tiny.runtime, "files": put_tree(store, tiny.folder), "root": tiny.root, "versions": {}}
    )
    exact = samples.parity_report(store).outputs[0].model_copy(update={"tolerance": Tolerance(1e-6, 1e-6)})
    parity = samples.parity_report(
        store,
        tiny.format,
        golden=put_file(store, write_golden(folder / "golden.npz")),
        export_digest=export.files.digest,
        outputs=tuple(exact.model_copy(update={"name": tensor.name}) for tensor in SIGNATURE.outputs),
    )
    artifact = samples.artifact(store, signature=SIGNATURE)
    image = build(spec, artifact, export, parity, store, engine, Settings.from_environment())
    host = Host.this()
    kind = instance_type("c7a.large")
    # A type whose only processor is this host's: what is emulated is said by the tests that emulate.
    here = kind.cpus[0].model_copy(update={"features": tuple(sorted(host.features))})
    kind = kind.model_copy(update={"name": "test-type", "cpus": (here,), "vcpus": 1, "memory_bytes": 1024 * MIB})
    return Bench(spec, image, parity, store, engine, kind, host, folder / "work")
