"""TensorFlow SavedModels: a folder whose `serving_default` signature carries the spec's names.

A SavedModel is a program: its graph may read and write files, call into Python, or open connections, when it is loaded
(initialisers) or asked. Every operation in it, and in each of its functions, must be one that only computes, or holds
the model's own variables and tables. Saving and restoring are allowed where the loader itself calls them.
"""

from __future__ import annotations

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
from tasks.ingest.signatures import Found
from tasks.spec import ModelSpec

_HOW = "save the model with tf.saved_model.save(model, folder, signatures=…), its function taking and giving tensors"
_SIGNATURE = "serving_default"

#: Operations with state that stay inside the process: variables, tables, random numbers, control flow.
_STATE = re.compile(
    r"(VarHandle|ReadVariable|Assign(Add|Sub)?Variable|VarIsInitialized)Op|Variable(V2|Shape)?|DestroyResourceOp"
    r"|Resource(Gather|GatherNd|Scatter\w+|Apply\w+|SparseApply\w+|StridedSliceAssign|CountUpTo)"
    r"|(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|InitializeTableV2|LookupTable\w+V2"
    r"|StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?|TensorArray\w*|Stack\w*|TemporaryVariable"
    r"|Random\w+|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal|StatelessRandomGetAlg|Stateful\w+"
    r"|Rng\w+|Anonymous(Random)?SeedGenerator|DummySeedGenerator|NonDeterministicInts|Empty|GuaranteeConst"
    r"|DeviceIndex|DisableCopyOnRead|BoostedTrees\w+|CudnnRNN\w*|MutexV2|MutexLock|ConsumeMutexLock"
)

#: Operations that TensorFlow calls stateless and that still reach outside.
_OUTSIDE = re.compile(
    r"ReadFile|MatchingFiles|\w*Reader\w*|\w*Dataset\w*|PyFunc\w*|\w*PyFunc|Debug\w+|ImmutableConst"
    r"|InitializeTableFromTextFile|\w*Summary\w*|ShardedFilename|ShardedFilespec|CopyHost"
)

#: Reads a vocabulary; allowed for the model's own assets, in initialisers that TensorFlow hands them to.
_VOCABULARY = "InitializeTableFromTextFileV2"
_HANDED_OVER = {"ReadVariableOp", "Placeholder", "HashTableV2", "MutableHashTableV2"}

#: What the saver's own functions may do besides: TensorFlow calls them to restore the variables.
_SAVER = re.compile(r"SaveV2|RestoreV2|MergeV2Checkpoints|ShardedFilename")


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A loaded trackable, asked through `serving_default`."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        function = self.native.signatures[_SIGNATURE]
        answer = function(**{tensor.name: _tensor(inputs[tensor.name], tensor) for tensor in self.signature.inputs})
        return {tensor.name: _as_numpy(answer[tensor.name], tensor) for tensor in self.signature.outputs}


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse graphs with operations that reach outside the model, and signatures that are not the spec's."""
    graph = _read_graph(path)
    _refuse_outside(graph)
    _check_signature(graph, spec.signature)


def refuse_code(path: Path) -> None:
    """Refuse graphs with operations that reach outside the model, whatever their signature is.

    Raises:
        UnsafeSource: its graph reaches outside the model.
        SourceError: saved_model.pb cannot be read.
    """
    _refuse_outside(_read_graph(path))


def load(path: Path, artifact: Artifact, work: Path) -> SavedModel:
    """Read the SavedModel.

    Raises:
        UnsafeSource: its graph reaches outside the model.
        SourceError: files of it are missing or damaged, or it does not fit the signature.
    """
    import tensorflow as tf

    graph = _read_graph(path)
    _refuse_outside(graph)
    _check_signature(graph, artifact.signature)
    try:
        native = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises nearly anything for a folder that it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"the SavedModel cannot be loaded ({reason}); copy or save the whole folder again") from error
    return SavedModel(native, artifact.signature)


def _tensor(array: NDArray[Any], tensor: TensorSpec) -> Any:
    import tensorflow as tf

    if tensor.dtype is DType.STRING:
        return tf.constant(array.tolist(), dtype=tf.string, shape=array.shape)
    return tf.constant(array)


def _as_numpy(value: Any, tensor: TensorSpec) -> NDArray[Any]:
    array = np.asarray(value.numpy())
    if tensor.dtype is DType.STRING:
        return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)
    return array


# --- safety -------------------------------------------------------------------------------------------------------


