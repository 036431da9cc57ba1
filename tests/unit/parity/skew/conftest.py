"""Training code, written without Slipway, and the steps that are declared for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.contract import PreprocessStep, Signature
from serving.preprocess import Preprocessing
from tasks.contracts import Finding
from tasks.parity.skew import skew_findings
from tasks.spec import PreprocessedSpec

Arrays = Mapping[str, NDArray[Any]]


def held(
    steps: tuple[PreprocessStep, ...],
    of: Signature,
    raw: Arrays,
    fed: Arrays,
    folder: Path | None = None,
    atol: float = 0.0,
) -> tuple[Finding, ...]:
    """The findings of declared steps that are held against what training fed the model."""
    return skew_findings(Preprocessing(steps, of, folder), raw, fed, PreprocessedSpec(data="fed.npz", atol=atol))


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """Four JPEGs of different sizes, smooth as photographs are, with something in every corner."""
    made = []
    for number, (height, width) in enumerate(((40, 60), (48, 44), (37, 81), (40, 40))):
        rows, columns = np.mgrid[0:height, 0:width]
        waves = [np.sin(rows / (5 + number)) * 60, np.cos(columns / 7) * 70, np.sin((rows + 2 * columns) / 11) * 50]
        pixels = np.stack([128 + wave + 20 * channel for channel, wave in enumerate(waves)], axis=-1)
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=92)
        made.append(content.getvalue())
    return made


#: How a photo is prepared in a training script, and what may be done otherwise in it.
Prepare = Callable[..., NDArray[np.float32]]


def trained_on(
    photos: list[bytes],
    *,
    bgr: bool = False,
    method: Image.Resampling = Image.Resampling.BILINEAR,
    shorter: int = 32,
    crop: tuple[int, int] | None = (24, 24),
    corner: bool = False,
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    divide: float = 255.0,
    mirror: bool = False,
) -> NDArray[np.float32]:
    """The recipe of torchvision's ImageNet models, in small: shorter side, centre crop, mean and standard deviation."""
    rows = []
    for content in photos:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        if crop is None:
            image = image.resize((24, 24), method)
        else:
            short, long = min(image.size), max(image.size)
            longer = int(shorter * long / short)
            size = (longer, shorter) if image.width > image.height else (shorter, longer)
            image = image.resize(size, method)
            left, top = (0, 0) if corner else (round((size[0] - 24) / 2), round((size[1] - 24) / 2))
            image = image.crop((left, top, left + 24, top + 24))
        pixels = np.asarray(image, dtype=np.float32)
        if bgr:
            pixels = pixels[..., ::-1]
        if mirror:
            pixels = pixels[:, ::-1]
        rows.append(((pixels / np.float32(divide) - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1))
    return np.stack(rows)
