"""The packages that are smoked, each made by the image stage itself, and images of them with one thing wrong.

In: a folder, an engine. Out: a `Bench` per package, made when first asked for, and spoiled images of it. A bad image is
a good one with one more layer: a `sitecustomize.py`, which Python runs before the server and which replaces what the
server is about to import; files that are laid over; files that are gone. Nothing of the harness is replaced, and every
failure happens for real, in a real container.
"""

from __future__ import annotations

import tempfile
import textwrap
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from unittest import mock

from serving.contract import Tolerance
from tasks.contracts import Image
from tasks.image import Engine, build
from tasks.image.context import Context
from tasks.pipeline import Pipeline
from tasks.settings import Settings
from tasks.smoke.catalogue import InstanceType, instance_type
from tasks.smoke.host import Host
from tasks.store import LocalStore, put_file, put_tree
from tests import samples
from tests.integration.smoke.bench import MIB, PATIENT, Bench
from tests.integration.tiny import PREPROCESS, SIGNATURE, TinyModel, TinyModels, write_eight_bits, write_golden

#: Where Python finds it before anything else: the folder of the server's own code.
_BEFORE_THE_SERVER = "opt/serving/sitecustomize.py"
#: Before the name of a file that the layers below have and this one takes away (OCI image-spec, layer.md, Whiteouts).
_WHITEOUT = ".wh."


class Packages:
    """Packages by what they are of; `close` removes their images, and those that were spoiled, from the engine."""

    def __init__(self, folder: Path, engine: Engine, tiny: Callable[[str], TinyModel] | None = None) -> None:
        self._folder, self._engine = folder, engine
        self._tiny = tiny or TinyModels(_made(folder / "tiny")).of
        # A name of its own, so that two runs do not remove each other's images.
        self._name = f"smoke-test-{uuid.uuid4().hex[:8]}"
        self._benches: dict[str, Bench] = {}
        self._spoiled: list[str] = []

    def __enter__(self) -> Packages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in (*self._spoiled, *(bench.good.reference for bench in self._benches.values())):
            self._engine.remove_image(reference)

    def tiny(self, runtime: str) -> Bench:
        """The tiny model as this runtime's files."""
        return self._once(runtime, lambda folder: self._package(self._tiny(runtime), folder))

    def compiled(self, march: str, bits: int) -> Bench:
        """The tiny model compiled by torch for that level, with vectors of so many bits; its `needs` are not recorded,
        as in a package that another tool wrote."""

        def make(folder: Path) -> Bench:
            return self._package(_Compiled("torch", _compile(self._tiny("torch").path, march, bits, folder)), folder)

        return self._once(f"{march}-{bits}", make)

    def eight_bits(self) -> Bench:
        """The tiny model as another tool may quantise it: exact with VNNI, and saturating without."""

        def make(folder: Path) -> Bench:
            write_eight_bits(_made(folder / "files"))
            return self._package(_EightBits("onnx", folder / "files"), folder)

        return self._once("eight-bits", make)

    def trained(self, model: str, format: str = "onnx") -> Bench:
        """A model of `tests.trained`, taken through every stage up to the image."""
        return self._once(f"{model}-{format}", lambda folder: self._pipeline(model, format, folder))

    def spoiled(
        self,
        bench: Bench,
        code: str = "",
        files: Mapping[str, bytes] | None = None,
        gone: Sequence[str] = (),
    ) -> Image:
        """The good image with `code` run before the server; `files` are laid over it, `gone` are not there."""
        below = self._engine.find_image(bench.good.digest)
        assert below is not None
        tag = f"{bench.good.reference}-{uuid.uuid4().hex[:8]}"
        content = {_BEFORE_THE_SERVER: textwrap.dedent(code).encode()} if code else {}
        absent = (Path(path) for path in gone)
        content |= {path.with_name(f"{_WHITEOUT}{path.name}").as_posix(): b"" for path in absent}
        with tempfile.TemporaryFile() as stream:
            layer = Context(stream)
            for path, data in (content | dict(files or {})).items():
                layer.add_bytes(path, data)
            made = self._engine.add_layer(below, layer.finish(), tag, {})
        self._spoiled.append(tag)
        return bench.good.model_copy(update={"reference": tag, "digest": made.id})

    def _once(self, name: str, make: Callable[[Path], Bench]) -> Bench:
        if name not in self._benches:
            self._benches[name] = make(_made(self._folder / name))
        return self._benches[name]

    def _package(self, tiny: TinyModel, folder: Path) -> Bench:
        store = LocalStore(folder / "store")
        signature = {"inputs": SIGNATURE.inputs, "outputs": SIGNATURE.outputs, "dynamic": SIGNATURE.dynamic}
        spec = samples.spec(folder, name=self._name, **signature, preprocess=PREPROCESS, serving=PATIENT)
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
        image = build(spec, artifact, export, parity, store, self._engine, Settings.from_environment())
        return Bench(spec, image, parity, store, self._engine, this_processor(), Host.this(), folder / "work")

    def _pipeline(self, model: str, format: str, folder: Path) -> Bench:
        from tests import trained  # and with it scikit-learn, Pillow and tokenizers

        described = trained.MODELS[model](_made(folder / "model")).spec()
        spec = described.model_copy(update={"name": f"{self._name}-{model.replace('_', '-')}"})
        pipeline = Pipeline(Settings.from_environment({"SLIPWAY_HOME": str(folder / "home")}))
        artifact = pipeline.ingest(spec).result
        exported = pipeline.export(spec, artifact, format).result
        assert exported.export is not None, exported.findings
        parity = pipeline.parity(spec, artifact, exported.export).result
        image = pipeline.image(spec, artifact, exported.export, parity).result
        store = LocalStore(Path(pipeline.settings.store_uri))
        return Bench(spec, image, parity, store, self._engine, this_processor(), Host.this(), folder / "work")


def this_processor() -> InstanceType:
    """A small type whose only processor is this host's: nothing is emulated."""
    kind = instance_type("c7a.large")
    here = kind.cpus[0].model_copy(update={"features": tuple(sorted(Host.this().features))})
    return kind.model_copy(update={"name": "test-type", "cpus": (here,), "vcpus": 1, "memory_bytes": 1024 * MIB})


class _Compiled(TinyModel):
    """The tiny model compiled by torch: a folder, of another format of the same runtime."""

    format, root = "torch-aoti", "."


class _EightBits(TinyModel):
    """The tiny model with weights of eight bits."""

    format = "onnx-int8"


def _compile(archive: Path, march: str, bits: int, folder: Path) -> Path:
    import torch

    from tasks.export import torch_to_aoti
    from tasks.export.conversion import Source

    target = {"x86_64": {"cpp.march": march, "cpp.simdlen": bits}}
    source = Source(SimpleNamespace(native=torch.export.load(archive)), archive)  # type: ignore[arg-type]
    with mock.patch.object(torch_to_aoti, "_PORTABLE", target):
        needs = torch_to_aoti.export(source, SIGNATURE, _made(folder / "files")).needs
    assert ("avx512f" in needs) == (bits == 512)
    return folder / "files"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
