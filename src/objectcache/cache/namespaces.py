"""The namespaces that a process knows, and which of them it has written down beside the data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from objectcache.catalog import Catalog
from objectcache.catalog.follower import publish_namespace, read_namespace
from objectcache.errors import IntegrityError, NamespaceMismatchError, ObjectNotFoundError
from objectcache.keys import Namespace
from objectcache.stores import Store


class NamespaceTable:
    """Thread-safe."""

    def __init__(
        self, store: Store, catalog: Catalog, reserve: Callable[[int], AbstractContextManager[object]]
    ) -> None:
        """`reserve(size_bytes)` makes room for what is written."""
        self._store, self._catalog, self._reserve = store, catalog, reserve
        self._lock = threading.Lock()
        self._known: dict[bytes, Namespace] = {}
        self._written: set[bytes] = set()

    def learn(self, namespace: Namespace) -> None:
        """Know a namespace that this process was given, without writing anything."""
        with self._lock:
            self._known.setdefault(namespace.digest, namespace)

    def register(self, namespace: Namespace) -> None:
        """Make a namespace known, readable beside the data. Raises StoreError."""
        self.learn(namespace)
        with self._lock:
            if namespace.digest in self._written:
                return
        with self._reserve(len(namespace.to_json())):
            publish_namespace(self._store, namespace)
        with self._lock:
            self._written.add(namespace.digest)

    def known(self, digest: bytes) -> Namespace:
        """Without asking the store: the catalog has those of all visible segments. Raises NamespaceMismatchError."""
        with self._lock:
            found = self._known.get(digest)
        if found is None:
            found = self._catalog.namespace(digest)
            if found is None:
                raise NamespaceMismatchError(f"namespace {digest.hex()} is not known here")
            self.learn(found)
        return found

    def find(self, digest: bytes) -> Namespace:
        """Asks the store for what is not known. Raises NamespaceMismatchError, StoreError."""
        try:
            return self.known(digest)
        except NamespaceMismatchError:
            pass
        try:
            found = read_namespace(self._store, digest)
        except (ObjectNotFoundError, IntegrityError) as error:
            raise NamespaceMismatchError(f"namespace {digest.hex()} is not known here: {error}") from error
        self.learn(found)
        return found

    def served(self, digest: bytes) -> Namespace:
        """One that something may be stored under. A store that is far away is not asked: that may take seconds."""
        return self.known(digest) if self._store.far else self.find(digest)
