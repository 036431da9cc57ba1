"""The model behind LitServe, as its documentation has it: a LitAPI, one worker, the fast queue.

Environment: BENCH_MODEL, BENCH_PORT, BENCH_THREADS; with BENCH_WINDOW_MS it batches within that fixed window.
"""

import os

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request):
        return np.asarray(request["x"], np.float32)

    def batch(self, inputs):
        self.rows = [len(rows) for rows in inputs]
        return np.concatenate(inputs)

    def predict(self, x):
        return self.session.run(["y"], {"x": x})[0]

    def unbatch(self, output):
        return np.split(output, np.cumsum(self.rows)[:-1])

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    window_ms = float(os.environ.get("BENCH_WINDOW_MS", "0"))
    api = Model(max_batch_size=64, batch_timeout=window_ms / 1000) if window_ms else Model()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
