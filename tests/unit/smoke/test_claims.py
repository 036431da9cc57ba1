"""A compiled model's instructions against a type's processors: known before anything runs."""

from __future__ import annotations

from tasks.smoke.catalogue import instance_type
from tasks.smoke.claims import beyond_type

PORTABLE = ("abm", "avx", "avx2", "bmi1", "bmi2", "fma")


def test_avx_512_is_too_much_for_a_type_that_may_be_a_haswell() -> None:
    (finding,) = beyond_type((*PORTABLE, "avx512f", "avx512vl"), instance_type("c4.large"))
    assert finding.code == "SMOKE_ILLEGAL_INSTRUCTION"
    assert "holds avx512f, avx512vl instructions, which haswell, a processor of c4.large," in finding.message


def test_what_every_processor_of_the_type_executes_is_no_finding() -> None:
    assert beyond_type(PORTABLE, instance_type("c4.large")) == ()
    assert beyond_type((), instance_type("c3.large")) == ()


def test_every_processor_that_lacks_something_is_named() -> None:
    found = beyond_type(PORTABLE, instance_type("c3.large"))
    assert [finding.evidence["cpu"] for finding in found] == [cpu.name for cpu in instance_type("c3.large").cpus]
    assert found[0].evidence["lacking"] == "abm avx2 bmi1 bmi2 fma"
