"""The Open Inference Protocol v2 over gRPC: `inference.GRPCInferenceService`, beside the HTTP server.

In: messages (`serving.messages`), their tensors as raw bytes or as values of their type. Out: the same answers as over
HTTP, in the form in which the request came (raw where FP16 leaves no other). What does not fit has gRPC's status code
for what HTTP says (`_CODES`), and the same sentence. gRPC's health service answers too, for Kubernetes' probes.

Importing grpc takes as long as starting HTTP, so this module is imported when that listens already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving.body import too_long
from serving.contract import DType, EncodedImages, TensorSpec
from serving.front import EXTENSIONS, SERVER_NAME, SERVER_VERSION, Failure, Front, Refused, beside
from serving.inference import Answer
from serving.messages import MESSAGES
from serving.observation import REQUEST_ID
from serving.parameters import Parameters
from serving.protocol import tensor_metadata
from serving.request import InferRequest, largest_request_bytes, read_request
from serving.tensors import BadRequest, from_bytes, from_values, to_bytes

_SERVICE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING = 1, 2

#: HTTP status → gRPC code (grpc/doc/statuscodes.md). A full queue is RESOURCE_EXHAUSTED: the same server may do later;
#: UNAVAILABLE is a server that is going away, and tells a client to try another one.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: How a server says when to try again (gRPC proposal A6, "Pushback").
_PUSHBACK = "grpc-retry-pushback-ms"

#: Datatype → the field of InferTensorContents that holds its values; FP16 has none, it is raw.
_CONTENTS = {
    DType.BOOL: "bool_contents",
    **dict.fromkeys((DType.INT8, DType.INT16, DType.INT32), "int_contents"),
    DType.INT64: "int64_contents",
    **dict.fromkeys((DType.UINT8, DType.UINT16, DType.UINT32), "uint_contents"),
    DType.UINT64: "uint64_contents",
    DType.FLOAT32: "fp32_contents",
    DType.FLOAT64: "fp64_contents",
    DType.STRING: "bytes_contents",
}
#: The longest message that gRPC can be told to read: its options are 32-bit.
_LONGEST_MESSAGE = 2**31 - 1
#: How much longer than any that fits a message may be to be read at all.
_LITTLE_BYTES = 4 << 20

#: What tritonclient asks beyond the protocol, and what to say to it.
_NOT_OFFERED = {
    "ModelStreamInfer": "answers are not streamed: each request has one answer, ask with ModelInfer",
    "ModelConfig": "there is no model configuration; what the model takes and gives is in ModelMetadata",
    "ModelStatistics": "statistics are metrics: GET /metrics over HTTP",
}


class Rpc:
    """The gRPC server of one front, on a port of its own."""

    def __init__(self, front: Front, address: str) -> None:
        """Raises OSError when nothing can listen on `address` (`host:port`)."""
        largest = largest_request_bytes(front.served.raw)
        # What is a little longer than fits is refused here, in our words; what is far longer, by gRPC, unread.
        longest = _LONGEST_MESSAGE if largest is None else min(largest + _LITTLE_BYTES, _LONGEST_MESSAGE)
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", longest),
                ("grpc.max_send_message_length", -1),
                # Else two servers would share the port, and each would get some of the requests.
                ("grpc.so_reuseport", 0),
            )
        )
        service = _Service(front)
        self._server.add_generic_rpc_handlers((service.handler(), service.health_handler()))
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}") from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and give those in flight `grace_s` seconds."""
        await self._server.stop(grace_s)


