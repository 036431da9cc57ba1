"""Small models that were really trained, each by code of its own that knows nothing of Slipway.

    digit_photos   photographs of digits as PNG and JPEG of different sizes → which digit, a linear layer on 3 × 12 × 12
    reviews        short texts → whether somebody liked it, an embedding and a mean over the tokens
    orders         a table with a category, missing values and numbers → whether an order came back
    digits_cnn     scanned digits → which digit, two convolutions
    diabetes       a table of measurements → how far the disease has progressed, a regression

In: an empty folder. Out: there, model.onnx, the raw evaluation data, what training fed the model for the first rows (of
the first three), and model.yaml.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tasks.spec import ModelSpec, load_spec

FED_ROWS = 40


@dataclass(frozen=True)
class Trained:
    """A folder with everything that a user hands over."""

    folder: Path

    def changed(self, folder: Path, old: str = "", new: str = "") -> Trained:
        """A copy, where the spec says something else."""
        shutil.copytree(self.folder, folder)
        text = (folder / "model.yaml").read_text()
        assert old in text
        (folder / "model.yaml").write_text(text.replace(old, new, 1))
        return Trained(folder)

    def spec(self) -> ModelSpec:
        return load_spec(self.folder / "model.yaml")


def save_model(path: Path, text: str, **weights: NDArray[Any]) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


# --- digits -------------------------------------------------------------------------------------------------------

#: What a spec says of a model of such photos, whatever it is made of.
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
DIGITS = f"""
name: digit-photos
owner: vision@example.com
source: {{uri: model.onnx, framework: onnx}}
{PHOTOS}
formats: [onnx]
serving: {{max_batch: 8}}
smoke: {{instance_types: [this-machine]}}
"""


def photograph(digit: NDArray[np.float64], number: int) -> bytes:
    """An 8 × 8 digit as a photo: ink of one colour on paper of another, of another size from one to the next."""
    height, width = 30 + number % 4 * 5, 30 + number % 3 * 9
    ink = np.asarray(Image.fromarray((digit * 15).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    share = ink[..., None] / 255
    pixels = (share * [250, 40, 90] + (1 - share) * [20, 180, 230]).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG" if number % 2 else "JPEG")
    return content.getvalue()


def prepare_photo(content: bytes) -> NDArray[np.float32]:
    """What the training script does to a photo, with Pillow and NumPy."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.width > image.height:
        image = image.resize((int(14 * image.width / image.height), 14), Image.Resampling.BILINEAR)
    else:
        image = image.resize((14, int(14 * image.height / image.width)), Image.Resampling.BILINEAR)
    left, top = round((image.width - 12) / 2), round((image.height - 12) / 2)
    pixels = np.asarray(image.crop((left, top, left + 12, top + 12)), dtype=np.float32) / 255
    normal = (pixels - np.float32([0.3, 0.5, 0.6])) / np.float32([0.2, 0.3, 0.25])
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def digit_photos(folder: Path) -> Trained:
    images, labels = load_digits(return_X_y=True)
    photos = [photograph(image.reshape(8, 8), number) for number, image in enumerate(images[:400])]
    pixels = np.stack([prepare_photo(photo) for photo in photos])
    fitted = LogisticRegression(C=0.05, max_iter=300).fit(pixels[:300].reshape(300, -1), labels[:300])
    weight = fitted.coef_.T.astype(np.float32)
    assert fitted.score(pixels[300:].reshape(100, -1), labels[300:400]) > 0.8
    save_model(
        folder / "model.onnx",
        "net (float[batch, 3, 12, 12] pixels) => (float[batch, 10] logits)"
        "{ flat = Flatten <axis = 1> (pixels) logits = Gemm (flat, w, b) }",
        w=weight,
        b=fitted.intercept_.astype(np.float32),
    )
    np.savez(folder / "eval.npz", image=np.array(photos[300:]), label=labels[300:400])
    np.savez(folder / "fed.npz", pixels=pixels[300 : 300 + FED_ROWS])
    (folder / "model.yaml").write_text(DIGITS)
    return Trained(folder)


# --- reviews ------------------------------------------------------------------------------------------------------

