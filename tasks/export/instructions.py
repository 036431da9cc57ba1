"""Which instruction-set extensions a shared library holds: its machine code, disassembled.

In: a compiled `.so`. Out: names as the kernel has them in /proc/cpuinfo, which is how instance types list theirs. What
compiler flags asked for is no evidence: a build for this machine's processor puts AVX-512 instructions even where only
256-bit vectors were asked for.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import PlatformError

#: A line of objdump: address, mnemonic (after prefixes in braces), operands.
_LINE = re.compile(r"^\s*[0-9a-f]+:\s+(?:\{\w+\}\s+)?(\S+)\s*(.*)$")
#: What only the EVEX encoding can name: 512-bit registers, mask registers, and vector registers 16 to 31.
_EVEX = re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(?:1[6-9]|2\d|3[01])\b")
#: Mnemonic → extension, for what tells itself apart by name (Intel SDM volume 2, AMD APM volumes 3 and 4).
_BY_NAME = tuple(
    (re.compile(pattern), extension)
    for pattern, extension in (
        (r"vpdp(bu|w)s[du]s?", "avx512_vnni"),
        (r"v(cvtne2?ps2bf16|dpbf16ps)", "avx512_bf16"),
        (r"v[a-z0-9]+(ph|sh)", "avx512_fp16"),
        (r"tdp\w+|tile\w+", "amx_tile"),
        (r"vf(n?m(add|sub)|maddsub|msubadd)(132|213|231)\w+", "fma"),
        (r"vcvt(ph2ps|ps2ph)", "f16c"),
        (r"andn[lq]?|bextr[lq]?|bls(i|msk|r)[lq]?|tzcnt[wlq]?", "bmi1"),
        (r"bzhi[lq]?|mulx[lq]?|p(dep|ext)[lq]?|(rorx|sarx|shlx|shrx)[lq]?", "bmi2"),
        (r"lzcnt[wlq]?", "abm"),
        (r"movbe\w*", "movbe"),
        (r"popcnt\w*", "popcnt"),
    )
)
_AVX512_BW = re.compile(r"vmovdqu(8|16)|vpmovm2[bw]|vpmov[bw]2m|k(mov|and|andn|or|xor|xnor|not|test|ortest|add)[dq]")
_AVX512_DQ = re.compile(r"vpmovm2[dq]|vpmov[dq]2m|vpmullq|vfpclass\w+|vrange\w+|vreduce\w+|vcvt\w*qq\w*|\w+(64x2|32x8)")
#: Integers, which AVX2 took to 256 bits; two permutations with a `p` are AVX's own.
_AVX2 = re.compile(r"vp(?!erm2f128|ermilp)\w+|v(broadcast|extract|insert)i128|vmpsadbw|vmovntdqa")
#: AVX2 at any width.
_AVX2_ALWAYS = re.compile(r"vp(blendd|broadcast\w|maskmov\w|s[lr]lv\w|srav\w|gather\w\w|erm[dq]|ermp[sd])|vgather\w+")
#: F16C is the one conversion whose name ends as those of AVX512-FP16 do.
_F16C = re.compile(r"vcvt(ph2ps|ps2ph)")


def extensions_of(library: Path) -> tuple[str, ...]:
    """The extensions beyond the x86-64 baseline that the library's code holds, sorted; none where it is not x86-64.

    Raises:
        PlatformError: there is no objdump, or it cannot read the file.
    """
    objdump = shutil.which("objdump")
    if objdump is None:
        raise PlatformError("objdump is missing, which says what a compiled model needs: install Debian's binutils")
    done = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", str(library)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PlatformError(f"objdump cannot read {library.name}: {done.stderr.strip()}")
    if "elf64-x86-64" not in done.stdout[:500]:
        return ()
    return extensions_in(done.stdout.splitlines())


def extensions_in(lines: Iterable[str]) -> tuple[str, ...]:
    """The same for objdump's output, line by line."""
    read = (_LINE.match(line) for line in lines)
    instructions = {(one[1], _registers(one[2])) for one in read if one}
    found: set[str] = set()
    for mnemonic, registers in instructions:
        found |= _extensions(mnemonic, registers)
    return tuple(sorted(found))


def _registers(operands: str) -> str:
    """What of the operands decides: `evex wide`, `evex`, `ymm`, or nothing."""
    if _EVEX.search(operands):
        return "evex wide" if "%zmm" in operands else "evex"
    return "ymm" if "%ymm" in operands else ""


def _extensions(mnemonic: str, registers: str) -> set[str]:
    found = {extension for pattern, extension in _BY_NAME if pattern.fullmatch(mnemonic)}
    if _F16C.fullmatch(mnemonic):
        found.discard("avx512_fp16")
    if registers.startswith("evex") or _AVX512_BW.fullmatch(mnemonic):
        found.add("avx512f")
        if registers == "evex" and not mnemonic.startswith("k"):
            found.add("avx512vl")
        if _AVX512_BW.fullmatch(mnemonic) or (mnemonic.startswith("vp") and mnemonic.endswith(("b", "w"))):
            found.add("avx512bw")
        if _AVX512_DQ.fullmatch(mnemonic):
            found.add("avx512dq")
        found.discard("fma")  # of 512 bits and with masks, they are AVX-512's own
    elif (registers == "ymm" and _AVX2.fullmatch(mnemonic)) or _AVX2_ALWAYS.fullmatch(mnemonic):
        found.add("avx2")
    elif mnemonic.startswith("v") or registers == "ymm":
        found.add("avx")
    return found
