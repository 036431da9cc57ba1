"""Images as clients send them, and signatures of models that take them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.contract import DimRange, DType, Signature, TensorSpec


def encoded(pixels: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format, **options)
    return content.getvalue()


def column(*values: bytes | str) -> NDArray[Any]:
    """Strings, or the bytes of images, as a raw input holds them."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def signature(*tensors: TensorSpec, **dynamic: DimRange) -> Signature:
    inputs = tensors or (TensorSpec("x", DType.FLOAT32, ("batch", 3, 4, 6)),)
    outputs = (TensorSpec("y", DType.FLOAT32, ("batch", 1)),)
    return Signature(inputs=inputs, outputs=outputs, dynamic={"batch": DimRange(1, 8), **dynamic})


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """Colours that tell every channel, row and column from every other."""
    rows, columns = np.mgrid[0:20, 0:30]
    return np.stack([rows * 12, columns * 8, (rows * 31 + columns * 17) % 256], axis=-1).astype(np.uint8)
