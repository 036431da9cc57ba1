"""The labels that node-feature-discovery sets for CPU features, by the kernel's names. Pure.

node-feature-discovery labels a node `feature.node.kubernetes.io/cpu-cpuid.<FLAG>: "true"`, on x86-64 with the flags'
names of github.com/klauspost/cpuid (`featureid_string.go`). Its default configuration leaves some out
(`attributeBlacklist` in `source/cpu/cpu.go`: BMI1, BMI2, CX16, F16C, LZCNT, POPCNT, SSE and SSSE3 among them): a rule
that asks for those is never met, so they have no entry here. The levels' vector extensions and what is beyond them all
have. On arm64 it has names of its own (`cpuid_linux_arm64.go`), fewer in older releases; nothing of arm64 is proven,
and so nothing is asked for there.
"""

from __future__ import annotations

from collections.abc import Iterable

PREFIX = "feature.node.kubernetes.io/cpu-cpuid."

#: The kernel's name in /proc/cpuinfo → the flag's name in the label.
_FLAGS = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA3",
    "fma4": "FMA4",
    "xop": "XOP",
    "avx512f": "AVX512F",
    "avx512bw": "AVX512BW",
    "avx512cd": "AVX512CD",
    "avx512dq": "AVX512DQ",
    "avx512vl": "AVX512VL",
    "avx512er": "AVX512ER",
    "avx512pf": "AVX512PF",
    "avx512ifma": "AVX512IFMA",
    "avx512vbmi": "AVX512VBMI",
    "avx512_vbmi2": "AVX512VBMI2",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bitalg": "AVX512BITALG",
    "avx512_vpopcntdq": "AVX512VPOPCNTDQ",
    "avx512_vp2intersect": "AVX512VP2INTERSECT",
    "avx512_bf16": "AVX512BF16",
    "avx512_fp16": "AVX512FP16",
    "avx_vnni": "AVXVNNI",
    "avx_vnni_int8": "AVXVNNIINT8",
    "avx_ifma": "AVXIFMA",
    "avx_ne_convert": "AVXNECONVERT",
    "amx_tile": "AMXTILE",
    "amx_int8": "AMXINT8",
    "amx_bf16": "AMXBF16",
    "amx_fp16": "AMXFP16",
    "gfni": "GFNI",
    "vaes": "VAES",
    "vpclmulqdq": "VPCLMULQDQ",
}


def labels(features: Iterable[str]) -> tuple[str, ...]:
    """The labels for those of `features` that node-feature-discovery tells, sorted."""
    return tuple(sorted(PREFIX + _FLAGS[name] for name in set(features) & _FLAGS.keys()))
