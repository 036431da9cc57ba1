"""One image per runtime, shared by every model that it serves: base → libraries → extras → server.

Each is tagged by the digest of what it follows from, so an image that is there need not be built, and a change of the
server alone builds one thin layer:

    slipway/runtime-onnx:libraries-<digest12>    base image, lock, Dockerfile, trim lists
    slipway/runtime-onnx:image-<digest12>        the above, and the libraries of the extra `image`
    slipway/runtime-onnx:<digest12>              either of them, and the serving package

Extras are libraries that only some models' preprocessing needs (`EXTRAS`): a layer of their own each, that only those
images have.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
#: What the locks' wheels and the base image are for.
PYTHON = "3.11"
_EXTRA_DOCKERFILE = _DOCKER / "runtimes" / "extras" / "Dockerfile"
_INSTALLED_AT = "/opt/runtime"
_SERVING_AT = "/opt/serving/serving"


@dataclass(frozen=True, slots=True)
class Platform:
    """A processor architecture by its names: Debian's and Docker's, `uname -m`, and uv's for wheels where they are not
    this machine's own."""

    architecture: str
    machine: str
    wheels: str | None = None


#: What images are built for.
SERVED = Platform("amd64", "x86_64")
#: What else they can be made for, to be tried under emulation (`tasks.image.variant`). Debian 12 has glibc 2.36.
OTHERS = {"arm64": Platform("arm64", "aarch64", "aarch64-manylinux_2_28")}


@dataclass(frozen=True, slots=True)
class Libraries:
    """Locked libraries of a layer. `decisive` are the distributions whose versions decide a model's answers: they are
    written into each contract, and a container that has others refuses to start."""

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


@dataclass(frozen=True, slots=True)
class Runtime(Libraries):
    """What serves a format. `keeps_sources`: its libraries read their own source code, bytecode alone does not do.
    `others`: architectures besides `SERVED` for which its lock has every wheel."""

    keeps_sources: bool = False
    others: tuple[str, ...] = ()


#: Runtime → its recipe. Adding one is a folder in docker/runtimes, a module in serving.runners, and a line here.
RUNTIMES = {
    "onnx": Runtime("onnx", _DOCKER / "runtimes" / "onnx", ("onnxruntime", "numpy"), others=("arm64",)),
    "tensorflow": Runtime("tensorflow", _DOCKER / "runtimes" / "tensorflow", ("tensorflow-cpu", "numpy")),
    "torch": Runtime("torch", _DOCKER / "runtimes" / "torch", ("torch", "numpy"), keeps_sources=True),
}


#: Libraries that some preprocessing needs, whatever the runtime, by the names that `serving.preprocess.extras` gives.
EXTRAS = {
    "image": Libraries("image", _DOCKER / "runtimes" / "extras" / "image", ("pillow",)),
    "text": Libraries("text", _DOCKER / "runtimes" / "extras" / "text", ("tokenizers",)),
}


