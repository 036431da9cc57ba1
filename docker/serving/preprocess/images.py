"""Encoded images to arrays: `decode_image`, `resize`, `crop`, `layout`.

    {op: decode_image, input: x, channels: rgb, source: image}     PNG or JPEG → height × width × channels, 0 to 255
    {op: resize, input: x, size: [256], interpolation: bilinear}   [height, width], or one number: the shorter side
    {op: crop, input: x, size: [224, 224]}                         the middle, [height, width]
    {op: layout, input: x, to: chw}                                channels first; without it they come last

Clients send the file's bytes: as they are in a binary tensor, in base64 in JSON. `channels` is rgb (unless given), bgr,
or l: one channel of luminance. Alpha is dropped, palettes become colours; images of 16 bits are refused, because nobody
says how they were brought to 8. The orientation that a camera wrote beside the pixels is not applied: neither Pillow
nor torchvision do.

Images are resampled by Pillow, which averages over all pixels that a smaller image covers; `antialias: false` samples
at the points alone, as OpenCV and TensorFlow do by default. Rounded to whole numbers after each step, like Pillow's.
At most `max_pixels` are decoded and `max_bytes` taken of one image.
"""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import (
    Channels,
    DType,
    EncodedImages,
    Interpolation,
    Layout,
    PreprocessStep,
    Signature,
    TensorSpec,
)
from serving.preprocess.operation import BadRow, Found, Operation, Run
from serving.tensors import BadRequest

if TYPE_CHECKING:
    from PIL.Image import Image

#: What phones' main cameras deliver without special modes, doubled: 100 MB decoded. One image at a time is held.
MAX_PIXELS = 1 << 25
#: A photograph of 12 million pixels is 3 to 5 MB as JPEG.
MAX_BYTES = 8 << 20
_FORMATS = ("PNG", "JPEG")
#: Pillow's modes of 8 bits a channel. Others (I;16, I, F) it cuts off at 255 instead of scaling them.
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
_POINTWISE = (Interpolation.NEAREST, Interpolation.BILINEAR, Interpolation.BICUBIC)
_GEOMETRY, _NUMBERS = 1, 3
#: In which order steps come; those that are not here work on numbers.
_RANKS = {"decode_image": 0, "resize": _GEOMETRY, "crop": _GEOMETRY, "layout": 2}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image on its way to an array, and the row of the request that it came in."""

    row: int
    image: Image


# --- decode -------------------------------------------------------------------------------------------------------


def _check_decode(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    if tensor.dtype is DType.STRING or tensor.dtype is DType.BOOL:
        yield "input", f"an image becomes numbers, {tensor.name!r} is declared {tensor.dtype.value}"
    if tensor.dtype is DType.INT8:
        yield "input", f"pixels of 0 to 255 do not fit into int8, as {tensor.name!r} is declared"
    if len(tensor.shape) not in (3, 4):
        yield "input", f"an image has a batch of heights, widths and channels; {tensor.name!r} has {len(tensor.shape)}"
    elif not isinstance(tensor.shape[0], str):
        yield "input", f"the batch of {tensor.name!r} must be a named dimension"
    for key, value in (("max_pixels", step.max_pixels), ("max_bytes", step.max_bytes)):
        if value is not None and value < 1:
            yield key, f"must be at least 1, found {value}"


def _check_chain(steps: Sequence[PreprocessStep], tensor: TensorSpec) -> Iterator[tuple[PreprocessStep, str, str]]:
    """Steps in an order that means something, and an image of the model's own size and channels in the end."""
    ranks = [_RANKS.get(step.op, _NUMBERS) for step in steps]
    for (earlier, rank), step in zip(itertools.pairwise(ranks), steps[1:], strict=True):
        if rank < earlier:
            order = "first resize and crop, then layout, then numbers"
            yield step, "op", f"{step.op} of {tensor.name!r} comes too late: {order}"
            return
    if len(tensor.shape) not in (3, 4):
        return
    if (problem := _channels_problem(steps, tensor)) is not None:
        yield steps[0], "channels", problem
        return
    geometry = [step for step in steps if _RANKS.get(step.op) == _GEOMETRY and step.size]
    if geometry and len(geometry[-1].size or ()) == 2:
        for side, declared, made in zip(("high", "wide"), _sides(steps, tensor), geometry[-1].size or (), strict=True):
            if isinstance(declared, int) and declared != made:
                yield geometry[-1], "size", f"gives images {made} {side}, {tensor.name!r} is {declared} {side}"
    for before, after in itertools.pairwise(geometry):
        if (before.op, after.op) == ("resize", "crop") and not _covers(before.size or (), after.size or ()):
            yield after, "size", "is larger than what resize gives"


