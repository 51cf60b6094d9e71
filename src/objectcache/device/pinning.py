"""Pinning memory that somebody else has mapped, so that copies to and from a CUDA device are asynchronous."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from objectcache.errors import ConfigError

_CUDA: Any = torch.cuda  # untyped
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for all devices of the process


def cuda_registrar(address: int, length: int) -> Callable[[], None]:
    """Pin `length` bytes at `address`; what comes back undoes it. For `KVCache.register_buffers`.

    The pages are taken from the system now: seconds for many gigabytes. Raises ConfigError where they cannot be had.
    """
    cudart = _CUDA.cudart()
    code = int(cudart.cudaHostRegister(address, length, _PORTABLE))
    if code:
        raise ConfigError(
            f"{length} bytes could not be pinned ({cudart.cudaGetErrorString(cudart.cudaError(code))}): less "
            "buffer_bytes, or more memory that may be locked"
        )

    def undo() -> None:
        cudart.cudaHostUnregister(address)

    return undo
