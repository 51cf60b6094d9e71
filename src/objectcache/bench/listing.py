"""Keeping a gateway's control process busy while something else is measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

from objectcache.bench.children import JsonChild
from objectcache.bench.gateway import BUCKET, BenchGateway

T = TypeVar("T")
CONNECTIONS = 2


class ListingLoad(AbstractContextManager["ListingLoad"]):
    """A client process that lists `objects` small objects of the bucket, over and over, while `beside` runs."""

    def __init__(self, gateway: BenchGateway, objects: int) -> None:
        self._child = JsonChild(["objectcache.bench.listing_load"])
        job = {
            "host": gateway.host,
            "port": gateway.port,
            "access_key": gateway.credentials.access_key,
            "secret_key": gateway.credentials.secret_key,
            "bucket": BUCKET,
            "objects": objects,
            "connections": CONNECTIONS,
        }
        try:
            self._child.ask(job)
        except BaseException:
            self._child.close()
            raise

    def beside(self, measure: Callable[[], T]) -> tuple[T, float]:
        """What `measure` returns, and how many listings a second were served around it."""
        self._child.ask({"run": True})
        measured = measure()
        served = self._child.ask({"run": False})
        return measured, served["requests"] / served["seconds"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()
