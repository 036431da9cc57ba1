"""The protocol as other people's clients speak it: tritonclient over HTTP and gRPC, and gRPC by hand."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.contract import DType
from serving.messages import MESSAGES
from tests.integration.serving.echo import SIGNATURE, samples, write_package
from tests.integration.serving.process import Server, free_port, running

URL = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("echo")
    with running(write_package(folder / "package"), folder / "log", grpc_port=free_port()) as server:
        yield server


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    library: ModuleType = getattr(tritonclient, request.param)
    port = server.port if request.param == "http" else server.grpc_port
    with library.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.library = library
        yield client


@pytest.fixture(scope="module")
def call(server: Server) -> Iterator[Any]:
    """Calls a method of the service with a message: messages as tritonclient generated them, not the server's own."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:

        def call(method: str, message: Any, answer: Any = None, **options: Any) -> Any:
            return channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
                answer.FromString if answer else None,
            )(message, **options)

        yield call


def entry(name: str, array: Any, **changes: Any) -> dict[str, Any]:
    datatype = DType(name).protocol_name
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist(), **changes}


def body(**changes: Any) -> dict[str, Any]:
    """A request of every input, `changes` by input."""
    return {"inputs": [{**entry(name, array), **changes.get(name, {})} for name, array in samples().items()]}


def triton_inputs(client: Any, arrays: dict[str, Any], **options: Any) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        given = client.library.InferInput(name, list(array.shape), DType(name).protocol_name)
        given.set_data_from_numpy(array, **options)
        inputs.append(given)
    return inputs


def same(result: Any, name: str, expected: Any) -> bool:
    found = result.as_numpy(f"{name}_out")
    if expected.dtype == object:
        texts = [item.decode() if isinstance(item, bytes) else item for item in found.ravel()]
        return found.shape == expected.shape and texts == expected.ravel().tolist()
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes() and found.shape == expected.shape


# --- tritonclient -------------------------------------------------------------------------------------------------


def test_tritonclient_finds_the_server_and_its_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "7")
    as_json = {} if client.library is tritonclient.http else {"as_json": True}
    assert client.get_server_metadata(**as_json)["extensions"] == ["binary_tensor_data"]
    model = client.get_model_metadata("echo", "7", **as_json)
    assert (model["name"], model["versions"], model["platform"]) == ("echo", ["7"], "onnxruntime_onnx")
    assert [tensor["datatype"] for tensor in model["inputs"]] == [dtype.protocol_name for dtype in DType]
    assert {tuple(int(size) for size in tensor["shape"]) for tensor in model["outputs"]} == {(-1, -1)}


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 8)])
def test_tritonclient_gets_every_datatype_back_bit_by_bit(client: Any, shape: tuple[int, int]) -> None:
    arrays = samples(*shape)
    result = client.infer("echo", triton_inputs(client, arrays), model_version="7", request_id="r1")
    assert result.get_response()["id"] == "r1" if isinstance(result.get_response(), dict) else True
    assert [name for name, array in arrays.items() if not same(result, name, array)] == []


def test_tritonclient_over_http_gets_every_datatype_back_as_json(server: Server) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        client.library = tritonclient.http
        arrays = samples()
        half = arrays.pop("float16")  # which tritonclient sends as binary alone
        inputs = triton_inputs(client, arrays, binary_data=False) + triton_inputs(client, {"float16": half})
        wanted = [tritonclient.http.InferRequestedOutput(spec.name, binary_data=False) for spec in SIGNATURE.outputs]
        result = client.infer("echo", inputs, outputs=wanted)
        assert [name for name, array in {**arrays, "float16": half}.items() if not same(result, name, array)] == []


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritonclient_may_compress_what_it_sends(server: Server, algorithm: str) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        client.library = tritonclient.http
        inputs = triton_inputs(client, samples())
        result = client.infer(
            "echo", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        assert same(result, "int64", samples()["int64"])


def test_only_the_outputs_that_tritonclient_asks_for_come_back(client: Any) -> None:
    wanted = [client.library.InferRequestedOutput(name) for name in ("int8_out", "bool_out")]
    result = client.infer("echo", triton_inputs(client, samples()), outputs=wanted, priority=3, timeout=10_000_000)
    response = result.get_response()
    outputs = response["outputs"] if isinstance(response, dict) else response.outputs
    assert [output["name"] if isinstance(output, dict) else output.name for output in outputs] == [
        "int8_out",
        "bool_out",
    ]


def test_parameters_of_the_clients_own_come_back(client: Any) -> None:
    own = {"trace": "a", "sampled": True, "part": 3, "share": 0.25}
    result = client.infer("echo", triton_inputs(client, samples()), parameters=own, priority=1)
    response = result.get_response()
    if isinstance(response, dict):
        assert response["parameters"] == own
    else:
        given = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
        }
        assert given == own


