"""Runs inside an image, as `python -c`: the server's command line, with a witness to illegal instructions.

In: the arguments of `python -m serving`. Out: where the program comes to an illegal instruction, a line of JSON on
standard error that says where it lies (`tasks.smoke.illegal` reads it), and exit code 132, as SIGILL has it. The kernel
tells only the process itself where it happened, and Python's faulthandler tells lines of Python; so this is a handler
for the signal, by way of ctypes. It decides nothing: an image has already died of the signal without a witness.

Standard library only, and x86-64 Linux only: the offsets are of its `ucontext_t` (sys/ucontext.h).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import runpy
import signal

_SA_SIGINFO = 4
#: Of the instruction pointer in `ucontext_t`: flags, link and stack (40 bytes), then `gregs`, of which it is the 17th.
_RIP = 40 + 16 * 8
_LONGEST_INSTRUCTION = 15
_EXIT_CODE = 128 + signal.SIGILL

#: push rbp; mov rbp,rsp; and rsp,-16; mov rax,HANDLER; call rax: a handler finds the stack as the ABI has it, which
#: QEMU 7.2's user mode does not see to. What follows is never reached.
_ALIGNED_CALL = "554889e54883e4f048b8{handler}ffd0"


class _Action(ctypes.Structure):
    """`struct sigaction` of glibc."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Place(ctypes.Structure):
    """`Dl_info` (dladdr(3))."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_at", ctypes.c_void_p),
    )


_C = ctypes.CDLL(None)
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def describe(at: int) -> dict[str, object]:
    """What lies at an address: the mapped file, the offset from where it is loaded, the symbol around it, the code."""
    library, start, end = _mapping(at)
    found = _Place()
    known = _C.dladdr(ctypes.c_void_p(at), ctypes.byref(found))
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # noqa: PTH123  no more imports than it takes
        code = os.pread(memory.fileno(), min(_LONGEST_INSTRUCTION, end - at), at)
    return {
        "library": library,
        "offset": at - (found.base if known and found.base else start),
        "symbol": found.symbol.decode(errors="replace") if known and found.symbol else "",
        "symbol_offset": at - found.symbol_at if known and found.symbol_at else 0,
        "code": code.hex(),
    }


def _mapping(at: int) -> tuple[str, int, int]:
    with open("/proc/self/maps") as mappings:  # noqa: PTH123
        for line in mappings:  # "start-end rights offset device inode   path", the path where there is one
            fields = line.strip().split(maxsplit=5)
            start, end = (int(part, 16) for part in fields[0].split("-"))
            if start <= at < end:
                name = fields[5] if len(fields) > 5 else ""
                return ("" if name.endswith("(deleted)") or not name.startswith("/") else name), start, end
    return "", at, at


def _caught(_number: int, _info: int, context: int) -> None:
    try:
        at = ctypes.c_uint64.from_address(context + _RIP).value
        os.write(2, json.dumps({"illegal_instruction": describe(at)}).encode() + b"\n")
    finally:
        os._exit(_EXIT_CODE)  # there is nothing to go back to


def watch() -> object:
    """Install the handler; what is returned must be kept as long as it may be called."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    caught = _HANDLER(_caught)
    handler = ctypes.cast(caught, ctypes.c_void_p).value or 0
    page.write(bytes.fromhex(_ALIGNED_CALL.format(handler=handler.to_bytes(8, "little").hex())))
    action = _Action(handler=ctypes.addressof(ctypes.c_char.from_buffer(page)), flags=_SA_SIGINFO)
    if _C.sigaction(int(signal.SIGILL), ctypes.byref(action), None):
        raise OSError("sigaction failed")
    return caught, page


if __name__ == "__main__":
    kept = watch()
    runpy.run_module("serving", run_name="__main__", alter_sys=True)
