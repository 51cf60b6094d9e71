"""A gateway's data directory with a synthetic catalog in it: made, found again, removed by whoever made it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from objectcache.bench.catalog.workload import CatalogWorkload
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET
from objectcache.cache.directory import CATALOG, OBJECTS
from objectcache.catalog import Catalog
from objectcache.catalog.catalog import FORMAT_VERSION
from objectcache.catalog.environment import DATA_FILE
from objectcache.catalog.follower import publish_namespace
from objectcache.logrecord import LogRecord
from objectcache.names import log_name
from objectcache.stores import FileStore
from objectcache.stores.file_tree import object_path

_MANIFEST = "bench-catalog.json"


@dataclass(frozen=True)
class CatalogSite:
    """`root` is what a gateway is given as `--data`."""

    root: Path
    workload: CatalogWorkload

    @property
    def bucket(self) -> Path:
        return self.root / BUCKET

    @property
    def objects(self) -> Path:
        return self.bucket / OBJECTS

    @property
    def catalog(self) -> Path:
        return self.bucket / CATALOG

    @property
    def database(self) -> Path:
        return self.catalog / DATA_FILE

    def folder(self, prefix: str) -> Path:
        """Where the files of objects are whose names begin with `prefix`, which ends with "/"."""
        return Path(object_path(str(self.objects / "objects"), f"{prefix}object")).parent

    def write_logs(self, written: Callable[[], None]) -> None:
        """All records, as objects; `written()` after each chain."""
        with FileStore(self.objects) as store:
            publish_namespace(store, self.workload.namespace)
            for record in self._told(written):
                store.put(log_name(record.writer, record.sequence), record.encoded)

    def build(self, built: Callable[[], None]) -> None:
        """The catalog alone, from records that are never written; `built()` after each chain."""
        with Catalog.open(self.catalog) as catalog:
            catalog.apply(self._told(built))
            catalog.add_namespace(self.workload.namespace)
        (self.root / _MANIFEST).write_text(json.dumps(self._identity()))

    def _told(self, done: Callable[[], None]) -> Iterator[LogRecord]:
        for number in range(self.workload.num_chains):
            yield from self.workload.records(number, number + 1)
            done()

    def is_built(self) -> bool:
        """Whether `build` has made this very catalog before. Raises BenchmarkError when it made another: it is not
        ours to remove.
        """
        try:
            found = json.loads((self.root / _MANIFEST).read_text())
        except (OSError, ValueError):
            if self.root.exists() and any(self.root.iterdir()):
                raise BenchmarkError(f"{self.root} holds something else: name an empty or a new directory") from None
            return False
        if found != self._identity():
            raise BenchmarkError(f"the catalog in {self.root} is another one ({found}): name another directory")
        return True

    def _identity(self) -> dict[str, object]:
        return {**self.workload.to_dict(), "format": FORMAT_VERSION}

    def remove_catalog(self) -> None:
        shutil.rmtree(self.catalog, ignore_errors=True)
