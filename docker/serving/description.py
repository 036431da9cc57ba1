"""A contract in words: what the model takes and gives, and what it was proven with. For people who read no JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import msgspec

from serving.contract import NanPolicy, PreprocessStep, ServingContract, TensorSpec
from serving.machine import mib


def describe(contract: ServingContract) -> str:
    """The sections one after the other, with a line break at the end."""
    head = f"{contract.name} {contract.version}, as {contract.format}"
    parts = (section(title, *lines) for title, lines in sections(contract).items())
    return "\n\n".join([head, *parts]) + "\n"


def sections(contract: ServingContract) -> dict[str, list[str]]:
    """Title → lines, in order."""
    return {
        "The model": list(_signature(contract)),
        "Sizes": list(_sizes(contract)),
        "Before the model": list(_preprocessing(contract)),
        "Proven with": list(_needs(contract)),
    }


def section(title: str, *lines: str) -> str:
    """A title with its lines below."""
    return "\n".join([title, "-" * len(title), *lines])


def _signature(contract: ServingContract) -> Iterator[str]:
    for tensor in contract.signature.inputs:
        yield f"  takes  {_tensor(tensor)}{_values(tensor)}"
    for tensor in contract.signature.outputs:
        allowed = contract.tolerances.get(tensor.name)
        within = f", within {allowed.atol:g} + {allowed.rtol:g} x |expected|" if allowed else ""
        yield f"  gives  {_tensor(tensor)}{within}"


def _tensor(tensor: TensorSpec) -> str:
    return f"{tensor.name}: {tensor.dtype.value} [{', '.join(map(str, tensor.shape))}]"


def _values(tensor: TensorSpec) -> str:
    """What is said about an input's values, where anything is."""
    said = ""
    if tensor.range is not None:
        least, most = ("any" if end is None else f"{end:g}" for end in tensor.range)
        said += f", values from {least} to {most}"
    return said + (", NaN accepted" if tensor.nan is NanPolicy.ACCEPT else "")


def _sizes(contract: ServingContract) -> Iterator[str]:
    if not contract.signature.dynamic:
        yield "  every dimension is fixed"
    for name, sizes in contract.signature.dynamic.items():
        yield f"  {name}: {sizes.min} to {sizes.max}"


def _preprocessing(contract: ServingContract) -> Iterator[str]:
    if not contract.preprocess:
        yield "  nothing: clients send what the model takes"
        return
    yield "  this is done to what clients send, in this order:"
    for step in contract.preprocess:
        yield f"  {msgspec.json.encode(_given(step)).decode()}"


def _given(step: PreprocessStep) -> dict[str, object]:
    """The step's arguments that are not left out."""
    values = {item.name: getattr(step, item.name) for item in fields(step)}
    return {name: value for name, value in values.items() if value is not None}


def _needs(contract: ServingContract) -> Iterator[str]:
    yield "  " + ", ".join(f"{name} {version}" for name, version in sorted(contract.runtime_versions.items()))
    needs = contract.needs
    if needs.architecture or needs.python:
        yield f"  {needs.architecture}, Python {needs.python}"
    if needs.instructions:
        yield f"  a processor with {', '.join(needs.instructions)}"
    if needs.memory_bytes:
        yield f"  at least {mib(needs.memory_bytes)} of memory for the weights"
    if needs.gpu is not None:
        libraries = {"CUDA": needs.gpu.cuda, "cuDNN": needs.gpu.cudnn, "TensorRT": needs.gpu.tensorrt}
        held = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
        driver = f" and driver {needs.gpu.driver} or newer" if needs.gpu.driver else ""
        yield f"  an NVIDIA GPU{driver}, with {held}"
