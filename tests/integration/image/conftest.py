"""Images of the tiny model, built by the image stage itself; their tags go when the session ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.contract import Tolerance
from tasks.contracts import Artifact, Export, Image, OutputComparison, ParityReport, Verdict
from tasks.image import Engine, build
from tasks.image.runtimes import RUNTIMES
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import LocalStore, put_file, put_tree
from tests import samples
from tests.integration.tiny import PREPROCESS, SIGNATURE, TinyModel, write_golden


@dataclass(frozen=True)
class Case:
    """All that the image stage is given."""

    spec: ModelSpec
    artifact: Artifact
    export: Export
    parity: ParityReport
    store: LocalStore
    engine: Engine
    settings: Settings

    def build(self) -> Image:
        return build(self.spec, self.artifact, self.export, self.parity, self.store, self.engine, self.settings)


def tolerance(name: str) -> OutputComparison:
    return OutputComparison(
        name=name,
        compared_values=1,
        max_abs_diff=0.0,
        max_rel_diff=0.0,
        worst_margin=0.0,
        tolerance=Tolerance(1e-6, 1e-6),
    )


@pytest.fixture(scope="session")
def case(
    engine: Engine, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Case]]:
    """`case(runtime)`: the tiny model, ready to be built under a name that no other run of this suite has."""
    folder = tmp_path_factory.mktemp("image")
    name = f"image-test-{uuid.uuid4().hex[:8]}"
    made: dict[str, Case] = {}

    def make(runtime: str) -> Case:
        if runtime not in made:
            made[runtime] = _case(tiny(runtime), name, folder / runtime, engine)
        return made[runtime]

    yield make
    for image in engine.images(f"org.opencontainers.image.title={name}"):
        for tag in image.tags:
            engine.remove_image(tag)


def _case(model: TinyModel, name: str, folder: Path, engine: Engine) -> Case:
    folder.mkdir()
    store = LocalStore(folder / "store")
    spec = samples.spec(
        folder,
        name=name,
        inputs=SIGNATURE.inputs,
        outputs=SIGNATURE.outputs,
        dynamic=SIGNATURE.dynamic,
        preprocess=PREPROCESS,
    )
    export = Export(
        format=model.format,
        runtime=model.runtime,
        files=put_tree(store, model.folder),
        root=model.root,
        exporter="by hand",
        versions=RUNTIMES[model.runtime].versions,
    )
    parity = ParityReport(
        verdict=Verdict.PASSED,
        format=model.format,
        export_digest=export.files.digest,
        batch_sizes=(1,),
        outputs=(tolerance("y"), tolerance("n")),
        golden=put_file(store, write_golden(folder / "golden.npz")),
    )
    artifact = samples.artifact(store).model_copy(update={"signature": SIGNATURE, "source_run": "0123abcd"})
    return Case(spec, artifact, export, parity, store, engine, Settings.from_environment())