def _read_graph(path: Path) -> Any:
    """The one meta graph of the folder."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    others = [name for name in ("saved_model.cpb", "saved_model.pbtxt") if (path / name).exists()]
    if others:
        raise UnsafeSource(f"the SavedModel has a second graph, {others[0]}, that could be loaded instead: {_HOW}")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((path / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise SourceError(f"saved_model.pb is damaged or cut short ({error}); copy or save the folder again") from error
    if len(model.meta_graphs) != 1:
        raise SourceError(f"saved_model.pb holds {len(model.meta_graphs)} graphs; expected one: {_HOW}")
    return model.meta_graphs[0]


def _refuse_outside(graph: Any) -> None:
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    of_saver, with_assets = _functions_of_saver(graph, functions), _functions_of_assets(graph, functions)
    problems: dict[str, None] = {}
    for asset in graph.asset_file_def:
        if asset.filename.startswith("/") or ".." in asset.filename.split("/"):
            problems[f"the asset {asset.filename!r} lies outside the folder"] = None
    for name, nodes in [("the graph", graph.graph_def.node), *((name, f.node_def) for name, f in functions.items())]:
        for node in nodes:
            known = node.op in functions or (name in of_saver and _SAVER.fullmatch(node.op) is not None)
            known = known or (name in with_assets and node.op == _VOCABULARY)
            if not known and (why := _why_outside(node.op)):
                problems[f"{node.op} in {name} {why}"] = None
    if problems:
        shown = "; ".join(list(problems)[:5])
        raise UnsafeSource(f"the SavedModel could act outside the model when it is loaded or asked: {shown}. {_HOW}")


def _why_outside(op: str) -> str | None:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(op)
    if definition is None:
        return "is a custom operation, which only its own library can run"
    if op.startswith("Xla"):
        return "is a program of another compiler (JAX?), which Slipway does not look into"
    if _OUTSIDE.fullmatch(op) or (definition.is_stateful and not _STATE.fullmatch(op)):
        return "reads, writes or calls what is outside the model"
    return None


def _functions_of_saver(graph: Any, functions: Mapping[str, Any]) -> set[str]:
    """Functions that only the saver calls: restoring is TensorFlow's own way to load variables."""
    saver = graph.saver_def
    roots = {name.partition(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name) if name}
    waiting: list[str] = []
    elsewhere: list[str] = []
    for node in graph.graph_def.node:
        (waiting if node.name in roots else elsewhere).extend(_called(node))
    for saved in graph.object_graph_def.nodes:
        for saveable in saved.saveable_objects.values():
            for index in (saveable.save_function, saveable.restore_function):
                function = graph.object_graph_def.nodes[index].function
                waiting.extend(function.concrete_functions)
    mine = _reachable(waiting, functions)
    return mine - _reachable(elsewhere, functions)


def _functions_of_assets(graph: Any, functions: Mapping[str, Any]) -> set[str]:
    """Initialisers that only the loader calls, with nothing but tables and the model's own assets as arguments."""
    kinds_of = [node.WhichOneof("kind") for node in graph.object_graph_def.nodes]
    by_functions = {name for function in functions.values() for node in function.node_def for name in _called(node)}
    ops = {node.name: node.op for node in graph.graph_def.node}
    by_graph = {
        name
        for node in graph.graph_def.node
        if not {ops.get(source.removeprefix("^").partition(":")[0]) for source in node.input} <= _HANDED_OVER
        for name in _called(node)
    }
    found = set()
    for name, concrete in graph.object_graph_def.concrete_functions.items():
        if name not in functions or name in by_functions | by_graph:
            continue
        arguments = {argument.name for argument in functions[name].signature.input_arg}
        files = {node.input[1] for node in functions[name].node_def if node.op == _VOCABULARY}
        bound = {kinds_of[index] for index in concrete.bound_inputs}
        if bound <= {"asset", "resource"} and len(arguments) == len(concrete.bound_inputs) and files <= arguments:
            found.add(name)
    return found


def _reachable(names: list[str], functions: Mapping[str, Any]) -> set[str]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in functions and name not in seen:
            seen.add(name)
            for node in functions[name].node_def:
                waiting.extend(_called(node))
    return seen


def _called(node: Any) -> Iterator[str]:
    yield node.op
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


# --- the signature ------------------------------------------------------------------------------------------------


def _check_signature(graph: Any, signature: Signature) -> None:
    if _SIGNATURE not in graph.signature_def:
        found = ", ".join(name for name in graph.signature_def if not name.startswith("__")) or "none"
        raise SourceError(f"the SavedModel has no signature {_SIGNATURE!r}, its signatures are {found}: {_HOW}")
    served = graph.signature_def[_SIGNATURE]
    signatures.check("input", signature.inputs, _described(served.inputs), by_name=True)
    signatures.check("output", signature.outputs, _described(served.outputs), by_name=True)


def _described(tensors: Mapping[str, Any]) -> list[Found]:
    import tensorflow as tf

    return [
        Found(
            name,
            tf.as_dtype(info.dtype).name,
            None
            if info.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim),
        )
        for name, info in tensors.items()
    ]
