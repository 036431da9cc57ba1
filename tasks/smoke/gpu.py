"""A GPU package against an instance type, by NVIDIA's and the runtimes' own tables: what can be known without the GPU.

In: the `gpu` part of the contract's needs, the versions of its runtime, and the type. Out: findings. What contradicts a
table is a failure; what agrees with all of them is still inconclusive, because nothing ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from serving.contract import GpuNeeds, ServingContract
from tasks.contracts import Finding, Owner, Verdict
from tasks.smoke.accelerators import Accelerators, Row, find_row, is_of
from tasks.smoke.findings import Evidence, mib
from tasks.smoke.gpu_memory import InstanceGroup, plan, usable_bytes
from tasks.smoke.hardware import VERSION_PATTERN, Gpu, InstanceType, numbers

_NAMES = {"cudnn": "cuDNN", "tensorrt": "TensorRT"}
_AnyRow = TypeVar("_AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class _Driver:
    """A driver that is needed, and who says so."""

    version: str
    source: str


def check_gpu(contract: ServingContract, kind: InstanceType, table: Accelerators) -> tuple[Finding, ...]:
    """Everything about GPUs that is to be said of a package on a type; nothing where neither has to do with one."""
    needs, gpu = contract.needs.gpu, kind.gpu
    if needs is None:
        return () if gpu is None else (gpu_unproven(kind.name, gpu),)
    found = [*_malformed(needs), *_skew(needs, contract.runtime_versions, table)]
    if gpu is None:
        return (*found, _absent(needs, kind))
    found += [*_driver(needs, kind.name, gpu, table), *_capability(needs, kind.name, gpu, table)]
    found += _memory(contract, needs, kind.name, gpu, table)
    return (*found, gpu_unproven(kind.name, gpu, _needed_driver(needs, table)))


# --- one finding each ---------------------------------------------------------------------------------------------


def gpu_unproven(kind: str, gpu: Gpu, needed: _Driver | None = None) -> Finding:
    """Nothing that computes on a GPU runs on this host, so nothing is concluded about it."""
    evidence: Evidence = {"gpu": gpu.model, "compute_capability": gpu.compute_capability}
    advice = "take the type out of smoke.instance_types, or run the image once on such a machine"
    if needed is not None:
        evidence["driver_needed"] = needed.version
        if not gpu.driver.guarantees(needed.version):
            advice += f", with NVIDIA's driver {needed.version} or newer"
    return Finding(
        code="SMOKE_GPU_UNPROVEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"{kind} has {gpu.count} x {gpu.model}, which smoke cannot try on this host",
        advice=advice,
        evidence=evidence,
    )


def _absent(needs: GpuNeeds, kind: InstanceType) -> Finding:
    return Finding(
        code="SMOKE_GPU_ABSENT",
        owner=Owner.PLATFORM,
        message=f"the package computes with CUDA {needs.cuda}, and {kind.name} has no GPU",
        advice="serve a format that computes on the CPU there, or take this instance type out of smoke.instance_types",
        evidence={"cuda": needs.cuda},
    )


def _malformed(needs: GpuNeeds) -> Iterator[Finding]:
    given = {"cuda": needs.cuda, "cudnn": needs.cudnn, "tensorrt": needs.tensorrt, "driver": needs.driver}
    for name, version in given.items():
        if (version or name == "cuda") and not _is_version(version):
            yield _unknown(name, version or "(none)", "it is not a version: numbers with dots between")
    for capability in needs.capabilities:
        if not _is_version(capability):
            yield _unknown("capabilities", capability, "it is not a compute capability, such as 8.6")


def _skew(needs: GpuNeeds, versions: Mapping[str, str], table: Accelerators) -> Iterator[Finding]:
    """Libraries of one image that are not made for each other."""
    if not _is_version(needs.cuda):
        return
    if find_row(table.cuda, needs.cuda) is None:
        yield _unknown("CUDA", needs.cuda, "no row of the table is for it")
        return
    for name, version in (("cudnn", needs.cudnn), ("tensorrt", needs.tensorrt)):
        if not _is_version(version):
            continue
        library = find_row(table.libraries[name], version)
        if library is None:
            yield _unknown(name, version, "no row of the table is for it")
        elif not any(is_of(needs.cuda, series) for series in library.cuda):
            yield _skewed(
                f"{_NAMES[name]} {version}", " or ".join(f"CUDA {one}" for one in library.cuda), needs, library
            )
    for name, rows in table.runtimes.items():
        version = versions.get(name, "").partition("+")[0]  # torch's wheels say their CUDA after a plus sign
        if not version:
            continue
        runtime = find_row(rows, version) if _is_version(version) else None
        if runtime is None:
            yield _unknown(name, version, "no row of the table is for it")
        elif not any(
            is_of(needs.cuda, build.cuda) and _is_version(needs.cudnn) and is_of(needs.cudnn, build.cudnn)
            for build in runtime.builds
        ):
            builds = " or ".join(f"CUDA {build.cuda} with cuDNN {build.cudnn}" for build in runtime.builds)
            yield _skewed(f"{name} {version}", builds, needs, runtime)


def _skewed(what: str, made_for: str, needs: GpuNeeds, row: Row) -> Finding:
    held = f"CUDA {needs.cuda} " + (f"with cuDNN {needs.cudnn}" if needs.cudnn else "without cuDNN")
    return Finding(
        code="SMOKE_GPU_CUDA_SKEW",
        owner=Owner.PLATFORM,
        message=f"{what} is made for {made_for}, and the package has {held}",
        advice="build the image with versions that are made for each other: symbols are missing otherwise, at the "
        "start or at the first request",
        evidence={
            "library": what,
            "made_for": made_for,
            "cuda": needs.cuda,
            "cudnn": needs.cudnn,
            "source": _said(row),
        },
    )


def _driver(needs: GpuNeeds, kind: str, gpu: Gpu, table: Accelerators) -> Iterator[Finding]:
    needed = _needed_driver(needs, table)
    if needed is None or gpu.driver.allows(needed.version):
        return
    yield Finding(
        code="SMOKE_GPU_DRIVER_TOO_OLD",
        owner=Owner.PLATFORM,
        message=f"CUDA {needs.cuda} needs NVIDIA's driver {needed.version} or newer, and the newest that {kind} "
        f"({gpu.model}) can have is {gpu.driver.max}",
        advice="build the image with an older CUDA, update the nodes' driver where the GPU allows it, or take this "
        "instance type out of smoke.instance_types",
        evidence={
            "cuda": needs.cuda,
            "driver_needed": needed.version,
            "newest_driver": gpu.driver.max or "",
            "source": needed.source,
        },
    )


def _needed_driver(needs: GpuNeeds, table: Accelerators) -> _Driver | None:
    """The oldest driver that will do: the table's for this CUDA, or the contract's where that is newer."""
    row = _row(table.cuda, needs.cuda)
    if row is None:
        return None
    if _is_version(needs.driver) and numbers(needs.driver) > numbers(row.driver):
        return _Driver(needs.driver, "the package's contract")
    return _Driver(row.driver, _said(row))


def _capability(needs: GpuNeeds, kind: str, gpu: Gpu, table: Accelerators) -> Iterator[Finding]:
    """Each part of the package that has no code for this GPU."""
    here = numbers(gpu.compute_capability)
    cuda = _row(table.cuda, needs.cuda)
    if cuda is not None:
        oldest, newest = cuda.capabilities
        # Code for one capability runs on later ones of the same major number, never on another major number (CUDA C++
        # Programming Guide, Binary Compatibility).
        if here < numbers(oldest) or here[0] > numbers(newest)[0]:
            yield _incapable(f"CUDA {needs.cuda}", f"{oldest} to {newest}", kind, gpu, _said(cuda))
    for name, version in (("cudnn", needs.cudnn), ("tensorrt", needs.tensorrt)):
        library = _row(table.libraries[name], version)
        if library is not None and here < numbers(library.least_capability):
            what = f"{_NAMES[name]} {version}"
            yield _incapable(what, f"{library.least_capability} and newer", kind, gpu, _said(library))
    compiled = [one for one in needs.capabilities if _is_version(one)]
    if compiled and not any(_runs(numbers(one), here, exactly=bool(needs.tensorrt)) for one in compiled):
        yield _incapable("the model's compiled code", " and ".join(compiled), kind, gpu, "the package's contract")


def _runs(compiled: tuple[int, ...], here: tuple[int, ...], *, exactly: bool) -> bool:
    """Whether code for one capability runs on another. TensorRT's engines run on exactly the one that built them
    (TensorRT support matrix, engine portability)."""
    return compiled == here if exactly else compiled[0] == here[0] and compiled <= here


def _incapable(what: str, has: str, kind: str, gpu: Gpu, source: str) -> Finding:
    return Finding(
        code="SMOKE_GPU_CAPABILITY",
        owner=Owner.PLATFORM,
        message=f"{what} has code for compute capability {has}, and {kind} ({gpu.model}) has {gpu.compute_capability}",
        advice="build the package for this GPU's compute capability, or take this instance type out of "
        "smoke.instance_types",
        evidence={"part": what, "capabilities": has, "compute_capability": gpu.compute_capability, "source": source},
    )


def _unknown(what: str, version: str, why: str) -> Finding:
    return Finding(
        code="SMOKE_GPU_VERSION_UNKNOWN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"whether {what} {version} fits is not known: {why}",
        advice="add the row, with its source, to tasks/smoke/accelerators.yaml, or correct the package's contract",
        evidence={"library": what, "version": version},
    )


def _memory(contract: ServingContract, needs: GpuNeeds, kind: str, gpu: Gpu, table: Accelerators) -> Iterator[Finding]:
    """The package's instances on one of the type's GPUs."""
    group = InstanceGroup(
        model=contract.name,
        weights_bytes=contract.needs.memory_bytes,
        workspace_bytes=max(0, needs.workspace_bytes),
        instances=max(1, needs.instances),
        shares_weights=bool(needs.tensorrt),
    )
    planned = plan([group], usable_bytes(gpu, table), table.runtime)
    evidence: Evidence = {
        "instances": group.instances,
        "weights_bytes": group.weights_bytes,
        "workspace_bytes": group.workspace_bytes,
        "usable_bytes": planned.usable_bytes,
        "least_bytes": planned.least_bytes,
        "most_bytes": planned.most_bytes,
        "source": " and ".join(source.url for source in (*table.runtime.sources, *table.inline_ecc.sources)),
    }
    most = planned.most_instances(group)
    if most is not None:
        evidence["instances_that_fit"] = most
    several = group.instances > 1
    put = f"{group.instances} instance{'s' if several else ''} of {contract.name} need{'' if several else 's'}"
    beside = "" if needs.workspace_bytes else ", activations not counted: the contract does not say them"
    room = f"{mib(planned.usable_bytes)} MiB that one {gpu.model} of {kind} has for programs{beside}"
    if planned.certainly_too_large:
        yield Finding(
            code="SMOKE_GPU_OUT_OF_MEMORY",
            owner=Owner.MODEL,
            message=f"{put} at least {mib(planned.least_bytes)} MiB, more than the {room}",
            advice="fewer instances, a smaller batch, a format of less precision, or a GPU with more memory",
            evidence=evidence,
        )
    elif not planned.fits:
        yield Finding(
            code="SMOKE_GPU_MEMORY_TIGHT",
            owner=Owner.MODEL,
            verdict=Verdict.INCONCLUSIVE,
            message=f"{put} {mib(planned.least_bytes)} to {mib(planned.most_bytes)} MiB of the {room}: it "
            "depends on what the runtime takes for itself",
            advice="fewer instances, or measure it on such a machine at the highest load",
            evidence=evidence,
        )
    else:
        yield Finding(
            code="SMOKE_GPU_MEMORY_PLANNED",
            owner=Owner.MODEL,
            verdict=Verdict.PASSED,
            message=f"{put} at most {mib(planned.most_bytes)} MiB of the {room}",
            advice="nothing to do; a plan is no measurement",
            evidence=evidence | {"headroom_bytes": planned.headroom_bytes},
        )


# --- small things -------------------------------------------------------------------------------------------------


def _is_version(text: str) -> bool:
    return re.fullmatch(VERSION_PATTERN, text) is not None


def _row(rows: tuple[_AnyRow, ...], version: str) -> _AnyRow | None:
    return find_row(rows, version) if _is_version(version) else None


def _said(row: Row) -> str:
    """A row's sources, for a finding."""
    return " and ".join(f"{source.title} ({source.url})" for source in row.sources)
