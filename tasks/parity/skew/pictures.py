"""What training did otherwise with images: channels, interpolation, size, crop, the order of axes, mirroring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Channels, Interpolation, Layout, PreprocessStep, Signature, TensorSpec
from serving.preprocess import Preprocessing, problems
from serving.tensors import BadRequest
from tasks.parity.skew.causes import Cause, Variant
from tasks.parity.skew.compare import Case, close

#: How far from the declared size of the shorter side another one is looked for: recipes of the same model differ by
#: less (torchvision's first and second weights of ResNet-50: 256 and 232).
_SIZES_AROUND = 32


def variants(case: Case) -> Iterator[Variant]:
    """Steps that training may have had instead, one change at a time, then two of the commonest together."""
    channels = list(_channels(case.steps))
    yield from channels
    yield from _resizes(case.steps)
    for swapped in channels:
        for other in _interpolations(swapped.steps):
            sentence = f"{swapped.cause.sentence}, and {other.cause.sentence}"
            yield Variant(Cause("channels_and_interpolation", sentence), other.steps)


def explain(case: Case) -> Iterator[Cause]:
    """What is told from the arrays alone: axes and sides, then a crop at another place."""
    made, expected = case.made[case.name], case.expected
    if made.ndim == 4:
        tall, wide, deep = (2, 3, 1) if _is_chw(case) else (1, 2, 3)
        known = {
            "height_and_width_swapped": ("has height and width swapped", np.swapaxes(made, tall, wide)),
            "mirrored": ("is mirrored left to right, such as by augmentation that was left on", np.flip(made, wide)),
            "upside_down": ("is upside down", np.flip(made, tall)),
            "channels_swapped": ("has its channels in the reverse order, after the other steps", np.flip(made, deep)),
        }
        for name, (what, other) in known.items():
            if other.shape == expected.shape and close(case, other, expected).all():
                yield Cause(name, f"training's image {what}")
    yield from _crop(case)


def level(case: Case) -> Iterator[Cause]:
    """Where nothing explains it: whether all is within about one of 256 levels."""
    made, expected = case.made[case.name].astype(np.float64), case.expected.astype(np.float64)
    if made.shape != expected.shape:
        return
    contrast = _level(case)
    if contrast is not None and np.abs(made - expected).max() <= 2.01 * contrast:
        largest = np.abs(made - expected).max() / contrast
        yield Cause(
            "another_decoder_or_rounding",
            f"no pixel is further apart than {largest:.1f} of 256 levels: training decoded or resampled with another "
            "library or without rounding to whole levels; where that is meant, evaluation.preprocessed.atol allows it",
        )


def _channels(steps: tuple[PreprocessStep, ...]) -> Iterator[Variant]:
    decode = steps[0]
    now = decode.channels or Channels.RGB
    for other in Channels:
        if other is not now and Channels.L not in (other, now):
            sentence = f"training's channels are in the order {other}, the declared steps decode {now}"
            yield Variant(Cause("channel_order", sentence), (replace(decode, channels=other), *steps[1:]))


def _resizes(steps: tuple[PreprocessStep, ...]) -> Iterator[Variant]:
    yield from _interpolations(steps)
    for index, step in enumerate(steps):
        if step.op != "resize" or not step.size:
            continue
        crop = next((later for later in steps[index:] if later.op == "crop" and later.size), None)
        if crop is not None:
            squeezed = replace(step, size=crop.size)
            without = tuple(squeezed if other is step else other for other in steps if other is not crop)
            sentence = (
                f"training resized to {_by(crop.size)} directly, the declared steps crop that from a larger image"
            )
            yield Variant(Cause("crop_left_out", sentence), without)
        if len(step.size) == 2 and step.size[0] != step.size[1]:
            changed = replace(step, size=(step.size[1], step.size[0]))
            yield Variant(Cause("size", "training took the size as width and height"), _with(steps, index, changed))
        if len(step.size) == 1:
            least = max(min(crop.size), 1) if crop is not None and crop.size else 1
            for size in sorted(
                range(max(step.size[0] - _SIZES_AROUND, least), step.size[0] + _SIZES_AROUND + 1),
                key=lambda size, now=step.size[0]: abs(size - now),  # type: ignore[misc]
            ):
                sentence = f"training resized the shorter side to {size}, the declared steps to {step.size[0]}"
                yield Variant(Cause("size", sentence), _with(steps, index, replace(step, size=(size,))))


def _interpolations(steps: tuple[PreprocessStep, ...]) -> Iterator[Variant]:
    for index, step in enumerate(steps):
        if step.op != "resize":
            continue
        now = (step.interpolation or Interpolation.BILINEAR, step.antialias is not False)
        for other in product(Interpolation, (True, False)):
            if other in (now, (Interpolation.NEAREST, False)):
                continue
            changed = replace(step, interpolation=other[0], antialias=other[1])
            sentence = f"training resampled by {_method(other)}, the declared steps by {_method(now)}"
            yield Variant(Cause("interpolation", sentence), _with(steps, index, changed))


def _with(steps: tuple[PreprocessStep, ...], index: int, changed: PreprocessStep) -> tuple[PreprocessStep, ...]:
    return (*steps[:index], changed, *steps[index + 1 :])


def _method(of: tuple[Interpolation, bool]) -> str:
    return f"{of[0]}{'' if of[1] else ' without antialias'}"


def _by(size: tuple[int, ...] | None) -> str:
    return " × ".join(map(str, size or ()))


def _is_chw(case: Case) -> bool:
    return any(step.op == "layout" and step.to is Layout.CHW for step in case.steps)


# --- a crop at another place --------------------------------------------------------------------------------------


def _crop(case: Case) -> Iterator[Cause]:
    """Where in the uncropped image training's own image is, for every row."""
    crop = next((step for step in case.steps if step.op == "crop"), None)
    if crop is None or crop.size is None:
        return
    places = []
    for row in range(len(case.expected)):
        place = _place(case, crop, row)
        if place is None:
            return
        places.append(place)
    (top, left), (declared_top, declared_left) = places[0]
    yield Cause(
        "crop",
        f"training cut another part out of the image: from row {top} and column {left} on, the declared steps from "
        f"{declared_top} and {declared_left}",
    )


