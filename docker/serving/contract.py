"""The contract of a model: what goes in, what comes out, and what the image promises about it.

Plain frozen dataclasses, so that the server starts without a validation library, msgspec decodes them from
`contract.json`, and pydantic embeds them in the pipeline's own contracts. Shapes name their dynamic dimensions
(`["batch", 1, 8, 8]`); every named dimension has a range in `Signature.dynamic`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

#: The name of the contract inside an image's package folder, and of the folder there with the files that steps name.
CONTRACT_FILE = "contract.json"
PREPROCESS_FOLDER = "preprocess"

#: The form of `contract.json` that this code writes and reads. It counts up when a field changes its meaning or goes.
CONTRACT_VERSION = 1

_STRICT: dict[str, object] = {"extra": "forbid"}  # read by pydantic, without importing it here


class DType(StrEnum):
    """Element types, by NumPy's names. Strings are UTF-8."""

    BOOL = "bool"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"

    @cached_property
    def protocol_name(self) -> str:
        """The name in the Open Inference Protocol v2, section "Tensor Data Types" (`FP32`, `INT64`, `BYTES`, …)."""
        if self is DType.STRING:
            return "BYTES"
        return self.value.replace("float", "fp").upper()

    @cached_property
    def numpy(self) -> np.dtype:
        """The NumPy dtype; strings are object arrays of `str`."""
        import numpy as np

        return np.dtype(object if self is DType.STRING else self.value)

    @property
    def is_float(self) -> bool:
        return self.value.startswith("float")


#: Protocol name → dtype: the inverse of `DType.protocol_name`.
PROTOCOL_DTYPES = {dtype.protocol_name: dtype for dtype in DType}


class NanPolicy(StrEnum):
    """What NaN in a floating-point input is: a client's mistake, or a value that is known what to do with."""

    REFUSE = "refuse"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output. `shape` mixes fixed sizes (int) and named dynamic dimensions (str).

    `range` and `nan` are for inputs, and about what clients send, before preprocessing: the least and the greatest
    value, both included, either of them open (None); infinities are never accepted.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    range: tuple[int | float | None, int | float | None] | None = None
    nan: NanPolicy = NanPolicy.REFUSE


@dataclass(frozen=True, slots=True)
class EncodedImages(TensorSpec):
    """An input of images as clients send them: each element the bytes of a file (`bytes` in arrays, base64 in JSON)."""

    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DimRange:
    """The sizes a named dimension may take, both ends included."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives: tensors in order, and the range of each named dimension."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: dict[str, DimRange] = field(default_factory=dict)

    @property
    def batch(self) -> str | None:
        """The name of the leading dimension, where it is dynamic and all inputs and outputs share it; else None."""
        leading = {tensor.shape[0] if tensor.shape else None for tensor in (*self.inputs, *self.outputs)}
        name = leading.pop() if len(leading) == 1 else None
        return name if isinstance(name, str) else None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may lie from the source model's: `|answer - expected| <= atol + rtol * |expected|`."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    atol: float
    rtol: float


class Channels(StrEnum):
    """In which order a decoded image has its channels; `l` is one channel of luminance (ITU-R 601)."""

    RGB = "rgb"
    BGR = "bgr"
    L = "l"


class Interpolation(StrEnum):
    """How an image is resampled, by Pillow's names."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Layout(StrEnum):
    """The order of an image's axes: height, width, channels."""

    CHW = "chw"
    HWC = "hwc"


