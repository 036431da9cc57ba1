"""A GPU package against an instance type: what contradicts a table fails, what agrees with all proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.contract import GpuNeeds, Needs, ServingContract, Signature
from tasks.contracts import Finding, Owner, Verdict
from tasks.smoke.accelerators import load_accelerators
from tasks.smoke.catalogue import InstanceType, instance_type
from tasks.smoke.gpu import check_gpu
from tasks.smoke.hardware import DriverRange

GIB = 2**30
TABLE = load_accelerators()
T4, K80, V100, A10G, H100 = map(instance_type, ("g4dn.xlarge", "p2.xlarge", "p3.2xlarge", "g5.xlarge", "p5.48xlarge"))
CPU = instance_type("c6i.large")

GOOD = GpuNeeds(cuda="12.6", cudnn="9.5.1.17", workspace_bytes=GIB)
ORT = {"onnxruntime-gpu": "1.22.0", "numpy": "2.4.6"}
CONTRACT = ServingContract(
    "m", "1", "onnx", "onnx", "model", (), Signature((), ()), (), {}, "golden.npz", 8, ORT,
    needs=Needs(memory_bytes=2 * GIB, gpu=GOOD),
)  # fmt: skip


def found(
    kind: InstanceType, needs: GpuNeeds = GOOD, versions: dict[str, str] = ORT, weights: int = 2 * GIB
) -> dict[str, Finding]:
    needed = Needs(memory_bytes=weights, gpu=needs)
    findings = check_gpu(replace(CONTRACT, runtime_versions=versions, needs=needed), kind, TABLE)
    return {finding.code: finding for finding in findings}


def with_driver(kind: InstanceType, driver: DriverRange) -> InstanceType:
    assert kind.gpu is not None
    return kind.model_copy(update={"gpu": kind.gpu.model_copy(update={"driver": driver})})


def blocking(findings: dict[str, Finding]) -> set[str]:
    return {code for code, finding in findings.items() if finding.verdict is Verdict.FAILED}


@pytest.mark.parametrize("kind", [T4, A10G, V100, H100], ids=lambda kind: kind.name)
def test_what_agrees_with_every_table_is_inconclusive_without_the_gpu(kind: InstanceType) -> None:
    said = found(kind)
    assert set(said) == {"SMOKE_GPU_UNPROVEN", "SMOKE_GPU_MEMORY_PLANNED"}
    assert said["SMOKE_GPU_UNPROVEN"].verdict is Verdict.INCONCLUSIVE
    assert said["SMOKE_GPU_MEMORY_PLANNED"].verdict is Verdict.PASSED


def test_a_cpu_package_says_nothing_of_gpus_on_a_type_without_one() -> None:
    assert check_gpu(replace(CONTRACT, needs=Needs()), CPU, TABLE) == ()


def test_a_cpu_package_is_unproven_on_a_type_with_a_gpu() -> None:
    (finding,) = check_gpu(replace(CONTRACT, needs=Needs()), T4, TABLE)
    assert (finding.code, finding.verdict) == ("SMOKE_GPU_UNPROVEN", Verdict.INCONCLUSIVE)


def test_a_gpu_package_fails_on_a_type_without_a_gpu() -> None:
    assert blocking(found(CPU)) == {"SMOKE_GPU_ABSENT"}


# --- the driver ---------------------------------------------------------------------------------------------------


def test_a_driver_that_the_gpu_can_never_have_is_too_old() -> None:
    said = found(K80, replace(GOOD, cuda="12.0"))["SMOKE_GPU_DRIVER_TOO_OLD"]
    assert "needs NVIDIA's driver 525.60.13 or newer, and the newest that p2.xlarge (NVIDIA K80) can have is 470" in (
        said.message
    )
    assert said.owner is Owner.PLATFORM
    assert "docs.nvidia.com" in str(said.evidence["source"])


def test_the_driver_of_one_s_own_nodes_can_be_too_old() -> None:
    old = with_driver(A10G, DriverRange(min="470.82.01", max="470.82.01"))
    assert "SMOKE_GPU_DRIVER_TOO_OLD" in blocking(found(old))
    assert blocking(found(with_driver(A10G, DriverRange(min="525.60.13", max="525.60.13")))) == set()


def test_an_older_driver_of_the_same_major_release_is_enough() -> None:
    """Minor version compatibility: CUDA 12.6 came with driver 560, and runs on 525."""
    said = found(with_driver(A10G, DriverRange(min="535.54.03", max="535.54.03")))
    assert blocking(said) == set()


def test_a_contract_may_ask_for_a_newer_driver_than_its_cuda_does() -> None:
    nodes = with_driver(A10G, DriverRange(min="535.54.03", max="535.54.03"))
    said = found(nodes, replace(GOOD, driver="550.54.14"))["SMOKE_GPU_DRIVER_TOO_OLD"]
    assert said.evidence["source"] == "the package's contract"
    assert blocking(found(nodes, replace(GOOD, driver="450.80.02"))) == set()


def test_the_driver_that_is_needed_is_said_until_the_nodes_are_known_to_have_it() -> None:
    assert "with NVIDIA's driver 525.60.13 or newer" in found(T4)["SMOKE_GPU_UNPROVEN"].advice
    known = with_driver(T4, DriverRange(min="550.90.07", max="550.90.07"))
    assert "driver" not in found(known)["SMOKE_GPU_UNPROVEN"].advice


# --- the GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "needs", "part"),
    [
        (V100, GpuNeeds(cuda="13.0", cudnn="9.13"), "CUDA 13.0"),
        (V100, GpuNeeds(cuda="12.8", cudnn="9.13"), "cuDNN 9.13"),
        (V100, GpuNeeds(cuda="12.6", cudnn="9.5", tensorrt="10.5.0"), "TensorRT 10.5.0"),
        (H100, GpuNeeds(cuda="11.7", cudnn="8.9"), "CUDA 11.7"),
        (T4, replace(GOOD, capabilities=("8.0", "9.0")), "the model's compiled code"),
    ],
)
def test_a_part_without_code_for_the_gpu_is_named(kind: InstanceType, needs: GpuNeeds, part: str) -> None:
    findings = check_gpu(replace(CONTRACT, runtime_versions={}, needs=Needs(gpu=needs)), kind, TABLE)
    said = {str(one.evidence["part"]): one for one in findings if one.code == "SMOKE_GPU_CAPABILITY"}
    assert said[part].verdict is Verdict.FAILED
    assert said[part].evidence["source"]


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        (V100, GpuNeeds(cuda="12.6", cudnn="9.5", tensorrt="10.4")),
        (A10G, GpuNeeds(cuda="11.0", cudnn="8.9")),  # 8.0's code runs on 8.6
        (A10G, replace(GOOD, capabilities=("8.0",))),
        (T4, replace(GOOD, capabilities=("7.5", "8.0"))),
    ],
)
def test_code_for_an_older_gpu_of_the_same_major_capability_runs(kind: InstanceType, needs: GpuNeeds) -> None:
    assert "SMOKE_GPU_CAPABILITY" not in found(kind, needs, {})


def test_a_tensorrt_engine_runs_on_no_other_capability_than_its_own() -> None:
    engine = replace(GOOD, tensorrt="10.6.0", capabilities=("8.0",))
    assert "SMOKE_GPU_CAPABILITY" in blocking(found(A10G, engine))
    assert blocking(found(A10G, replace(engine, capabilities=("8.6",)))) == set()


# --- versions that belong together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "versions", "library"),
    [
        (GpuNeeds(cuda="11.8", cudnn="8.9"), {"onnxruntime-gpu": "1.22.0"}, "onnxruntime-gpu 1.22.0"),
        (GpuNeeds(cuda="11.8", cudnn="9.5"), {"onnxruntime-gpu": "1.20.1"}, "onnxruntime-gpu 1.20.1"),
        (GpuNeeds(cuda="12.4", cudnn="8.9"), {"onnxruntime-gpu": "1.18.1"}, "onnxruntime-gpu 1.18.1"),
        (GpuNeeds(cuda="12.6"), {"onnxruntime-gpu": "1.20.1"}, "onnxruntime-gpu 1.20.1"),
        (GpuNeeds(cuda="12.1", cudnn="9.5"), {"torch": "2.7.0+cu126"}, "torch 2.7.0"),
        (GpuNeeds(cuda="11.8", cudnn="8.9"), {"tensorflow": "2.18.0"}, "tensorflow 2.18.0"),
        (GpuNeeds(cuda="12.6", cudnn="8.7"), {}, "cuDNN 8.7"),
        (GpuNeeds(cuda="12.6", cudnn="9.5", tensorrt="8.5.3"), {}, "TensorRT 8.5.3"),
        (GpuNeeds(cuda="11.8", cudnn="9.5", tensorrt="10.13.3"), {}, "TensorRT 10.13.3"),
    ],
)
def test_libraries_that_are_not_made_for_each_other_are_named(
    needs: GpuNeeds, versions: dict[str, str], library: str
) -> None:
    said = found(T4, needs, versions)["SMOKE_GPU_CUDA_SKEW"]
    assert said.verdict is Verdict.FAILED
    assert said.evidence["library"] == library
    assert "https://" in str(said.evidence["source"])


def test_a_skew_is_found_on_a_type_without_a_gpu_too() -> None:
    assert blocking(found(CPU, GpuNeeds(cuda="11.8", cudnn="8.9"))) == {"SMOKE_GPU_CUDA_SKEW", "SMOKE_GPU_ABSENT"}


@pytest.mark.parametrize(
    ("needs", "versions"),
    [
        (GpuNeeds(cuda="11.8", cudnn="8.9.7"), {"onnxruntime-gpu": "1.16.3"}),
        (GpuNeeds(cuda="11.8", cudnn="8.9.7"), {"onnxruntime-gpu": "1.20.1"}),
        (GpuNeeds(cuda="13.0", cudnn="9.13"), {"onnxruntime-gpu": "1.27.0"}),
        (GpuNeeds(cuda="12.8", cudnn="9.7.1"), {"torch": "2.7.0+cu128"}),
        (GpuNeeds(cuda="12.3", cudnn="8.9"), {"tensorflow": "2.17.0"}),
        (GpuNeeds(cuda="12.6", cudnn="9.5", tensorrt="10.6.0"), {}),
    ],
)
def test_libraries_that_are_made_for_each_other_are_no_finding(needs: GpuNeeds, versions: dict[str, str]) -> None:
    assert blocking(found(T4, needs, versions)) == set()


@pytest.mark.parametrize(
    ("needs", "versions"),
    [
        (replace(GOOD, cuda="99.0"), {}),
        (replace(GOOD, cudnn="99.0"), {}),
        (replace(GOOD, tensorrt="99.0"), {}),
        (replace(GOOD, cuda="twelve"), {}),
        (replace(GOOD, cuda=""), {}),
        (replace(GOOD, driver="newest"), {}),
        (replace(GOOD, capabilities=("ampere",)), {}),
        (GOOD, {"onnxruntime-gpu": "99.0"}),
        (GOOD, {"torch": "nightly"}),
    ],
)
def test_a_version_that_the_tables_do_not_have_is_no_pass(needs: GpuNeeds, versions: dict[str, str]) -> None:
    said = found(T4, needs, versions)
    assert said["SMOKE_GPU_VERSION_UNKNOWN"].verdict is Verdict.INCONCLUSIVE
    assert blocking(said) == set()


# --- memory -------------------------------------------------------------------------------------------------------


def test_instances_that_cannot_fit_fail_with_what_they_need() -> None:
    said = found(T4, replace(GOOD, instances=6))["SMOKE_GPU_OUT_OF_MEMORY"]
    assert (said.verdict, said.owner) == (Verdict.FAILED, Owner.MODEL)
    assert said.evidence["instances_that_fit"] == 4
    assert said.evidence["usable_bytes"] == 15 * GIB


def test_what_fits_only_beside_a_small_process_is_not_concluded() -> None:
    said = found(T4, replace(GOOD, workspace_bytes=0), weights=14 * GIB)
    assert said["SMOKE_GPU_MEMORY_TIGHT"].verdict is Verdict.INCONCLUSIVE
    assert "SMOKE_GPU_MEMORY_PLANNED" not in said


def test_the_plan_says_the_headroom_and_how_many_instances_fit() -> None:
    said = found(T4)["SMOKE_GPU_MEMORY_PLANNED"]
    assert said.evidence["headroom_bytes"] == 15 * GIB - 3 * GIB - TABLE.runtime.most_bytes
    assert said.evidence["instances_that_fit"] == 4


def test_activations_that_the_contract_does_not_say_are_said_not_to_be_counted() -> None:
    assert "activations not counted" in found(T4, replace(GOOD, workspace_bytes=0))["SMOKE_GPU_MEMORY_PLANNED"].message


def test_instances_of_a_tensorrt_engine_share_its_weights() -> None:
    needs = replace(GOOD, tensorrt="10.6.0", capabilities=("7.5",), instances=6)
    assert "SMOKE_GPU_OUT_OF_MEMORY" not in found(T4, needs)
