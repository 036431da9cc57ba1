"""PyTorch → SavedModel: torch.export → torchax → jax2tf → `tf.saved_model.save`. Byte-reproducible.

The program is lowered to StableHLO for the CPU with symbolic dimensions, and runs inside TensorFlow as one
XlaCallModule; the weights are the SavedModel's variables. TensorFlow compiles that module once for every shape that it
meets, a fraction of a second each, and keeps it: a server should meet its batch sizes before it says that it is ready.
(onnx2tf was tried and refused: it needs TensorFlow 2.19, and failed on a LayerNorm over three axes.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.contract import Signature
from tasks.export.conversion import Conversion, ExportFailure, Source, reason_of
from tasks.export.savedmodel_folder import finish
from tasks.export.tf_function import tensor_specs
from tasks.export.torch_capture import capture
from tasks.export.torch_diagnosis import place_of_node
from tasks.export.torch_lowerings import lowerings
from tasks.export.torch_recurrent import recurrent_layers_whole, recurrent_operators
from tasks.export.torchax_import import import_torchax

if TYPE_CHECKING:
    import torch

#: JAX lowers these to calls of LAPACK that its own library registers and TensorFlow does not have.
_LAPACK = {
    *("_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd", "cholesky", "geqrf"),
    *("linalg_cholesky_ex", "linalg_eig", "linalg_householder_product", "linalg_inv_ex", "linalg_ldl_factor_ex"),
    *("linalg_lstsq", "linalg_lu", "linalg_lu_factor_ex", "linalg_qr", "linalg_solve_triangular", "triangular_solve"),
}
_DISTRIBUTIONS = ("torch", "torchax", "jax", "jaxlib", "tensorflow-cpu")


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import jax

    jax.config.update("jax_enable_x64", True)  # int64 and float64 stay what they are
    jax.config.update("jax_traceback_in_locations_limit", 0)  # no paths of this machine in the file

    program = capture(source.model.native, signature)
    _save(import_torchax(), _decomposed(program), signature, folder)
    finish(folder, signature)
    return Conversion(root=".", exporter="torchax + jax2tf", distributions=_DISTRIBUTIONS)


def _decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program in the operators that torchax knows, with LSTM and GRU layers whole."""
    import torch
    from torchax import decompositions

    table = torch.export.default_decompositions()
    for operator in recurrent_operators():
        del table[operator]
    with torch.no_grad(), recurrent_layers_whole():
        plain: torch.export.ExportedProgram = program.run_decompositions(table)
        lowered: torch.export.ExportedProgram = plain.run_decompositions(decompositions.DECOMPOSITIONS)
        return lowered


def _save(torchax: Any, program: torch.export.ExportedProgram, signature: Signature, folder: Path) -> None:
    import numpy as np
    import tensorflow as tf
    from jax.experimental import jax2tf

    _, tensors = torchax._extract_states_from_exported_program(program)
    outputs_of = _function(torchax, program)
    shapes = ["(" + ", ".join(str(size) for size in tensor.shape) + ")" for tensor in signature.inputs]
    bounds = [
        (name, span) for name, span in signature.dynamic.items() if any(name in t.shape for t in signature.inputs)
    ]
    converted = jax2tf.convert(
        outputs_of,
        polymorphic_shapes=[None, *shapes],
        polymorphic_constraints=[
            line for name, span in bounds for line in (f"{name} >= {span.min}", f"{name} <= {span.max}")
        ],
        native_serialization_platforms=["cpu"],
        with_gradient=False,
    )
    module = tf.Module()
    module.weights = [tf.Variable(np.asarray(tensor.detach()), trainable=False) for tensor in tensors]

    def serve(*inputs: Any) -> dict[str, Any]:
        answers = converted([variable.read_value() for variable in module.weights], *inputs)
        return {
            tensor.name: tf.cast(answer, tensor.dtype.value) if answer.dtype.is_integer else answer  # JAX's are int32
            for tensor, answer in zip(signature.outputs, answers, strict=True)
        }

    module.serve = tf.function(serve, autograph=False, input_signature=tensor_specs(signature))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def _function(torchax: Any, program: torch.export.ExportedProgram) -> Any:
    """The program as a function of JAX arrays: (weights, *inputs) → outputs, raising failures that name the module."""
    import jax
    import torch

    own = lowerings()

    class Interpreter(torchax.JaxInterpreter):  # type: ignore[misc]
        def run_node(self, node: torch.fx.Node) -> Any:
            try:
                return super().run_node(node)
            except ExportFailure:
                raise
            except Exception as error:  # whatever a lowering raises
                raise _not_lowered(error, node) from error

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if isinstance(target, torch._ops.OpOverload) and target.overloadpacket.__name__ in _LAPACK:
                raise _NeedsLapack
            if target is torch.ops.higher_order.cond:
                chosen, *branches, operands = args
                branches = [Interpreter(branch).run for branch in branches]
                return jax.lax.cond(chosen, *branches, *operands)
            if target in own:
                return own[target](*args, **kwargs)
            return super().call_function(target, args, kwargs)

    mutated = len(program.graph_signature.buffers_to_mutate)

    def outputs_of(weights: Sequence[Any], *inputs: Any) -> Any:
        return Interpreter(program.graph_module).run(*weights, *inputs, enable_io_processing=False)[mutated:]

    return outputs_of


class _NeedsLapack(Exception):
    """An operator in `_LAPACK`."""


def _not_lowered(error: Exception, node: torch.fx.Node) -> ExportFailure:
    place, operator = place_of_node(node), str(node.target).removesuffix(".default")
    line = f" (at {place.line})" if place.line else ""
    if isinstance(error, AssertionError):  # how torchax says that it has no lowering
        reason = f"uses {operator}, which torchax cannot lower to JAX"
    elif isinstance(error, _NeedsLapack):
        reason = f"uses {operator}, which needs LAPACK, which TensorFlow does not have"
    else:
        reason = f"uses {operator}, which torchax could not lower: {reason_of(error)}"
    return ExportFailure(
        "EXPORT_UNSUPPORTED_OPERATOR",
        f"{place} {reason}{line}",
        f"write {place.module or 'it'} with other operators",
        evidence={"operator": operator, **place.evidence},
    )
