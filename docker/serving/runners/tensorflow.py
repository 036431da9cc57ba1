"""SavedModels through TensorFlow's C interface (`tensorflow/c/c_api.h`), on the CPU.

Only the two shared libraries of the tensorflow wheel are opened: `import tensorflow` takes seconds and hundreds of
megabytes for a Python interface that answering a request does not use. The session, its kernels and its graph
optimiser are the same. The signature `serving_default` is run, whose inputs and outputs carry the contract's names.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from serving.runners import RunnerError, missing_names

#: `TF_DataType` → NumPy dtype (tensorflow/c/tf_datatype.h). Strings are objects.
_DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in {
        1: "float32",
        2: "float64",
        3: "int32",
        4: "uint8",
        5: "int16",
        6: "int8",
        7: "object",
        9: "int64",
        10: "bool",
        17: "uint16",
        19: "float16",
        22: "uint32",
        23: "uint64",
    }.items()
}
_TYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
_STRING = 7
_STRING_BYTES = 24  # sizeof(TF_TString)
_SIGNATURE = "serving_default"


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class SavedModelRunner:
    """A session over a SavedModel; see `serving.runners.Runner`."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        self._tf = _library()
        self._session: int | None = None
        self._graph = self._tf.TF_NewGraph()
        meta_graph = self._open(path, threads)
        inputs, outputs = _signature_tensors(meta_graph)
        self._inputs = [tensor.name for tensor in signature.inputs]
        self._outputs = [tensor.name for tensor in signature.outputs]
        problem = missing_names("input", tuple(self._inputs), tuple(inputs)) or missing_names(
            "output", tuple(self._outputs), tuple(outputs)
        )
        if problem is None and (surplus := set(inputs) - set(self._inputs)):
            problem = f"the model needs {', '.join(sorted(surplus))} as well, which the signature does not have"
        if problem:
            self.close()
            raise RunnerError(f"{path.name}: {problem}")
        self._feeds = (_Output * len(self._inputs))(*(self._find(inputs[name]) for name in self._inputs))
        self._fetches = (_Output * len(self._outputs))(*(self._find(outputs[name]) for name in self._outputs))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tf, status = self._tf, self._tf.TF_NewStatus()
        given = (ctypes.c_void_p * len(self._inputs))()
        answers = (ctypes.c_void_p * len(self._outputs))()
        try:
            for index, name in enumerate(self._inputs):
                given[index] = self._to_tensor(inputs[name])
            tf.TF_SessionRun(
                self._session,
                None,
                self._feeds,
                given,
                len(given),
                self._fetches,
                answers,
                len(answers),
                None,
                0,
                None,
                status,
            )
            if tf.TF_GetCode(status):
                raise RunnerError(f"TensorFlow failed: {tf.TF_Message(status).decode(errors='replace')}")
            return {name: self._to_array(tensor) for name, tensor in zip(self._outputs, answers, strict=True)}
        finally:
            for tensor in given:  # an answer may share memory with what was given, so both go last
                if tensor and tf.TF_TensorType(tensor) == _STRING:
                    self._free_strings(tensor)
            for tensor in (*given, *answers):
                if tensor:
                    tf.TF_DeleteTensor(tensor)
            tf.TF_DeleteStatus(status)

    def close(self) -> None:
        tf, status = self._tf, self._tf.TF_NewStatus()
        if self._session is not None:
            tf.TF_CloseSession(self._session, status)
            tf.TF_DeleteSession(self._session, status)
            self._session = None
        if self._graph is not None:
            tf.TF_DeleteGraph(self._graph)
            self._graph = None
        tf.TF_DeleteStatus(status)

    def _open(self, path: Path, threads: int) -> bytes:
        """Start the session; the MetaGraphDef of the tag `serve`, serialised."""
        tf, status, options, meta_graph = self._tf, self._tf.TF_NewStatus(), self._tf.TF_NewSessionOptions(), None
        try:
            # ConfigProto: intra_op_parallelism_threads = 2, inter_op_parallelism_threads = 5,
            # use_per_session_threads = 9 (or the first session of the process decides for all).
            # Operations one after the other in the thread that calls (-1): with a pool of one thread for all callers, a
            # quick run waits until a slow one beside it has ended (measured: 650 ms instead of 30).
            config = b"\x10" + _varint(threads) + b"\x28" + _varint(-1 & (1 << 64) - 1) + b"\x48\x01"
            tf.TF_SetConfig(options, config, len(config), status)
            meta_graph = tf.TF_NewBuffer()
            tags = (ctypes.c_char_p * 1)(b"serve")
            session = tf.TF_LoadSessionFromSavedModel(
                options, None, str(path).encode(), tags, 1, self._graph, meta_graph, status
            )
            if tf.TF_GetCode(status):
                tf.TF_DeleteGraph(self._graph)
                reason = tf.TF_Message(status).decode(errors="replace")
                raise RunnerError(f"TensorFlow cannot load {path.name}: {reason}")
            self._session = session
            return ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        finally:
            if meta_graph is not None:
                tf.TF_DeleteBuffer(meta_graph)
            tf.TF_DeleteSessionOptions(options)
            tf.TF_DeleteStatus(status)

    def _find(self, tensor: str) -> _Output:
        operation, _, index = tensor.partition(":")
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            self.close()
            raise RunnerError(f"the SavedModel's signature names {tensor}, which is not in its graph")
        return _Output(found, int(index or 0))

    def _to_tensor(self, array: NDArray[Any]) -> int:
        tf, number = self._tf, _TYPE_NUMBERS.get(array.dtype)
        if number is None:
            raise RunnerError(f"TensorFlow takes no {array.dtype} inputs")
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        size = array.size * (_STRING_BYTES if number == _STRING else array.itemsize)
        tensor: int = tf.TF_AllocateTensor(number, shape, array.ndim, size)
        data = tf.TF_TensorData(tensor)
        if number != _STRING:
            contiguous = np.ascontiguousarray(array)
            ctypes.memmove(data, contiguous.ctypes.data, size)
            return tensor
        for index, item in enumerate(array.ravel()):
            content = item if isinstance(item, bytes) else str(item).encode()
            tf.TF_StringInit(data + index * _STRING_BYTES)
            tf.TF_StringCopy(data + index * _STRING_BYTES, content, len(content))
        return tensor

    def _free_strings(self, tensor: int) -> None:
        data = self._tf.TF_TensorData(tensor)
        for offset in range(0, self._tf.TF_TensorByteSize(tensor), _STRING_BYTES):
            self._tf.TF_StringDealloc(data + offset)

    def _to_array(self, tensor: int) -> NDArray[Any]:
        tf, number = self._tf, self._tf.TF_TensorType(tensor)
        if number not in _DTYPES:
            raise RunnerError(f"the model gives a tensor of TensorFlow's type {number}, which has no NumPy dtype")
        shape = tuple(tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor)))
        array: NDArray[Any] = np.empty(shape, _DTYPES[number])
        data = tf.TF_TensorData(tensor)
        if number != _STRING:
            ctypes.memmove(array.ctypes.data, data, array.nbytes)
            return array
        flat = array.reshape(-1)
        for index in range(flat.size):
            item = data + index * _STRING_BYTES
            content = ctypes.string_at(tf.TF_StringGetDataPointer(item), tf.TF_StringGetSize(item))
            flat[index] = content.decode(errors="replace")
        return array