class Padding(StrEnum):
    """To what length texts are padded: to the longest of the request, or all to `max_length`."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"


@dataclass(frozen=True, slots=True)
class PreprocessStep:
    """One declared step from raw input to model input; see `serving.preprocess` for the operations.

    `op` selects the operation, `input` the model's input; the rest are the operation's arguments, `None` where it takes
    none. `file` is a path relative to the spec, and inside an image relative to the package's `preprocess` folder.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    op: str
    input: str
    by: float | None = None
    offset: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axis: int | None = None
    source_dtype: DType | None = None
    min: float | None = None
    max: float | None = None
    fill: tuple[float, ...] | None = None
    indicator: str | None = None
    source: str | None = None
    file: str | None = None
    values: tuple[str, ...] | None = None
    first: int | None = None
    unknown: int | None = None
    channels: Channels | None = None
    size: tuple[int, ...] | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    to: Layout | None = None
    max_pixels: int | None = None
    max_bytes: int | None = None
    max_length: int | None = None
    truncate: bool | None = None
    padding: Padding | None = None
    pad_id: int | None = None
    mask: str | None = None
    type_ids: str | None = None


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file inside the package folder. `path` is relative and uses forward slashes; `digest` is `sha256:<hex>`."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GpuNeeds:
    """What a package that computes on an NVIDIA GPU was built with, and needs of it.

    `cuda`, `cudnn` and `tensorrt` are the versions of the libraries in its image; what is empty is not in it. `driver`
    is the oldest NVIDIA driver that runs them.
    `capabilities` are the compute capabilities that the model's own files hold code for (a TensorRT engine, a model
    that AOTInductor compiled); none where only the libraries have kernels. `instances` copies of the model share one
    GPU, as Triton's instance groups do; each takes `workspace_bytes` for activations at the largest batch (0: not
    known).
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    cuda: str
    cudnn: str = ""
    tensorrt: str = ""
    driver: str = ""
    capabilities: tuple[str, ...] = ()
    instances: int = 1
    workspace_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a package needs of the machine that it is served on; what is empty or 0 is not asked for.

    `architecture` is the kernel's name (`uname -m`), `python` the minor version that the libraries are built for.
    `instructions` are the instruction-set extensions that the model's files hold, by the kernel's names in
    /proc/cpuinfo; libraries choose their own at run time. `memory_bytes` is a lower bound, the model's files: a machine
    that has less certainly cannot hold them, one that has more may still be too small, which smoke finds out.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    architecture: str = ""
    python: str = ""
    instructions: tuple[str, ...] = ()
    memory_bytes: int = 0
    gpu: GpuNeeds | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How the server puts requests together and spreads them; what is None it decides by the machine it finds.

    `batch_rows` is the most rows in one batch (`max_batch` unless less is given), `batch_window_ms` how long a batch
    that is not full waits for more while workers are busy, `queue_rows` the most rows that wait, `workers` how many
    batches run at once, `threads` how many threads each of them has.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    batch_rows: int | None = None
    batch_window_ms: float | None = None
    queue_rows: int | None = None
    workers: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class PredictionLog:
    """Which share of answered requests is recorded, and what of it: see `serving.prediction_log`.

    `max_mb` bounds the files together (MiB). Inputs named in `omit` are left out, those in `hash` replaced by a keyed
    hash of each row.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    sample: float = 0.01
    max_mb: int = 256
    omit: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServingContract:
    """`contract.json`: all that the server in an image needs to know, and all that it promises.

    `signature` is what the model itself takes, after preprocessing; what a client sends is
    `serving.preprocess.raw_signature(signature, preprocess)`. `model` is the path of the model file or folder inside
    the package. `golden` is an `.npz` of raw inputs (`input/<name>`) and expected outputs (`output/<name>`), which an
    answer must meet within `tolerances` (by output name). `max_batch` is the most rows that the model is given at once,
    `p99_ms` the 99th percentile of latency that `batching` is to keep.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    name: str
    version: str
    format: str
    runtime: str
    model: str
    files: tuple[PackagedFile, ...]
    signature: Signature
    preprocess: tuple[PreprocessStep, ...]
    tolerances: dict[str, Tolerance]
    golden: str
    max_batch: int
    runtime_versions: dict[str, str]
    batching: Batching = Batching()
    p99_ms: float | None = None
    prediction_log: PredictionLog | None = None
    needs: Needs = Needs()
    contract_version: int = CONTRACT_VERSION
