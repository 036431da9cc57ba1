"""What smoke asks of a model: the little of a spec that an image can tell as well.

In: an image that Slipway built, by itself: its contract and its golden samples. Out: `ServedImage`, which stands for
the spec, the image and the parity report of the pipeline, so that an image is proven the same way whether its package
has just been made here, was tuned since, or came from a registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving.contract import CONTRACT_FILE, PreprocessStep, ServingContract, Signature
from serving.package import Refused, contract_digest, read_contract
from tasks.contracts import Image, OutputComparison, ParityReport, Verdict
from tasks.errors import BadInput, PlatformError
from tasks.image.engine import COLD_START_LABEL, CONTRACT_LABEL, EXPORT_LABEL, Engine, ImageInfo
from tasks.spec import ServingSpec
from tasks.store import Store, put_file

#: Where an image has its package (`tasks.image.build`).
_IN_IMAGE = "/package"


class Served(Protocol):
    """What smoke asks of a spec. A `ModelSpec` has it, and so has a `ServedImage`."""

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def preprocess(self) -> tuple[PreprocessStep, ...]: ...
    @property
    def serving(self) -> ServingSpec: ...


@dataclass(frozen=True, slots=True)
class ServedImage:
    """An image with what its own contract says. `parity` carries the golden samples and the tolerances, no more."""

    name: str
    signature: Signature
    preprocess: tuple[PreprocessStep, ...]
    serving: ServingSpec
    image: Image
    parity: ParityReport


def open_image(
    info: ImageInfo,
    reference: str,
    engine: Engine,
    store: Store,
    work: Path,
    *,
    p99_ms: float | None = None,
    cold_start_s: float | None = None,
) -> ServedImage:
    """Read an image's contract, and put it and the golden samples into the store.

    Budgets that are given replace those that the image was packaged with.

    Raises:
        BadInput: it is no image that this Slipway built and understands, or it was changed after it was built.
    """
    if CONTRACT_LABEL not in info.labels:
        raise BadInput(
            f"the image {reference} is no serving image that Slipway built: it has no label {CONTRACT_LABEL}"
        )
    contract = _contract(info, reference, engine, work)
    golden = put_file(store, work / Path(contract.golden).name)
    recorded = {file.path: file.digest for file in contract.files}
    if recorded.get(contract.golden) != golden.digest:
        raise BadInput(
            f"the image {reference} was changed after it was built: its golden samples are not those of its contract; "
            "package the model again"
        )
    budgets = {
        "max_batch": contract.max_batch,
        "p99_ms": p99_ms or contract.p99_ms,
        "cold_start_s": cold_start_s or _seconds(info.labels.get(COLD_START_LABEL)),
    }
    return ServedImage(
        name=contract.name,
        signature=contract.signature,
        preprocess=contract.preprocess,
        serving=ServingSpec(**{key: value for key, value in budgets.items() if value is not None}),
        image=Image(
            format=contract.format,
            runtime=contract.runtime,
            reference=next(iter(info.tags), info.id),
            digest=info.id,
            contract_digest=info.labels[CONTRACT_LABEL],
            contract=put_file(store, work / CONTRACT_FILE),
            size_bytes=info.size_bytes,
            model_bytes=sum(file.size_bytes for file in contract.files),
            layers=info.layers,
            labels=dict(info.labels),
        ),
        parity=ParityReport(
            verdict=Verdict.PASSED,  # or no image would have been built of it
            format=contract.format,
            export_digest=info.labels.get(EXPORT_LABEL, info.id),
            batch_sizes=(),
            outputs=tuple(
                OutputComparison(
                    name=name,
                    compared_values=0,
                    max_abs_diff=None,
                    max_rel_diff=None,
                    worst_margin=None,
                    noise=None,
                    tolerance=tolerance,
                )
                for name, tolerance in sorted(contract.tolerances.items())
            ),
            golden=golden,
        ),
    )


def _contract(info: ImageInfo, reference: str, engine: Engine, work: Path) -> ServingContract:
    """The contract in the image, with the golden samples beside it; it is the one that the image's label names."""
    try:
        engine.copy_out(info.id, f"{_IN_IMAGE}/{CONTRACT_FILE}", work)
        contract = read_contract(work)
        engine.copy_out(info.id, f"{_IN_IMAGE}/{contract.golden}", work)
    except (PlatformError, Refused, OSError, ValueError) as error:
        said = str(error).replace(f"{work}/", "")  # which is gone when somebody reads this
        raise BadInput(
            f"the image {reference} cannot be smoked: {said}: give one that `slipway package` of this version made"
        ) from error
    found = contract_digest(work)
    if found != info.labels[CONTRACT_LABEL]:
        raise BadInput(
            f"the image {reference} was changed after it was built: it says that its contract is "
            f"{info.labels[CONTRACT_LABEL]}, and holds {found}; package the model again"
        )
    return contract


def _seconds(label: str | None) -> float | None:
    """The budget that an image was packaged with; None where an earlier Slipway did not write it down."""
    try:
        return None if label is None else float(label)
    except ValueError:
        return None
