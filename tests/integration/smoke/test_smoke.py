"""Smoke on real containers: the good image passes, and every bad one is caught by the finding with its name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.contract import GpuNeeds
from tasks.contracts import Owner, Verdict
from tasks.errors import PlatformError
from tasks.image.engine import ISOLATED, ContainerSpec, run
from tasks.smoke.catalogue import instance_type
from tasks.smoke.host import Host
from tasks.smoke.masking import HIDEABLE
from tasks.smoke.run import COMPONENT
from tasks.spec import ServingSpec
from tasks.store import put_file
from tests.integration.smoke.bench import (
    MACHINE_CODE,
    MIB,
    QUICK,
    Bench,
    Spoil,
    around_run,
    contract_for_a_gpu,
    only,
    with_contract,
)
from tests.integration.smoke.seeded import DEADLOCK, SHARED_STATE

pytestmark = pytest.mark.docker


# --- good ---------------------------------------------------------------------------------------------------------


def test_a_good_image_passes_with_every_figure(bench: Bench) -> None:
    report = bench.smoke(bench.good)
    assert report.findings == ()
    assert report.verdict is Verdict.PASSED
    figures = report.figures
    assert figures.cold_start_s is not None
    assert figures.cold_start_s > 0
    assert figures.p50_ms is not None
    assert figures.p99_ms is not None
    assert figures.p50_ms <= figures.p99_ms
    assert figures.peak_memory_bytes is not None
    assert 10 * MIB < figures.peak_memory_bytes < bench.kind.memory_bytes
    assert figures.golden_rows == 12
    assert figures.concurrency == 4
    assert (report.instance_type, report.image_digest) == ("test-type", bench.good.digest)
    assert [(proof.proof, proof.verdict) for proof in report.processors] == [("native", Verdict.PASSED)]
    assert {margin.output: margin.difference for margin in report.processors[0].margins} == {"y": 0, "n": 0}


def test_the_server_is_asked_in_bytes_where_tensors_are_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.smoke.protocol._LARGE", 0)
    report = bench.smoke(bench.good)
    assert report.findings == ()
    assert report.verdict is Verdict.PASSED


@pytest.mark.parametrize("runtime", ["tensorflow", "torch"])
def test_a_good_image_of_every_runtime_passes_on_an_older_processor_too(
    packaged: Callable[[str], Bench], runtime: str
) -> None:
    bench = packaged(runtime)
    report = bench.smoke(bench.good, kind=instance_type("c4.large"))
    assert report.findings == ()
    assert report.verdict is Verdict.PASSED


def test_the_container_runs_locked_down_under_the_types_limits(bench: Bench, spoil: Spoil) -> None:
    """The image looks at itself from inside, and crashes with what it saw."""
    image = spoil(
        """
        import os, socket, sys

        status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        seen = [f"uid={os.getuid()}", f"caps={int(status['CapEff'], 16)}", f"nnp={status['NoNewPrivs'].strip()}"]
        try:
            open("/mark", "w")
            seen.append("writable")
        except OSError:
            seen.append("read-only")
        from serving.cpus import available_cpus
        seen.append(f"cpus={available_cpus()}")
        seen.append("net=" + ",".join(sorted(name for _, name in socket.if_nameindex())))
        print(*seen, file=sys.stderr)
        os._exit(9)
        """
    )
    message = bench.smoke(image).findings[0].message
    assert "uid=65532 caps=0 nnp=1 read-only cpus=1 net=eth0,lo" in message


def test_the_container_has_no_way_out_of_the_machine(bench: Bench) -> None:
    import docker

    bench.smoke(bench.good)
    client = docker.from_env()
    options = client.networks.get(ISOLATED).attrs["Options"]
    client.close()
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    assert options["com.docker.network.bridge.enable_icc"] == "false"


# --- bad: it dies -------------------------------------------------------------------------------------------------


def test_more_memory_than_the_type_has_at_start_is_out_of_memory(bench: Bench, spoil: Spoil) -> None:
    image = spoil("hog = bytearray(400 << 20)\nfor at in range(0, len(hog), 4096): hog[at] = 1\n")
    small = bench.kind.model_copy(update={"memory_bytes": 160 * MIB})
    report = bench.smoke(image, kind=small)
    assert only(report) == "SMOKE_OUT_OF_MEMORY"
    assert report.findings[0].owner is Owner.MODEL
    assert "160 MiB" in report.findings[0].message


def test_a_segmentation_fault_on_start_names_its_signal(bench: Bench, spoil: Spoil) -> None:
    report = bench.smoke(spoil("import ctypes\nctypes.string_at(0)\n"))
    assert only(report) == "SMOKE_CRASHED"
    assert "SIGSEGV" in report.findings[0].message
    assert "before it was ready" in report.findings[0].message


def test_an_illegal_instruction_while_answering_is_told(bench: Bench, spoil: Spoil) -> None:
    image = spoil(
        MACHINE_CODE
        + around_run(
            """
            served = []
            def change(inputs, run):
                served.append(1)
                if len(served) > 12:
                    execute("0f0b")  # ud2
                return run(inputs)
            """
        )
    )
    report = bench.smoke(image)
    assert only(report) == "SMOKE_ILLEGAL_INSTRUCTION"
    assert report.findings[0].evidence["signal"] == "SIGILL"
    assert "`ud2` in code that was made at run time" in report.findings[0].message


def test_an_exception_before_the_start_carries_its_last_line(bench: Bench, spoil: Spoil) -> None:
    image = spoil("import serving.package\nserving.package.open_package = None\n")
    report = bench.smoke(image)
    assert only(report) == "SMOKE_CRASHED"
    assert "NoneType" in report.findings[0].message


def test_a_model_file_that_was_tampered_with_is_refused(bench: Bench, spoil: Spoil) -> None:
    report = bench.smoke(spoil(files={"package/model/model.onnx": b"something else"}))
    assert only(report) == "SMOKE_REFUSED_CONTRACT"
    assert "model.onnx is not the file of the contract" in report.findings[0].message
    assert report.findings[0].evidence["refusal"] == "files"


@pytest.mark.parametrize(
    ("needs", "code", "owner"),
    [
        ({"memory_bytes": 300 * MIB}, "SMOKE_OUT_OF_MEMORY", Owner.MODEL),
        ({"instructions": ["avx8192"]}, "SMOKE_ILLEGAL_INSTRUCTION", Owner.PLATFORM),
    ],
    ids=["memory", "instruction set"],
)
def test_a_container_that_cannot_hold_or_run_the_model_is_refused_before_it_dies(
    bench: Bench, spoil: Spoil, needs: dict[str, Any], code: str, owner: Owner
) -> None:
    contract = json.loads(run(bench.engine, contract_of(bench), 60).logs)
    contract["needs"] |= needs
    image = spoil(files={"package/contract.json": json.dumps(contract).encode()})
    report = bench.smoke(image, kind=bench.kind.model_copy(update={"memory_bytes": 256 * MIB}))
    assert only(report) == code
    assert report.findings[0].owner is owner
    assert "the container may use 256 MiB" in report.findings[0].message or "avx8192" in report.findings[0].message


def contract_of(bench: Bench) -> ContainerSpec:
    return ContainerSpec(
        bench.good.digest, f"slipway-smoke-contract-{bench.good.digest[7:19]}", COMPONENT, command=("contract",)
    )


def test_a_server_that_sees_its_own_wrong_answer_at_start_is_told(bench: Bench, spoil: Spoil) -> None:
    image = spoil(around_run("def change(inputs, run):\n    return run(inputs) | {'y': run(inputs)['y'] + 1}\n"))
    assert only(bench.smoke(image)) == "SMOKE_WRONG_ANSWER"


# --- bad: it is late ----------------------------------------------------------------------------------------------


def test_a_server_that_never_gets_ready_is_given_up(bench: Bench, spoil: Spoil) -> None:
    image = spoil("import time\ntime.sleep(600)\n")
    report = bench.smoke(image, effort=replace(QUICK, ready_within_s=1.5), serving=ServingSpec(cold_start_s=1))
    assert only(report) == "SMOKE_NOT_READY"
    assert report.figures.cold_start_s is None


def test_a_slow_start_is_failed_with_its_figure(bench: Bench, spoil: Spoil) -> None:
    image = spoil("import time\ntime.sleep(2)\n")
    report = bench.smoke(image, serving=ServingSpec(max_batch=8, cold_start_s=2, p99_ms=20_000))
    assert only(report) == "SMOKE_SLOW_START"
    assert report.figures.cold_start_s is not None
    assert report.figures.cold_start_s > 2


def test_slow_answers_break_the_latency_budget(bench: Bench, spoil: Spoil) -> None:
    image = spoil(around_run("def change(inputs, run):\n    time.sleep(0.03)\n    return run(inputs)\n"))
    report = bench.smoke(image, serving=ServingSpec(max_batch=8, cold_start_s=60, p99_ms=25))
    assert only(report) == "SMOKE_LATENCY"
    assert report.figures.p99_ms is not None
    assert report.figures.p99_ms > 25


# --- bad: it answers wrongly --------------------------------------------------------------------------------------


def test_an_answer_that_is_wrong_in_larger_batches_only_is_wrong(bench: Bench, spoil: Spoil) -> None:
    image = spoil(
        around_run(
            """
            def change(inputs, run):
                answer = run(inputs)
                answer["y"] = answer["y"].copy()
                answer["y"][5:] = answer["y"][0]
                return answer
            """
        )
    )
    report = bench.smoke(image)
    assert only(report) == "SMOKE_WRONG_ANSWER"
    assert "batch 7" in report.findings[0].message


def test_an_answer_that_is_nan_never_passes(bench: Bench, spoil: Spoil) -> None:
    image = spoil(
        around_run(
            """
            def change(inputs, run):
                answer = run(inputs)
                if len(answer["y"]) > 1:
                    answer["y"] = np.full_like(answer["y"], float("nan"))
                return answer
            """
        )
    )
    assert only(bench.smoke(image)) == "SMOKE_WRONG_ANSWER"


def test_an_answer_that_is_wrong_only_among_others_is_told_apart(bench: Bench, spoil: Spoil) -> None:
    report = bench.smoke(spoil(SHARED_STATE))
    assert only(report) == "SMOKE_WRONG_ANSWER_CONCURRENT"
    assert report.figures.concurrency == 4


def test_a_deadlock_among_requests_is_told_from_slowness(bench: Bench, spoil: Spoil) -> None:
    report = bench.smoke(spoil(DEADLOCK), effort=replace(QUICK, request_within_s=2))
    assert only(report) == "SMOKE_DEADLOCK"
    assert "several clients" in report.findings[0].message


# --- other processors ---------------------------------------------------------------------------------------------


def test_an_older_processor_is_proven_under_emulation(bench: Bench) -> None:
    report = bench.smoke(bench.good, kind=instance_type("c3.large"))
    assert report.verdict is Verdict.PASSED
    assert report.findings == ()
    assert [(proof.cpu, proof.proof, proof.verdict) for proof in report.processors] == [
        ("ivy-bridge", "emulated", Verdict.PASSED)
    ]
    assert {margin.output: margin.difference for margin in report.processors[0].margins} == {"y": 0, "n": 0}


#: Twice a number, by way of AVX2.
TWICE = """
#include <immintrin.h>
extern "C" __attribute__((target("avx2"))) int twice(int x) {
    volatile __m256i both = _mm256_set1_epi32(x);
    return _mm256_extract_epi32(_mm256_add_epi32(both, both), 0);
}
"""


def shared_object(folder: Path, code: str) -> bytes:
    made = folder / "made.so"
    command = ["g++", "-O1", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(made)]
    subprocess.run(command, input=code, text=True, check=True)
    return made.read_bytes()


def test_an_avx2_instruction_is_caught_on_a_type_without_avx2(bench: Bench, spoil: Spoil, tmp_path: Path) -> None:
    if "avx2" not in bench.host.features:
        pytest.skip("this host has no AVX2, so the image would fail natively")
    code = "import ctypes\nlibrary = ctypes.CDLL('/opt/native/libtwice.so')\n"
    call = "def change(inputs, run):\n    library.twice(3)\n    return run(inputs)\n"
    image = spoil(code + around_run(call), files={"opt/native/libtwice.so": shared_object(tmp_path, TWICE)})
    report = bench.smoke(image, kind=instance_type("c3.large"))
    assert only(report) == "SMOKE_ILLEGAL_INSTRUCTION"
    found = report.findings[0]
    assert (
        "under the instruction set of ivy-bridge (x86-64-v2) the image dies of an illegal instruction (SIGILL): `v"
        in found.message
    )
    assert "of /opt/native/libtwice.so, offset 0x" in found.message
    assert found.message.endswith("which needs avx2")
    assert (found.evidence["library"], found.evidence["needs"]) == ("/opt/native/libtwice.so", "avx2")
    assert str(found.evidence["symbol"]).startswith("twice+0x")


def test_a_model_compiled_with_avx_512_is_caught_on_an_older_type(compiled: Callable[[str, int], Bench]) -> None:
    """Its `needs` are not recorded here: it is the run that dies, natively or under the emulated Haswell."""
    bench = compiled("x86-64-v4", 512)
    report = bench.smoke(bench.good, kind=instance_type("c4.large"))
    assert only(report) == "SMOKE_ILLEGAL_INSTRUCTION"
    assert "SIGILL" in report.findings[0].message


def test_eight_bit_weights_are_a_wrong_answer_on_a_type_without_vnni(eight_bits: Bench) -> None:
    """Quantised elsewhere: nothing dies, and the answers are wrong where the processor saturates."""
    here = bool({"avx512_vnni", "avx_vnni"} & eight_bits.host.features)
    assert (eight_bits.smoke(eight_bits.good).verdict is Verdict.PASSED) == here
    report = eight_bits.smoke(eight_bits.good, kind=instance_type("c4.large"))
    assert only(report) == "SMOKE_WRONG_ANSWER"
    assert "haswell" in report.findings[0].message
    assert "does not answer as the source model does" in report.findings[0].message
    assert "without VNNI saturates" in report.findings[0].advice
    assert "times its tolerance" in report.findings[0].message
    (haswell,) = report.processors
    assert (haswell.cpu, haswell.proof, haswell.verdict) == ("haswell", "emulated", Verdict.FAILED)
    worst = {margin.output: margin for margin in haswell.margins}
    assert worst["y"].of_allowed == report.findings[0].evidence["of_allowed"] > 1
    assert worst["n"].of_allowed == 0


def test_an_avx_512_processor_without_vnni_is_tried_behind_a_mask_or_not_proven(eight_bits: Bench) -> None:
    """A host with VNNI hides it: onnxruntime then chooses the code that saturates. Any other host proves nothing."""
    report = eight_bits.smoke(eight_bits.good, kind=instance_type("c5.large"))
    codes = {finding.code for finding in report.findings}
    without, with_vnni = report.processors
    assert report.verdict is not Verdict.PASSED
    if is_maskable(eight_bits.host, "cascade-lake"):
        assert (without.cpu, without.proof, without.verdict) == ("skylake-sp", "masked", Verdict.FAILED)
        assert (with_vnni.cpu, with_vnni.proof, with_vnni.verdict) == ("cascade-lake", "masked", Verdict.PASSED)
        assert "avx512_vnni" in report.findings[0].evidence["only_here"].split()
        assert codes == {"SMOKE_WRONG_ANSWER"}
        assert "were hidden from programs on this host" in with_vnni.note
    else:
        assert "SMOKE_INSTRUCTION_SET_UNPROVEN" in codes
        assert Verdict.INCONCLUSIVE in {without.verdict, with_vnni.verdict}


def is_maskable(host: Host, cpu: str) -> bool:
    """Whether this host is of Intel, lets CPUID trap, and has more than that processor."""
    generation = next(each for each in instance_type("c5.large").cpus if each.name == cpu)
    return host.vendor == "intel" and host.cpumask is not None and set(generation.features) < host.features


@pytest.mark.parametrize("runtime", ["onnx", "tensorflow", "torch"])
def test_a_good_image_of_every_runtime_is_proven_behind_a_mask_or_not_at_all(
    packaged: Callable[[str], Bench], runtime: str
) -> None:
    """A processor that is this one without its newest extension: whatever machine these tests run on."""
    bench = packaged(runtime)
    newest = min(HIDEABLE & bench.host.features, default="avx2")
    older = bench.kind.cpus[0].model_copy(
        update={
            "name": "older",
            "vendor": bench.host.vendor,
            "features": tuple(sorted(set(bench.kind.cpus[0].features) - {newest})),
        }
    )
    report = bench.smoke(bench.good, kind=bench.kind.model_copy(update={"cpus": (older,)}))
    (proof,) = report.processors
    if newest in HIDEABLE and bench.host.cpumask is not None:
        assert (proof.proof, proof.verdict, report.verdict) == ("masked", Verdict.PASSED, Verdict.PASSED)
        assert {margin.output: margin.difference for margin in proof.margins} == {"y": 0, "n": 0}
    else:
        assert (proof.proof, proof.verdict, report.verdict) == ("unproven", *[Verdict.INCONCLUSIVE] * 2)
        assert only(report) == "SMOKE_INSTRUCTION_SET_UNPROVEN"
        assert f"this host also has {newest}, whose use would not show here" in report.findings[0].message


@pytest.mark.parametrize(
    ("name", "code"), [("c7g.large", "SMOKE_ARCHITECTURE_UNPROVEN"), ("g4dn.xlarge", "SMOKE_GPU_UNPROVEN")]
)
def test_what_cannot_be_tried_here_is_inconclusive(bench: Bench, name: str, code: str) -> None:
    report = bench.smoke(bench.good, kind=instance_type(name))
    assert only(report) == code
    assert report.verdict is Verdict.INCONCLUSIVE


def test_another_architecture_is_tried_by_its_answers_and_stays_inconclusive(bench: Bench) -> None:
    report = bench.smoke(bench.good, kind=instance_type("c6g.large"))
    assert only(report) == "SMOKE_ARCHITECTURE_UNPROVEN"
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "every golden answer under an emulated graviton2" in report.findings[0].message
    (proof,) = report.processors
    assert (proof.proof, proof.verdict) == ("emulated", Verdict.PASSED)
    assert {margin.output: margin.difference for margin in proof.margins} == {"y": 0, "n": 0}
    bench.engine.remove_image(f"{bench.good.reference}-arm64")


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("c6i.large", ["SMOKE_GPU_CUDA_SKEW", "SMOKE_GPU_ABSENT"]),
        ("p2.xlarge", ["SMOKE_GPU_CUDA_SKEW", "SMOKE_GPU_DRIVER_TOO_OLD", "SMOKE_GPU_CAPABILITY"]),
    ],
)
def test_cuda_versions_that_do_not_go_together_fail_on_every_type(bench: Bench, name: str, codes: list[str]) -> None:
    image = with_contract(bench, bench.good, contract_for_a_gpu(bench, GpuNeeds(cuda="12.4", cudnn="8.9")))
    report = bench.smoke(image, kind=instance_type(name))
    assert report.verdict is Verdict.FAILED
    failed = [finding.code for finding in report.findings if finding.verdict is Verdict.FAILED]
    assert failed == codes


def test_a_type_of_another_architecture_with_a_gpu_is_said_to_be_both(bench: Bench) -> None:
    report = bench.smoke(bench.good, kind=instance_type("g5g.xlarge"))
    assert [finding.code for finding in report.findings] == ["SMOKE_GPU_UNPROVEN", "SMOKE_ARCHITECTURE_UNPROVEN"]


def test_a_contract_that_only_its_own_server_can_read_leaves_a_gpu_type_unproven(bench: Bench) -> None:
    path = bench.work / "newer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"contract_version": 99}')
    image = bench.good.model_copy(update={"contract": put_file(bench.store, path)})
    assert only(bench.smoke(image, kind=instance_type("g4dn.xlarge"))) == "SMOKE_GPU_UNPROVEN"


def test_a_gpu_package_whose_versions_go_together_is_still_unproven(bench: Bench) -> None:
    image = with_contract(bench, bench.good, contract_for_a_gpu(bench, GpuNeeds(cuda="12.4", cudnn="9.1")))
    report = bench.smoke(image, kind=instance_type("g5.xlarge"))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert [finding.code for finding in report.findings] == ["SMOKE_GPU_UNPROVEN", "SMOKE_GPU_MEMORY_PLANNED"]


def test_without_golden_samples_nothing_passes(bench: Bench) -> None:
    report = bench.smoke(bench.good, parity=bench.parity.model_copy(update={"golden": None}))
    assert only(report) == "SMOKE_NO_GOLDEN"
    assert report.verdict is Verdict.INCONCLUSIVE


def test_more_cpus_than_the_host_has_are_remarked(bench: Bench) -> None:
    many = bench.kind.model_copy(update={"vcpus": 512})
    report = bench.smoke(bench.good, kind=many)
    assert report.verdict is Verdict.PASSED
    assert [finding.code for finding in report.findings] == ["SMOKE_CPUS_CAPPED"]


# --- nothing is left ----------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_by_the_next(bench: Bench, spoil: Spoil) -> None:
    never = spoil("import time\ntime.sleep(600)\n")
    name = f"slipway-smoke-{never.digest[7:19]}"
    start = f"""
from tasks.image import ContainerSpec, connect
connect().start(ContainerSpec(image={never.digest!r}, name={name!r}, component={COMPONENT!r}))
print("started", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.kill()
    assert bench.engine.state(name).running
    assert bench.smoke(bench.good).verdict is Verdict.PASSED
    assert bench.engine.sweep(COMPONENT) == ()
    with pytest.raises(PlatformError):
        bench.engine.state(name)
