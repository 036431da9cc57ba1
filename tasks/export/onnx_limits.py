"""What the onnxruntime that will serve can read: its newest operator sets and file version, measured.

The version is the one that the runtime image's lock names. It has to be the one installed here: what was measured,
checked and compared with another version would be no evidence for the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import count

from tasks.errors import PlatformError
from tasks.ingest.onnx_model import DOMAINS

_DISTRIBUTION = "onnxruntime"


@dataclass(frozen=True, slots=True)
class OnnxLimits:
    """The newest operator sets and IR version that `version` of onnxruntime loads. `opset` is the default domain's."""

    version: str
    opset: int
    ir_version: int
    opsets: Mapping[str, int]

    def opset_of(self, domain: str) -> int | None:
        """The newest operator set of a domain; None where onnxruntime does not have that domain."""
        return self.opset if domain in ("", "ai.onnx") else self.opsets.get(domain)


@cache
def onnx_limits() -> OnnxLimits:
    """Ask the installed onnxruntime, after checking that it is the one that will serve.

    Raises:
        PlatformError: the runtime's lock names another version.
    """
    installed, locked = version(_DISTRIBUTION), locked_version("onnx", _DISTRIBUTION)
    if locked is not None and locked != installed:
        raise PlatformError(
            f"the onnx runtime image serves with {_DISTRIBUTION} {locked}, but {installed} is installed here: "
            "bring requirements.txt and the runtime's lock to one version (make lock)"
        )
    import onnx

    opsets = range(onnx.defs.onnx_opset_version(), 0, -1)
    irs = range(onnx.IR_VERSION, 0, -1)
    opset = next(opset for opset in opsets if _loads(opset, ir_version=8))
    domains = {domain: _newest_of(domain) for domain in sorted(DOMAINS - {"", "ai.onnx"})}
    return OnnxLimits(installed, opset, next(ir for ir in irs if _loads(opset=15, ir_version=ir)), domains)


def locked_version(runtime: str, distribution: str) -> str | None:
    """The version of a distribution that a runtime image holds by its lock; None where the lock has no such line."""
    from tasks.image.runtimes import RUNTIMES

    lock = RUNTIMES[runtime].lock.read_text()
    found = re.search(rf"^{re.escape(distribution)}==([^\s;\\]+)", lock, re.MULTILINE)
    return found[1] if found else None


def _newest_of(domain: str) -> int:
    """The newest operator set of a domain that onnxruntime has."""
    return next(version for version in count(1) if not _loads(15, 8, (domain, version + 1)))


def _loads(opset: int, ir_version: int, *also: tuple[str, int]) -> bool:
    """Whether a model of one Relu, stamped so, can be loaded; `also` are further domains with their versions."""
    import onnxruntime
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", opset), *also)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 -- onnxruntime's own exceptions have no common base
        return False
    return True
