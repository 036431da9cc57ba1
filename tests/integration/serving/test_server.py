"""The server as a process, over real HTTP: what it answers, what it refuses, and how it starts and ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from serving.contract import DType, NanPolicy, Needs, PreprocessStep
from serving.package import Refusal
from serving.tensors import to_bytes
from tests.integration.serving.process import URL, Server, free_port, running, tensor
from tests.integration.tiny import IN, SIGNATURE, TinyModel, answer_raw, raw_samples

Tiny = Callable[[str], TinyModel]


def outputs(response: httpx.Response) -> dict[str, Any]:
    return {entry["name"]: np.array(entry["data"]).reshape(entry["shape"]) for entry in response.json()["outputs"]}


@pytest.fixture(scope="module")
def server(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running(tiny("onnx").package(folder / "package"), folder / "log") as server:
        yield server


def refusal(package: Path, log: Path) -> tuple[int, str]:
    """The exit code of a server that does not start, and its last line's sentence."""
    with running(package, log) as server:
        assert server.process.poll() is not None, "it started"
        return server.process.returncode, server.log[-1]["error"]


# --- what it answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2", {"name": "slipway", "version": "2", "extensions": ["binary_tensor_data"]}),
        ("/v2/", {"name": "slipway", "version": "2", "extensions": ["binary_tensor_data"]}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/1/ready", {"name": "tiny", "ready": True}),
    ],
)
def test_health_and_metadata(server: Server, path: str, content: dict[str, Any]) -> None:
    response = server.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == content


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1"])
def test_model_metadata_shows_what_clients_send(server: Server, path: str) -> None:
    assert server.client.get(path).json() == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, IN]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "n", "datatype": "INT64", "shape": [-1]},
        ],
    }


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_raw_inputs_are_preprocessed_and_answered(server: Server, rows: int) -> None:
    response = server.infer(raw_samples(rows), id="a")
    assert response.status_code == 200
    assert (response.json()["model_name"], response.json()["model_version"], response.json()["id"]) == (
        "tiny",
        "1",
        "a",
    )
    found, expected = outputs(response), answer_raw(raw_samples(rows))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_binary_requests_get_the_same_answers(server: Server) -> None:
    raw = raw_samples(5)
    entry = tensor(raw, parameters={"binary_data_size": raw.size})
    del entry["data"]
    envelope = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    response = server.client.post(
        "/v2/models/tiny/versions/1/infer",
        content=envelope + raw.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(envelope))},
    )
    length = int(response.headers["inference-header-content-length"])
    expected = answer_raw(raw)
    assert [entry["name"] for entry in json.loads(response.content[:length])["outputs"]] == ["y", "n"]
    assert response.content[length:] == to_bytes(expected["y"]) + to_bytes(expected["n"])


def test_answers_are_the_same_however_many_ask_at_once(server: Server) -> None:
    def ask(rows: int) -> bool:
        found, expected = outputs(server.infer(raw_samples(rows))), answer_raw(raw_samples(rows))
        return all(np.array_equal(found[name], expected[name]) for name in expected)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, [1, 3, 64, 7] * 40))


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/", 404, "there is no /; the protocol's paths start at /v2"),
        ("GET", "/v1/models/tiny", 404, "there is no /v1/models/tiny; the protocol's paths start at /v2"),
        ("GET", "/v2/models/other", 404, "there is no model 'other'; this server has 'tiny'"),
        ("POST", "/v2/models/other/infer", 404, "there is no model 'other'; this server has 'tiny'"),
        ("GET", "/v2/models/tiny/versions/2", 404, "there is no version '2' of 'tiny'; this server has '1'"),
        ("POST", "/v2/models/tiny/versions/2/infer", 404, "there is no version '2' of 'tiny'; this server has '1'"),
        ("GET", "/v2/models/tiny/versions", 404, "there is no version '' of 'tiny'; this server has '1'"),
        ("GET", "/v2/models/tiny/explain", 404, "there is no /v2/models/tiny/explain; a model has /ready and /infer"),
        ("GET", URL, 405, f"{URL} takes POST, found GET"),
        ("DELETE", "/v2/models/tiny", 405, "/v2/models/tiny takes GET, HEAD, found DELETE"),
        ("POST", "/v2/health/ready", 405, "/v2/health/ready takes GET, HEAD, found POST"),
    ],
)
def test_paths_and_methods_that_there_are_not(
    server: Server, method: str, path: str, status: int, sentence: str
) -> None:
    response = server.client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": sentence})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 50_000,
        b'{"inputs": []}',
        json.dumps({"inputs": [tensor(raw_samples(1), datatype="FP32")]}).encode(),
        json.dumps({"inputs": [tensor(raw_samples(1), shape=[1, 5])]}).encode(),
        json.dumps({"inputs": [tensor(raw_samples(65))]}).encode(),
        json.dumps({"inputs": [tensor(raw_samples(1), data=[256] * IN)]}).encode(),
        json.dumps({"inputs": [tensor(raw_samples(1), data=[None] * IN)]}).encode(),
    ],
)
def test_a_request_that_does_not_fit_is_400_and_the_next_one_is_answered(server: Server, body: bytes) -> None:
    response = server.client.post(URL, content=body)
    assert response.status_code == 400
    assert response.json()["error"]
    assert server.infer(raw_samples(1)).status_code == 200


