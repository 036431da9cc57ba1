"""The OpenAPI description of one server, made from its contract: what the model takes and gives, what can go wrong.

The schema of a request is the model's own: names, datatypes, ranges of values, and shapes with exactly as many values.
JSON Schema cannot say that a list is as long as the product of another, so there is one variant for each combination of
dynamic sizes; where these are too many, for the ends of the ranges. Lists stand in the contract's order, though the
server takes any. Binary requests are described in words: JSON Schema has none for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from math import prod
from typing import Any, TypeAlias

import numpy as np

from serving.contract import DimRange, DType, EncodedImages, NanPolicy, ServingContract, Signature, TensorSpec

Schema: TypeAlias = dict[str, Any]

#: Combinations of dynamic sizes that are described one by one; with more, a description is longer than anybody reads.
_MOST_VARIANTS = 16

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "what was expected, what was found, where"}},
    "additionalProperties": False,
}
_PARAMETER: Schema = {"type": ["string", "number", "boolean"]}
#: Some clients write out what they leave out: `null`, which is taken for nothing.
_PARAMETERS: Schema = {"type": ["object", "null"], "additionalProperties": _PARAMETER}
_FAILURES = {
    "400": "the request does not fit the contract",
    "405": "another method than the path takes",
    "408": "the request did not go on to arrive",
    "413": "longer than any request that fits",
    "415": "a Content-Type or Content-Encoding that is not read",
    "431": "a head, or trailers, of more than 16 KiB",
    "500": "the model failed",
    "503": "not ready, or the queue is full: again after Retry-After seconds",
    "504": "the request's timeout came before its answer",
}
_INFER = (
    "Answers one request. With the binary tensor data extension (application/octet-stream, header "
    "Inference-Header-Content-Length) tensors follow the JSON as raw bytes. The parameter `timeout`, in microseconds, "
    "is how long the client waits; `priority` is taken and has no effect; parameters of your own come back."
)


def describe(contract: ServingContract, raw: Signature) -> Schema:
    """The OpenAPI 3.1 document of a server of `contract` whose clients send `raw`."""
    model = f"/v2/models/{contract.name}"
    paths: dict[str, Schema] = {
        "/v2": _get("Server metadata", _object(name={"type": "string"}, version={"type": "string"})),
        "/v2/health/live": _get("Is the server alive?", _object(live={"const": True})),
        "/v2/health/ready": _get("Does the server take requests?", _object(ready={"type": "boolean"}), "503"),
    }
    for path in (model, f"{model}/versions/{contract.version}"):
        paths[path] = _get("Model metadata", _ref("ModelMetadata"))
        ready = _object(name={"const": contract.name}, ready={"type": "boolean"})
        paths[f"{path}/ready"] = _get("Does the model take requests?", ready, "503")
        paths[f"{path}/infer"] = {"post": _infer()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": contract.name,
            "version": contract.version,
            "description": "Open Inference Protocol v2, https://github.com/kserve/open-inference-protocol",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": _ERROR,
                "ModelMetadata": _metadata(contract),
                "InferRequest": _request(raw),
                "InferResponse": _response(contract),
            }
        },
    }


# --- operations ---------------------------------------------------------------------------------------------------


def _get(summary: str, schema: Schema, *others: str) -> Schema:
    answers = {status: {"description": _FAILURES[status], "content": _json(schema)} for status in others}
    return {"get": {"summary": summary, "responses": {"200": _answer(summary, schema), **answers, **_failures("405")}}}


def _infer() -> Schema:
    answered = _answer("The model's answer", _ref("InferResponse"))
    answered["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Inference",
        "description": _INFER,
        "requestBody": {"required": True, "content": _json(_ref("InferRequest"))},
        "responses": {"200": answered, **_failures(*_FAILURES)},
    }


def _failures(*statuses: str) -> Schema:
    return {status: _answer(_FAILURES[status], _ref("Error")) for status in statuses}


def _answer(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": _json(schema)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


# --- requests -----------------------------------------------------------------------------------------------------


def _request(raw: Signature) -> Schema:
    variants = [_in_order([_input(spec, sizes) for spec in raw.inputs]) for sizes in _sizes(raw)]
    outputs = _in_order([_wanted(spec) for spec in raw.outputs])
    del outputs["minItems"]  # a part of them may be asked for
    outputs["type"] = ["array", "null"]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "binary_data_output": {"type": "boolean"},
                    "priority": {"type": "integer", "minimum": 0},
                },
            },
            "inputs": variants[0] if len(variants) == 1 else {"anyOf": variants},
            "outputs": outputs,
        },
    }


def _sizes(raw: Signature) -> Iterator[Mapping[str, int]]:
    """Every combination of the dynamic sizes of inputs; with too many of them, of the ends of their ranges."""
    names = sorted({size for spec in raw.inputs for size in spec.shape if isinstance(size, str)})
    spans = [raw.dynamic.get(name, DimRange(1, 1)) for name in names]
    if prod(span.max - span.min + 1 for span in spans) <= _MOST_VARIANTS:
        choices = [range(span.min, span.max + 1) for span in spans]
    else:
        choices = [sorted({span.min, min(span.min + 1, span.max), span.max}) for span in spans]  # type: ignore[misc]
    return (dict(zip(names, sizes, strict=True)) for sizes in islice(product(*choices), _MOST_VARIANTS))


def _input(spec: TensorSpec, sizes: Mapping[str, int]) -> Schema:
    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
    count = prod(shape)
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.dtype.protocol_name},
            "shape": {"const": shape},
            "data": {"type": "array", "minItems": count, "maxItems": count, "items": _value(spec)},
            "parameters": _PARAMETERS,
        },
    }


def _wanted(spec: TensorSpec) -> Schema:
    parameters = {**_PARAMETERS, "properties": {"binary_data": {"type": "boolean"}}}
    return {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"const": spec.name}, "parameters": parameters},
    }


def _value(spec: TensorSpec) -> Schema:
    """One value of an input: its type, and the least and the greatest of its dtype and of its own range."""
    if isinstance(spec, EncodedImages):
        return {"type": "string", "contentEncoding": "base64", "description": "a PNG or JPEG file"}
    if spec.dtype is DType.STRING:
        return {"type": "string"}
    if spec.dtype is DType.BOOL:
        return {"type": "boolean"}
    limits = np.finfo(spec.dtype.numpy) if spec.dtype.is_float else np.iinfo(spec.dtype.numpy)
    number = float if spec.dtype.is_float else int
    least, greatest = spec.range or (None, None)
    bounds = {
        "minimum": max(number(limits.min), number(limits.min) if least is None else least),
        "maximum": min(number(limits.max), number(limits.max) if greatest is None else greatest),
    }
    if not spec.dtype.is_float:
        return {"type": "integer", **bounds}
    return {"type": ["number", "null"] if spec.nan is NanPolicy.ACCEPT else "number", **bounds}


def _in_order(items: list[Schema]) -> Schema:
    """A list of just these, one after the other."""
    if len(items) == 1:
        return {"type": "array", "items": items[0], "minItems": 1, "maxItems": 1}
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


# --- answers ------------------------------------------------------------------------------------------------------


def _metadata(contract: ServingContract) -> Schema:
    tensor = _object(
        name={"type": "string"}, datatype={"type": "string"}, shape={"type": "array", "items": {"type": "integer"}}
    )
    tensors = {"type": "array", "items": tensor}
    return _object(
        name={"const": contract.name},
        versions={"const": [contract.version]},
        platform={"type": "string"},
        inputs=tensors,
        outputs=tensors,
    )


def _response(contract: ServingContract) -> Schema:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": contract.name},
            "model_version": {"const": contract.version},
            "id": {"type": "string"},
            "parameters": _PARAMETERS,
            "outputs": {"type": "array", "items": {"anyOf": [_output(spec) for spec in contract.signature.outputs]}},
        },
        "additionalProperties": False,
    }


def _output(spec: TensorSpec) -> Schema:
    kinds: Schema = {"type": "integer"}
    if spec.dtype is DType.STRING:
        kinds = {"type": "string"}
    elif spec.dtype is DType.BOOL:
        kinds = {"type": "boolean"}
    elif spec.dtype.is_float:
        kinds = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    size: Schema = {"type": "integer", "minimum": 0}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.dtype.protocol_name},
            "shape": {"type": "array", "items": size, "minItems": len(spec.shape), "maxItems": len(spec.shape)},
            "data": {"type": "array", "items": kinds},
            "parameters": _PARAMETERS,
        },
        "additionalProperties": False,
    }
