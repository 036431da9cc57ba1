"""The model behind MLServer, which has no runtime for ONNX: a custom one, as its documentation has it."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import decode_args


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["y"], {"x": x})[0]
