"""Keras 3 models (`model.save("model.keras")`): a zip archive of config.json, weights in HDF5, and vocabularies.

config.json says which classes to make, with which arguments; Keras's `safe_mode` refuses the ones that it knows to
carry code. Here it is the other way round: only Keras's own layers, operations and their parts are let through, and
none that opens a file or holds pickled code. The HDF5 file may not refer to other files.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.ingest import signatures
from tasks.ingest.archives import is_zip, opened
from tasks.ingest.signatures import Found
from tasks.spec import ModelSpec

_HOW = "build the model from Keras's own layers and save it with model.save('model.keras')"
_MEMBERS = re.compile(r"metadata\.json|config\.json|model\.weights\.h5|assets(/.*)?")

#: Where Keras's own parts of models live. `builtins` names Keras's own activations and the like, not Python's.
_MODULES = re.compile(
    r"builtins"
    r"|keras(\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|ops|optimizers"
    r"|optimizers\.schedules|quantizers|random|regularizers))?"
    r"|keras\.src\.(activations|layers|models|ops|random)(\.\w+)*"
)

#: Keras's own classes that carry Python code, pickles, or the path of another model.
_WITH_CODE = frozenset({"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"})

#: Tensors and values that Keras writes into configurations; they have no module.
_VALUES = re.compile(r"__(keras_tensor|tensor|numpy|bytes|ellipsis|slice|tuple)__")


@dataclass(frozen=True, slots=True)
class KerasModel:
    """A Keras model, asked in inference mode: by input names where it has several."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = {tensor.name: _tensor(inputs[tensor.name], tensor) for tensor in self.signature.inputs}
        return {name: np.asarray(value) for name, value in self.answer(given).items()}

    def answer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by input name → tensors by output name, in the signature's order; export traces this very call."""
        structure = _structure(self.native, "input")
        if isinstance(structure, dict):
            question: Any = given if len(given) > 1 else {key: value for key in structure for value in given.values()}
        else:
            several = [given[tensor.name] for tensor in self.native.inputs] if len(given) > 1 else None
            question = several or next(iter(given.values()))
        answer = self.native(question, training=False)
        outputs = [tensor.name for tensor in self.signature.outputs]
        if isinstance(answer, Mapping):
            return {name: answer[name] for name in outputs}
        values = answer if isinstance(answer, list | tuple) else [answer]
        return dict(zip(outputs, values, strict=True))


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse Lambda layers, custom objects and anything else that could run code."""
    _refuse_code(path)


def load(path: Path, artifact: Artifact, work: Path) -> KerasModel:
    """Read the model with Keras's safe mode on, and compare it with the signature.

    Raises:
        UnsafeSource: its configuration or weights reach outside the file.
        SourceError: this Keras cannot read it, or it does not fit the signature.
    """
    _refuse_code(path)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly anything for a file that it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        saved = f"it was saved by Keras {_saved_by(path)}, this is {keras.__version__}"
        raise SourceError(f"{path.name} cannot be read as a Keras model ({reason}); {saved}: save it again") from error
    _check_signature(model, artifact.signature)
    return KerasModel(model, artifact.signature)


def _tensor(array: NDArray[Any], tensor: TensorSpec) -> Any:
    if tensor.dtype is not DType.STRING:
        return array
    import tensorflow as tf

    return tf.constant(array.tolist(), dtype=tf.string, shape=array.shape)


# --- safety -------------------------------------------------------------------------------------------------------


def _refuse_code(path: Path) -> None:
    if not is_zip(path):
        with path.open("rb") as stream:
            legacy = stream.read(8) == b"\x89HDF\r\n\x1a\n"
        if legacy:
            raise UnsafeSource(
                f"{path.name} is a Keras 2 file (HDF5), whose layers may hold pickled code, so it is not opened. "
                "Where you trust it, load it with Keras 3 and save it with model.save('model.keras')"
            )
    with opened(path, "a Keras 3 model") as archive:
        for name in archive.namelist():
            if not _MEMBERS.fullmatch(name):
                raise UnsafeSource(f"{path.name}: the member {name!r} is not one that Keras writes: {_HOW}")
        if missing := {"config.json", "model.weights.h5"} - set(archive.namelist()):
            raise SourceError(f"{path.name} has no {', '.join(sorted(missing))}: {_HOW}")
        try:
            config = json.loads(archive.read("config.json"))
        except ValueError as error:
            raise SourceError(f"{path.name}: config.json is not JSON ({error}); save the model again") from error
        if not isinstance(config, dict):
            raise SourceError(f"{path.name}: config.json describes no model; save the model again")
        config.pop("compile_config", None)  # optimizers and losses are not loaded
        if found := list(dict.fromkeys(_unsafe_parts(config))):
            shown = "; ".join(found[:5])
            raise UnsafeSource(f"{path.name} could run code when it is opened, so it is not: {shown}. Instead, {_HOW}")
        _refuse_links(path, archive.read("model.weights.h5"))


def _unsafe_parts(value: Any) -> Iterator[str]:
    """What in a configuration is not one of Keras's own plain parts."""
    if isinstance(value, list):
        for item in value:
            yield from _unsafe_parts(item)
    if not isinstance(value, dict):
        return
    if value.get("class_name") is not None and (why := _why_unsafe(value)):
        yield f"{_called(value)} {why}"
    for key in ("vocabulary", "filepath", "module_config"):
        if isinstance(value.get(key), str):
            yield f"{key} names the file {value[key]!r}"
    for key, item in value.items():
        if key not in ("class_name", "module", "registered_name"):
            yield from _unsafe_parts(item)


