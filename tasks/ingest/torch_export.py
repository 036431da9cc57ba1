"""torch.export archives (`torch.export.save(program, "model.pt2")`), read only after `torch_archive` found no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.contract import DimRange, Signature
from tasks.contracts import Artifact
from tasks.errors import SourceError
from tasks.ingest import signatures
from tasks.ingest.signatures import Found
from tasks.ingest.torch_archive import refuse_code
from tasks.ingest.torch_predict import TorchModel
from tasks.spec import ModelSpec

#: Operators that behave differently in training, with the position of the argument that says so.
_TRAINING_ARGUMENT = {
    "aten.dropout.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.native_dropout.default": 2,
    "aten.batch_norm.default": 5,
    "aten.instance_norm.default": 5,
    "aten.rrelu.default": 3,
}


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse archives that hold more than tensors and a graph of PyTorch's own operators."""
    refuse_code(path)


def load(path: Path, artifact: Artifact, work: Path) -> TorchModel:
    """Read the program, and compare it with the signature.

    Raises:
        UnsafeSource: it holds code.
        SourceError: this PyTorch cannot read it, it was exported in training mode, or it does not fit the signature.
    """
    from torch.export.pt2_archive._package import load_pt2

    refuse_code(path)
    try:
        program = load_pt2(str(path)).exported_programs["model"]
        call = program.module()
    except Exception as error:  # torch raises nearly anything for an archive that it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(
            f"{path.name} cannot be read as a torch.export archive by this PyTorch ({reason}); export it again with "
            "torch.export.export and torch.export.save"
        ) from error
    _refuse_training_mode(path, program)
    _check_inputs(program, artifact.signature)
    return TorchModel(program, call, artifact.signature)


def _refuse_training_mode(path: Path, program: Any) -> None:
    for node in program.graph.nodes:
        position = _TRAINING_ARGUMENT.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise SourceError(
                f"{path.name} was exported in training mode ({node.target} trains): call model.eval() before "
                "torch.export.export"
            )


def _check_inputs(program: Any, signature: Signature) -> None:
    from torch.export.graph_signature import InputKind

    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    users = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    values = [(name, nodes[name].meta.get("val")) for name in users if name in nodes]
    found = [Found(name, *_described(value)) for name, value in values]
    signatures.check("input", signature.inputs, found, by_name=False)
    problems = []
    for tensor, (_, value) in zip(signature.inputs, values, strict=True):
        for size, there in zip(tensor.shape, value.shape, strict=True):
            if isinstance(size, str) and not isinstance(there, int):
                problems += _range_problems(size, signature.dynamic[size], program, there)
    if problems:
        raise SourceError("the model does not fit the spec: " + "; ".join(dict.fromkeys(problems)))


def _described(value: Any) -> tuple[str | None, tuple[int | None, ...] | None]:
    import torch

    if not isinstance(value, torch.Tensor):
        return type(value).__name__, ()
    return str(value.dtype).removeprefix("torch."), tuple(
        size if isinstance(size, int) else None for size in value.shape
    )


def _range_problems(name: str, span: DimRange, program: Any, size: Any) -> list[str]:
    """Where the program was exported for fewer sizes than the spec declares."""
    allowed = program.range_constraints.get(size.node.expr)
    if allowed is None or (allowed.lower <= span.min and span.max <= allowed.upper):
        return []
    return [
        f"the dimension {name!r} may be {span.min} to {span.max} in the spec, the program was exported for "
        f"{allowed.lower} to {allowed.upper}: export it for the whole range, or narrow `dynamic`"
    ]
