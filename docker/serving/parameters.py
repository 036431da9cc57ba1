"""The protocol's `parameters`: what the server does with those that it knows, and which it gives back.

Parameters stand at a request, at an input and at a requested output; a value is a string, a number or a boolean. The
binary tensor extension's are `serving.protocol`'s. Of Triton's other extensions:

    timeout                      microseconds until the client no longer waits (schedule policy): a deadline
    priority                     taken and without effect: there is one queue
    sequence_id, sequence_start, sequence_end, classification, shared_memory_…
                                 refused, because an answer without them would not be what was asked for

All others are the client's own: the response carries the request's, each output its own.
Specification: "Inference Request JSON Object" of the Open Inference Protocol, and Triton's `extension_*.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from serving.tensors import BadRequest, show

Parameters: TypeAlias = dict[str, str | int | float | bool]

#: Meant for a server, never given back: the binary extension's, and what Triton's extensions reserve.
_RESERVED = frozenset(
    {"binary_data", "binary_data_output", "binary_data_size", "headers", "priority", "timeout"}
    | {"sequence_id", "sequence_start", "sequence_end", "classification"}
)
_RESERVED_PREFIXES = ("triton_", "shared_memory_")
#: As long as a deadline can sensibly be: what is beyond it is none. A day, in microseconds.
_LONGEST_TIMEOUT_US = 86_400_000_000


def read_parameters(holder: Mapping[str, Any], what: str) -> Parameters:
    """The parameters of a request, an input or a requested output.

    Raises:
        BadRequest
    """
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{what}: parameters must be an object, found {show(parameters)}")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):  # a boolean is an int
            expected = "must be a string, a number or a boolean"
            raise BadRequest(f"{what}: the parameter {show(name)} {expected}, found {show(value)}")
        if name.startswith("shared_memory_"):
            raise BadRequest(f"{what}: tensors in shared memory are not read; send the data in the request")
    return parameters


def own(parameters: Parameters) -> Parameters:
    """Those that are the client's own, to be given back."""
    if not parameters or parameters.keys() <= _RESERVED:
        return {}
    return {
        name: value
        for name, value in parameters.items()
        if name not in _RESERVED and not name.startswith(_RESERVED_PREFIXES)
    }


def timeout_s(parameters: Parameters) -> float | None:
    """How long the client waits, in seconds; None where it does not say. As Triton has it, 0 is no timeout.

    Raises:
        BadRequest
    """
    given = _whole(parameters, "timeout", "a whole number of microseconds")
    return given / 1e6 if 0 < given <= _LONGEST_TIMEOUT_US else None


def check_request_parameters(parameters: Parameters) -> None:
    """Refuse what asks for another answer than this server can give.

    Raises:
        BadRequest
    """
    if not parameters:
        return
    if any(parameters.get(name) for name in ("sequence_id", "sequence_start", "sequence_end")):
        raise BadRequest("the model keeps nothing from one request to the next: leave the sequence parameters out")
    _whole(parameters, "priority", "a whole number from 0")


def check_output_parameters(parameters: Parameters, output: str) -> None:
    """Refuse what asks for another tensor than the model gives.

    Raises:
        BadRequest
    """
    if parameters.get("classification"):
        raise BadRequest(
            f"output {output!r}: classifications are not made here; ask for the output and take its largest values"
        )


def _whole(parameters: Parameters, name: str, expected: str) -> int:
    """A parameter that counts something, 0 where it is not there. JSON does not tell 1 from 1.0."""
    given = parameters.get(name, 0)
    if isinstance(given, bool | str) or given < 0 or given % 1:
        raise BadRequest(f"{name} must be {expected}, found {show(given)}")
    return int(given)
