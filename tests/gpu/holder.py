"""Holds memory of the one card that CUDA shows it, until its input ends; says `ready` when it has it."""

from __future__ import annotations

import ctypes
import sys


def take(count: int) -> None:
    """Allocate `count` bytes by the driver's own calls, so that no framework is needed."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    steps = (
        ("cuInit", (ctypes.c_uint(0),)),
        ("cuDeviceGet", (ctypes.byref(device), ctypes.c_int(0))),
        ("cuDevicePrimaryCtxRetain", (ctypes.byref(context), device)),
        ("cuCtxSetCurrent", (context,)),
        ("cuMemAlloc_v2", (ctypes.byref(memory), ctypes.c_size_t(count))),
    )
    for name, arguments in steps:
        error = getattr(cuda, name)(*arguments)
        if error:
            sys.exit(f"{name} answered {error}")


if __name__ == "__main__":
    take(int(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.read()
