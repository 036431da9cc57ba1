"""An inference request, whichever way it came: what it asks for, checked against what clients are to send.

HTTP (`serving.protocol`) and gRPC (`serving.rpc`) bring their message into the form of the protocol's JSON object, and
say how a tensor's data is read; everything else about a request is decided here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from serving.contract import DType, EncodedImages, Signature, TensorSpec
from serving.parameters import (
    Parameters,
    check_output_parameters,
    check_request_parameters,
    own,
    read_parameters,
    timeout_s,
)
from serving.tensors import BadRequest, check_dynamic, check_header, show

#: Generous size of one JSON number with its separators, for the limit on requests; of one string, in bytes.
_JSON_NUMBER_BYTES = 32
_STRING_BYTES = 1 << 16
_ENVELOPE_BYTES = 1 << 16

#: Reads one input's data: its spec, its shape, its entry in the request and the entry's parameters.
Decode: TypeAlias = Callable[[TensorSpec, tuple[int, ...], Mapping[str, Any], Parameters], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits the contract. `outputs` says, in the order asked for, which are wanted as binary.

    `parameters` and `output_parameters` (by output) are the client's own, which the response gives back. `timeout_s`
    is how long the client waits, in seconds.
    """

    id: str | None
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool]
    parameters: Parameters = field(default_factory=dict)
    output_parameters: dict[str, Parameters] = field(default_factory=dict)
    timeout_s: float | None = None


def read_request(content: object, raw: Signature, decode: Decode) -> InferRequest:
    """Validate a whole inference request (the protocol's "Inference Request JSON Object") and decode its inputs.

    Raises:
        BadRequest: with the sentence for the client.
    """
    if not isinstance(content, dict):
        raise BadRequest(f"the request must be a JSON object, found {show(content)}")
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest(f"id must be a string, found {show(identity)}")
    parameters = read_parameters(content, "the request")
    check_request_parameters(parameters)
    wanted, output_parameters = _wanted(content, parameters, raw)
    timeout = timeout_s(parameters)
    entries = _entries(content, raw)
    shapes = {
        spec.name: check_header(spec, entries[spec.name].get("datatype"), entries[spec.name].get("shape"))
        for spec in raw.inputs
    }
    check_dynamic(raw, shapes)
    specs = {spec.name: spec for spec in raw.inputs}
    inputs = {
        name: decode(specs[name], shapes[name], entry, read_parameters(entry, f"input {name!r}"))
        for name, entry in entries.items()
    }
    return InferRequest(identity, inputs, wanted, own(parameters), output_parameters, timeout)


def largest_request_bytes(raw: Signature) -> int | None:
    """How long a request may sensibly be; `None` when a dimension has no upper end."""
    total = _ENVELOPE_BYTES
    for spec in raw.inputs:
        count = 1
        for size in spec.shape:
            if isinstance(size, str) and size not in raw.dynamic:
                return None
            count *= raw.dynamic[size].max if isinstance(size, str) else size
        total += count * _element_bytes(spec)
    return total


def _element_bytes(spec: TensorSpec) -> int:
    if isinstance(spec, EncodedImages):
        return spec.max_bytes * 4 // 3 + _JSON_NUMBER_BYTES  # base64 writes three bytes as four letters
    return _STRING_BYTES if spec.dtype is DType.STRING else _JSON_NUMBER_BYTES


def _entries(content: dict[str, Any], raw: Signature) -> dict[str, dict[str, Any]]:
    """The request's inputs by name, each of the signature's exactly once."""
    inputs = content.get("inputs")
    names = ", ".join(spec.name for spec in raw.inputs)
    if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
        raise BadRequest(f"inputs must be a list of tensors ({names}), found {show(inputs)}")
    entries: dict[str, dict[str, Any]] = {}
    expected = {spec.name for spec in raw.inputs}
    for entry in inputs:
        name = entry.get("name")
        if not isinstance(name, str) or name not in expected:
            raise BadRequest(f"there is no input {show(name)}; the inputs are {names}")
        if name in entries:
            raise BadRequest(f"input {name!r} is there twice")
        entries[name] = entry
    if missing := [spec.name for spec in raw.inputs if spec.name not in entries]:
        raise BadRequest(f"expected the inputs {names}; {', '.join(missing)} is missing")
    return entries


def _wanted(
    content: dict[str, Any], parameters: Parameters, raw: Signature
) -> tuple[dict[str, bool], dict[str, Parameters]]:
    """Which outputs to answer with, each with whether as binary; and the parameters to give back with them."""
    default = parameters.get("binary_data_output", False)
    if not isinstance(default, bool):
        raise BadRequest(f"binary_data_output must be true or false, found {show(default)}")
    names = [spec.name for spec in raw.outputs]
    outputs = content.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(names, default), {}
    if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
        raise BadRequest(f"outputs must be a list of objects with a name, found {show(outputs)}")
    wanted: dict[str, bool] = {}
    given: dict[str, Parameters] = {}
    for entry in outputs:
        name = entry.get("name")
        if name not in names:
            raise BadRequest(f"there is no output {show(name)}; the outputs are {', '.join(names)}")
        if name in wanted:
            raise BadRequest(f"output {name!r} is asked for twice")
        asked = read_parameters(entry, f"output {name!r}")
        check_output_parameters(asked, name)
        binary = asked.get("binary_data", default)
        if not isinstance(binary, bool):
            raise BadRequest(f"output {name!r}: binary_data must be true or false, found {show(binary)}")
        wanted[name] = binary
        if kept := own(asked):
            given[name] = kept
    return wanted, given
