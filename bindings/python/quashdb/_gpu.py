"""The options of Collection.attach_gpu()."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Literal

import numpy as np

from quashdb import _ffi

Devices = int | Sequence[int] | Literal["all"]


def gpu_options(device: Devices, budget_bytes: int) -> _ffi.GpuOptions:
    options = _ffi.GpuOptions(
        struct_size=ctypes.sizeof(_ffi.GpuOptions), budget_bytes=budget_bytes
    )
    if isinstance(device, int | np.integer):
        options.device = int(device)
    elif isinstance(device, str):
        if device != "all":
            raise ValueError(f"device is {device!r}, expected ordinals or 'all'")
        options.device = _ffi.GPU_ALL
    else:
        options.devices = (ctypes.c_int * len(device))(*device)
        options.num_devices = len(device)
    return options