def find_runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        BadInput: there is none.
    """
    if name not in RUNTIMES:
        raise BadInput(f"there is no runtime {name!r}; there are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def find_extras(names: Sequence[str]) -> tuple[Libraries, ...]:
    """The extras of those names, in the order of their layers.

    Raises:
        BadInput: there is none of a name.
    """
    if unknown := sorted(set(names) - set(EXTRAS)):
        raise BadInput(f"there are no extra libraries named {', '.join(unknown)}; there are {', '.join(EXTRAS)}")
    return tuple(extra for name, extra in EXTRAS.items() if name in names)


def ensure_runtime(
    runtime: str, engine: Engine, settings: Settings, extras: Sequence[str] = (), platform: Platform = SERVED
) -> str:
    """The id of the runtime's image with these extras, built where it is not there yet (minutes at first, nothing
    afterwards).

    Safe from several processes at once: the second waits for the first.

    Raises:
        BadInput: no such runtime, or no such extra.
        BuildFailed: base, libraries or image could not be made.
        EngineUnavailable: the engine does not answer.
    """
    return _ensure(find_runtime(runtime), find_extras(extras), engine, settings, platform).id


def _ensure(
    runtime: Runtime, extras: tuple[Libraries, ...], engine: Engine, settings: Settings, platform: Platform
) -> ImageInfo:
    base = base_image(engine, platform)
    libraries = [*_libraries_recipes(runtime, extras, base.id)]
    serving = _files_digest(_serving_files(), _DOCKER / "runtimes" / "serving.Dockerfile")
    tag = f"slipway/runtime-{runtime.name}:{_short(digest_of([libraries[-1], serving]))}"
    found = engine.find_image(tag)
    if found is not None:
        return found
    with locked(settings.home / "locks" / f"runtime-{runtime.name}.lock"):
        found = engine.find_image(tag)
        if found is not None:
            return found
        below = _ensure_libraries(runtime, base, libraries[0], engine, settings, platform)
        for extra, recipe in zip(extras, libraries[1:], strict=True):
            below = _ensure_extra(runtime, extra, below, recipe, engine, settings, platform)
        return _build(
            engine, settings, _DOCKER / "runtimes" / "serving.Dockerfile", tag, {"LIBRARIES": below.id}, add_serving
        )


def _ensure_libraries(
    runtime: Runtime, base: ImageInfo, recipe: Digest, engine: Engine, settings: Settings, platform: Platform
) -> ImageInfo:
    tag = f"slipway/runtime-{runtime.name}:libraries-{_short(recipe)}"

    def fill(context: Context, work: Path) -> None:
        add_libraries(
            context, work, runtime.lock, runtime.folder / "trim", keep_sources=runtime.keeps_sources, platform=platform
        )

    return engine.find_image(tag) or _build(
        engine, settings, runtime.folder / "Dockerfile", tag, {"BASE": base.id}, fill
    )


def _ensure_extra(
    runtime: Runtime,
    extra: Libraries,
    below: ImageInfo,
    recipe: Digest,
    engine: Engine,
    settings: Settings,
    platform: Platform,
) -> ImageInfo:
    tag = f"slipway/runtime-{runtime.name}:{extra.name}-{_short(recipe)}"

    def fill(context: Context, work: Path) -> None:
        add_libraries(context, work, extra.lock, extra.folder / "trim", platform=platform)

    return engine.find_image(tag) or _build(engine, settings, _EXTRA_DOCKERFILE, tag, {"BELOW": below.id}, fill)


def add_libraries(
    context: Context,
    work: Path,
    lock: Path,
    trim_list: Path,
    *,
    keep_sources: bool = False,
    platform: Platform = SERVED,
) -> None:
    """What a lock names, installed, trimmed and compiled, as a layer's content."""
    folder = work / "runtime"
    install(lock, folder, platform.wheels)
    trim(folder, [_DOCKER / "runtimes" / "trim", trim_list])
    compile_bytecode(folder, _INSTALLED_AT, keep_sources=keep_sources)
    context.add_tree(f"root{_INSTALLED_AT}", folder)


def add_serving(context: Context, work: Path) -> None:
    """The serving package, compiled, with its sources: what fails in it is read by people."""
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


def base_image(engine: Engine, platform: Platform = SERVED) -> ImageInfo:
    """The base image, bootstrapped by docker/base/build.sh where it is missing.

    Raises:
        BuildFailed: with the script's last lines.
    """
    command = [str(_DOCKER / "base" / "build.sh")]
    if platform != SERVED:
        command += ["--architecture", platform.architecture]
    # A python3.11 that compiles for another architecture: this one, wherever it is.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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


def _libraries_recipes(runtime: Runtime, extras: tuple[Libraries, ...], base: Digest) -> Iterator[Digest]:
    """The recipe of each layer of libraries, on that of the one below: the runtime's, then each extra's."""
    shared = (_DOCKER / "runtimes" / "trim", Path(__file__).with_name("libraries.py"))
    own = (runtime.folder / "Dockerfile", runtime.lock, runtime.folder / "trim")
    recipe = digest_of([base, _files_digest((*own, *shared)), runtime.keeps_sources])
    yield recipe
    for extra in extras:
        recipe = digest_of([recipe, _files_digest((_EXTRA_DOCKERFILE, extra.lock, extra.folder / "trim", *shared))])
        yield recipe


def _serving_files() -> list[Path]:
    return sorted((_DOCKER / "serving").rglob("*.py"))


def _files_digest(files: tuple[Path, ...] | list[Path], *more: Path) -> Digest:
    return digest_of(
        [[f"{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()] for path in (*files, *more)]
    )


def _short(digest: Digest) -> str:
    return digest.removeprefix("sha256:")[:12]
