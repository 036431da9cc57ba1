"""A model of photos and a model of texts, from the trained weights to a container that is asked with what people have.

Trained with Pillow, tokenizers and PyTorch by code that knows nothing of Slipway: what that answers to a photo or a
text is what the container must answer.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from serving.golden import read_golden
from tasks.contracts import Package, Verdict
from tasks.image import ContainerSpec, Engine, connect, run, running
from tasks.image.engine import ISOLATED
from tasks.image.runtimes import ensure_runtime
from tasks.manifest import assemble
from tasks.pipeline import Pipeline
from tasks.settings import Settings
from tasks.smoke.catalogue import instance_type
from tasks.smoke.instruction_set import Host
from tasks.smoke.stage import prove
from tasks.spec import ModelSpec, load_spec
from tasks.store import fetch, read_bytes
from tests.integration.preprocess.conftest import photograph, prepare_photo, review
from tests.integration.smoke.bench import QUICK

pytestmark = pytest.mark.docker

#: How far apart two runtimes may be that compute the same in float32.
NEAR = {"rtol": 1e-4, "atol": 1e-4}
COMMON = """\
name: {name}
owner: e2e@example.com
source: {{uri: model.pt, framework: pytorch, entrypoint: "model:build"}}
formats: [onnx]
serving: {{max_batch: 8, p99_ms: 5000, cold_start_s: 120}}
smoke: {{instance_types: [c6i.large]}}
"""


@dataclass(frozen=True)
class Trained:
    """A folder to package, what the model says to raw rows, and rows that nothing has seen yet."""

    folder: Path
    extra: str
    input: str
    output: str
    rows: Sequence[Any]
    answer: Callable[[Sequence[Any]], NDArray[np.float32]]


# --- two models ---------------------------------------------------------------------------------------------------

PHOTOS = """\
inputs:
  - {name: pixels, dtype: float32, shape: [batch, 3, 12, 12]}
outputs:
  - {name: logits, dtype: float32, shape: [batch, 10]}
dynamic: {batch: {min: 1, max: 32}}
preprocess:
  - {op: decode_image, input: pixels, source: image, channels: rgb}
  - {op: resize, input: pixels, size: [14], interpolation: bilinear}
  - {op: crop, input: pixels, size: [12, 12]}
  - {op: layout, input: pixels, to: chw}
  - {op: scale, input: pixels, by: 0.00392156862745098}
  - {op: standardize, input: pixels, mean: [0.3, 0.5, 0.6], std: [0.2, 0.3, 0.25], axis: 1}
evaluation:
  data: eval.npz
  preprocessed: {data: fed.npz}
  metrics:
    - {name: accuracy, output: logits, label: label, max_drop: 0.05}
"""
PHOTOS_CODE = """\
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(216, 10)
    )
"""


def train_photos(folder: Path) -> Trained:
    images, labels = load_digits(return_X_y=True)
    photos = [photograph(image.reshape(8, 8), number) for number, image in enumerate(images[:440])]
    pixels = torch.from_numpy(np.stack([prepare_photo(photo) for photo in photos]))
    network = _built(PHOTOS_CODE, folder)
    with torch.inference_mode():
        features = network[:4](pixels).numpy()
        fitted = LogisticRegression(C=0.05, max_iter=300).fit(features[:300], labels[:300])
        network[4].weight.copy_(torch.from_numpy(fitted.coef_))
        network[4].bias.copy_(torch.from_numpy(fitted.intercept_))
    torch.save(network.state_dict(), folder / "model.pt")
    np.savez(folder / "eval.npz", image=np.array(photos[300:420]), label=labels[300:420])
    np.savez(folder / "fed.npz", pixels=pixels[300:330].numpy())

    def answer(rows: Sequence[bytes]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(np.stack([prepare_photo(row) for row in rows]))))

    kinds = {Image.open(io.BytesIO(photo)).format for photo in photos[420:424]}
    assert kinds == {"PNG", "JPEG"}
    return Trained(folder, "image", "image", "logits", photos[420:424], answer)


TEXTS = """\
inputs:
  - {name: input_ids, dtype: int64, shape: [batch, sequence]}
  - {name: attention_mask, dtype: int64, shape: [batch, sequence]}
outputs:
  - {name: score, dtype: float32, shape: [batch, 1]}