def _place(case: Case, crop: PreprocessStep, row: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Top and left of training's crop, and of the declared one, in one image; None where it is nowhere in there."""
    whole = _uncropped(case, crop, row)
    if whole is None:
        return None
    wanted = case.expected[row]
    if _is_chw(case):
        whole, wanted = np.moveaxis(whole, 0, -1), np.moveaxis(wanted, 0, -1)
    height, width = wanted.shape[:2]
    near = 1e-3 * max(float(np.abs(whole).max()), 1e-30)
    rows, columns = whole.shape[0] - height + 1, whole.shape[1] - width + 1
    if rows < 1 or columns < 1:
        return None
    alike = np.abs(whole[:rows, :columns] - wanted[0, 0]) <= near
    for top, left in np.argwhere(alike if alike.ndim == 2 else alike.all(axis=-1)):
        if (np.abs(whole[top : top + height, left : left + width] - wanted) <= near).all():
            return (int(top), int(left)), (round((rows - 1) / 2), round((columns - 1) / 2))
    return None


def _uncropped(case: Case, crop: PreprocessStep, row: int) -> NDArray[np.float64] | None:
    """One row's image through all steps but the crop, where constants do not lie along height or width."""
    preprocessing, tensor = case.preprocessing, case.tensor
    sides = (2, 3) if _is_chw(case) else (1, 2)
    shape = tuple(f"side{axis}" if axis in sides else size for axis, size in enumerate(tensor.shape))
    free = TensorSpec(tensor.name, tensor.dtype, shape)
    dynamic = {**preprocessing.signature.dynamic, **_free(sides)}
    signature = Signature(inputs=(free,), outputs=(), dynamic=dynamic)
    steps = tuple(step for step in case.steps if step is not crop)
    if problems(signature, steps):
        return None
    try:
        made = Preprocessing(steps, signature, preprocessing.folder)(_one(case, row))
    except BadRequest:
        return None
    return np.asarray(made[tensor.name][0].astype(np.float64))


def _free(sides: tuple[int, int]) -> dict[str, Any]:
    from serving.contract import DimRange

    return {f"side{axis}": DimRange(1, 1 << 20) for axis in sides}


def _one(case: Case, row: int) -> dict[str, NDArray[Any]]:
    name = case.steps[0].source or case.name
    return {name: case.raw[name][row : row + 1]}


# --- one level of an image ----------------------------------------------------------------------------------------


def _level(case: Case) -> float | None:
    """What one of 256 levels is worth in the model's input, the most over all channels; None where nobody can say."""
    worth = 1.0
    for step in case.steps:
        match step.op:
            case "scale":
                worth *= abs(1.0 if step.by is None else step.by)
            case "standardize":
                worth /= min(step.std or (1.0,))
            case "impute":
                return None
    return worth