class _Service:
    """The calls. Messages are taken as bytes, so that one that cannot be read is a client's mistake like any other."""

    def __init__(self, front: Front) -> None:
        served = front.served
        contract = served.contract
        self._front = front
        self._raw = served.raw
        self._longest = largest_request_bytes(served.raw)
        self._specs = {spec.name: spec for spec in contract.signature.outputs}
        self._server = _bytes("ServerMetadataResponse", name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)
        self._model = _bytes(
            "ModelMetadataResponse",
            name=contract.name,
            versions=[contract.version],
            platform=front.platform,
            inputs=[tensor_metadata(spec) for spec in served.raw.inputs],
            outputs=[tensor_metadata(spec) for spec in contract.signature.outputs],
        )

    def handler(self) -> grpc.GenericRpcHandler:
        calls: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
        for name, sentence in _NOT_OFFERED.items():
            streams = name == "ModelStreamInfer"
            make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            handlers[name] = make(_not_offered(sentence))
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    def health_handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            _HEALTH, {"Check": grpc.unary_unary_rpc_method_handler(self._health)}
        )

    async def _server_live(self, _body: bytes, _context: Any) -> bytes:
        return _bytes("ServerLiveResponse", live=True)

    async def _server_ready(self, _body: bytes, _context: Any) -> bytes:
        return _bytes("ServerReadyResponse", ready=self._front.ready)

    async def _server_metadata(self, _body: bytes, _context: Any) -> bytes:
        return self._server

    async def _model_ready(self, body: bytes, context: Any) -> bytes:
        await self._check_known(await _read("ModelReadyRequest", body, context), context)
        return _bytes("ModelReadyResponse", ready=self._front.ready)

    async def _model_metadata(self, body: bytes, context: Any) -> bytes:
        await self._check_known(await _read("ModelMetadataRequest", body, context), context)
        return self._model

    async def _health(self, body: bytes, context: Any) -> bytes:
        service = (await _read("HealthCheckRequest", body, context)).service
        if service not in ("", _SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {service!r}")
        return _bytes("HealthCheckResponse", status=_SERVING if self._front.ready else _NOT_SERVING)

    async def _check_known(self, message: Any, context: Any) -> None:
        if unknown := self._front.unknown(message.name, message.version or None):
            await context.abort(grpc.StatusCode.NOT_FOUND, unknown)

    async def _model_infer(self, body: bytes, context: Any) -> bytes:
        called = dict(context.invocation_metadata() or ()).get(REQUEST_ID)
        try:
            message = MESSAGES["ModelInferRequest"].FromString(body)
        except DecodeError:
            error = Refused(400, "bad_request", "the message is no inference.ModelInferRequest")
            self._front.refused("grpc", error, called)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if unknown := self._front.unknown(message.model_name, message.model_version or None):
            self._front.refused("grpc", Refused(404, "not_found", unknown), called)
            await context.abort(grpc.StatusCode.NOT_FOUND, unknown)

        async def read() -> InferRequest:
            if self._longest is not None and len(body) > self._longest:
                raise too_long(self._longest)
            return await beside(len(body), self._request, message)

        async def write(request: InferRequest, answer: Answer) -> bytes:
            size = sum(array.nbytes for array in answer.outputs.values())
            return await beside(size, self._response, request, answer.outputs, bool(message.raw_input_contents))

        answered, identity = await self._front.infer(
            "grpc", read, write, lambda failure: failure, context.time_remaining(), called
        )
        context.set_trailing_metadata(((REQUEST_ID, identity),))
        if isinstance(answered, Failure):
            await _abort(context, answered, identity)
        return answered

    def _request(self, message: Any) -> InferRequest:
        """The request that a message is.

        Raises:
            BadRequest
        """
        raw = list(message.raw_input_contents)
        if raw and len(raw) != len(message.inputs):
            raise BadRequest(
                f"raw_input_contents must have one entry for each of the {len(message.inputs)} inputs, found {len(raw)}"
            )
        if raw and any(tensor.HasField("contents") for tensor in message.inputs):
            raise BadRequest("inputs have both contents and raw_input_contents; one of them is enough")
        bodies = {tensor.name: raw[place] for place, tensor in enumerate(message.inputs)} if raw else {}
        contents = {tensor.name: tensor.contents for tensor in message.inputs}

        def decode(
            spec: TensorSpec, shape: tuple[int, ...], _entry: Mapping[str, Any], _parameters: Parameters
        ) -> NDArray[Any]:
            if raw:
                return from_bytes(spec, shape, memoryview(bodies[spec.name]))
            return from_values(spec, shape, _values(spec, contents[spec.name]))

        content = {
            "id": message.id or None,
            "parameters": _parameters(message),
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "parameters": _parameters(tensor),
                }
                for tensor in message.inputs
            ],
            "outputs": [{"name": tensor.name, "parameters": _parameters(tensor)} for tensor in message.outputs],
        }
        return read_request(content, self._raw, decode)

    def _response(self, request: InferRequest, answers: Mapping[str, NDArray[Any]], raw: bool) -> bytes:
        """The response with the outputs that were asked for: all raw, or all as values."""
        contract = self._front.served.contract
        response = MESSAGES["ModelInferResponse"](
            model_name=contract.name, model_version=contract.version, id=request.id or ""
        )
        _set_parameters(response, request.parameters)
        raw = raw or any(self._specs[name].dtype not in _CONTENTS for name in request.outputs)
        for name in request.outputs:
            spec, array = self._specs[name], answers[name]
            tensor = response.outputs.add(name=name, datatype=spec.dtype.protocol_name, shape=array.shape)
            _set_parameters(tensor, request.output_parameters.get(name, {}))
            if raw:
                response.raw_output_contents.append(to_bytes(array))
                continue
            values = array.ravel().tolist()
            if spec.dtype is DType.STRING:
                values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
            getattr(tensor.contents, _CONTENTS[spec.dtype]).extend(values)
        return bytes(response.SerializeToString())


