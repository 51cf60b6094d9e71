"""Workloads from files: JSON lines of our own, and published traces such as Mooncake's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any

from objectcache.errors import ConfigError
from objectcache.simulation.workload.arrival import Arrival
from objectcache.simulation.workload.prefixes import BlockCache

MOONCAKE_BLOCK_TOKENS = 512
_FIELDS = {
    *("arrival_s", "context_tokens", "hit_tokens", "hit_rate", "hash_ids"),
    *("output_tokens", "node", "source", "tenant", "window_s"),
}


def read_workload(
    path: Path,
    *,
    block_tokens: int = MOONCAKE_BLOCK_TOKENS,
    capacity_tokens: float = inf,
    visible_s: float = 0.0,
    limit: int | None = None,
) -> tuple[Arrival, ...]:
    """Requests by arrival, from 0 on, the first `limit` of them.

    A line is an object of ours (`arrival_s`, `context_tokens` and one of `hit_tokens`, `hit_rate`, `hash_ids`; and what
    else `Arrival` has), or Mooncake's (`timestamp` in ms, `input_length`, `output_length`, `hash_ids`). What `hash_ids`
    hit, in blocks of `block_tokens`, is what a cache of `capacity_tokens` would hold of the requests before. Raises
    ConfigError, with the line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the workload {path} cannot be read: {error}") from error
    lines = [_Line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines.sort(key=lambda line: line.arrival_s)
    if not lines:
        raise ConfigError(f"the workload {path} is empty")
    cache = BlockCache(int(min(capacity_tokens, 1 << 62)) // block_tokens, visible_s)
    begin_s = lines[0].arrival_s
    return tuple(line.arrival(begin_s, cache, block_tokens) for line in lines[:limit])


class _Line:
    """One line, of either kind. What is wrong with it is a ConfigError that names it."""

    def __init__(self, path: Path, number: int, text: str) -> None:
        self._where = f"{path}, line {number}"
        try:
            self._fields = json.loads(text)
        except ValueError as error:
            raise self._wrong(f"not JSON: {error}") from error
        if not isinstance(self._fields, dict):
            raise self._wrong("not an object")
        if "timestamp" in self._fields:
            self._fields = self._of_mooncake(self._fields)
        elif unknown := self._fields.keys() - _FIELDS:
            raise self._wrong(f"unknown: {', '.join(sorted(unknown))}")
        self.arrival_s = self._number("arrival_s")

    def _of_mooncake(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {
                "arrival_s": fields["timestamp"] / 1e3,
                "context_tokens": fields["input_length"],
                "output_tokens": fields.get("output_length", 0),
                "hash_ids": fields["hash_ids"],
            }
        except (KeyError, TypeError) as error:
            raise self._wrong(f"a trace needs timestamp, input_length and hash_ids: {error!r}") from error

    def arrival(self, begin_s: float, cache: BlockCache, block_tokens: int) -> Arrival:
        context = self._whole("context_tokens")
        window_s = self._fields.get("window_s")
        try:
            return Arrival(
                arrival_s=self.arrival_s - begin_s,
                context_tokens=context,
                hit_tokens=self._hit_tokens(context, cache, block_tokens),
                output_tokens=self._whole("output_tokens", 0),
                node=None if self._fields.get("node") is None else self._whole("node"),
                source=str(self._fields.get("source", "")),
                tenant=str(self._fields.get("tenant", "")),
                window_s=None if window_s is None else self._number("window_s"),
            )
        except ConfigError as error:
            raise self._wrong(str(error)) from error

    def _hit_tokens(self, context: int, cache: BlockCache, block_tokens: int) -> int:
        said = [name for name in ("hit_tokens", "hit_rate", "hash_ids") if name in self._fields]
        if len(said) != 1:
            raise ConfigError("one of hit_tokens, hit_rate and hash_ids is needed")
        if said == ["hit_tokens"]:
            return self._whole("hit_tokens")
        if said == ["hit_rate"]:
            return int(self._number("hit_rate") * context)
        ids = self._fields["hash_ids"]
        if not isinstance(ids, list) or not all(isinstance(block, int) for block in ids):
            raise ConfigError("hash_ids must be a list of whole numbers")
        # The last token is always computed: its logits are wanted.
        return max(0, min(cache.request(self.arrival_s, ids) * block_tokens, context - 1))

    def _number(self, name: str) -> float:
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self._wrong(f"{name} must be a number, got {value!r}")
        return float(value)

    def _whole(self, name: str, default: int | None = None) -> int:
        value = self._fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(f"{name} must be a whole number, got {value!r}")
        return value

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._where}: {what}")
