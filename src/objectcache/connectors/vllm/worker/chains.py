"""Chunk keys from vLLM's block hashes: the same prefixes come again and again, and a long one takes milliseconds."""

from __future__ import annotations

import threading

from objectcache.connectors.vllm.messages import HASH_BYTES, Prompt
from objectcache.keys import KeyChain, Namespace, keys_from_block_hashes

KEPT_KEYS = 1 << 16
"""A hash and its key take about 250 bytes."""


class KeyMaker:
    """Thread-safe. `stride` is how many of vLLM's hashes one key covers."""

    def __init__(self, stride: int, kept_keys: int = KEPT_KEYS) -> None:
        self._step = stride * HASH_BYTES
        self._kept_keys = kept_keys
        self._lock = threading.Lock()
        self._keys: dict[bytes, dict[bytes, bytes]] = {}
        self._kept = 0

    def chain(self, namespace: Namespace, prompt: Prompt, limit: int | None = None) -> KeyChain:
        """Of the whole prompt, or its first `limit` keys. Raises RequestError."""
        hashes, step = prompt.hashes, self._step
        ends = range(step, len(hashes) + 1, step)
        wanted = [hashes[end - HASH_BYTES : end] for end in (ends if limit is None else ends[:limit])]
        with self._lock:
            known = self._keys.get(namespace.digest, {})
            found = [known.get(block_hash) for block_hash in wanted]
        missing = [block_hash for block_hash, key in zip(wanted, found, strict=True) if key is None]
        made = dict(zip(missing, keys_from_block_hashes(namespace, missing), strict=True))
        chain = KeyChain(b"".join(key or made[block_hash] for block_hash, key in zip(wanted, found, strict=True)))
        if made:
            self._keep(namespace.digest, made)
        return chain

    def _keep(self, root: bytes, made: dict[bytes, bytes]) -> None:
        with self._lock:
            if self._kept + len(made) > self._kept_keys:  # begun anew: what is in use comes back at once
                self._keys.clear()
                self._kept = 0
            if len(made) <= self._kept_keys:
                known = self._keys.setdefault(root, {})
                before = len(known)
                known.update(made)
                self._kept += len(known) - before
