"""What is kept of a vLLM request while it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from objectcache.connectors.vllm.messages import HASH_BYTES, Adapter, Prompt
from objectcache.connectors.vllm.scheduler.saves import Known

_BY_A_STEP = frozenset(("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION"))
_FROM_OUTSIDE = "FINISHED_ABORTED"


@dataclass(slots=True)
class KnownRequest:
    """`load` and `store` say what is wanted for it. `have_tokens` is what vLLM had of it when it asked last, `parked`
    that it waits for a load beside the steps."""

    request: Any
    load: bool
    store: bool
    adapter: Adapter | None
    have_tokens: int = 0
    parked: bool = False
    _hashes: bytearray = field(default_factory=bytearray, repr=False)  # those that were needed, joined

    @classmethod
    def of(cls, request: Any, *, load: bool, store: bool) -> Self:
        """A request may opt out of either: kv_transfer_params {"objectcache": {"load": false, "store": false}}."""
        params = request.kv_transfer_params
        wishes = params.get("objectcache") if isinstance(params, Mapping) else None
        if not isinstance(wishes, Mapping):  # clients write it
            wishes = {}
        lora = request.lora_request
        return cls(
            request,
            load and wishes.get("load", True) is not False,
            store and wishes.get("store", True) is not False,
            None if lora is None else Adapter(lora.lora_name, lora.lora_path, lora.lora_int_id),
        )

    def prompt(self, blocks: int | None = None) -> Prompt:
        """Its first `blocks` hashes, as many as there are unless said otherwise."""
        found = self.request.block_hashes
        stop = len(found) if blocks is None else blocks
        joined = len(self._hashes) // HASH_BYTES
        if stop > joined:
            self._hashes += b"".join(found[joined:stop])
        return Prompt(bytes(self._hashes[: stop * HASH_BYTES]), self.adapter)

    @property
    def now(self) -> Known:
        return Known(self.request.num_tokens, self.request.num_preemptions)

    @property
    def ended_by_a_step(self) -> bool:
        """By what a step has sampled."""
        return self.request.status.name in _BY_A_STEP

    @property
    def worth_saving(self) -> bool:
        """It did not end by an error."""
        return self.ended_by_a_step or self.request.status.name == _FROM_OUTSIDE
