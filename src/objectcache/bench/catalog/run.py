"""`bench catalog`, from an empty directory to a result."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from objectcache.bench.catalog.inserting import GROWN, insert_rows
from objectcache.bench.catalog.rows import (
    FILLED,
    FROM_LOG,
    FROM_SNAPSHOT,
    OPEN_COLD,
    OPEN_WARM,
    memory_rows,
    peak_row,
    rebuild_rows,
)
from objectcache.bench.catalog.settings import CatalogSettings
from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.children import JsonChild
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import allocated_bytes, describe_machine, drop_page_cache
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, sample_row
from objectcache.catalog.environment import DATA_FILE
from objectcache.names import LOG_PREFIX, SNAPSHOT_PREFIX

PACKAGES = ("objectcache", "lmdb", "msgpack", "numpy", "xxhash")
CHILD = "objectcache.bench.catalog.process"
LONG_S = 3600.0
"""A rebuild may take as long as it takes."""
_READ_BYTES = 1 << 22
_MATCHED_CHAINS = 200
_MIB = 1 << 20


def run_catalog(settings: CatalogSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        directory = stack.enter_context(temporary_directory(settings.data))
        machine = describe_machine(directory, PACKAGES)
        result = BenchmarkResult("catalog", settings.to_dict(), machine, settings.quick)
        steps = settings.size.workload.num_chains + 3 * settings.rounds + settings.pairs + 2 + settings.inserts + 2
        progress = stack.enter_context(BenchmarkProgress(console, steps))
        site = CatalogSite(directory / "site", settings.size.workload)
        run = _Run(settings, result, progress, site, directory)
        run.write_logs()
        run.rebuild()
        run.open()
        run.use()
        run.insert()
        return result


@dataclass(frozen=True)
class _Run:
    settings: CatalogSettings
    result: BenchmarkResult
    progress: BenchmarkProgress
    site: CatalogSite
    directory: Path

    @property
    def _logs(self) -> Path:
        return self.site.folder(LOG_PREFIX)

    @property
    def _snapshots(self) -> Path:
        return self.site.folder(SNAPSHOT_PREFIX)

    def write_logs(self) -> None:
        self.progress.begin("writing the logs")
        self.site.write_logs(self.progress.step)
        size = allocated_bytes(self._logs) / self.site.workload.num_chunks
        self.result.rows.append(sample_row("log: bytes a chunk on disk", "bytes", [size]))

    def rebuild(self) -> None:
        """From the logs; then a snapshot, and from that. Each time beside reading the same files."""
        restored = self.directory / "restored"
        from_log, from_snapshot, log_reads, snapshot_reads, snapshots = [], [], [], [], []
        for _ in range(self.settings.rounds):
            self.site.remove_catalog()
            shutil.rmtree(self._snapshots, ignore_errors=True)
            self.progress.begin("rebuilding from the log")
            log_reads.append(_read_s(self._logs))
            from_log.append(self._ask("rebuild", self.site.catalog))
            self.progress.step()
            self.progress.begin("writing a snapshot")
            snapshots.append(self._ask("snapshot", self.site.catalog))
            self.progress.step()
            self.progress.begin("rebuilding from the snapshot")
            snapshot_reads.append(_read_s(self._snapshots))
            from_snapshot.append(self._ask("rebuild", restored))
            restored_bytes = allocated_bytes(restored / DATA_FILE)
            shutil.rmtree(restored)
            self.progress.step()
        self._check(from_log + from_snapshot)
        chunks = self.site.workload.num_chunks
        filled = [allocated_bytes(self.site.database) / chunks, restored_bytes / chunks]
        self.result.rows += [
            *rebuild_rows(FROM_LOG, from_log),
            sample_row("read of all the log's files", "s", log_reads, files=self.site.workload.num_segments),
            *rebuild_rows(FROM_SNAPSHOT, from_snapshot),
            sample_row("read of the snapshot", "s", snapshot_reads),
            sample_row("write of a snapshot", "s", [answer["seconds"] for answer in snapshots]),
            peak_row("write of a snapshot", snapshots),
            sample_row("snapshot: bytes a chunk", "bytes", [answer["bytes"] / chunks for answer in snapshots]),
            sample_row(FILLED, "bytes", filled, chunks=chunks, segments=self.site.workload.num_segments),
        ]
        self.result.summary["rebuild_s"] = self.result.row(FROM_LOG)["median"]
        self.result.summary["rebuild_snapshot_s"] = self.result.row(FROM_SNAPSHOT)["median"]

    def _check(self, answers: list[dict[str, Any]]) -> None:
        wanted = (self.site.workload.num_chunks, self.site.workload.num_segments)
        if any((answer["chunks"], answer["segments"]) != wanted for answer in answers):
            raise BenchmarkError(f"a rebuilt catalog does not have the {wanted[0]} chunks that were stored")

    def open(self) -> None:
        """Cold, warm, and the whole cache with a look at its logs, in turn."""
        self.progress.begin("opening")
        cold, warm, caches = [], [], []
        with JsonChild([CHILD]) as child:
            for _ in range(self.settings.pairs):
                drop_page_cache(self.site.catalog)
                cold.append(child.ask(self._job("open", self.site.catalog))["seconds"])
                warm.append(child.ask(self._job("open", self.site.catalog))["seconds"])
                caches.append(child.ask(self._job("open cache", self.site.catalog))["seconds"])
                self.progress.step()
        self.result.rows += [
            sample_row(OPEN_COLD, "s", cold),
            sample_row(OPEN_WARM, "s", warm),
            sample_row("open of a cache, with a look at the log", "s", caches),
        ]
        self.result.summary["open_s"] = self.result.row(OPEN_COLD)["median"]

    def use(self) -> None:
        """What a process takes that matches in it, and how long the first eviction searches."""
        self.progress.begin("memory")
        workload = self.site.workload
        numbers = list(range(0, workload.num_chains, max(1, workload.num_chains // _MATCHED_CHAINS)))
        job = self._job("match", self.site.catalog) | workload.to_dict() | {"numbers": numbers}
        with JsonChild([CHILD]) as child:
            matching = child.ask(job, LONG_S)
            self.progress.step()
            evicting = child.ask(self._job("evict", self.site.catalog), LONG_S)
        self.result.rows += memory_rows(f"matching {len(numbers)} chains", matching)
        self.result.rows += [
            sample_row("first candidate for eviction", "ms", [evicting["seconds"] * 1e3]),
            peak_row("first candidate for eviction", [evicting]),
        ]
        self.progress.step()

    def insert(self) -> None:
        self.progress.begin("inserting, beside bare LMDB")
        _read_s(self.site.catalog)  # into the page cache, where bare LMDB's is
        self.result.rows += insert_rows(self.settings, self.site, self.directory, self.progress.step)
        worst = max(self.result.row(name)["max"] for name in (FILLED, GROWN))
        self.result.summary["bytes_per_chunk"] = worst

    def _job(self, what: str, catalog: Path) -> dict[str, Any]:
        return {"do": what, "store": str(self.site.objects), "catalog": str(catalog)}

    def _ask(self, what: str, catalog: Path) -> dict[str, Any]:
        with JsonChild([CHILD]) as child:
            return child.ask(self._job(what, catalog), LONG_S)


def _read_s(path: Path) -> float:
    """Seconds to read all files below `path` from start to end, from wherever the kernel has them."""
    buffer = bytearray(_READ_BYTES)
    start_s = time.perf_counter()
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as reader:
                while reader.readinto(buffer):
                    pass
    return time.perf_counter() - start_s


@contextmanager
def temporary_directory(parent: Path | None) -> Iterator[Path]:
    """Gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=parent) as made:
        yield Path(made)