def _values(spec: TensorSpec, contents: Any) -> list[Any]:
    """The values of a tensor that is not raw.

    Raises:
        BadRequest: they are in another field than its datatype's, or strings are not UTF-8.
    """
    field = _CONTENTS.get(spec.dtype)
    if field is None:
        raise BadRequest(f"input {spec.name!r}: {spec.dtype.protocol_name} has no contents, send raw_input_contents")
    if wrong := [found.name for found, _ in contents.ListFields() if found.name != field]:
        raise BadRequest(f"input {spec.name!r}: {spec.dtype.protocol_name} values are {field}, found {wrong[0]}")
    values = list(getattr(contents, field))
    if spec.dtype is not DType.STRING or isinstance(spec, EncodedImages):
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {spec.name!r}: a string is not UTF-8") from error


def _parameters(message: Any) -> Parameters:
    """A message's parameters; one that holds nothing is left out."""
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items())
    return {name: getattr(value, field) for name, value, field in chosen if field is not None}


def _set_parameters(message: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        match value:
            case bool():
                field = "bool_param"
            case int():
                field = "int64_param" if value < 2**63 else "uint64_param"
            case str():
                field = "string_param"
            case _:
                field = "double_param"
        setattr(message.parameters[name], field, value)


def _bytes(name: str, /, **fields: Any) -> bytes:
    return bytes(MESSAGES[name](**fields).SerializeToString())


async def _read(name: str, body: bytes, context: Any) -> Any:
    try:
        return MESSAGES[name].FromString(body)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message is no inference.{name}")


async def _abort(context: Any, failure: Failure, identity: str) -> NoReturn:
    code = _CODES.get(failure.status, grpc.StatusCode.INTERNAL)
    if failure.kind == "overloaded":
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata: tuple[tuple[str, str], ...] = ((REQUEST_ID, identity),)
    if failure.retry_after_s is not None:
        metadata = (*metadata, (_PUSHBACK, str(failure.retry_after_s * 1000)))
    await context.abort(code, failure.message, metadata)
    raise AssertionError("abort raises")


def _not_offered(sentence: str) -> Callable[[Any, Any], Awaitable[None]]:
    async def answer(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, sentence)

    return answer
