"""The image itself: how large it is, how soon it answers, and what a new model costs.

Peers are not built into images: their installed size on Slipway's own base image is beside ours, and the start of their
process beside the start of our container, which favours them by what `docker run` takes.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tarfile
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import PEERS, SLIPWAY, Candidate, served, until_right
from benchmarks.serving.figures import Figure, NotMeasured
from benchmarks.serving.load import percentile
from benchmarks.serving.machine import all_cores
from benchmarks.serving.models import Model, mlp, tolerance, write_golden
from tasks.contracts import Export, FileTree, Image, OutputComparison, ParityReport, Verdict
from tasks.image import RUNTIMES, ContainerSpec, Engine, build, connect, ensure_runtime, running
from tasks.image.runtimes import base_image
from tasks.spec import ModelSpec
from tasks.store import LocalStore, put_file
from tests import samples

_COMPONENT = "bench-serving"
_UNPACKED_AIM_MB, _COMPRESSED_AIM_MB = 160.0, 60.0
_START_AIM_S = 1.0
_REBUILD_AIM_S = 2.0
#: gzip's own default, which registries' clients push with.
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes on disk and on the way through a network."""

    unpacked: int
    compressed: int

    def __add__(self, other: Size) -> Size:
        return Size(self.unpacked + other.unpacked, self.compressed + other.compressed)

    def __str__(self) -> str:
        return f"{self.unpacked / 1e6:.0f} / {self.compressed / 1e6:.0f} MB"


def size(bench: Bench) -> list[Figure]:
    """The ONNX image without a model, unpacked and compressed."""
    engine = connect()
    runtime, base = ensure_runtime("onnx", engine, bench.settings), base_image(engine)
    ours, below = (_image_size(engine, image) for image in (runtime, base.id))
    peers: dict[str, str] = {}
    values = {"Slipway unpacked_bytes": float(ours.unpacked), "Slipway compressed_bytes": float(ours.compressed)}
    for peer in PEERS:
        bench.console.print(f"  {peer.title} …", style="dim")
        try:
            whole = below + _installed_size(bench.home.environment_of(peer.lock))
        except NotMeasured as error:
            peers[peer.title] = f"not measured: {error}"
            continue
        peers[peer.title] = f"{whole} ({whole.unpacked / ours.unpacked:.1f} ×)"
        values |= {f"{peer.title} unpacked_bytes": whole.unpacked, f"{peer.title} compressed_bytes": whole.compressed}
    return [
        Figure(
            "onnx image without model, unpacked / compressed",
            f"≤ {_UNPACKED_AIM_MB:.0f} / {_COMPRESSED_AIM_MB:.0f} MB",
            str(ours),
            ours.unpacked <= _UNPACKED_AIM_MB * 1e6 and ours.compressed <= _COMPRESSED_AIM_MB * 1e6,
            peers,
            f"unpacked as the engine says, compressed as gzip -{_LEVEL} of each layer of `docker save`; peers: their "
            f"environment as installed, with bytecode, laid on Slipway's own base image ({below}), which is smaller "
            "than the Debian images that they are usually built on",
            values,
        )
    ]


def _image_size(engine: Engine, image: str) -> Size:
    found = engine.find_image(image)
    if found is None:
        raise NotMeasured(f"the image {image} is gone")
    process = subprocess.Popen(["docker", "save", found.id], stdout=subprocess.PIPE)
    compressed = 0
    with _output(process) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            layer = archive.extractfile(entry) if entry.name.endswith("layer.tar") else None
            if layer is None and entry.name.startswith("blobs/"):  # newer engines write OCI layouts
                layer = archive.extractfile(entry) if entry.size > 1 << 16 else None
            if layer is not None:
                compressed += _compressed(layer)
    if process.wait():
        raise NotMeasured(f"`docker save {found.id}` failed")
    return Size(found.size_bytes, compressed)


def _installed_size(environment: Path) -> Size:
    """What pip installed, without the environment's own links to a Python."""
    packages = environment / "lib" / "python3.11" / "site-packages"
    unpacked = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    process = subprocess.Popen(["tar", "--create", "--directory", str(packages), "."], stdout=subprocess.PIPE)
    with _output(process) as stream:
        compressed = _compressed(stream)
    if process.wait():
        raise NotMeasured(f"tar could not read {packages}")
    return Size(unpacked, compressed)


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise TypeError("the process was started without a pipe")
    return process.stdout


def _compressed(stream: IO[bytes]) -> int:
    gzip, length = zlib.compressobj(_LEVEL, wbits=31), 0
    while piece := stream.read(1 << 20):
        length += len(gzip.compress(piece))
    return length + len(gzip.flush())


