"""A good image, made by the image stage itself, and a way to spoil it.

A bad image is the good one with a `sitecustomize.py`, which Python runs before the server: it replaces what the server
is about to import. Nothing of the harness is replaced, and every failure happens for real, in a real container.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import FileTree, Image
from tasks.image import build, connect
from tasks.image.context import Context
from tasks.settings import Settings
from tasks.smoke.catalogue import instance_type
from tasks.smoke.instruction_set import Host
from tasks.smoke.run import COMPONENT
from tasks.store import LocalStore, put_file
from tests import samples
from tests.integration.smoke.bench import MIB, PATIENT, Bench, Spoil


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """y = x W, exported to ONNX, packaged by the image stage; removed from the engine at the end."""
    folder = tmp_path_factory.mktemp("smoke")
    store = LocalStore(folder / "store")
    weights = np.asarray([[1, -2], [3, 4], [-5, 6], [7, 8]], np.float32)
    model, golden = _write_model(folder / "model.onnx", weights), _write_golden(folder / "golden.npz", weights)
    export = samples.export(store).model_copy(
        update={"files": FileTree(files=(put_file(store, model),)), "root": "model.onnx", "versions": {}}
    )
    parity = samples.parity_report(store, golden=put_file(store, golden), export_digest=export.files.digest)
    # Its own name, so that two runs of this suite do not remove each other's image.
    spec = samples.spec(folder, name=f"smoke-test-{uuid.uuid4().hex[:8]}", serving=PATIENT)
    engine = connect()
    image = build(spec, samples.artifact(store), export, parity, store, engine, Settings.from_environment())
    host = Host.this()
    kind = instance_type("c7a.large")
    # A type whose only processor is this host's: what is emulated is said by the tests that emulate.
    here = kind.cpus[0].model_copy(update={"features": tuple(sorted(host.features))})
    kind = kind.model_copy(update={"name": "test-type", "cpus": (here,), "vcpus": 1, "memory_bytes": 512 * MIB})
    try:
        yield Bench(spec, image, parity, store, engine, kind, host, folder / "work")
    finally:
        engine.remove_image(image.reference)


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


def _write_model(path: Path, weights: np.ndarray[Any, Any]) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def _write_golden(path: Path, weights: np.ndarray[Any, Any]) -> Path:
    pixels = np.random.default_rng(7).integers(-9, 9, (12, 4)).astype(np.float32)
    np.savez(path, **{"input/pixels": pixels, "output/logits": pixels @ weights})  # type: ignore[arg-type]
    return path