def test_what_was_expected_and_what_was_found_is_said(server: Server) -> None:
    response = server.client.post(URL, json={"inputs": [tensor(raw_samples(1), shape=[1, 5])]})
    assert response.json() == {"error": "input 'x': dimension 1 of [batch, 6] must be 6, found 5"}


def test_a_request_that_is_longer_than_any_that_fits_is_413(server: Server) -> None:
    body = b" " * 200_000
    whole = server.client.post(URL, content=body)
    in_pieces = server.client.post(URL, content=iter([body[:100_000], body[100_000:]]))
    assert whole.status_code == in_pieces.status_code == 413
    assert "at most" in whole.json()["error"]
    assert server.infer(raw_samples(1)).status_code == 200


@pytest.mark.parametrize("headers", [{"Content-Encoding": "br"}, {"Content-Type": "text/xml; charset=utf-8"}])
def test_an_encoding_or_a_type_that_is_not_read_is_415(server: Server, headers: dict[str, str]) -> None:
    response = server.client.post(URL, content=b"x", headers=headers)
    assert response.status_code == 415
    assert next(iter(headers)) in response.json()["error"]


def talk(server: Server, *said: bytes) -> bytes:
    """Everything that the server says on one connection, until it closes it, to what is said piece by piece."""
    with socket.create_connection(("127.0.0.1", server.client.base_url.port), timeout=10) as connection:
        heard = b""
        for piece in said:
            connection.sendall(piece)
        while received := connection.recv(1 << 16):
            heard += received
    return heard


def test_what_is_not_http_is_400_in_the_protocols_form(server: Server) -> None:
    head, _, body = talk(server, b"\x16\x03\x01 hello\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert orjson.loads(body)["error"].startswith("what arrived is not HTTP/1.1: ")


def test_a_head_without_end_is_431(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.client.base_url.port), timeout=10) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                connection.sendall(b"X: " + b"x" * 1000 + b"\r\n")
                if select.select([connection], [], [], 0)[0]:
                    break
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 431 ")
    assert server.infer(raw_samples(1)).status_code == 200


def test_a_load_balancer_may_ask_with_head(server: Server) -> None:
    response = server.client.head("/v2/health/ready")
    assert (response.status_code, response.content) == (200, b"")


def test_a_request_for_another_model_is_counted(server: Server) -> None:
    before = server.client.get("/metrics").text
    assert server.client.post(URL.replace("/infer", "x/infer"), json={}).status_code == 404
    line = 'slipway_request_errors_total{kind="not_found"} '
    counts = [text.partition(line)[2].partition("\n")[0] for text in (before, server.client.get("/metrics").text)]
    assert float(counts[1]) == float(counts[0]) + 1


def test_the_rest_of_a_refused_body_is_not_taken_for_the_next_request(server: Server) -> None:
    refused = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n".encode()
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    heard = talk(server, refused, b" " * 300_000, last)
    assert heard.count(b"HTTP/1.1 413 ") == heard.count(b"HTTP/1.1 200 ") == 1
    assert heard.endswith(b'{"live":true}')