def cold_start(bench: Bench) -> list[Figure]:
    """From before `docker run` to the first right answer; peers from the start of their process."""
    model = mlp(bench.home.models)
    peers: dict[str, str] = {}
    values: dict[str, float] = {}
    with _Images(bench) as images:
        times = _container_starts(bench, images.engine, images.build(model).reference, model)
    ours = percentile(times, 0.95)
    values |= {"Slipway p95_s": ours, "Slipway p50_s": statistics.median(times)}
    for candidate in (SLIPWAY, *PEERS):
        title = f"{candidate.title}, process alone" if candidate.is_ours else candidate.title
        bench.console.print(f"  {title} …", style="dim")
        try:
            took = _process_starts(bench, candidate, model)
        except NotMeasured as error:
            peers[title] = f"not measured: {error}"
            continue
        p95 = percentile(took, 0.95)
        peers[title] = f"{p95:.2f} s" + ("" if candidate.is_ours else f" ({p95 / ours:.1f} ×)")
        values |= {f"{title} p95_s": p95, f"{title} p50_s": statistics.median(took)}
    return [
        Figure(
            f"`docker run` → first correct answer, p95 of {bench.starts}",
            f"≤ {_START_AIM_S:.1f} s",
            f"{ours:.2f} s (median {statistics.median(times):.2f} s)",
            ours <= _START_AIM_S,
            peers,
            "Slipway: the container as smoke starts it (read-only, no capabilities), all cores; peers: from the start "
            "of their process, since no image is built of them",
            values,
        )
    ]


def _container_starts(bench: Bench, engine: Engine, image: str, model: Model) -> list[float]:
    rows = model.rows(1)
    wire, expected = SLIPWAY.wires[0], model.answers(rows)
    raw = wire.encode(model, rows).raw.replace(b"/models/mlp/", b"/models/" + _COMPONENT.encode() + b"/")
    spec = ContainerSpec(image, f"{_COMPONENT}-start", _COMPONENT, network="bridge", ports=(8000,))
    times = []
    for _ in range(bench.starts):
        began = time.monotonic()
        with running(engine, spec) as container:
            port = engine.host_port(container, 8000)
            until_right(
                lambda: engine.state(container).running, port, raw, lambda answer: wire.is_right(answer, expected)
            )
            times.append(time.monotonic() - began)
    return times


def _process_starts(bench: Bench, candidate: Candidate, model: Model) -> list[float]:
    times = []
    for turn in range(bench.starts + 1):
        with served(candidate, bench.home, model, all_cores()) as server:
            if turn:  # the first start reads files that the others find in memory, and may write caches
                times.append(server.started_s)
    return times


def rebuild(bench: Bench) -> list[Figure]:
    """An image of a new model on a runtime image that is there."""
    with _Images(bench) as images:
        images.build(mlp(bench.home.models, seed=0))
        models = [mlp(bench.home.models, seed=1 + turn) for turn in range(5)]
        times = [_timed(partial(images.build, model)) for model in models]
    took = statistics.median(times)
    return [
        Figure(
            "rebuild of an image when only the model changed",
            f"≤ {_REBUILD_AIM_S:.0f} s",
            f"{took:.2f} s (slowest {max(times):.2f} s)",
            took <= _REBUILD_AIM_S,
            {},
            f"the image stage itself, the median of {len(times)} models that it has not seen",
            {"Slipway p50_s": took, "Slipway slowest_s": max(times)},
        )
    ]


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


class _Images:
    """Builds images through the image stage, and removes them at the end."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._folder = bench.home.folder / "work" / f"images-{uuid.uuid4().hex[:8]}"
        self.engine = connect()

    def __enter__(self) -> _Images:
        self.engine.sweep(_COMPONENT)
        self._remove_images()  # one that a killed run left would be found, not built
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_images()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_images(self) -> None:
        for image in self.engine.images(f"org.opencontainers.image.title={_COMPONENT}"):
            for tag in image.tags:
                self.engine.remove_image(tag)

    def build(self, model: Model) -> Image:
        """Through ingest's, export's and parity's contracts, written by hand."""
        store = LocalStore(self._folder / "store")
        file = put_file(store, model.path, "model.onnx")
        spec = _spec(self._folder, model)
        export = Export(
            format="onnx",
            runtime="onnx",
            files=FileTree(files=(file,)),
            root="model.onnx",
            exporter="by hand",
            versions=RUNTIMES["onnx"].versions,
        )
        compared = OutputComparison(
            name="y", compared_values=1, max_abs_diff=0, max_rel_diff=0, worst_margin=0, tolerance=tolerance()
        )
        parity = ParityReport(
            verdict=Verdict.PASSED,
            format="onnx",
            export_digest=export.files.digest,
            batch_sizes=(1,),
            outputs=(compared,),
            golden=put_file(store, write_golden(model, self._folder / "golden.npz")),
        )
        artifact = samples.artifact(store).model_copy(update={"signature": model.signature})
        return build(spec, artifact, export, parity, store, self.engine, self._bench.settings)


def _spec(folder: Path, model: Model) -> ModelSpec:
    signature = model.signature
    return samples.spec(
        folder, name=_COMPONENT, inputs=signature.inputs, outputs=signature.outputs, dynamic=signature.dynamic
    )