def _channels_problem(steps: Sequence[PreprocessStep], tensor: TensorSpec) -> str | None:
    kind = steps[0].channels or Channels.RGB
    channels, place = 1 if kind is Channels.L else 3, _place_of_channels(steps, tensor)
    there = 1 if place is None else tensor.shape[place]
    if there == channels:
        return None
    other = Layout.HWC if _layout(steps) is Layout.CHW else Layout.CHW
    shape = "[" + ", ".join(map(str, tensor.shape)) + "]"
    hint = f"; or say {{op: layout, input: {tensor.name}, to: {other}}}" if len(tensor.shape) == 4 else ""
    return f"{kind} has {channels} channels, {tensor.name!r} of shape {shape} has {there}{hint}"


def _covers(resized: tuple[int, ...], cropped: tuple[int, ...]) -> bool:
    """Whether an image may be large enough: of one size the shorter side is known alone."""
    if len(resized) == 1:
        return min(cropped) <= resized[0]
    return all(part <= whole for part, whole in zip(cropped, resized, strict=False))


def _layout(steps: Iterable[PreprocessStep]) -> Layout:
    return next((step.to for step in steps if step.op == "layout" and step.to), Layout.HWC)


def _place_of_channels(steps: Sequence[PreprocessStep], tensor: TensorSpec) -> int | None:
    """The channels' axis; None where one channel has none."""
    if len(tensor.shape) == 3:
        return None
    return 1 if _layout(steps) is Layout.CHW else 3


def _sides(steps: Sequence[PreprocessStep], tensor: TensorSpec) -> tuple[int | str, int | str]:
    """Height and width as the model declares them."""
    place = _place_of_channels(steps, tensor)
    height, width = (size for axis, size in enumerate(tensor.shape) if axis not in (0, place))
    return height, width


def _decode(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    name, mode = step.source or step.input, "L" if step.channels is Channels.L else "RGB"
    max_pixels, max_bytes = step.max_pixels or MAX_PIXELS, step.max_bytes or MAX_BYTES
    importlib.import_module("PIL.Image")  # not at the first request, where its absence would be one's fault

    def run(array: NDArray[Any], _others: dict[str, Any]) -> Iterator[Picture]:
        for row, content in enumerate(array.tolist()):
            if not isinstance(content, bytes):
                raise BadRow(name, row, "expected the bytes of an image, found text")
            if len(content) > max_bytes:
                found = f"found {len(content)}"
                raise BadRow(name, row, f"an image has at most {max_bytes} bytes, {found}")
            try:
                yield Picture(row, _decoded(content, mode, max_pixels))
            except _Unreadable as error:
                raise BadRow(name, row, str(error)) from error

    return run


class _Unreadable(Exception):
    """Bytes that are no image that is taken; one clause."""


def _decoded(content: bytes, mode: str, max_pixels: int) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)  # reads no more than the head
        width, height = image.size
        if width * height > max_pixels:
            raise _Unreadable(f"an image has at most {max_pixels} pixels, found {width} × {height}")
        if image.mode not in _MODES:
            raise _Unreadable(f"images of 8 bits a channel are taken, found one of mode {image.mode}; convert it")
        image.load()
        return image if image.mode == mode else image.convert(mode)
    except _Unreadable:
        raise
    except Exception as error:  # decoders raise what they like on bytes that somebody broke or made up
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, Image.DecompressionBombError):
            raise _Unreadable(f"an image has at most {max_pixels} pixels; {reason}") from error
        if isinstance(error, Image.DecompressionBombError):
            raise _Unreadable(f"an image has at most {max_pixels} pixels; {reason}") from error
        what = "not an image in PNG or JPEG" if isinstance(error, UnidentifiedImageError) else f"broken: {reason}"
        raise _Unreadable(f"the {len(content)} bytes are {what}") from error


def _encoded(step: PreprocessStep, tensor: TensorSpec) -> TensorSpec:
    return EncodedImages(tensor.name, DType.STRING, tensor.shape[:1], max_bytes=step.max_bytes or MAX_BYTES)


# --- geometry -----------------------------------------------------------------------------------------------------


def _check_resize(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature) -> Found:
    yield from _check_size(step, (1, 2))
    if step.antialias is False and _interpolation(step) not in _POINTWISE:
        known = ", ".join(_POINTWISE)
        yield "interpolation", f"{_interpolation(step)} averages by its nature; without antialias there are {known}"


def _check_crop(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature) -> Found:
    yield from _check_size(step, (2,))


def _check_size(step: PreprocessStep, lengths: tuple[int, ...]) -> Found:
    if step.size is None or len(step.size) not in lengths:
        shorter = ", or [256] for the shorter side" if 1 in lengths else ""
        yield "size", f"{step.op} needs size: [height, width]{shorter}"
    elif min(step.size) < 1:
        yield "size", f"a size is at least 1, found {min(step.size)}"


def _interpolation(step: PreprocessStep) -> Interpolation:
    return step.interpolation or Interpolation.BILINEAR