dynamic: {batch: {min: 1, max: 32}, sequence: {min: 1, max: 24}}
preprocess:
  - {op: tokenize, input: input_ids, source: text, file: tokenizer.json, max_length: 16, truncate: true,
     mask: attention_mask}
evaluation:
  data: eval.npz
  preprocessed: {data: fed.npz}
  metrics:
    - {name: roc_auc, output: score, label: label, max_drop: 0.05}
"""
TEXTS_CODE = """\
import torch
from torch import nn


class Reviews(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(200, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        return torch.sigmoid(mean + self.bias)


def build():
    return Reviews()
"""


def train_texts(folder: Path) -> Trained:
    texts, labels = zip(*(review(number) for number in range(380)), strict=True)
    tokenizer = _tokenizer(texts[:240])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=0)

    def encoded(rows: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = tokenizer.encode_batch(list(rows))
        return np.array([row.ids for row in found]), np.array([row.attention_mask for row in found])

    ids, mask = encoded(texts[:240])
    shares = np.zeros((240, 200))
    for row, (tokens, there) in enumerate(zip(ids, mask, strict=True)):
        np.add.at(shares[row], tokens[there == 1], 1 / there.sum())
    fitted = LogisticRegression(C=30, max_iter=500).fit(shares, labels[:240])
    network = _built(TEXTS_CODE, folder)
    with torch.no_grad():
        network.words.weight.copy_(torch.from_numpy(fitted.coef_.T))
        network.bias.copy_(torch.from_numpy(fitted.intercept_))
    torch.save(network.state_dict(), folder / "model.pt")
    np.savez(folder / "eval.npz", text=np.array(texts[240:360]), label=np.array(labels[240:360]))
    first = encoded(texts[240:270])
    np.savez(folder / "fed.npz", input_ids=first[0], attention_mask=first[1])

    def answer(rows: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(*map(torch.from_numpy, encoded(rows))))

    unseen = [*texts[360:362], "Grüße aus Kraków: lovely, friendly ☕", "awful " * 100]
    return Trained(folder, "text", "text", "score", unseen, answer)


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _built(code: str, folder: Path) -> Any:
    """The network of a spec's entrypoint, with seeded weights."""
    (folder / "model.py").write_text(code)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    network: nn.Module = names["build"]()
    return network.eval()


# --- packaged and served ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packaged:
    """What came out of the pipeline, and the container that runs its image."""

    trained: Trained
    package: Package
    pipeline: Pipeline
    engine: Engine
    container: str

    @cached_property
    def url(self) -> str:
        port = self.engine.host_port(self.container, 8000)
        return f"http://127.0.0.1:{port}/v2/models/{self.package.name}/infer"

    def ask(self, content: bytes, **headers: str) -> NDArray[Any]:
        answered = httpx.post(self.url, content=content, headers=headers, trust_env=False)
        assert answered.status_code == 200, answered.text
        (output,) = answered.json()["outputs"]
        return np.array(output["data"]).reshape(output["shape"])


TRAIN = {"photos": train_photos, "texts": train_texts}


@pytest.fixture(scope="module", params=TRAIN)
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    """Each model once through every stage, and its image started once."""
    folder, name = tmp_path_factory.mktemp(request.param), f"e2e-{request.param}-{uuid.uuid4().hex[:8]}"
    trained = TRAIN[request.param](folder)
    text = {"photos": PHOTOS, "texts": TEXTS}[request.param]
    (folder / "model.yaml").write_text(COMMON.format(name=name) + text)
    spec, engine = load_spec(folder / "model.yaml"), connect()
    pipeline = Pipeline(Settings.from_environment({"SLIPWAY_HOME": str(folder / "home")}))
    try:
        package = _package(pipeline, spec, engine, folder / "smoke")
        assert package.verdict is Verdict.PASSED, package.findings
        container = ContainerSpec(
            package.images[0].digest, name, "e2e-test", network=ISOLATED, ports=(8000,), cpus=1, memory_bytes=1 << 30
        )
        with running(engine, container) as identity:
            yield Packaged(trained, package, pipeline, engine, _ready(engine, identity))
    finally:
        for image in engine.images(f"org.opencontainers.image.title={name}"):
            for tag in image.tags:
                engine.remove_image(tag)


def _package(pipeline: Pipeline, spec: ModelSpec, engine: Engine, work: Path) -> Package:
    """Through every stage; smoke asks as little as shows what is wrong, and does not wait for a quiet machine."""
    artifact = pipeline.ingest(spec).result
    exported = pipeline.export(spec, artifact, "onnx").result
    assert exported.export is not None, exported.findings
    parity = pipeline.parity(spec, artifact, exported.export).result
    assert parity.verdict is Verdict.PASSED, parity.findings
    image = pipeline.image(spec, artifact, exported.export, parity).result
    (kind,) = map(instance_type, spec.smoke.instance_types)
    work.mkdir()
    smoke = prove(spec, image, parity, kind, pipeline.store, engine, work, host=Host.this(), effort=QUICK)
    return assemble(spec, artifact, [exported], [parity], [image], [smoke])


def _ready(engine: Engine, container: str) -> str:
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport, trust_env=False) as client:
        while engine.state(container).running:
            try:
                port = engine.host_port(container, 8000)
                if client.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200:
                    return container
            except httpx.TransportError:
                continue
    raise AssertionError(engine.logs(container))


def _in_json(row: Any) -> str:
    return base64.b64encode(row).decode() if isinstance(row, bytes) else row


def _entry(packaged: Packaged, rows: int, **more: Any) -> bytes:
    entry = {"name": packaged.trained.input, "datatype": "BYTES", "shape": [rows], **more}
    return json.dumps({"inputs": [entry]}).encode()


def test_raw_rows_in_json_are_answered_as_the_trained_model_answers_them(packaged: Packaged) -> None:
    rows = packaged.trained.rows
    found = packaged.ask(_entry(packaged, len(rows), data=[_in_json(row) for row in rows]))
    np.testing.assert_allclose(found, packaged.trained.answer(rows), **NEAR)


def test_the_same_rows_in_binary_have_the_same_answer(packaged: Packaged) -> None:
    rows = [row if isinstance(row, bytes) else row.encode() for row in packaged.trained.rows]
    data = b"".join(struct.pack("<I", len(row)) + row for row in rows)
    head = _entry(packaged, len(rows), parameters={"binary_data_size": len(data)})
    found = packaged.ask(head + data, **{"Inference-Header-Content-Length": str(len(head))})
    np.testing.assert_allclose(found, packaged.trained.answer(packaged.trained.rows), **NEAR)


def test_a_row_that_is_none_is_refused_by_name_and_the_container_lives(packaged: Packaged) -> None:
    wrong = httpx.post(packaged.url, content=_entry(packaged, 1, data=[7]), trust_env=False)
    assert wrong.status_code == 400
    assert f"input '{packaged.trained.input}'" in wrong.json()["error"]
    one = packaged.trained.rows[:1]
    found = packaged.ask(_entry(packaged, 1, data=[_in_json(one[0])]))
    np.testing.assert_allclose(found, packaged.trained.answer(one), **NEAR)


def test_golden_samples_are_raw_and_were_replayed(packaged: Packaged, tmp_path: Path) -> None:
    (parity,), (smoke,) = packaged.package.parity, packaged.package.smoke
    assert parity.golden is not None
    golden = read_golden(fetch(packaged.pipeline.store, parity.golden, tmp_path / "golden.npz"))
    assert list(golden.inputs) == [packaged.trained.input]
    raw = list(golden.inputs[packaged.trained.input])
    np.testing.assert_allclose(golden.outputs[packaged.trained.output], packaged.trained.answer(raw), **NEAR)
    assert smoke.figures.golden_rows == len(raw)


def test_the_image_tests_itself_without_a_network(packaged: Packaged) -> None:
    name = f"{packaged.package.name}-selftest"
    spec = ContainerSpec(packaged.package.images[0].digest, name, "e2e-test", command=("selftest", "--json"))
    done = run(packaged.engine, spec, 60)
    assert done.state.exit_code == 0, done.logs


def test_the_image_carries_its_own_extra_layer_and_no_other(packaged: Packaged) -> None:
    (image,), extra = packaged.package.images, packaged.trained.extra
    runtime = ensure_runtime("onnx", packaged.engine, packaged.pipeline.settings, (extra,))
    below = packaged.engine.find_image(runtime)
    assert below is not None
    assert image.layers[:-1] == below.layers
    assert image.sbom is not None
    parts = {part["name"] for part in json.loads(read_bytes(packaged.pipeline.store, image.sbom))["components"]}
    assert parts & {"pillow", "tokenizers"} == {{"image": "pillow", "text": "tokenizers"}[extra]}