def load(path: Path, signature: Signature, threads: int) -> SavedModelRunner:
    """Open a SavedModel folder."""
    return SavedModelRunner(path, signature, threads)


def _signature_tensors(meta_graph: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Input and output names of `serving_default` → tensors of the graph (`operation:index`).

    Reads `MetaGraphDef.signature_def` (field 5, a map), `SignatureDef.inputs` (1) and `.outputs` (2), both maps, and
    `TensorInfo.name` (1), of tensorflow/core/protobuf/meta_graph.proto.
    """
    entries = (dict(_fields(value)) for field, value in _fields(meta_graph) if field == 5)
    signature = {entry[1].decode(): entry.get(2, b"") for entry in entries}
    if _SIGNATURE not in signature:
        named = ", ".join(sorted(signature)) or "none"
        raise RunnerError(f"the SavedModel has no signature {_SIGNATURE}; it has {named}")
    tensors: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for field, value in _fields(signature[_SIGNATURE]):
        if field in (1, 2):
            entry = dict(_fields(value))
            tensors[field - 1][entry[1].decode()] = dict(_fields(entry[2])).get(1, b"").decode()
    return tensors


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protocol buffer, as (number, content); numbers are passed over."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        match key & 7:
            case 0:
                varint()
            case 1:
                position += 8
            case 5:
                position += 4
            case _:
                length = varint()
                yield key >> 3, message[position : position + length]
                position += length


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@cache
def _library() -> ctypes.CDLL:
    """TensorFlow's shared libraries, with the types of the functions that are used."""
    spec = importlib.util.find_spec("tensorflow")  # finds the folder without importing it
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    folder = next((folder for folder in folders if (folder / "libtensorflow_cc.so.2").is_file()), None)
    if folder is None:
        raise RunnerError("the tensorflow runtime is not installed here: libtensorflow_cc.so.2 was not found")
    # Not RTLD_GLOBAL: the libraries carry their own OpenSSL, whose symbols would be taken by Python's `ssl`.
    framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_LOCAL)
    tf = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_LOCAL)
    handle, text, number, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    outputs, handles = ctypes.POINTER(_Output), ctypes.POINTER(handle)
    buffer, dims = ctypes.POINTER(_Buffer), ctypes.POINTER(ctypes.c_int64)
    for name, result, arguments in (
        ("TF_Version", text, ()),
        ("TF_NewStatus", handle, ()),
        ("TF_DeleteStatus", None, (handle,)),
        ("TF_GetCode", number, (handle,)),
        ("TF_Message", text, (handle,)),
        ("TF_NewSessionOptions", handle, ()),
        ("TF_DeleteSessionOptions", None, (handle,)),
        ("TF_SetConfig", None, (handle, text, size, handle)),
        ("TF_NewGraph", handle, ()),
        ("TF_DeleteGraph", None, (handle,)),
        ("TF_GraphOperationByName", handle, (handle, text)),
        ("TF_NewBuffer", buffer, ()),
        ("TF_DeleteBuffer", None, (buffer,)),
        (
            "TF_LoadSessionFromSavedModel",
            handle,
            (handle, handle, text, ctypes.POINTER(text), number, handle, buffer, handle),
        ),
        ("TF_CloseSession", None, (handle, handle)),
        ("TF_DeleteSession", None, (handle, handle)),
        (
            "TF_SessionRun",
            None,
            (handle, handle, outputs, handles, number, outputs, handles, number, handle, number, handle, handle),
        ),
        ("TF_AllocateTensor", handle, (number, dims, number, size)),
        ("TF_DeleteTensor", None, (handle,)),
        ("TF_TensorData", handle, (handle,)),
        ("TF_TensorType", number, (handle,)),
        ("TF_TensorByteSize", size, (handle,)),
        ("TF_NumDims", number, (handle,)),
        ("TF_Dim", ctypes.c_int64, (handle, number)),
        ("TF_StringInit", None, (handle,)),
        ("TF_StringCopy", None, (handle, text, size)),
        ("TF_StringDealloc", None, (handle,)),
        ("TF_StringGetDataPointer", handle, (handle,)),
        ("TF_StringGetSize", size, (handle,)),
    ):
        function = getattr(tf, name, None) or getattr(framework, name)
        function.restype, function.argtypes = result, arguments
    return tf
