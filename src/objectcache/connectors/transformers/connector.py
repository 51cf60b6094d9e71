"""Prefix KV of one transformers model in a KVCache: load it layer by layer, store it while a prefill runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from objectcache.cache.base import KVCache, RetrieveOptions
from objectcache.connectors.background import BackgroundThread
from objectcache.connectors.steps import marks_of
from objectcache.connectors.transformers.cache_names import cache_input
from objectcache.connectors.transformers.deciding import Decider
from objectcache.connectors.transformers.delivery import PrefixLoadError
from objectcache.connectors.transformers.loading import PrefixLoader
from objectcache.connectors.transformers.model import kv_shape, make_namespace, weights_fingerprint, weights_version
from objectcache.connectors.transformers.prefill import Prefill, PrefillReport, WithoutPrompt, plain_inputs
from objectcache.connectors.transformers.prefix import PrefixCache
from objectcache.connectors.transformers.recording import Recording
from objectcache.connectors.transformers.stats import ConnectorStats, StatsCounter
from objectcache.errors import ConfigError, IntegrityError, KeyNotFoundError, ObjectCacheError, RequestError
from objectcache.keys import KeyChain, Namespace, chain_keys
from objectcache.scheduling.advisor import Advisor
from objectcache.scheduling.windows import WindowModel
from objectcache.storing import ALL, StoreOptions, StoreQueue

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

T = TypeVar("T")


class TransformersConnector(AbstractContextManager["TransformersConnector"]):
    """Loads and stores the prompts of one model, one sequence (a batch of 1) at a time.

    `load` gives a cache for `model(...)` or `model.generate(...)`; `prefill` and `generate` do the whole of it, with
    recomputation where loading fails. Any doubt is a miss, every wait has a deadline (`options.deadline_s`), and what
    goes wrong with storing is counted in `stats` and disturbs nothing. The KVCache stays the caller's to close.
    """

    def __init__(
        self,
        cache: KVCache,
        model: PreTrainedModel,
        *,
        weights_fingerprint: str | None = None,
        adapter: str = "",
        salt: str = "",
        epoch: int = 0,
        chunk_tokens: int = 16,
        options: RetrieveOptions | None = None,
        deadline_s: float = 2.0,
        storing: StoreOptions | None = None,
        load_or_recompute: bool = True,
        windows: WindowModel | None = None,
    ) -> None:
        """Runs `model` over two tokens to see what it caches.

        `weights_fingerprint` replaces the digest over all weights (see `model.weights_fingerprint` for its cost);
        whoever gives one answers for its changing with the weights. `adapter` names active adapters and their
        weights. A look-up may take `deadline_s`, and what is loaded may stand still for so long (not seen where all
        layers come as one unit and nobody counts bytes); a cache that is late or gone is then left alone, for half a
        second at first. `options` is the default of `load`; its `deadline_s` bounds a load that goes on. `storing` says
        what is stored and how (default: every prompt); its `staging_bytes` must hold a layer of a prompt, and what does
        not fit beside what is pending is dropped. With `load_or_recompute`, what matched is loaded as far as that is
        expected to bring the first token earlier, as soon as a step has shown how fast the model computes; `windows` is
        what is known of that from before.
        Raises LayoutError for models that are not supported, ConfigError for what is missing.
        """
        self._cache = cache
        self._model: Any = model  # a module's call is typed too narrowly
        if deadline_s <= 0:
            raise ConfigError(f"deadline_s must be positive, got {deadline_s}")
        self._given_fingerprint = weights_fingerprint
        self._adapter, self._salt, self._epoch = adapter, salt, epoch
        self._chunk_tokens = chunk_tokens
        self._options = options or RetrieveOptions()
        self._background = BackgroundThread()
        self._stats = StatsCounter()
        self._shape = kv_shape(model)
        self._version: object = None
        self._namespace = self.namespace
        self._queue = StoreQueue(cache, storing or StoreOptions(ALL))
        self._decider = Decider(Advisor(windows), self._shape.num_layers, self._background, advises=load_or_recompute)
        self._loader = PrefixLoader(
            cache, model, self._shape, chunk_tokens, self._decider, self._stats, self._background, deadline_s
        )

    @property
    def namespace(self) -> Namespace:
        """Of the model as it is now: weights or attention implementation that changed since make another one."""
        weights = weights_version(self._model) if self._given_fingerprint is None else None
        version = (weights, self._model.config._attn_implementation)
        if version != self._version:
            self._namespace = make_namespace(
                self._model,
                self._shape,
                fingerprint=self._given_fingerprint or weights_fingerprint(self._model),
                adapter=self._adapter,
                salt=self._salt,
                epoch=self._epoch,
                chunk_tokens=self._chunk_tokens,
            )
            self._version = version
        return self._namespace

    @property
    def stats(self) -> ConnectorStats:
        return self._stats.snapshot

    @property
    def advisor(self) -> Advisor:
        """What it knows of the model's windows (`advisor.windows.to_map()` keeps it) and of rates; how advice did."""
        return self._decider.advisor

    # -- loading ----------------------------------------------------------------------------------

    def load(
        self, input_ids: torch.Tensor, *, store: bool = False, options: RetrieveOptions | None = None
    ) -> PrefixCache:
        """Start loading the longest stored prefix of `input_ids`, [1, tokens], short of its last token.

        What comes back knows `matched_tokens` at once (0 is a miss, or a look-up that failed: see its `error`); give
        the model `tail(input_ids)`, or `generate` all of them. With `store`, the full chunks that the forward adds are
        stored as it computes them, and become visible with `commit` or when the context is left without an exception.
        `input_ids` must be what the forward then gets: keys are made from them. Raises RequestError for any other
        shape; a forward raises PrefixLoadError when a layer fails or is late.
        """
        ids = self._checked(input_ids)
        namespace = self.namespace
        chain = chain_keys(namespace, ids)
        marks = marks_of(self._model.device)
        begin = marks.now()
        decision, delivery, error = self._loader.load(
            namespace, chain[: (len(ids) - 1) // self._chunk_tokens], len(ids), options or self._options
        )
        self._stats.add(
            loads=1,
            requested_tokens=len(ids),
            hits=int(delivery is not None),
            matched_tokens=0 if delivery is None else delivery.match.tokens,
        )
        clock = self._decider.clock(decision, marks, delivery.correct if delivery is not None else None, begin)
        recording = self._record(namespace, chain, decision.stored_tokens) if store else None
        return PrefixCache(
            self._shape.num_layers,
            decision=decision,
            delivery=delivery,
            recording=recording,
            error=error,
            clock=clock,
            background=self._background,
        )

    # -- storing ----------------------------------------------------------------------------------

    def store(self, input_ids: torch.Tensor, cache: Cache) -> Recording:
        """Store the full chunks of `input_ids`, [1, tokens], from a cache that a clean forward over them has filled.

        In the background, but waits while too much is pending; `wait` on what comes back for the end. Raises
        RequestError for a cache that is not of these tokens and this model.
        """
        ids = self._checked(input_ids)
        namespace = self.namespace
        chain = chain_keys(namespace, ids)
        layers: list[Any] = cache.layers
        if len(layers) != self._shape.num_layers or cache.get_seq_length() < len(ids):
            raise RequestError(
                f"a cache of {len(layers)} layers and {cache.get_seq_length()} tokens does not hold "
                f"{len(ids)} tokens of a model of {self._shape.num_layers}"
            )
        stored = 0
        with suppress(ObjectCacheError):  # then the cache itself finds out what it has
            match = self._cache.match(namespace, chain)
            stored = match.tokens
            self._loader.release(match)
        with self._record(namespace, chain, stored) as recording:
            for index, layer in enumerate(layers):
                recording.offer(index, layer.keys, layer.values, wait=True)
        return recording

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Whether all storing under way has ended within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        background = self._background.flush(timeout_s)  # may abort recordings
        return self._queue.flush(max(0.0, deadline_s - time.monotonic())) and background

    def _record(self, namespace: Namespace, chain: KeyChain, stored_tokens: int) -> Recording:
        first = stored_tokens // self._chunk_tokens
        return Recording(self._queue, namespace, chain, first, shape=self._shape, stats=self._stats)

    # -- the whole of it --------------------------------------------------------------------------

    def prefill(
        self,
        input_ids: torch.Tensor,
        *,
        store: bool = True,
        options: RetrieveOptions | None = None,
        **model_inputs: Any,
    ) -> Prefill:
        """Load what is stored of `input_ids`, [1, tokens], run the model over the tail, and store what it added.

        When a layer fails or is late, everything is computed from scratch. Logits are those of what was computed.
        `model_inputs` go to the forward; RequestError for those that give tokens another meaning or position.
        """
        inputs = plain_inputs(model_inputs)

        def forward(past: PrefixCache) -> Any:
            with torch.no_grad():
                return self._model(past.tail(input_ids), use_cache=True, **cache_input(self._model, past), **inputs)

        return Prefill(*self._with_fallback(input_ids, forward, store, options))

    def generate(
        self,
        input_ids: torch.Tensor,
        *,
        store: bool = True,
        options: RetrieveOptions | None = None,
        **generate_inputs: Any,
    ) -> tuple[Any, PrefillReport]:
        """`model.generate` from the stored prefix on, like `prefill`. The prompt is stored, not what is generated.

        Whatever becomes of the cache, only what the model itself raises is raised from here on. Several beams, or
        sequences, are computed without the prefix.
        """
        inputs = plain_inputs(generate_inputs)
        streamer, begun = inputs.get("streamer"), False

        def forward(past: PrefixCache) -> Any:
            nonlocal begun
            if begun and streamer is not None:
                inputs["streamer"] = WithoutPrompt(streamer)
            begun = True
            return self._model.generate(input_ids, **cache_input(self._model, past), **inputs)

        result, _, report = self._with_fallback(input_ids, forward, store, options)
        return result, report

    def _with_fallback(
        self,
        input_ids: torch.Tensor,
        forward: Callable[[PrefixCache], T],
        store: bool,
        options: RetrieveOptions | None,
    ) -> tuple[T, PrefixCache, PrefillReport]:
        past = self.load(input_ids, store=store, options=options)
        failed: PrefixCache | None = None
        try:
            with past:
                result = forward(past)
        except PrefixLoadError:
            self._stats.add(recomputed=1)
            failed, past = past, self._empty(input_ids, past, store=store)
            with past:
                result = forward(past)
        return result, past, PrefillReport.of(input_ids.shape[1], past, failed)

    def _empty(self, input_ids: torch.Tensor, failed: PrefixCache, *, store: bool) -> PrefixCache:
        """A cache without a prefix, in place of one that failed; what matched need not be stored again, unless it is
        gone or damaged: what follows it would match nothing."""
        namespace = self.namespace
        chain = chain_keys(namespace, self._checked(input_ids))
        decision = failed.decision
        gone = isinstance(failed.error, IntegrityError | KeyNotFoundError)
        recording = self._record(namespace, chain, 0 if gone else decision.stored_tokens) if store else None
        clock = self._decider.clock(decision, marks_of(self._model.device), begin=failed.clock.begin)
        return PrefixCache(
            self._shape.num_layers, decision=decision, recording=recording, clock=clock, background=self._background
        )

    def _checked(self, input_ids: torch.Tensor) -> npt.NDArray[np.int64]:
        if input_ids.dim() != 2 or input_ids.shape[0] != 1 or not input_ids.shape[1]:
            raise RequestError(f"input_ids must be one prompt, [1, tokens], got {list(input_ids.shape)}")
        if self._model.training:
            raise RequestError("the model is in training mode, where KV may be random: call model.eval()")
        ids: npt.NDArray[np.int64] = input_ids[0].cpu().numpy()
        return ids

    def close(self, timeout_s: float = 30.0) -> None:
        """Finish storing what is under way, for at most `timeout_s`."""
        self._background.close(timeout_s)
        self._queue.close(timeout_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