def _why_unsafe(value: Mapping[str, Any]) -> str | None:
    """Why an object of this class is not made."""
    name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    if {str(name), str(registered)} & _WITH_CODE:
        return "holds Python code"
    if _VALUES.fullmatch(str(name)):
        return None
    if not (isinstance(name, str) and isinstance(module, str) and _MODULES.fullmatch(module)):
        return f"is {module}.{name}, which is none of Keras's own"
    return f"is the custom object {registered}" if ">" in str(registered or "") else None


def _called(value: Mapping[str, Any]) -> str:
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"{value['class_name']} {name!r}" if name else str(value["class_name"])


def _refuse_links(path: Path, content: bytes) -> None:
    """HDF5 groups may link to other files, and data sets may lie in them."""
    import h5py  # type: ignore[import-untyped]

    def walk(group: Any) -> Iterator[str]:
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"{group.name}/{name} links to {link.filename}"
            elif isinstance(link, h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    yield from walk(item)
                elif item.external or item.is_virtual:
                    yield f"{item.name} lies in another file"
            else:
                yield f"{group.name}/{name} is a link"

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            found = list(walk(file))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SourceError(f"{path.name}: its weights cannot be read ({error}); save the model again") from error
    if found:
        raise UnsafeSource(f"{path.name}: its weights reach outside the file ({found[0]}): {_HOW}")


def _saved_by(path: Path) -> str:
    with opened(path, "a Keras 3 model") as archive:
        try:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
        except (KeyError, ValueError, TypeError):
            return "of an unknown version"


# --- the signature ------------------------------------------------------------------------------------------------


def _check_signature(model: Any, signature: Signature) -> None:
    """Several inputs are known by name, one by its place; outputs by name where the model gives a dictionary."""
    if not getattr(model, "inputs", None):
        raise SourceError("the model was never built, so it has no inputs: call it once, or add an Input, and save it")
    for what, declared in (("input", signature.inputs), ("output", signature.outputs)):
        structure = _structure(model, what)
        if isinstance(structure, dict):
            found = [_described(tensor, name) for name, tensor in structure.items()]
        else:
            found = [_described(tensor, tensor.name) for tensor in getattr(model, f"{what}s")]
        by_name = isinstance(structure, dict) if what == "output" else len(found) > 1
        signatures.check(what, declared, found, by_name=by_name)


def _structure(model: Any, what: str) -> Any:
    """How a functional model takes its inputs or gives its outputs; a sequential one does not say."""
    return getattr(model, what, None)


def _described(tensor: Any, name: str) -> Found:
    return Found(name, str(tensor.dtype), tuple(tensor.shape))
