"""A server is watched from outside: its metrics, its log, the predictions that it left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving.messages import MESSAGES
from serving.package import Refusal, open_package
from serving.prediction_log import read
from tests.integration.serving.process import URL, Server, free_port, running
from tests.integration.tiny import TinyModel, raw_samples

Tiny = Callable[[str], TinyModel]


@pytest.fixture(scope="module")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    tiny("onnx").package(folder / "package")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(folder / "package", folder / "log", grpc_port=free_port()) as server:
        yield server


def metric(server: Server, name: str, **labels: str) -> float:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    families = text_string_to_metric_families(server.client.get("/metrics", headers=accept).text)
    found = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in found if sample.name == name and labels.items() <= sample.labels.items())


def test_the_metrics_follow_the_requests(server: Server) -> None:
    before = metric(server, "slipway_requests_total", status="200")
    refused = metric(server, "slipway_request_errors_total", kind="bad_request")
    rows = metric(server, "slipway_request_rows_sum")
    assert server.infer(raw_samples(5)).status_code == 200
    assert server.client.post(URL, content=b"no").status_code == 400
    assert metric(server, "slipway_requests_total", status="200") == before + 1
    assert metric(server, "slipway_request_errors_total", kind="bad_request") == refused + 1
    assert metric(server, "slipway_request_rows_sum") == rows + 5
    assert metric(server, "slipway_package_info", model="tiny", version="1", runtime="onnx") == 1
    assert metric(server, "slipway_requests_in_flight") == 0
    assert metric(server, "slipway_queue_rows") == metric(server, "slipway_workers_busy") == 0
    assert metric(server, "slipway_observer_failures_total") == 0


@pytest.mark.parametrize(
    ("given", "header", "expected"), [("a-1", None, "a-1"), (None, "b-2", "b-2"), ("a-1", "b-2", "a-1")]
)
def test_an_answer_carries_the_id_of_its_request(
    server: Server, given: str | None, header: str | None, expected: str
) -> None:
    content = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1, 6], "data": [1] * 6}]}
    response = server.client.post(
        URL, json=content | ({"id": given} if given else {}), headers={"x-request-id": header} if header else {}
    )
    assert response.headers["x-request-id"] == expected


def test_a_request_without_an_id_gets_one_and_a_refused_one_too(server: Server) -> None:
    ids = {server.client.post(URL, content=b"no").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("rows", [2, 0])
def test_over_grpc_the_id_is_metadata_of_answers_and_refusals(server: Server, rows: int) -> None:
    message = MESSAGES["ModelInferRequest"](model_name="tiny", raw_input_contents=[bytes(6 * rows)])
    message.inputs.add(name="x", datatype="UINT8", shape=[rows, 6])
    before = metric(server, "slipway_requests_total", protocol="grpc")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            _, ended = infer.with_call(message.SerializeToString(), metadata=(("x-request-id", "g-1"),), timeout=30)
        except grpc.RpcError as error:
            assert rows == 0
            ended = error
    assert dict(ended.trailing_metadata())["x-request-id"] == "g-1"
    assert metric(server, "slipway_requests_total", protocol="grpc") == before + 1


def test_what_a_stopped_server_left_behind(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each request that it was to log, and predictions that the model gives again."""
    package = tiny("onnx").package(tmp_path / "package")
    monkeypatch.setenv("SERVING_LOG", "all")
    monkeypatch.setenv("SERVING_PREDICTION_LOG", str(tmp_path / "predictions"))
    monkeypatch.setenv("SERVING_PREDICTION_LOG_SAMPLE", "1")
    with running(package, tmp_path / "log") as server:
        for rows in (1, 7, 3):
            assert server.infer(raw_samples(rows), id=f"rows-{rows}").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        logged = [line for line in server.log if line["event"] == "request"]
    assert [(line["id"], line["rows"]) for line in logged] == [("rows-1", 1), ("rows-7", 7), ("rows-3", 3)]
    served = open_package(package, 1)
    try:
        predictions = list(read(tmp_path / "predictions"))
        assert [found.id for found in predictions] == ["rows-1", "rows-7", "rows-3"]
        for found in predictions:
            again = served.predict(found.inputs)
            assert {name: array.tobytes() for name, array in again.items()} == {
                name: array.tobytes() for name, array in found.outputs.items()
            }
            assert np.array_equal(found.inputs["x"], raw_samples(len(found.inputs["x"])))
    finally:
        served.runner.close()


def test_a_setting_that_makes_no_sense_stops_the_server_before_it_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_LOG", "everything")
    with running(folder / "package", tmp_path / "log") as server:
        assert server.process.returncode == Refusal.SETTINGS
        assert "everything" in server.log[-1]["error"]
