"""What each candidate is sent and what it answers: HTTP messages ready for a socket, and answers read back.

In: rows. Out: a `Message`. Every server is spoken to in its own format, as its documentation has it.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.models import Model, same

_BINARY = "application/octet-stream"
_JSON = "application/json"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JSON_LENGTH = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """One request: `raw` is all of it, for a socket; the rest is for tools that write it themselves."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def raw(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "\r\n"]).encode() + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    head: bytes
    body: bytes


class NotHttp(Exception):
    """What came is not an answer that this client reads."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A format: how rows become a message, and an answer becomes rows again."""

    name: str
    encode: Callable[[Model, NDArray[np.float32]], Message]
    decode: Callable[[Answer], NDArray[Any]]

    def is_right(self, answer: Answer, expected: NDArray[np.float32]) -> bool:
        """Whether a server's answer is bare onnxruntime's."""
        return answer.status == 200 and same(self.decode(answer), expected)


def _oip_json(model: Model, rows: NDArray[np.float32]) -> Message:
    entry = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": _values(rows.ravel())}
    return _json(f"/v2/models/{model.name}/infer", {"inputs": [entry]})


def _oip_binary(model: Model, rows: NDArray[np.float32]) -> Message:
    data = rows.tobytes()
    parameters = {"binary_data_size": len(data)}
    entry = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "parameters": parameters}
    envelope = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = (("Content-Type", _BINARY), ("Inference-Header-Content-Length", str(len(envelope))))
    return Message(f"/v2/models/{model.name}/infer", headers, envelope + data)


def _read_oip(answer: Answer) -> NDArray[Any]:
    length = _JSON_LENGTH.search(answer.head)
    envelope = json.loads(answer.body if length is None else answer.body[: int(length[1])])
    (output,) = envelope["outputs"]
    data = output["data"] if length is None else np.frombuffer(answer.body[int(length[1]) :], np.float32)
    return np.asarray(data, np.float32).reshape(output["shape"])


def _json(path: str, content: object) -> Message:
    return Message(path, (("Content-Type", _JSON),), json.dumps(content).encode())


def _values(rows: NDArray[np.float32]) -> list[Any]:
    values: list[Any] = np.round(rows.astype(np.float64), 3).tolist()
    return values


def _keyed(path: str, key: str) -> Callable[[Model, NDArray[np.float32]], Message]:
    return lambda _, rows: _json(path, {key: _values(rows)})


def _read_keyed(*keys: str) -> Callable[[Answer], NDArray[Any]]:
    def read(answer: Answer) -> NDArray[Any]:
        content = json.loads(answer.body)
        for key in keys:
            content = content[key]
        return np.asarray(content, np.float32)

    return read


OIP_BINARY = Wire("OIP v2 binary", _oip_binary, _read_oip)
OIP_JSON = Wire("OIP v2 JSON", _oip_json, _read_oip)
BENTOML = Wire("BentoML's JSON", _keyed("/predict", "x"), _read_keyed())
LITSERVE = Wire("JSON", _keyed("/predict", "x"), _read_keyed("y"))
MLFLOW = Wire("MLflow's JSON", _keyed("/invocations", "inputs"), _read_keyed("predictions", "y"))


def short(wire: str) -> str:
    """`OIP v2 binary` is `binary` where only Slipway is meant."""
    return wire.rsplit(maxsplit=1)[-1]


def read_answer(received: bytes | bytearray) -> Answer | None:
    """The answer that has arrived; `None` while something of it is missing.

    Raises:
        NotHttp: it has no Content-Length.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[: end + 2])
    length = _LENGTH.search(head)
    if length is None:
        raise NotHttp(f"an answer without Content-Length: {head[:200].decode(errors='replace')}")
    if len(received) < end + 4 + int(length[1]):
        return None
    return Answer(int(head[9:12]), head, bytes(received[end + 4 :]))


class Client:
    """One connection on which one request follows the other's answer."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, raw: bytes) -> Answer:
        """Send a message and read its answer.

        Raises:
            OSError: the connection failed.
            NotHttp
        """
        self._socket.sendall(raw)
        received = bytearray()
        while (answer := read_answer(received)) is None:
            piece = self._socket.recv(1 << 20)
            if not piece:
                raise ConnectionError("the server closed the connection")
            received += piece
        return answer

    def time(self, raw: bytes) -> float:
        """Seconds until the whole answer is there.

        Raises:
            ConnectionError: it was refused, or the connection failed.
        """
        began = time.perf_counter()
        answer = self.ask(raw)
        took = time.perf_counter() - began
        if answer.status != 200:
            raise ConnectionError(f"status {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return took

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