def test_requests_that_break_off_leave_the_server_as_it_was(server: Server) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.client.base_url.port)) as connection:
            connection.sendall(f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{{".encode())
    assert server.infer(raw_samples(1)).status_code == 200
    assert server.process.poll() is None


def test_schemathesis_finds_nothing_against_the_served_description(server: Server, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "schemathesis"
    address = f"http://127.0.0.1:{server.port}/openapi.json"
    options = ["--phases", "coverage,fuzzing", "--max-examples", "10", "--generation-deterministic", "--no-color"]
    done = subprocess.run(
        [program, "run", address, *options], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
    assert server.process.poll() is None


# --- how it starts ------------------------------------------------------------------------------------------------


def test_a_changed_model_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    package = tiny("onnx").package(tmp_path / "package")
    path = package / "model" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, sentence = refusal(package, tmp_path / "log")
    assert code == Refusal.FILES
    assert sentence.startswith("model/model.onnx is not the file of the contract: expected ")


def test_other_versions_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    package = tiny("onnx").package(tmp_path / "package", runtime_versions={"onnxruntime": "1.0.0"})
    code, sentence = refusal(package, tmp_path / "log")
    assert code == Refusal.VERSIONS
    assert "instead of 1.0.0" in sentence


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preprocess": (PreprocessStep("cast", "x", source_dtype=DType.UINT8),)}, Refusal.ANSWERS),
        ({"preprocess": (PreprocessStep("blur", "x"),)}, Refusal.CONTRACT),
        ({"runtime": "caffe"}, Refusal.MODEL),
        ({"model": "golden.npz"}, Refusal.MODEL),
        ({"golden": "model/model.onnx"}, Refusal.FILES),
        ({"contract_version": 2}, Refusal.CONTRACT),
        ({"needs": Needs(architecture="s390x")}, Refusal.PLATFORM),
        ({"needs": Needs(instructions=("sse2", "avx8192"))}, Refusal.INSTRUCTIONS),
        ({"needs": Needs(memory_bytes=1 << 50)}, Refusal.MEMORY),
    ],
    ids=[
        *("other preprocessing", "unknown preprocessing", "runtime", "model", "golden", "contract version"),
        *("architecture", "instruction set", "memory"),
    ],
)
def test_a_contract_that_does_not_hold_is_refused(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], expected: Refusal
) -> None:
    package = tiny("onnx").package(tmp_path / "package", **changes)
    code, sentence = refusal(package, tmp_path / "log")
    assert code == expected
    assert sentence


def test_a_missing_contract_is_refused(tmp_path: Path) -> None:
    code, sentence = refusal(tmp_path, tmp_path / "log")
    assert code == Refusal.CONTRACT
    assert "contract.json cannot be read" in sentence


def test_a_port_that_is_taken_is_refused(tiny: Tiny, server: Server, tmp_path: Path) -> None:
    package = tiny("onnx").package(tmp_path / "package")
    command = [sys.executable, "-m", "serving", "--package", str(package), "--host", "127.0.0.1", "--grpc-port", "0"]
    done = subprocess.run(
        [*command, "--port", str(server.client.base_url.port)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == Refusal.ADDRESS
    assert "cannot be listened on" in done.stderr


def test_a_grpc_port_that_is_taken_is_refused(tiny: Tiny, server: Server, tmp_path: Path) -> None:
    package = tiny("onnx").package(tmp_path / "package")
    with running(package, tmp_path / "log", grpc_port=server.port) as second:
        assert second.process.wait(timeout=60) == Refusal.ADDRESS
        assert f"127.0.0.1:{server.port} cannot be listened on" in second.log[-1]["error"]


def selftest(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "selftest", "--package", str(package), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_selftest_replays_every_golden_sample_and_says_each_check_in_a_line(tiny: Tiny, tmp_path: Path) -> None:
    done = selftest(tiny("onnx").package(tmp_path / "package"))
    assert (done.returncode, done.stderr) == (0, "")
    *checks, verdict = done.stdout.splitlines()
    assert [line.split("  ")[0].removeprefix("✓ ").rstrip() for line in checks] == [
        *("contract", "platform", "instruction set", "memory", "versions", "files", "model"),
        *("golden answers by 1", "golden answers by 8"),
    ]
    assert "12 in 12 requests" in checks[-2]
    assert "12 in 2 requests" in checks[-1]
    assert checks[-1].endswith("of which they take at most 0%")
    assert verdict.startswith("tiny 1 passed, ")


def test_selftest_says_everything_that_does_not_hold_and_does_not_open_the_model(tiny: Tiny, tmp_path: Path) -> None:
    needs = Needs(instructions=("avx8192",), memory_bytes=1 << 50)
    package = tiny("onnx").package(tmp_path / "package", needs=needs)
    with (package / "model" / "model.onnx").open("ab") as stream:
        stream.write(b"more")
    done = selftest(package, "--json")
    said = json.loads(done.stdout)
    outcomes = {check["check"]: check["outcome"] for check in said["checks"]}
    assert done.returncode == said["exit_code"] == Refusal.INSTRUCTIONS
    assert {name for name, outcome in outcomes.items() if outcome == "refused"} == {
        "instruction set",
        "memory",
        "files",
    }
    assert {outcomes[name] for name in ("model", "golden answers by 1", "golden answers by 8")} == {"not made"}
    assert (said["passed"], said["answers"]) == (False, 0)
    assert "avx8192" in json.loads(done.stderr)["error"]


def test_selftest_tells_a_wrong_answer(tiny: Tiny, tmp_path: Path) -> None:
    other = (PreprocessStep("cast", "x", source_dtype=DType.UINT8),)
    done = selftest(tiny("onnx").package(tmp_path / "package", preprocess=other), "--json")
    said = json.loads(done.stdout)
    outcomes = {check["check"]: check["outcome"] for check in said["checks"]}
    assert done.returncode == Refusal.ANSWERS
    assert (outcomes["model"], outcomes["golden answers by 1"], outcomes["golden answers by 8"]) == (
        "passed",
        "refused",
        "refused",
    )
    worst = said["outputs"][0]
    assert worst["output"] == SIGNATURE.outputs[0].name
    assert worst["of_allowed"] > 1
    assert worst["difference"] > 1e-6


def test_contract_is_printed_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    package = tiny("onnx").package(tmp_path / "package")
    command = [sys.executable, "-m", "serving", "contract", "--package", str(package)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == (package / "contract.json").read_bytes()


def test_contract_is_also_told_in_words(tiny: Tiny, tmp_path: Path) -> None:
    ranged = replace(SIGNATURE, inputs=(replace(SIGNATURE.inputs[0], range=(0, None), nan=NanPolicy.ACCEPT),))
    needs = Needs("x86_64", "3.11", ("avx2",), 5 << 20)
    package = tiny("onnx").package(tmp_path / "package", needs=needs, signature=ranged)
    command = [sys.executable, "-m", "serving", "contract", "--plain", "--package", str(package)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "tiny 1, as onnx"
    for line in (
        "  takes  x: float32 [batch, 6], values from 0 to any, NaN accepted",
        "  gives  y: float32 [batch, 3], within 1e-06 + 1e-06 x |expected|",
        "  batch: 1 to 64",
        '  {"op":"scale","input":"x","by":0.25,"offset":-8.0}',
        "  a processor with avx2",
        "  at least 5.0 MiB of memory for the weights",
    ):
        assert line in lines


# --- how it ends --------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A package whose model works for a while on each request."""
    return write_slow_package(tmp_path / "slow")


def test_sigterm_lets_requests_in_flight_finish_and_takes_no_new_ones(slow: Path, tmp_path: Path) -> None:
    with running(slow, tmp_path / "log", grpc_port=free_port()) as server, ThreadPoolExecutor(64) as pool:
        assert server.infer(raw_samples(1)).status_code == 200
        started = time.monotonic()
        assert server.infer(raw_samples(1)).status_code == 200
        # As many as keep the server at work for some seconds, however fast this machine is just now.
        several = min(64, ceil(8 / (time.monotonic() - started)))
        flying = [pool.submit(server.infer, raw_samples(1)) for _ in range(several)]
        flying_rpc = [pool.submit(infer_rpc, server.grpc_port) for _ in range(3)]
        time.sleep(1)
        assert server.client.get("/v2/health/live").status_code == 200
        assert not all(request.done() for request in flying), "health waits for the model"
        os.kill(server.process.pid, signal.SIGTERM)
        while (ready := server.client.get("/v2/health/ready")).status_code == 200:
            time.sleep(0.01)
        refused = server.infer(raw_samples(1))
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        with pytest.raises(InferenceServerException) as refused_rpc:
            infer_rpc(server.grpc_port)
        assert "UNAVAILABLE" in refused_rpc.value.status()
        assert not all(request.done() for request in flying)
        assert all(np.array_equal(one.result(), answer_raw(raw_samples(1))["n"]) for one in flying_rpc)
        answered = [request.result() for request in flying]
        assert {response.status_code for response in answered} == {200}
        assert all(np.array_equal(outputs(one)["n"], answer_raw(raw_samples(1))["n"]) for one in answered)
        assert server.process.wait(timeout=30) == 0
        assert server.log[-1]["event"] == "stopped"


def test_at_the_end_of_the_grace_what_still_waits_is_refused_and_the_process_ends_well(
    slow: Path, tmp_path: Path
) -> None:
    with running(slow, tmp_path / "log", None, "--grace-s", "0") as server, ThreadPoolExecutor(40) as pool:
        flying = [pool.submit(server.infer, raw_samples(1)) for _ in range(40)]
        while server.client.get("/v2/health/live").status_code == 200 and not any(one.done() for one in flying):
            pass
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        answers = [one.result() for one in flying if one.exception() is None]
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.json() == {"error": "the server is shutting down"}
        assert refused.headers["retry-after"] == "1"


def test_a_second_signal_ends_the_server_at_once(slow: Path, tmp_path: Path) -> None:
    with running(slow, tmp_path / "log") as server, ThreadPoolExecutor(40) as pool:
        flying = [pool.submit(server.infer, raw_samples(1)) for _ in range(40)]
        while not any(one.done() for one in flying):
            time.sleep(0.01)
        os.kill(server.process.pid, signal.SIGTERM)
        while server.client.get("/v2/health/ready").status_code == 200:
            time.sleep(0.01)
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(timeout=30) == 128 + signal.SIGTERM
        assert server.log[-1]["event"] == "ended at once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_in_order(tiny: Tiny, tmp_path: Path, number: signal.Signals) -> None:
    with running(tiny("onnx").package(tmp_path / "package"), tmp_path / "log") as server:
        os.kill(server.process.pid, number)
        assert server.process.wait(timeout=30) == 0


def infer_rpc(port: int) -> Any:
    """Ask the tiny model over gRPC; its output `n`."""
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        given = tritonclient.grpc.InferInput("x", [1, IN], "UINT8")
        given.set_data_from_numpy(raw_samples(1))
        return client.infer("tiny", [given]).as_numpy("n")


def write_slow_package(folder: Path) -> Path:
    """The tiny model behind a loop of matrix products."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from tests.integration.tiny import write_onnx

    (folder / "files").mkdir(parents=True)
    write_onnx(folder / "files")
    path = folder / "files" / "model.onnx"
    model = onnx.load(path)
    size = 400
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "square"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    graph = model.graph
    for name, array in {
        "turns": np.array(300),
        "yes": np.array(True),
        "square": np.eye(size, dtype=np.float32),
        "corner": np.array([0]),
        "one": np.array([1]),
        "axes": np.array([0]),
    }.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
    # x0 - x0 is nothing, but depends on the input and on the loop: nothing can be computed beforehand or left out.
    (output,) = (node for node in graph.node if node.output[0] == "n")
    output.output[0] = "counted"
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            helper.make_node("Mul", ["square", "total"], ["start"]),
            helper.make_node("Loop", ["turns", "yes", "start"], ["finished"], body=body),
            helper.make_node("Sub", ["finished", "start"], ["difference"]),
            helper.make_node("ReduceSum", ["difference"], ["nothing"], keepdims=0),
            helper.make_node("Cast", ["nothing"], ["zero64"], to=TensorProto.INT64),
            helper.make_node("Add", ["counted", "zero64"], ["n"]),
        ]
    )
    onnx.save(model, path)
    return TinyModel("onnx", folder / "files").package(folder / "package")
