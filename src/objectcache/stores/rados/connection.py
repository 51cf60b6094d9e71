"""Connections to clusters: one a cluster and client in each process, shared by its stores; never used across a fork."""

from __future__ import annotations

import atexit
import ctypes
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Condition, Lock
from weakref import WeakSet

import rados

from objectcache.errors import BucketMissingError, ConfigError, ObjectNotFoundError, StoreAccessError, StoreError
from objectcache.stores.rados.errors import translated
from objectcache.stores.rados.options import RadosOptions


@dataclass(frozen=True, slots=True)
class RadosTiming:
    """How long a connection and a request may take, in seconds: an engine can recompute in seconds.

    librados itself sends a request again when the cluster changes meanwhile, until that time is over.
    """

    connect_s: float = 5.0
    request_s: float = 10.0


class _Cluster:
    """A connection. `holders` are the handles that use it; the last one closes it."""

    def __init__(self, options: RadosOptions, timing: RadosTiming) -> None:
        self.holders = 0
        self.stuck = False
        """A request never ended: closed under it, the connection would take the process with it."""
        self.rados = _connected(options, timing)

    def close(self) -> None:
        if self.stuck:
            keep_for_ever(self.rados)
        else:
            self.rados.shutdown()


_clusters: dict[tuple[str, str, RadosTiming], _Cluster] = {}
_lock = Lock()
_generation = 0
"""Counts forks on the way to this process: what was opened before one is of the parent."""
_EXIT_S = 2.0


class Pool:
    """The pools of one store. Connects with the first use, and again in a child process. Thread-safe."""

    def __init__(self, options: RadosOptions, timing: RadosTiming, depth: int) -> None:
        self.timing = timing
        self.depth = depth
        self._options = options
        self._handle: Handle | None = None
        self._lock = Lock()
        self._closed = False
        self._counts: Counter[str] = Counter()
        _pools.add(self)

    @property
    def patience_s(self) -> float:
        """A queue of requests that takes as long again as one may is too long."""
        return 2 * self.timing.request_s

    def handle(self) -> Handle:
        """Raises ConfigError, StoreError."""
        handle = self._handle
        if handle is not None and handle.generation == _generation:
            return handle
        with self._lock:
            if self._closed:
                raise StoreError(f"the store on pool {self._options.pool!r} is closed")
            if self._handle is None or self._handle.generation != _generation:
                self._handle = Handle(self._options, self.timing, self.depth)
            return self._handle

    def count(self, kind: str, requests: int = 1) -> None:
        with self._lock:
            self._counts[kind] += requests

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def close(self) -> None:
        with self._lock:
            handle, self._handle, self._closed = self._handle, None, True
        if handle is not None and handle.generation == _generation:
            handle.close(self.timing.request_s)

    def in_child(self) -> None:
        """After a fork: locks may have been held by threads that are not here."""
        self._lock = Lock()


class Handle:
    """A pool, open: `data` has the data objects, `index` says what is there. `depth` bounds what is under way."""

    def __init__(self, options: RadosOptions, timing: RadosTiming, depth: int) -> None:
        self.generation = _generation
        self.depth = BoundedSemaphore(depth)
        self._running = 0
        self._over = False
        self._changed = Condition()
        self._key = (options.conf, options.client, timing)
        with _lock:
            cluster = _clusters.get(self._key)
            if cluster is None:
                cluster = _clusters[self._key] = _Cluster(options, timing)
            cluster.holders += 1
            _live.append(self)
        self.cluster = cluster
        self._pools: list[rados.Ioctx] = []
        try:
            self.data = self.index = self._open(options.pool, options.namespace)
            if options.index != options.pool:
                self.index = self._open(options.index, options.namespace)
        except BaseException:
            self.close(timing.request_s)
            raise

    def _open(self, pool: str, namespace: str) -> rados.Ioctx:
        try:
            with translated(f"opening pool {pool!r}"):
                ioctx = self.cluster.rados.open_ioctx(pool)
                self._pools.append(ioctx)
                ioctx.set_namespace(namespace)
                ioctx.set_osdmap_full_try()  # a full cluster is an error, not a wait
                return ioctx
        except ObjectNotFoundError as error:
            raise BucketMissingError(
                f"there is no pool {pool!r}: `ceph osd pool create {pool}`, or correct the store's URL"
            ) from error

    @contextmanager
    def using(self) -> Iterator[None]:
        """Around a request: it stays open. Raises StoreError when it is not."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        with self._changed:
            if self._over:
                raise StoreError("the store is closed")
            self._running += 1

    def end(self) -> None:
        with self._changed:
            self._running -= 1
            if self._over and not self._running:
                self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Ends when no request is under way, the connection with its last holder. Harmless twice."""
        with self._changed:
            if self._over:
                return
            self._over = True
            quiet = self._changed.wait_for(lambda: not self._running, timeout_s)
        for ioctx in self._pools:
            if quiet:
                ioctx.close()
            else:
                keep_for_ever(ioctx)
        with _lock:
            if self in _live:
                _live.remove(self)
            self.cluster.stuck = self.cluster.stuck or not quiet
            self.cluster.holders -= 1
            last = self.cluster.holders == 0
            if last and _clusters.get(self._key) is self.cluster:
                del _clusters[self._key]
        if last:
            self.cluster.close()

    def leave(self) -> None:
        """To the parent process, whose it is."""
        for thing in (*self._pools, self.cluster.rados):
            keep_for_ever(thing)


_live: list[Handle] = []
_pools: WeakSet[Pool] = WeakSet()


def _connected(options: RadosOptions, timing: RadosTiming) -> rados.Rados:
    if not hasattr(rados.WriteOp, "omap_cmp"):
        raise ConfigError("rados:// needs python3-rados of Ceph 16 or newer, which can compare keys of an object")
    limits = {
        "client_mount_timeout": f"{timing.connect_s:g}",
        "rados_mon_op_timeout": f"{timing.connect_s:g}",
        "rados_osd_op_timeout": f"{timing.request_s:g}",
    }
    conf = options.conf if options.conf else rados.Rados.DEFAULT_CONF_FILES
    try:
        cluster = rados.Rados(name=options.client, conffile=conf, conf=limits)
        cluster.conf_parse_env("CEPH_ARGS")
    except rados.Error as error:
        raise ConfigError(
            f"{options.conf or 'no ceph.conf in the usual places'} cannot be used: set conf=/path/ceph.conf in the "
            "URL, or CEPH_CONF"
        ) from error
    try:
        with translated("connecting to Ceph"):
            cluster.connect()
    except ObjectNotFoundError as error:
        raise StoreAccessError(
            f"there is no keyring with a key of {options.client}: CEPH_KEYRING or ceph.conf may say where it is"
        ) from error
    return cluster


def keep_for_ever(thing: object) -> None:
    """No destructor will run, not even at exit: it would wait for threads that are not there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _forget_in_child() -> None:
    global _generation, _lock
    _generation += 1
    _lock = Lock()
    for handle in _live:
        handle.leave()
    for cluster in _clusters.values():
        keep_for_ever(cluster.rados)
    _live.clear()
    _clusters.clear()
    for pool in _pools:
        pool.in_child()


def _close_all() -> None:
    """At the interpreter's exit: threads of librados that wait for the interpreter would hold it up."""
    for handle in list(_live):
        handle.close(_EXIT_S)


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_all)