def _resize(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    interpolation, antialias, size = _interpolation(step), step.antialias is not False, step.size or ()

    def run(pictures: Iterator[Picture], _others: dict[str, Any]) -> Iterator[Picture]:
        for picture in pictures:
            height, width = _target(picture.image, size)
            yield Picture(picture.row, resized(picture.image, height, width, interpolation, antialias=antialias))

    return run


def _target(image: Image, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width to resize to. The longer side is cut to a whole number, as torchvision does."""
    if len(size) == 2:
        return size[0], size[1]
    short, long = sorted(image.size)
    longer = int(size[0] * long / short)
    return (size[0], longer) if image.width > image.height else (longer, size[0])


def resized(image: Image, height: int, width: int, interpolation: Interpolation, *, antialias: bool) -> Image:
    """The image in another size. Without antialias each new pixel is taken at its middle in the old image."""
    from PIL.Image import Resampling, Transform

    method = Resampling[interpolation.name]
    if (image.height, image.width) == (height, width):
        return image
    if antialias or interpolation is Interpolation.NEAREST:
        return image.resize((width, height), method)
    steps = (image.width / width, 0.0, 0.0, 0.0, image.height / height, 0.0)
    return image.transform((width, height), Transform.AFFINE, steps, method)


def _crop(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    name, (height, width) = step.source or step.input, step.size or (1, 1)

    def run(pictures: Iterator[Picture], _others: dict[str, Any]) -> Iterator[Picture]:
        for picture in pictures:
            image = picture.image
            if image.height < height or image.width < width:
                found = f"it is {image.width} × {image.height} pixels, less than the {width} × {height} to be cropped"
                raise BadRow(name, picture.row, f"{found}")
            # Rounded as torchvision's CenterCrop does.
            top, left = round((image.height - height) / 2), round((image.width - width) / 2)
            yield Picture(picture.row, image.crop((left, top, left + width, top + height)))

    return run


# --- to arrays ----------------------------------------------------------------------------------------------------


def gathered(steps: Sequence[PreprocessStep], tensor: TensorSpec, signature: Signature) -> Run:
    """The end of the pictures: one array of bytes, rows × height × width × channels (none for one without an axis)."""
    backwards = steps[0].channels is Channels.BGR
    flat, name = len(tensor.shape) == 3, steps[0].source or steps[0].input
    sides = _sides(steps, tensor)
    spans = [signature.dynamic.get(side) if isinstance(side, str) else None for side in sides]
    numbers = any(step.op not in _RANKS for step in steps)

    def run(pictures: Iterator[Picture], _others: dict[str, Any]) -> NDArray[Any]:
        arrays: list[NDArray[Any]] = []
        for picture in pictures:
            array = np.asarray(picture.image)
            shown = f"{array.shape[1]} × {array.shape[0]} pixels"
            for side, span, size in zip(sides, spans, array.shape, strict=False):
                if isinstance(side, int) and side != size:
                    expected = f"{sides[1]} × {sides[0]}; where images differ in size, declare a resize"
                    raise BadRow(name, picture.row, f"found {shown}, expected {expected}")
                if span is not None and not span.min <= size <= span.max:
                    expected = f"{side} of {span.min} to {span.max}"
                    raise BadRow(name, picture.row, f"found {shown}, expected {expected}")
            if arrays and array.shape != arrays[0].shape:
                first = f"{arrays[0].shape[1]} × {arrays[0].shape[0]} like the first of the request"
                raise BadRow(name, picture.row, f"found {shown}, expected {first}")
            arrays.append(array)
        if not arrays:
            raise BadRequest(f"input {name!r}: expected at least one image")
        stacked = np.stack(arrays)
        if stacked.ndim == 4 and backwards:
            stacked = stacked[..., ::-1]
        elif stacked.ndim == 3 and not flat:
            stacked = stacked[..., None]
        return stacked if numbers else stacked.astype(tensor.dtype.numpy, copy=False)

    return run


def _check_layout(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    if step.to is None:
        yield "to", f"layout needs to: one of {', '.join(Layout)}"
    if len(tensor.shape) != 4:
        yield "input", f"layout is about images with an axis of channels; {tensor.name!r} has {len(tensor.shape)} axes"


def _arrange(step: PreprocessStep, _tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    if step.to is Layout.HWC:
        return lambda array, _others: array
    return lambda array, _others: np.ascontiguousarray(np.moveaxis(array, 3, 1))


DECODE_IMAGE = Operation(
    frozenset({"channels", "source", "max_pixels", "max_bytes"}),
    _check_decode,
    _decode,
    raw=_encoded,
    check_chain=_check_chain,
    first=True,
    pictures=True,
    extra="image",
)
RESIZE = Operation(
    frozenset({"size", "interpolation", "antialias"}),
    _check_resize,
    _resize,
    after="decode_image",
    pictures=True,
    extra="image",
)
CROP = Operation(frozenset({"size"}), _check_crop, _crop, after="decode_image", pictures=True, extra="image")
LAYOUT = Operation(frozenset({"to"}), _check_layout, _arrange, after="decode_image", extra="image")
