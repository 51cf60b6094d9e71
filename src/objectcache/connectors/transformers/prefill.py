"""What a whole request through a connector takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from objectcache.connectors.transformers.cache_names import CACHE_NAMES
from objectcache.connectors.transformers.delivery import LayerTiming
from objectcache.connectors.transformers.prefix import PrefixCache
from objectcache.errors import ObjectCacheError, RequestError
from objectcache.scheduling.advice import Advice


@dataclass(frozen=True, slots=True)
class PrefillReport:
    """What one request took from the cache. `error` is what made it recompute or miss, if anything did.

    `stored_tokens` matched, `matched_tokens` of them were loaded; where that is less, `advice` says why.
    """

    prompt_tokens: int
    matched_tokens: int
    matched_bytes: int
    recomputed: bool
    error: ObjectCacheError | None
    timings: tuple[LayerTiming, ...]
    stored_tokens: int = 0
    advice: Advice | None = None

    @classmethod
    def of(cls, prompt_tokens: int, past: PrefixCache, failed: PrefixCache | None) -> Self:
        """What came of `past`, which took the place of `failed` if there was one."""
        return cls(
            prompt_tokens=prompt_tokens,
            matched_tokens=past.matched_tokens,
            matched_bytes=past.matched_bytes,
            recomputed=failed is not None,
            error=(failed or past).error,
            timings=(failed or past).timings,
            stored_tokens=past.decision.stored_tokens,
            advice=past.decision.advice,
        )

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.matched_tokens


@dataclass(frozen=True, slots=True)
class Prefill:
    """The model's outputs over the tail of a prompt, and the cache that holds all of it, to go on from."""

    outputs: Any
    cache: PrefixCache
    report: PrefillReport


class WithoutPrompt:
    """A streamer for a `generate` that begins again: `inner` has seen the prompt already."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._prompt = True

    def put(self, value: Any) -> None:
        if not self._prompt:
            self._inner.put(value)
        self._prompt = False

    def end(self) -> None:
        self._inner.end()


_OTHER_MEANING = (
    *CACHE_NAMES,
    "inputs_embeds",
    "position_ids",
    "token_type_ids",
    "cache_position",
    "use_cache",
)


def plain_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` without a mask that masks nothing. Raises RequestError for what keys cannot stand for."""
    wrong = [name for name in _OTHER_MEANING if inputs.get(name) is not None]
    mask = inputs.get("attention_mask")
    if wrong or (mask is not None and not bool((mask == 1).all())):
        raise RequestError(
            f"{', '.join(wrong) or 'an attention_mask with gaps'}: stored KV is named by token ids from position 0 on"
        )
    return {name: value for name, value in inputs.items() if name != "attention_mask"}
