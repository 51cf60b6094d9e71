"""What users say in `kv_connector_extra_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from objectcache.cache.tiering import TierOptions
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
from objectcache.storing import AdmissionOptions, StoreOptions

GIB = 1 << 30
_KINDS: Mapping[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


class AdmissionMode(StrEnum):
    """When a request whose prefix is on its way may run."""

    IN_TIME = "in-time"  # when the rest of the transfer fits the windows of its step
    AT_ONCE = "at-once"  # as soon as it is known what matched: its step waits for layers
    WHOLE = "whole"  # when all of it is in its blocks: nothing overlaps


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """All that `kv_connector_extra_config` may say; each field is a key.

    `url` is anything that `objectcache.open` takes. `load` and `store` switch either half off. A request waits for its
    prefix while that makes progress, and at most `deadline_s` without any; `min_tokens` is the shortest prefix worth
    loading. `advise` has shorter prefixes, or none, loaded where computing is faster. `staging_bytes` of pinned memory
    hold what is being loaded, per rank, `saving_bytes` what is being stored. `save_decoded` stores what decoding
    computes, too; with `second_sight` a prefix is stored when it is seen again, and none that is shorter than
    `store_min_tokens`. `model_fingerprint` names the weights where they cannot be told from their files, `epoch` is
    bumped by whoever changes them in place; `salt` keeps tenants apart. `status_dir` is where each process tells how it
    is doing (`objectcache doctor`). `untested_vllm` lets versions of vLLM pass that nobody has tested.
    """

    url: str
    load: bool = True
    store: bool = True
    admission: AdmissionMode = AdmissionMode.IN_TIME
    deadline_s: float = 2.0
    min_tokens: int = 0
    advise: bool = True
    staging_bytes: int = 4 * GIB
    saving_bytes: int = 1 * GIB
    save_decoded: bool = True
    second_sight: bool = False
    store_min_tokens: int = 256
    target: str = "auto"
    streams: int = 0
    receiver: str = "threads"
    verify: str = "all"
    tier_bytes: int = 0
    model_fingerprint: str = ""
    epoch: int = 0
    salt: str = field(default="", repr=False)
    status_dir: str = ""
    untested_vllm: bool = False

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Self:
        """Raises ConfigError for keys that are unknown and values that are of another kind."""
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(extra) - known)
        if unknown:
            raise ConfigError(f"kv_connector_extra_config has {unknown}, which are none of {sorted(known)}")
        if not extra.get("url"):
            raise ConfigError(
                'kv_connector_extra_config needs "url": http://gateway:9000/bucket, s3://bucket/prefix, '
                "rados://pool/prefix or file:///folder"
            )
        values = dict(extra)
        for one in fields(cls):
            if one.name not in values or one.name == "admission":
                continue
            kind = _KINDS[str(one.type)]
            value = values[one.name]
            if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
                raise ConfigError(f"kv_connector_extra_config: {one.name} must be of type {one.type}, got {value!r}")
        return cls(**values)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "admission", AdmissionMode(self.admission))
        except ValueError as error:
            raise ConfigError(
                f"admission must be one of {[mode.value for mode in AdmissionMode]}, got {self.admission!r}"
            ) from error
        if self.deadline_s <= 0 or min(self.staging_bytes, self.saving_bytes) < 1:
            raise ConfigError("deadline_s, staging_bytes and saving_bytes must be positive")
        self.client()

    def client(self) -> ClientOptions:
        """For `objectcache.open`. Raises ConfigError."""
        options = ClientOptions(
            target=self.target,
            receiver=self.receiver,
            buffer_bytes=self.staging_bytes,
            verify=self.verify,
            tier=TierOptions(self.tier_bytes) if self.tier_bytes else TierOptions(),
        )
        return replace(options, streams=self.streams) if self.streams else options

    def storing(self) -> StoreOptions:
        """For a `StoreQueue`."""
        # How long prefixes are, and how many chunks come at once, is for the scheduler's side to decide.
        admission = AdmissionOptions(second_sight=self.second_sight, min_tokens=0, min_new_chunks=0)
        return StoreOptions(admission, staging_bytes=self.saving_bytes)
