"""Between a layer's K and V as transformers keeps them and slices as they are stored.

A slice is one chunk of one layer, [2, kv_heads, chunk_tokens, head_dim] in the model's dtype: K, then V. They are
rearranged where the model computes: on an accelerator, what crosses to the host and back are slices, in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_RAW_DTYPE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HOST = torch.device("cpu")
_RAW_NUMPY = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True, slots=True)
class KVShape:
    """K (and, the same, V) of every layer of a model: [1, kv_heads, tokens, head_dim] of `dtype`."""

    num_layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    def holds(self, states: torch.Tensor) -> bool:
        """Whether `states` is K or V of one sequence of this model."""
        return (
            states.dim() == 4
            and (states.shape[0], states.shape[1], states.shape[3]) == (1, self.kv_heads, self.head_dim)
            and states.dtype == self.dtype
        )


def write_slices(keys: torch.Tensor, values: torch.Tensor, chunk_tokens: int, memory: memoryview) -> None:
    """Slices of K and V, [1, kv_heads, n * chunk_tokens, head_dim] each, one after the other into host memory."""
    _, heads, tokens, dim = keys.shape
    chunks = tokens // chunk_tokens
    out = np.frombuffer(memory, _RAW_NUMPY[keys.element_size()]).reshape(chunks, 2, heads, chunk_tokens, dim)
    if keys.device.type == "cpu":
        # By numpy: one thread, instead of a second pool of torch's beside the forward's.
        for which, states in enumerate((keys, values)):
            out[:, which] = _raw(states)[0].reshape(heads, chunks, chunk_tokens, dim).swapaxes(0, 1)
    else:
        both = torch.stack((keys[0], values[0])).view(2, heads, chunks, chunk_tokens, dim)
        slices = both.permute(2, 0, 1, 3, 4).contiguous()
        np.copyto(out, _raw(slices.cpu()))


def from_slices(
    slices: npt.NDArray[np.uint8], shape: KVShape, chunk_tokens: int, *, room: int = 0, device: torch.device = _HOST
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V, [1, kv_heads, n * chunk_tokens + room, head_dim] each, on `device`, in memory of their own.

    The last `room` tokens are left for the caller to fill.
    """
    chunks = slices.shape[0]
    tokens = chunks * chunk_tokens
    source = torch.from_numpy(slices).to(device).view(shape.dtype)
    source = source.view(chunks, 2, shape.kv_heads, chunk_tokens, shape.head_dim)
    out = torch.empty((2, 1, shape.kv_heads, tokens + room, shape.head_dim), dtype=shape.dtype, device=device)
    prefix = out[:, 0, :, :tokens].view(2, shape.kv_heads, chunks, chunk_tokens, shape.head_dim)
    prefix.copy_(source.permute(1, 2, 0, 3, 4))
    return out[0], out[1]


def _raw(states: torch.Tensor) -> npt.NDArray[Any]:
    """`states` as integers of the same size, without a copy: numpy knows neither bfloat16 nor float8."""
    raw: npt.NDArray[Any] = states.detach().view(_RAW_DTYPE[states.element_size()]).numpy()
    return raw
