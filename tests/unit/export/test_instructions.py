"""Which instruction-set extensions compiled code holds: by its instructions, whatever its compiler was told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.errors import PlatformError
from tasks.export.instructions import extensions_in, extensions_of


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("mulps  %xmm0,%xmm1", ""),
        ("vmulps %ymm0,%ymm1,%ymm2", "avx"),
        ("vmovups (%rax),%xmm3", "avx"),
        ("vperm2f128 $0x1,%ymm0,%ymm1,%ymm2", "avx"),
        ("vpaddd %xmm0,%xmm1,%xmm2", "avx"),
        ("vpaddd %ymm0,%ymm1,%ymm2", "avx2"),
        ("vpbroadcastd %xmm0,%xmm0", "avx2"),
        ("vfmadd231ps %ymm0,%ymm1,%ymm2", "avx fma"),
        ("vcvtph2ps (%rax),%ymm0", "avx f16c"),
        ("tzcnt  %rax,%rdx", "bmi1"),
        ("shlx   %rax,%rdx,%rcx", "bmi2"),
        ("lzcnt  %rax,%rdx", "abm"),
        ("vmulps %zmm0,%zmm1,%zmm2", "avx512f"),
        ("vfmadd231ps %zmm0,%zmm1,%zmm2", "avx512f"),
        ("vmulps %ymm16,%ymm1,%ymm2", "avx512f avx512vl"),
        ("vmovups %ymm0,(%rax){%k1}", "avx512f avx512vl"),
        ("vmovdqu8 (%rax),%ymm0", "avx512bw avx512f"),
        ("kmovd  %eax,%k1", "avx512bw avx512f"),
        ("kmovw  %eax,%k1", "avx512f"),
        ("vpmullq %zmm0,%zmm1,%zmm2", "avx512dq avx512f"),
        ("vpdpbusd %zmm0,%zmm1,%zmm2", "avx512_vnni avx512f"),
        ("vdpbf16ps %zmm0,%zmm1,%zmm2", "avx512_bf16 avx512f"),
        ("vaddph %zmm0,%zmm1,%zmm2", "avx512_fp16 avx512f"),
        ("tdpbf16ps %tmm0,%tmm1,%tmm2", "amx_tile"),
    ],
)
def test_an_instruction_tells_what_it_needs(instruction: str, expected: str) -> None:
    lines = ["model.so:     file format elf64-x86-64", "0000 <f>:", f"    1139:\t{instruction}", "    1140:\tret"]
    assert extensions_in(lines) == tuple(expected.split())


SUM = """
extern "C" void scaled(float* x, long n) { for (long i = 0; i < n; ++i) x[i] = x[i] * 3.0f + 1.0f; }
"""


@pytest.mark.parametrize(
    ("level", "holds", "lacks"),
    [("x86-64", "", "avx avx2 fma avx512f"), ("x86-64-v3", "avx fma", "avx512f"), ("x86-64-v4", "avx512f", "")],
)
def test_a_library_needs_what_it_was_compiled_for(level: str, holds: str, lacks: str, tmp_path: Path) -> None:
    (tmp_path / "sum.cpp").write_text(SUM)
    flags = ["-O3", f"-march={level}", "-mprefer-vector-width=512", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, "sum.cpp", "-o", "sum.so"], cwd=tmp_path, check=True)
    found = set(extensions_of(tmp_path / "sum.so"))
    assert set(holds.split()) <= found
    assert not set(lacks.split()) & found


def test_what_cannot_be_disassembled_is_no_library_without_needs(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"not a library")
    with pytest.raises(PlatformError, match=r"objdump cannot read model\.so"):
        extensions_of(tmp_path / "model.so")
