"""What a type bears, from what was seen under load: figures, and remarks about them. Functions of values.

Memory is reckoned with the type's own, all of it: what a node's system and agents keep for themselves differs from one
platform to the next, and is taken off by whoever schedules there.
"""

from __future__ import annotations

import math

from tasks.contracts import Capacity, Finding, LatencySplit, Owner, Verdict
from tasks.smoke.findings import Evidence
from tasks.smoke.observation import Borne, Observation
from tasks.smoke.spent import Spent

#: Of the time that a server works on a request: with more than that, preparing it is what the server mostly does.
_DOMINATES = 0.5
#: Less than that is what HTTP and JSON cost any server, whatever it preprocesses.
_WORTH_S = 0.001


def capacity(seen: Observation) -> Capacity | None:
    """What goes into the report; None where nothing of it was measured."""
    if seen.borne is None and seen.memory is None:
        return None
    borne, memory, limits = seen.borne, seen.memory, seen.limits
    enough = memory.enough if memory and memory.is_enforced else None
    models = limits.type_memory_bytes // enough if enough else None
    return Capacity(
        smallest_memory_bytes=enough,
        too_little_memory_bytes=memory.too_little if memory else None,
        headroom_bytes=limits.type_memory_bytes - enough if enough else None,
        peak_clients=seen.crowd.clients if seen.crowd else None,
        peak_batch=seen.crowd.batch if seen.crowd else None,
        replicas=None if models is None else min(models, _by_vcpus(seen)),
        models=models,
        max_rate_rps=borne.rate if borne else None,
        p99_ms=borne.p99_ms if borne else None,
        requests=borne.asked if borne else None,
        client_late_ms=borne.late_send_ms if borne else None,
        cpus=borne.cpus if borne else None,
        split=split(borne),
        rate_measured_on=seen.borne_on,
        memory_measured_on=seen.memory_on,
    )


def split(borne: Borne | None) -> LatencySplit | None:
    """Where the mean request's time went: three parts by the server's account, and all the rest is waiting."""
    if borne is None or borne.spent is None or not borne.spent.requests:
        return None
    of, each = borne.spent, 1000 / borne.spent.requests
    parts = {
        "preprocess_ms": of.preparation_s * each,
        "inference_ms": of.inference_s * each,
        "postprocess_ms": of.postprocess_s * each,
    }
    return LatencySplit(queue_ms=max(0.0, borne.mean_ms - sum(parts.values())), **parts)


def remarks(seen: Observation) -> list[Finding]:
    """What should be known about the figures, and blocks nothing."""
    return [] if seen.borne is None or seen.borne.spent is None else _preparation(seen.borne.spent, seen)


def _preparation(of: Spent, seen: Observation) -> list[Finding]:
    worked = of.preparation_s + of.model_s + of.postprocess_s
    share = of.preparation_s / worked if worked > 0 else 0.0
    if share <= _DOMINATES or of.preparation_s < _WORTH_S * of.requests or seen.borne is None:
        return []
    vcpus = max(1.0, seen.limits.vcpus)
    waits = accelerator_waits(of, vcpus)
    each = 1000 / of.requests
    evidence: Evidence = {
        "share": round(share, 3),
        "preparation_ms": round(of.preparation_s * each, 4),
        "model_ms": round(of.model_s * each, 4),
        "rate_rps": round(seen.borne.rate, 1),
        "accelerator_waits": round(waits, 3),
        "vcpus": vcpus,
    }
    return [
        Finding(
            code="SMOKE_PREPROCESSING_DOMINATES",
            owner=Owner.MODEL,
            verdict=Verdict.PASSED,
            message=f"at {seen.borne.rate:.0f} requests/s, {share:.0%} of the work on a request is reading and "
            f"preprocessing it ({of.preparation_s * each:.2f} ms, the model {of.model_s * each:.2f} ms): "
            f"an accelerator as quick as this CPU would wait {waits:.0%} of its time for {vcpus:g} vCPUs, "
            "a quicker one longer",
            advice="do not pay for an accelerator here: send smaller or already decoded inputs, raw bytes instead of "
            "JSON, or choose a type with more vCPUs",
            evidence=evidence,
        )
    ]


def accelerator_waits(of: Spent, vcpus: float) -> float:
    """The least share of its time that an accelerator would stand idle, were all vCPUs busy with preparing requests.

    It gets a request every `preparation / vcpus` and is done with it after `model`, at the latest: an accelerator is
    bought because it takes less than the CPU did.
    """
    comes_every_s = of.preparation_s / vcpus
    return max(0.0, 1 - of.model_s / comes_every_s) if comes_every_s > 0 else 0.0


def _by_vcpus(seen: Observation) -> int:
    """Replicas that can each have their highest rate at the same time; one for each vCPU where no rate was measured."""
    used = seen.borne.cpus if seen.borne else None
    return max(1, math.floor(seen.limits.type_vcpus / (used or 1.0)))