#: What a spec says of a model of such texts, whatever it is made of, with its evaluation data in the file `data`.
TEXTS = Template("""\
inputs:
  - {name: input_ids, dtype: int64, shape: [batch, sequence]}
  - {name: attention_mask, dtype: int64, shape: [batch, sequence]}
outputs:
  - {name: score, dtype: float32, shape: [batch, 1]}
dynamic: {batch: {min: 1, max: 32}, sequence: {min: 1, max: 24}}
preprocess:
  - {op: tokenize, input: input_ids, source: text, file: text/tokenizer.json, max_length: 16, truncate: true,
     mask: attention_mask}
evaluation:
  data: $data
  preprocessed: {data: fed.npz}
  metrics:
    - {name: roc_auc, output: score, label: label, max_drop: 0.05}
""")
REVIEWS = f"""
name: reviews
owner: text@example.com
source: {{uri: model.onnx, framework: onnx}}
{TEXTS.substitute(data="eval.parquet")}
formats: [onnx]
serving: {{max_batch: 8}}
smoke: {{instance_types: [this-machine]}}
"""

_GOOD = ("lovely", "great", "calm", "friendly", "delicious", "fast")
_BAD = ("awful", "slow", "cold", "rude", "broken", "bland")
_THINGS = ("the room", "our waiter", "this ship", "the soup", "a long evening", "everything we ordered that night")


def review(number: int) -> tuple[str, int]:
    generator = np.random.default_rng(number)
    liked = int(generator.random() < 0.5)
    words = [str(generator.choice(_GOOD if generator.random() < (0.85 if liked else 0.15) else _BAD)) for _ in range(3)]
    thing, other = generator.choice(_THINGS, 2)
    forms = (
        f"{thing} was {words[0]}, {words[1]} and {words[2]}",
        f"{words[0]}!",
        f"{words[0]} {words[1]}: {thing} and {other}, again and again, and again and once more {words[2]}",
    )
    return forms[number % 3].capitalize() + f" #{number}", liked


def trained_tokenizer(texts: Sequence[str]) -> Tokenizer:
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


