"""PyTorch → torch.export archive (`model.pt2`), which PyTorch itself serves.

An archive has no names: inputs and outputs are the signature's, in its order. Byte-reproducible.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving.contract import Signature
from tasks.export.conversion import Conversion, ExportFailure, Source
from tasks.export.torch_capture import capture
from tasks.export.torch_diagnosis import place_of_node

if TYPE_CHECKING:
    import torch

FILE = "model.pt2"
#: Operator libraries that `import torch` alone brings; the serving image imports nothing else.
_IN_TORCH = {"aten", "prims", "quantized"}


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import torch

    program = capture(source.model.native, signature)
    _refuse_foreign_operators(program)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine; the modules' names stay
    torch.export.save(program, folder / FILE)
    return Conversion(root=FILE, exporter="torch.export", distributions=("torch",))


def _refuse_foreign_operators(program: torch.export.ExportedProgram) -> None:
    import torch

    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in _IN_TORCH:
            place, operator = place_of_node(node), str(node.target).removesuffix(".default")
            raise ExportFailure(
                "EXPORT_UNSUPPORTED_OPERATOR",
                f"{place} uses the custom operator {operator}, which the PyTorch in the serving image does not have",
                f"write {place.module or 'it'} with PyTorch's own operators",
                evidence={"operator": operator, **place.evidence},
            )
