"""What a gateway counts, for Prometheus."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from objectcache.cache.counters import CoreCounters

_CORE_HELP = {
    "committed": "Segments made visible by this process.",
    "evicted": "Segments evicted for room.",
    "dropped_full": "Stores dropped because there was no room even after evicting.",
    "forgotten": "Segments that turned out to be gone or damaged.",
    "follow_failures": "Times that the logs could not be followed.",
    "orphans": "Uploads that were never committed, deleted.",
    "vanished": "Segments that a listing showed to be gone from the store.",
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

        self.core = {
            item.name: Gauge(f"objectcache_core_{item.name}", _CORE_HELP[item.name], ["bucket"], registry=self.registry)
            for item in fields(CoreCounters)
        }

    def render(self) -> bytes:
        return generate_latest(self.registry)
