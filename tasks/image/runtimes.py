"""One image per runtime, shared by every model that it serves: base → libraries → server.

Each is tagged by the digest of what it follows from, so an image that is there need not be built, and a change of the
server alone builds one thin layer:

    slipway/runtime-onnx:libraries-<digest12>    base image, lock, Dockerfile, trim lists
    slipway/runtime-onnx:<digest12>              the above, and the serving package
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.contracts import Digest, digest_of
from tasks.errors import BadInput, BuildFailed, EngineUnavailable
from tasks.image.context import Context
from tasks.image.engine import Engine, ImageInfo
from tasks.image.libraries import compile_bytecode, install, locked_versions, trim
from tasks.settings import Settings
from tasks.workspace import locked, scratch

_DOCKER = Path(__file__).parents[2] / "docker"
#: What the locks' wheels and the base image are for: `uname -m`, and Python's minor version.
ARCHITECTURE, PYTHON = "x86_64", "3.11"

_INSTALLED_AT = "/opt/runtime"
_SERVING_AT = "/opt/serving/serving"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What serves a format. `decisive` are the distributions whose versions decide its answers: they are written into
    each contract, and a container that has others refuses to start."""

    name: str
    folder: Path
    decisive: tuple[str, ...]

    @property
    def lock(self) -> Path:
        return self.folder / "requirements.txt"

    @property
    def versions(self) -> dict[str, str]:
        """The decisive distributions' locked versions."""
        pins = locked_versions(self.lock)
        return {name: pins[name] for name in self.decisive}


#: Runtime → its recipe. Adding one is a folder in docker/runtimes, a module in serving.runners, and a line here.
RUNTIMES = {
    "onnx": Runtime("onnx", _DOCKER / "runtimes" / "onnx", ("onnxruntime", "numpy")),
    "tensorflow": Runtime("tensorflow", _DOCKER / "runtimes" / "tensorflow", ("tensorflow-cpu", "numpy")),
    "torch": Runtime("torch", _DOCKER / "runtimes" / "torch", ("torch", "numpy")),
}


def find_runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        BadInput: there is none.
    """
    if name not in RUNTIMES:
        raise BadInput(f"there is no runtime {name!r}; there are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def ensure_runtime(runtime: str, engine: Engine, settings: Settings) -> str:
    """The id of the runtime's image, built where it is not there yet (minutes at first, nothing afterwards).

    Safe from several processes at once: the second waits for the first.

    Raises:
        BadInput: no such runtime.
        BuildFailed: base, libraries or image could not be made.
        EngineUnavailable: the engine does not answer.
    """
    return _ensure(find_runtime(runtime), engine, settings).id


def _ensure(runtime: Runtime, engine: Engine, settings: Settings) -> ImageInfo:
    base = base_image(engine)
    libraries = _libraries_recipe(runtime, base.id)
    serving = _files_digest(_serving_files(), _DOCKER / "runtimes" / "serving.Dockerfile")
    tag = f"slipway/runtime-{runtime.name}:{_short(digest_of([libraries, serving]))}"
    found = engine.find_image(tag)
    if found is not None:
        return found
    with locked(settings.home / "locks" / f"runtime-{runtime.name}.lock"):
        found = engine.find_image(tag)
        if found is not None:
            return found
        below = _ensure_libraries(runtime, base, libraries, engine, settings)
        return _build(
            engine, settings, _DOCKER / "runtimes" / "serving.Dockerfile", tag, {"LIBRARIES": below.id}, _add_serving
        )


def _ensure_libraries(
    runtime: Runtime, base: ImageInfo, recipe: Digest, engine: Engine, settings: Settings
) -> ImageInfo:
    tag = f"slipway/runtime-{runtime.name}:libraries-{_short(recipe)}"
    found = engine.find_image(tag)
    if found is not None:
        return found

    def fill(context: Context, work: Path) -> None:
        folder = work / "runtime"
        install(runtime.lock, folder)
        trim(folder, [_DOCKER / "runtimes" / "trim", runtime.folder / "trim"])
        compile_bytecode(folder, _INSTALLED_AT)
        context.add_tree(f"root{_INSTALLED_AT}", folder)

    return _build(engine, settings, runtime.folder / "Dockerfile", tag, {"BASE": base.id}, fill)


def _add_serving(context: Context, work: Path) -> None:
    folder = work / "serving"
    for path in _serving_files():
        copy = folder / path.relative_to(_DOCKER / "serving")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    compile_bytecode(folder, _SERVING_AT)
    context.add_tree(f"root{_SERVING_AT}", folder)


def _build(
    engine: Engine,
    settings: Settings,
    dockerfile: Path,
    tag: str,
    arguments: dict[str, str],
    fill: Callable[[Context, Path], None],
) -> ImageInfo:
    with scratch(settings.work) as work, tempfile.TemporaryFile(dir=work) as stream:
        context = Context(stream)
        context.add_file("Dockerfile", dockerfile)
        fill(context, work)
        return engine.build(
            context.finish(), tag, arguments, {"org.opencontainers.image.title": tag.split(":", maxsplit=1)[0]}
        )


def base_image(engine: Engine) -> ImageInfo:
    """The base image, bootstrapped by docker/base/build.sh where it is missing.

    Raises:
        BuildFailed: with the script's last lines.
    """
    done = subprocess.run([str(_DOCKER / "base" / "build.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise BuildFailed(f"the base image could not be made:\n{last}")
    reference = done.stdout.strip().splitlines()[-1]
    found = engine.find_image(reference)
    if found is None:
        raise EngineUnavailable(
            f"the docker command has the base image {reference}, the engine that Slipway talks to has not: "
            "let DOCKER_HOST and the docker context name the same engine"
        )
    return found


def _libraries_recipe(runtime: Runtime, base: Digest) -> Digest:
    files = (
        runtime.folder / "Dockerfile",
        runtime.lock,
        runtime.folder / "trim",
        _DOCKER / "runtimes" / "trim",
        Path(__file__).with_name("libraries.py"),
    )
    return digest_of([base, _files_digest(files)])


def _serving_files() -> list[Path]:
    return sorted((_DOCKER / "serving").rglob("*.py"))


def _files_digest(files: tuple[Path, ...] | list[Path], *more: Path) -> Digest:
    return digest_of(
        [[f"{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()] for path in (*files, *more)]
    )


def _short(digest: Digest) -> str:
    return digest.removeprefix("sha256:")[:12]