def shares_of_tokens(ids: NDArray[np.int64], mask: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """How large a share of each text every token of the vocabulary is."""
    shares = np.zeros((len(ids), size))
    for row, (tokens, there) in enumerate(zip(ids, mask, strict=True)):
        np.add.at(shares[row], tokens[there == 1], 1 / there.sum())
    return shares


def reviews(folder: Path) -> Trained:
    (folder / "text").mkdir()
    texts, labels = zip(*(review(number) for number in range(360)), strict=True)
    tokenizer = trained_tokenizer(texts)
    tokenizer.save(str(folder / "text" / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch(list(texts))
    ids, mask = (np.array([getattr(row, what) for row in encoded]) for what in ("ids", "attention_mask"))
    shares = shares_of_tokens(ids, mask, tokenizer.get_vocab_size())
    fitted = LogisticRegression(C=30, max_iter=500).fit(shares[:240], labels[:240])
    save_model(
        folder / "model.onnx",
        """net (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, 1] score)
        {
            every = Gather (embedding, input_ids)
            mask = Cast <to = 1> (attention_mask)
            mask3 = Unsqueeze (mask, two)
            there = Mul (every, mask3)
            total = ReduceSum <keepdims = 0> (there, one)
            count = ReduceSum <keepdims = 1> (mask, one)
            mean = Div (total, count)
            logit = Add (mean, bias)
            score = Sigmoid (logit)
        }""",
        embedding=fitted.coef_.T.astype(np.float32),
        bias=fitted.intercept_.astype(np.float32),
        one=np.array([1]),
        two=np.array([2]),
    )
    rows = {"text": list(texts[240:]), "label": list(labels[240:])}
    pq.write_table(pa.table(rows), folder / "eval.parquet")
    first = tokenizer.encode_batch(list(texts[240 : 240 + FED_ROWS]))
    np.savez(
        folder / "fed.npz",
        input_ids=np.array([row.ids for row in first]),
        attention_mask=np.array([row.attention_mask for row in first]),
    )
    (folder / "model.yaml").write_text(REVIEWS)
    return Trained(folder)


# --- orders -------------------------------------------------------------------------------------------------------

ORDERS = """
name: orders
owner: shop@example.com
source: {uri: model.onnx, framework: onnx}
inputs:
  - {name: country, dtype: int64, shape: [batch]}
  - {name: amounts, dtype: float32, shape: [batch, 2]}
  - {name: absent, dtype: float32, shape: [batch, 2]}
outputs:
  - {name: score, dtype: float32, shape: [batch, 1]}
dynamic: {batch: {min: 1, max: 32}}
preprocess:
  - {op: vocabulary, input: country, file: countries.txt, first: 1, unknown: 0}
  - {op: impute, input: amounts, fill: [40, 3], indicator: absent}
  - {op: standardize, input: amounts, mean: [40, 3], std: [20, 2]}
  - {op: clip, input: amounts, min: -2, max: 2}
evaluation:
  data: eval.parquet
  preprocessed: {data: fed.parquet}
  metrics:
    - {name: roc_auc, output: score, label: label, max_drop: 0.05}
formats: [onnx]
serving: {max_batch: 8}
smoke: {instance_types: [this-machine]}
"""

COUNTRIES = ("AT", "CH", "DE", "FR", "IT")


def orders(folder: Path) -> Trained:
    generator, rows = np.random.default_rng(7), 400
    countries = generator.choice([*COUNTRIES, "XX"], rows, p=[0.1, 0.2, 0.3, 0.2, 0.15, 0.05])
    amounts = np.stack([generator.gamma(4, 10, rows), generator.poisson(3, rows)], axis=1).astype(np.float32)
    amounts[generator.random(amounts.shape) < 0.1] = np.nan
    absent = np.isnan(amounts)
    filled = np.where(absent, np.float32([40, 3]), amounts)
    ready = np.clip((filled - np.float32([40, 3])) / np.float32([20, 2]), -2, 2)
    ids = np.array([COUNTRIES.index(country) + 1 if country in COUNTRIES else 0 for country in countries])
    chance = 1 / (1 + np.exp(-(ready[:, 0] + 0.7 * (ids % 3 - 1) + absent.sum(axis=1))))
    labels = (generator.random(rows) < chance).astype(np.int64)
    table = np.concatenate([np.eye(6)[ids], ready, absent], axis=1)
    fitted = LogisticRegression().fit(table[:250], labels[:250])
    weights = fitted.coef_[0].astype(np.float32)
    save_model(
        folder / "model.onnx",
        """net (int64[batch] country, float[batch, 2] amounts, float[batch, 2] absent) => (float[batch, 1] score)
        {
            of_country = Gather (by_country, country)
            of_amounts = MatMul (amounts, by_amount)
            of_absent = MatMul (absent, by_absence)
            both = Add (of_amounts, of_absent)
            all = Add (both, of_country)
            score = Sigmoid (all)
        }""",
        by_country=(weights[:6] + np.float32(fitted.intercept_[0]))[:, None],
        by_amount=weights[6:8, None],
        by_absence=weights[8:, None],
    )
    (folder / "countries.txt").write_text("\n".join(COUNTRIES) + "\n")
    there = slice(250, None)
    lists = [[None if np.isnan(value) else float(value) for value in row] for row in amounts[there]]
    columns = {
        "country": pa.array(countries[there].tolist()),
        "amounts": pa.array(lists, pa.list_(pa.float32(), 2)),
        "label": pa.array(labels[there]),
    }
    pq.write_table(pa.table(columns), folder / "eval.parquet")
    first = slice(250, 250 + FED_ROWS)
    fed = {
        "country": pa.array(ids[first]),
        "amounts": pa.array(ready[first].tolist(), pa.list_(pa.float32(), 2)),
        "absent": pa.array(absent[first].astype(np.float32).tolist(), pa.list_(pa.float32(), 2)),
    }
    pq.write_table(pa.table(fed), folder / "fed.parquet")
    (folder / "model.yaml").write_text(ORDERS)
    return Trained(folder)


# --- digits, scanned ----------------------------------------------------------------------------------------------

DIGITS_CNN = """
name: digits-cnn
owner: vision@example.com
source: {uri: model.onnx, framework: onnx}
inputs:
  - {name: pixels, dtype: float32, shape: [batch, 1, 8, 8]}
outputs:
  - {name: logits, dtype: float32, shape: [batch, 10]}
dynamic: {batch: {min: 1, max: 64}}
preprocess:
  - {op: scale, input: pixels, by: 0.0625}
evaluation:
  data: eval.npz
  metrics:
    - {name: accuracy, output: logits, label: label, max_drop: 0.02}
formats: [onnx, onnx-int8]
serving: {max_batch: 32}
smoke: {instance_types: [this-machine]}
"""


def digits_cnn(folder: Path) -> Trained:
    """Convolutions that were drawn at random, and a last layer that was trained on what they see."""
    generator = np.random.default_rng(3)
    first = generator.normal(0, 0.5, (16, 1, 3, 3)).astype(np.float32)
    second = generator.normal(0, 0.15, (24, 16, 3, 3)).astype(np.float32)
    images, labels = load_digits(return_X_y=True)
    pixels = images.reshape(-1, 1, 8, 8).astype(np.float32)
    seen = _seen_by(pixels * np.float32(0.0625), first, second)
    fitted = LogisticRegression(C=0.5, max_iter=400).fit(seen[:900], labels[:900])
    assert fitted.score(seen[900:], labels[900:]) > 0.9
    save_model(
        folder / "model.onnx",
        """net (float[batch, 1, 8, 8] pixels) => (float[batch, 10] logits)
        {
            a = Conv <pads = [1, 1, 1, 1]> (pixels, first)
            b = Relu (a)
            c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
            d = Conv <pads = [1, 1, 1, 1]> (c, second)
            e = Relu (d)
            flat = Flatten <axis = 1> (e)
            logits = Gemm (flat, w, b_last)
        }""",
        first=first,
        second=second,
        w=fitted.coef_.T.astype(np.float32),
        b_last=fitted.intercept_.astype(np.float32),
    )
    np.savez(folder / "eval.npz", pixels=pixels[900:], label=labels[900:])
    (folder / "model.yaml").write_text(DIGITS_CNN)
    return Trained(folder)


def _seen_by(pixels: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[Any]:
    """The two convolutions of `digits_cnn`, with NumPy."""

    def convolved(images: NDArray[np.float32], kernels: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.maximum(np.einsum("bchwij,ocij->bohw", windows, kernels, optimize=True), 0)

    seen = convolved(pixels, first)
    pooled = seen.reshape(*seen.shape[:2], 4, 2, 4, 2).max(axis=(3, 5))
    return convolved(pooled, second).reshape(len(pixels), -1)


# --- diabetes -----------------------------------------------------------------------------------------------------

DIABETES = """
name: diabetes
owner: health@example.com
source: {uri: model.onnx, framework: onnx}
inputs:
  - {name: features, dtype: float32, shape: [batch, 10]}
outputs:
  - {name: progression, dtype: float32, shape: [batch, 1]}
dynamic: {batch: {min: 1, max: 64}}
evaluation:
  data: eval.npz
  metrics:
    - {name: mae, output: progression, label: progression_after_a_year, max_drop: 1}
formats: [onnx]
serving: {max_batch: 16}
smoke: {instance_types: [this-machine]}
"""


def diabetes(folder: Path) -> Trained:
    features, target = load_diabetes(return_X_y=True)
    fitted = LinearRegression().fit(features[:300], target[:300])
    save_model(
        folder / "model.onnx",
        "net (float[batch, 10] features) => (float[batch, 1] progression) { progression = Gemm (features, w, b) }",
        w=fitted.coef_.astype(np.float32)[:, None],
        b=np.float32([fitted.intercept_]),
    )
    truth = target[300:].astype(np.float32)
    np.savez(folder / "eval.npz", features=features[300:].astype(np.float32), progression_after_a_year=truth)
    (folder / "model.yaml").write_text(DIABETES)
    return Trained(folder)


#: Name → what trains it into an empty folder.
MODELS: Mapping[str, Callable[[Path], Trained]] = {
    "digit_photos": digit_photos,
    "reviews": reviews,
    "orders": orders,
    "digits_cnn": digits_cnn,
    "diabetes": diabetes,
}