@pytest.mark.parametrize(
    ("options", "output_options", "status", "sentence"),
    [
        ({"sequence_id": 4, "sequence_start": True}, {}, "400", "leave the sequence parameters out"),
        ({}, {"class_count": 2}, "400", "output 'int8_out': classifications are not made here"),
        ({"timeout": 1}, {}, "504", "deadline"),
        ({"model_version": "8"}, {}, "404", "there is no version '8' of 'echo'; this server has '7'"),
        ({"model_name": "other"}, {}, "404", "there is no model 'other'; this server has 'echo'"),
    ],
)
def test_what_cannot_be_given_is_refused_with_the_same_sentence_in_both_protocols(
    client: Any, options: dict[str, Any], output_options: dict[str, Any], status: str, sentence: str
) -> None:
    codes = {"400": "INVALID_ARGUMENT", "404": "NOT_FOUND", "504": "DEADLINE_EXCEEDED"}
    wanted = [client.library.InferRequestedOutput("int8_out", **output_options)]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": "echo", **options}, inputs=triton_inputs(client, samples()), outputs=wanted)
    assert sentence in caught.value.message()
    assert caught.value.status() in (status, f"StatusCode.{codes[status]}")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("int16", -1, "input 'int16': values must lie between 0 and 999, found -1 at position 4"),
        ("int16", 1000, "input 'int16': values must lie between 0 and 999, found 1000 at position 4"),
        ("float16", np.inf, "input 'float16': expected finite FP16 values, found inf at position 4"),
        ("float16", 60032, "input 'float16': values must be at most 60000, found 60032.0 at position 4"),
        ("float32", np.nan, "input 'float32': expected finite FP32 values, found nan at position 4"),
        ("float64", -np.inf, "input 'float64': expected finite FP64 values, found -inf at position 4"),
    ],
)
def test_a_value_that_the_contract_does_not_take_is_named(client: Any, name: str, value: Any, sentence: str) -> None:
    arrays = samples()
    arrays[name][1, 1] = value
    with pytest.raises(InferenceServerException) as caught:
        client.infer("echo", triton_inputs(client, arrays))
    assert caught.value.message() == sentence


def test_nan_reaches_a_model_whose_input_takes_it(client: Any) -> None:
    arrays = samples()
    arrays["float64"][0, 0] = np.nan
    assert same(client.infer("echo", triton_inputs(client, arrays)), "float64", arrays["float64"])


def test_null_is_nan_in_json_where_the_input_takes_it(server: Server) -> None:
    accepted = server.client.post(URL, json=body(float64={"data": [None, 1, 2, 3, 4, 5]}))
    refused = server.client.post(URL, json=body(float32={"data": [None, 1, 2, 3, 4, 5]}))
    [output] = [output for output in accepted.json()["outputs"] if output["name"] == "float64_out"]
    assert output["data"] == ["NaN", 1, 2, 3, 4, 5]
    assert refused.status_code == 400


# --- bodies over HTTP ---------------------------------------------------------------------------------------------


def test_a_body_that_unpacks_beyond_the_limit_is_413(server: Server) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    response = server.client.post(URL, content=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 413
    assert "at most" in response.json()["error"]


NOT_GZIP = {
    "nothing": b"",
    "not compressed": b"{}",
    "cut short": gzip.compress(b"{}")[:-5],
    "zlib": zlib.compress(b"{}"),
    "two members": gzip.compress(b"") * 2,
}


@pytest.mark.parametrize("content", NOT_GZIP.values(), ids=NOT_GZIP)
def test_a_body_that_does_not_unpack_is_400(server: Server, content: bytes) -> None:
    response = server.client.post(URL, content=content, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400
    assert "Content-Encoding" in response.json()["error"]


# --- gRPC ---------------------------------------------------------------------------------------------------------

FIELDS = {
    **dict.fromkeys(("int8", "int16", "int32"), "int_contents"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), "uint_contents"),
    "bool": "bool_contents",
    "int64": "int64_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
}


def message(*, raw: bool, **fields: Any) -> Any:
    """A request of every input: raw, or as values (for which FP16 has no form, so only then it is valid)."""
    request = service_pb2.ModelInferRequest(model_name="echo", **fields)
    for name, array in samples().items():
        tensor = request.inputs.add(name=name, datatype=DType(name).protocol_name, shape=array.shape)
        if raw:
            request.raw_input_contents.append(to_raw(array))
        elif name in FIELDS:
            values = array.ravel().tolist()
            values = [value.encode() for value in values] if name == "string" else values
            getattr(tensor.contents, FIELDS[name]).extend(values)
    return request


def to_raw(array: Any) -> bytes:
    if array.dtype != object:
        return bytes(array.tobytes())
    texts = [text.encode() for text in array.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def code_of(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("name", FIELDS)
def test_typed_contents_become_the_declared_arrays(name: str) -> None:
    from serving.rpc import _values
    from serving.tensors import from_values

    [spec] = [spec for spec in SIGNATURE.inputs if spec.name == name]
    array = samples()[name]
    [tensor] = [tensor for tensor in message(raw=False).inputs if tensor.name == name]
    contents = MESSAGES["InferTensorContents"].FromString(tensor.contents.SerializeToString())
    found = from_values(spec, array.shape, _values(spec, contents))
    assert found.dtype == array.dtype
    assert (found == array).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda sent: sent.raw_input_contents.pop(),
            "raw_input_contents must have one entry for each of the 13 inputs, ",
        ),
        (lambda sent: sent.inputs[0].contents.bool_contents.append(True), "inputs have both contents and raw_input"),
        (lambda sent: sent.inputs.pop(), "raw_input_contents must have one entry for each of the 12 inputs, found 13"),
        (lambda sent: sent.inputs[3].shape.append(2), "input 'uint32': expected 2 dimensions [batch, length], found 3"),
        (
            lambda sent: setattr(sent.inputs[3], "datatype", "BF16"),
            "input 'uint32': expected datatype UINT32, found 'BF",
        ),
        (lambda sent: sent.inputs[3].shape.__setitem__(0, 2**62), "input 'uint32': dimension 'batch' must lie between"),
        (lambda sent: sent.inputs[3].shape.__setitem__(0, -1), "input 'uint32': shape must be a list of sizes"),
        (lambda sent: sent.raw_input_contents.__setitem__(3, b"abc"), "input 'uint32': UINT32 of shape [2, 3] is 24 b"),
        (lambda sent: sent.outputs.add(name="z"), "there is no output 'z'"),
    ],
)
def test_a_message_that_does_not_fit_is_invalid_and_named(call: Any, change: Any, sentence: str) -> None:
    sent = message(raw=True)
    change(sent)
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", sent)
    code, found = code_of(caught)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.startswith(sentence)


