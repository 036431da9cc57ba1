"""PyTorch → torch.export archive (`model.pt2`), which PyTorch itself serves.

An archive has no names: inputs and outputs are the signature's, in its order. Byte-reproducible.
"""

from __future__ import annotations

from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.torch_capture import capture, refuse_foreign_operators

FILE = "model.pt2"


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import torch

    program = capture(source.model.native, signature)
    refuse_foreign_operators(program)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine; the modules' names stay
    torch.export.save(program, folder / FILE)
    return Conversion(root=FILE, exporter="torch.export", distributions=("torch",))
