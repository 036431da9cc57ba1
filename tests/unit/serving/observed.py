"""A small model in this process, and outcomes of requests to it, for the tests of whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DimRange, DType, ServingContract, Signature, TensorSpec
from serving.golden import Golden
from serving.inference import Answer, Timings
from serving.observation import Outcome
from serving.package import Served

Arrays = dict[str, NDArray[Any]]
Model = Callable[[Mapping[str, NDArray[Any]]], Arrays]

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
    outputs=(TensorSpec("logits", DType.FLOAT32, ("batch", 4)),),
    dynamic={"batch": DimRange(1, 48)},
)


@dataclass(frozen=True)
class Function:
    """A runner over a function of arrays."""

    function: Model

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return self.function(inputs)

    def close(self) -> None:
        pass


def identity(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    return {"logits": inputs["x"]}


def served(
    model: Model = identity, signature: Signature = SIGNATURE, golden: Arrays | None = None, **changes: Any
) -> Served:
    contract = ServingContract(
        name="m",
        version="7",
        format="onnx",
        runtime="onnx",
        model="model/model.onnx",
        files=(),
        signature=signature,
        preprocess=(),
        tolerances={},
        golden="golden.npz",
        max_batch=32,
        runtime_versions={},
    )
    outputs = {"logits": 5 * np.eye(4, dtype=np.float32) - 1} if golden is None else golden
    return Served(replace(contract, **changes), signature, Golden({}, outputs), Function(model))


def outcome(inputs: Arrays | None, outputs: Arrays | None = None, **changes: Any) -> Outcome:
    """A request that was answered by `outputs`; not answered without."""
    rows = len(next(iter(inputs.values()))) if inputs else 1
    answer = None if outputs is None else Answer(outputs, Timings(0.0001, 0.0002, 0.003, rows))
    return Outcome(
        **{
            "id": "a",
            "protocol": "http",
            "status": 200,
            "total_s": 0.004,
            "inputs": inputs,
            "answer": answer,
            **changes,
        }
    )