def test_half_precision_has_no_typed_contents(call: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", message(raw=False))
    sentence = "input 'float16': FP16 has no contents, send raw_input_contents"
    assert code_of(caught) == (grpc.StatusCode.INVALID_ARGUMENT, sentence)


def test_bytes_that_are_no_message_are_invalid(call: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", b"\xff\xff\xff")
    assert code_of(caught) == (grpc.StatusCode.INVALID_ARGUMENT, "the message is no inference.ModelInferRequest")


@settings(max_examples=60)
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 99),
)
def test_a_message_of_which_any_bytes_are_wrong_is_answered_or_refused(
    server: Server, call: Any, changes: list[tuple[int, int]], cut: int
) -> None:
    sent = bytearray(message(raw=True).SerializeToString())
    for place, value in changes:
        sent[place % len(sent)] = value
    refused = None
    try:
        call("ModelInfer", bytes(sent[: len(sent) - cut]))
    except grpc.RpcError as error:
        refused = error.code()
    assert refused in (None, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert server.process.poll() is None


def test_a_message_longer_than_any_that_fits_is_resource_exhausted(call: Any) -> None:
    sent = message(raw=True)
    sent.raw_input_contents.append(b" " * 50_000_000)
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", sent)
    assert code_of(caught)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["ModelConfig", "ModelStatistics", "RepositoryIndex"])
def test_what_the_protocol_does_not_have_is_unimplemented(call: Any, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, b"")
    assert code_of(caught)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_streams_are_unimplemented_and_say_what_to_use(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(iter([b""])))
    code, sentence = code_of(caught)
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "ModelInfer" in sentence


@pytest.mark.parametrize(
    ("service", "code"), [("", None), ("inference.GRPCInferenceService", None), ("x", "NOT_FOUND")]
)
def test_the_health_check_of_grpc_is_answered(server: Server, service: str, code: str | None) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        sent = MESSAGES["HealthCheckRequest"](service=service).SerializeToString()
        if code is None:
            assert check(sent) == b"\x08\x01"  # field 1, a varint: 1, SERVING
            return
        with pytest.raises(grpc.RpcError) as caught:
            check(sent)
        assert code_of(caught)[0].name == code


def test_the_servers_messages_are_the_protocols() -> None:
    """Held against those that tritonclient's authors generated from the protocol's file."""
    ours = {"InferInputTensor": "InferTensor", "InferOutputTensor": "InferTensor"}

    def fields(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
        return {field.name: (field.number, field.type, field.is_repeated) for field in descriptor.fields}

    def compare(theirs: Any) -> None:
        name = ours.get(theirs.name, theirs.name)
        found = fields(MESSAGES[name].DESCRIPTOR)
        found.pop("properties", None)  # the protocol's, and not Triton's
        assert found == fields(theirs), name
        for nested in theirs.nested_types:
            if not nested.GetOptions().map_entry:
                compare(nested)

    for name in MESSAGES:
        if name in service_pb2.DESCRIPTOR.message_types_by_name:
            compare(service_pb2.DESCRIPTOR.message_types_by_name[name])


def test_the_description_is_served_and_names_the_model(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert "/v2/models/echo/versions/7/infer" in document["paths"]
    assert json.dumps(document["components"]["schemas"]["InferRequest"]).count('"maximum": 999') > 0
