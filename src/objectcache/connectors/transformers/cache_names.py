"""What transformers calls a model's cache: `past_key_values` up to 5.23, `cache` since."""

from __future__ import annotations

import inspect
from typing import Any


def cache_input(model: Any, past: Any) -> dict[str, Any]:
    """`past` as the keyword argument that `model(...)` and `model.generate(...)` take it by."""
    return {_NEW if _NEW in inspect.signature(model.forward).parameters else _OLD: past}


def cache_output(outputs: Any) -> Any:
    """The cache in a forward's outputs; None when there is none."""
    return outputs.get(_NEW, outputs.get(_OLD))


_NEW, _OLD = "cache", "past_key_values"
CACHE_NAMES = (_NEW, _OLD)
