"""Storing a prefill's KV without slowing the prefill."""

from objectcache.storing.admission import ALL, Admission, AdmissionOptions, Offer
from objectcache.storing.handle import StoreHandle
from objectcache.storing.queue import StoreOptions, StoreQueue
from objectcache.storing.reasons import Reason
from objectcache.storing.source import BufferSource, LayerSource
from objectcache.storing.stats import StoreStats

__all__ = [
    "ALL",
    "Admission",
    "AdmissionOptions",
    "BufferSource",
    "LayerSource",
    "Offer",
    "Reason",
    "StoreHandle",
    "StoreOptions",
    "StoreQueue",
    "StoreStats",
]
