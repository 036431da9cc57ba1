"""A model of photos and a model of texts, trained with Pillow, tokenizers and PyTorch; nothing here knows of Slipway.

In: an empty folder. Out: everything that a user hands over in it (weights, model.py, evaluation data, model.yaml), and
what the trained model itself answers to a photo or a text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.trained import PHOTOS, TEXTS, photograph, prepare_photo, review, shares_of_tokens, trained_tokenizer

COMMON = """\
name: {name}
owner: e2e@example.com
source: {{uri: model.pt, framework: pytorch, entrypoint: "model:build"}}
formats: [onnx]
serving: {{max_batch: 8, p99_ms: 5000, cold_start_s: 120}}
smoke: {{instance_types: [this-machine]}}
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


PHOTOS_CODE = """\
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(216, 10)
    )
"""


def train_photos(folder: Path, name: str) -> Trained:
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

    (folder / "model.yaml").write_text(COMMON.format(name=name) + PHOTOS)
    kinds = {Image.open(io.BytesIO(photo)).format for photo in photos[420:424]}
    assert kinds == {"PNG", "JPEG"}
    return Trained(folder, "image", "image", "logits", photos[420:424], answer)


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


def train_texts(folder: Path, name: str) -> Trained:
    texts, labels = zip(*(review(number) for number in range(380)), strict=True)
    tokenizer = trained_tokenizer(texts[:240])
    (folder / "text").mkdir()
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=0)

    def encoded(rows: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = tokenizer.encode_batch(list(rows))
        return np.array([row.ids for row in found]), np.array([row.attention_mask for row in found])

    ids, mask = encoded(texts[:240])
    fitted = LogisticRegression(C=30, max_iter=500).fit(shares_of_tokens(ids, mask, 200), labels[:240])
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

    (folder / "model.yaml").write_text(COMMON.format(name=name) + TEXTS.substitute(data="eval.npz"))
    unseen = [*texts[360:362], "Grüße aus Kraków: lovely, friendly ☕", "awful " * 100]
    return Trained(folder, "text", "text", "score", unseen, answer)


def _built(code: str, folder: Path) -> Any:
    """The network of a spec's entrypoint, with seeded weights."""
    (folder / "model.py").write_text(code)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    network: nn.Module = names["build"]()
    return network.eval()


#: Name → how it is trained.
TRAIN: dict[str, Callable[[Path, str], Trained]] = {"photos": train_photos, "texts": train_texts}
