"""PyTorch → an AOTInductor package: C++ that torch's compiler writes for this model, compiled into a library.

The package's members lie in a folder instead of one archive, so that nothing is unpacked when a container starts;
zipped, they are the `.pt2` that `torch._inductor.aoti_load_package` opens. The C++ sources stay out: they name paths of
this machine, and nothing reads them. It needs a C++ compiler where it is made, and none where it is served. The same
bytes again are not promised.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.contract import Signature
from tasks.contracts import Owner
from tasks.errors import PlatformError
from tasks.export.compiler import COMPILER, compiler_version, find_compiler
from tasks.export.conversion import Conversion, ExportFailure, Source, reason_of
from tasks.export.instructions import extensions_of
from tasks.export.torch_capture import capture, refuse_foreign_operators
from tasks.export.torch_diagnosis import place_of_node
from tasks.export.torch_indexes import refuse_open_indexes
from tasks.export.torch_recurrent import recurrent_operators

if TYPE_CHECKING:
    import torch

#: Instruction sets of the generated code by architecture: what every x86-64 server since 2013 (Haswell) and 2015
#: (Excavator) executes. Without it the code is made for this machine's processor, and dies on an older one. Both are
#: needed: `march` is the C++ compiler's choice, `simdlen` (bits of a vector) the code generator's.
_PORTABLE: dict[str, dict[str, Any]] = {"x86_64": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256}}
_OPTIONS: dict[str, Any] = {
    "cpp.dynamic_threads": True,  # as many as the container has, not as this machine has
    "cpp.vec_isa_ok": True,  # the compiler knows these sets: no probe is compiled for each of them
    "cpp_cache_precompile_headers": False,  # pays off from the second model on, and there is one a process
    "aot_inductor.precompile_headers": False,
    "aot_inductor.enable_line_tables": False,  # debug information, with paths of this machine
}
#: What the compiler calls its files: 52 letters and digits that follow from the code.
_NAME = re.compile(r"[a-z0-9]{52}\.")


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`.

    Raises:
        PlatformError: there is no C++ compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise PlatformError(
            f"torch-aoti is compiled, and there is no C++ compiler here: install Debian's {COMPILER} (make setup does)"
        )
    program = capture(source.model.native, signature)
    refuse_foreign_operators(program)
    _refuse_open_recurrence(program)
    refuse_open_indexes(program, signature, source.made())
    with tempfile.TemporaryDirectory() as work:
        package = _compile(program, compiler, Path(work))
        _unpack(package, folder)
    (library,) = folder.rglob("*.so")
    return Conversion(
        root=".",
        exporter="torch.inductor",
        distributions=("torch",),
        programs={COMPILER: compiler_version()},
        needs=extensions_of(library),
    )


def _refuse_open_recurrence(program: torch.export.ExportedProgram) -> None:
    """The compiler takes recurrent layers apart step by step, as many as the example had, whatever it is told.

    Left whole, they become the uninitialised memory that stands for them while shapes are derived (torch 2.13).
    """
    for node in program.graph.nodes:
        if node.target not in recurrent_operators():
            continue
        sequence, batch_first = node.args[0].meta["val"], node.args[-1]
        steps = sequence.shape[1 if batch_first else 0]
        if not isinstance(steps, int) and steps.node.maybe_as_int() is None:
            place = place_of_node(node)
            raise ExportFailure(
                "EXPORT_UNSUPPORTED_OPERATOR",
                f"torch's compiler unrolls {place} over one number of steps, and the spec leaves that open",
                "serve it as onnx, savedmodel or torch-export, or give the sequence a fixed length in model.yaml",
                owner=Owner.PLATFORM,
                evidence={"operator": str(node.target).removesuffix(".input"), **place.evidence},
            )


def _compile(program: torch.export.ExportedProgram, compiler: Path, work: Path) -> Path:
    """The `.pt2` package, made below `work`, which no path in it names."""
    import torch

    options = {
        **_OPTIONS,
        **_PORTABLE.get(platform.machine(), {}),
        "cpp.cxx": (str(_without_paths(compiler, work)),),
    }
    package = work / "model.pt2"
    try:
        with torch.no_grad(), _cache_in(work):
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
    except Exception as error:  # inductor raises its own families, and whatever its lowerings raise
        raise ExportFailure(
            "EXPORT_FAILED",
            f"torch's compiler could not compile the model: {_reason(error)}",
            "the full message is kept as evidence; choose another format meanwhile",
        ) from error
    return package


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let the compiler write its sources below `folder`, and find nothing there that an earlier model left."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _without_paths(compiler: Path, work: Path) -> Path:
    """A compiler that writes `torch/…` and `./…` where sources name their own paths (`__FILE__` in messages)."""
    import torch

    maps = {Path(torch.__file__).parent: "torch", work: "."}
    flags = " ".join(f"'-ffile-prefix-map={path}={name}'" for path, name in maps.items())
    script = work / COMPILER
    script.write_text(f"#!/bin/sh\nexec '{compiler}' {flags} \"$@\"\n")
    script.chmod(0o755)
    return script


def _unpack(package: Path, folder: Path) -> None:
    """The members that a loader reads, under names that do not change with the code that was generated."""
    with zipfile.ZipFile(package) as archive:
        for member in archive.infolist():
            inside = member.filename.partition("/")[2]  # an archive has one folder, named after itself
            if member.is_dir() or inside.endswith(".cpp"):
                continue
            path = folder / _NAME.sub("model.", inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))


def _reason(error: Exception) -> str:
    """The C++ compiler's first error, where there is one."""
    found = re.search(r"error: (.+)", str(error))
    return found[1] if found else reason_of(error)
