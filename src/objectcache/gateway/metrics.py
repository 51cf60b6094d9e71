"""What a gateway counts, for Prometheus."""

from __future__ import annotations

import hashlib
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from objectcache.cache.core import CacheCore
from objectcache.cache.counters import CoreCounters, MergeCounters
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.workers.board import DECIDING_NS, DECISIONS, LONGEST_NS, PAUSED_NS

_CORE_HELP = {
    "committed": "Segments made visible by this process.",
    "evicted": "Segments evicted for room.",
    "dropped_full": "Stores dropped because there was no room even after evicting.",
    "forgotten": "Segments that turned out to be gone or damaged.",
    "follow_failures": "Times that the logs could not be followed.",
    "orphans": "Uploads that were never committed, deleted.",
    "vanished": "Segments that a listing showed to be gone from the store.",
}
_MERGE_HELP = {
    "merged": "Segments that merging made out of several.",
    "segments": "Segments that were merged into others.",
    "bytes_rewritten": "Bytes written by merging.",
    "duplicates": "Segments dropped because others held all of their chunks.",
    "skipped_room": "Merges not made: there was no room that is free.",
    "outrun": "Merges not made, or made in vain: segments were evicted or merged by another meanwhile.",
    "failed": "Merges that met damage, or a store that failed.",
}
_READ_HELP = {
    "deliveries": "Deliveries planned.",
    "layers": "Layers to deliver, of all parts.",
    "ranges": "Ranges of segments that those layers are in.",
    "payload_bytes": "Bytes to deliver.",
    "read_bytes": "Bytes read from the store for that: payload, digest rows and what a read cache fetched besides.",
    "amplification": "Bytes read from the store for each byte to deliver, since the start.",
    "ranges_per_layer": "Ranges of segments for each layer to deliver, since the start.",
}


_RATES_HELP = {
    "decisions": "Times that the rates process decided.",
    "deciding_seconds": "Seconds that it took to decide, in all.",
    "longest_seconds": "Seconds that one decision took at most.",
    "paused_seconds": "Seconds that deliveries had a rate of 0, in all.",
}


class GatewayMetrics:
    """Absent, failed and late are three different outcomes of a delivery."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "objectcache_requests_total", "HTTP requests.", ["operation", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "objectcache_request_seconds",
            "Seconds until a request was answered.",
            ["operation"],
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1, 5),
            registry=self.registry,
        )
        self.matched_tokens = Counter("objectcache_matched_tokens_total", "Tokens matched.", registry=self.registry)
        self.asked_tokens = Counter(
            "objectcache_asked_tokens_total", "Tokens asked for in matches.", registry=self.registry
        )
        self.deliveries = Counter(
            "objectcache_deliveries_total",
            "Deliveries by how they ended: sent, cancelled, absent, late, failed.",
            ["target", "outcome"],
            registry=self.registry,
        )
        self.units = Counter(
            "objectcache_deliveries_by_unit_total",
            "Deliveries by why a unit has as many layers as it has: asked, whole, layer, size, overlap, overhead.",
            ["reason"],
            registry=self.registry,
        )
        self.delivered_bytes = Counter(
            "objectcache_delivered_bytes_total", "Bytes sent in deliveries.", ["target"], registry=self.registry
        )
        self.deliveries_running = Gauge(
            "objectcache_deliveries_running", "Deliveries under way.", registry=self.registry
        )
        self.uploads = Counter(
            "objectcache_uploads_total", "Uploads by how they ended.", ["outcome"], registry=self.registry
        )
        self.sessions = Gauge("objectcache_sessions", "Open data sessions.", registry=self.registry)
        self.store_bytes = Gauge("objectcache_store_bytes", "Bytes stored.", ["bucket"], registry=self.registry)
        self.store_limit_bytes = Gauge(
            "objectcache_store_limit_bytes", "Byte limit of the store.", ["bucket"], registry=self.registry
        )

        self.link_cap = Gauge(
            "objectcache_link_cap_bytes_s", "Bytes a second that a link may carry.", ["link"], registry=self.registry
        )
        self.link_rate = Gauge(
            "objectcache_link_rate_bytes_s",
            "Bytes a second that deliveries over a link may have now.",
            ["link"],
            registry=self.registry,
        )
        self.tenant_bytes = Gauge(
            "objectcache_tenant_bytes",
            "Bytes sent, by access key: the first half of its SHA-256.",
            ["tenant"],
            registry=self.registry,
        )
        self.corrections = Gauge(
            "objectcache_windows_corrected",
            "Times that a client corrected the windows of a delivery under way.",
            registry=self.registry,
        )
        self.rates = {
            name: Gauge(f"objectcache_rates_{name}", text, registry=self.registry) for name, text in _RATES_HELP.items()
        }
        self.core = {
            item.name: Gauge(f"objectcache_core_{item.name}", _CORE_HELP[item.name], ["bucket"], registry=self.registry)
            for item in fields(CoreCounters)
        }
        self.merges = {
            item.name: Gauge(
                f"objectcache_merge_{item.name}", _MERGE_HELP[item.name], ["bucket"], registry=self.registry
            )
            for item in fields(MergeCounters)
        }
        self.reads = {
            name: Gauge(f"objectcache_read_{name}", text, ["bucket"], registry=self.registry)
            for name, text in _READ_HELP.items()
        }

    def show(self, bucket: str, core: CacheCore) -> None:
        """Take over what the core of a bucket has counted."""
        for gauges, counters in ((self.core, core.counters), (self.merges, core.merges), (self.reads, core.reads)):
            for name, gauge in gauges.items():
                gauge.labels(bucket).set(getattr(counters, name))
        usage = core.store.usage()
        self.store_bytes.labels(bucket).set(usage.used_bytes)
        self.store_limit_bytes.labels(bucket).set(usage.limit_bytes or 0)

    def show_bandwidth(self, bandwidth: Bandwidth) -> None:
        """Take over links, tenants, and what the rates process counts."""
        self.link_cap.clear()
        self.link_rate.clear()
        for link, cap in bandwidth.links.items():
            if link.startswith("client:"):  # anybody may read this, and they are of others
                continue
            self.link_cap.labels(link).set(cap)
            self.link_rate.labels(link).set(bandwidth.used_bytes_s(link))
        for tenant, sent_bytes in bandwidth.tenant_bytes.items():
            self.tenant_bytes.labels(hashlib.sha256(tenant.encode()).hexdigest()[:32]).set(sent_bytes)
        self.corrections.set(bandwidth.corrections)
        if bandwidth.board is not None:
            head = bandwidth.board.head
            self.rates["decisions"].set(head[DECISIONS])
            self.rates["deciding_seconds"].set(head[DECIDING_NS] * 1e-9)
            self.rates["longest_seconds"].set(head[LONGEST_NS] * 1e-9)
            self.rates["paused_seconds"].set(head[PAUSED_NS] * 1e-9)

    def render(self) -> bytes:
        return generate_latest(self.registry)
