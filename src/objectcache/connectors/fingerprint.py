"""A fingerprint of weights from their files: two folders have one exactly if their weights are the same bytes.

Weights are read once: digests are kept in the user's cache folder by path, size, time and inode, and what Hugging
Face's cache holds is named by its SHA-256 already.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from objectcache.errors import ConfigError, NotReadyError

logger = logging.getLogger(__name__)

SET_IT = 'set "model_fingerprint" to a name that changes whenever the weights do'
PIECE_BYTES = 16 << 20
QUIET_S = 2.0
"""Hashing that takes longer says so, and how far it is, as often."""
MAX_FILES = 10_000
_BLOB = re.compile("[0-9a-f]{64}")
# As engines look for them: the first kind that a folder has is the one that is loaded.
_KINDS = ((".safetensors",), (".bin",), (".pt", ".pth"), (".gguf",))
_OLD_KINDS_FIRST = ("pt", "npcache")
# What says how the bytes of weights are to be read.
_BESIDE = re.compile(r".*(\.index\.json|quant[a-z_]*\.json)|adapter_config\.json")


def cache_folder() -> Path:
    """Of this user: `$XDG_CACHE_HOME/objectcache`, or `~/.cache/objectcache`."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))  # an empty or relative value counts as none
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "objectcache"


def weight_files(path: str | Path, load_format: str = "auto") -> tuple[tuple[str, Path], ...]:
    """What of a model's or adapter's folder is weights, or says how to read them: names within it, and paths, sorted.

    Of a single file, that. Raises ConfigError where there are none.
    """
    root = Path(path)
    if root.is_file():
        return ((root.name, root),)
    if not path or not root.is_dir():
        raise ConfigError(f"{str(path)!r} is no folder of this machine with weights in it: {SET_IT}")
    names = sorted(_names_in(root))
    kinds = reversed(_KINDS[:3]) if load_format in _OLD_KINDS_FIRST else iter(_KINDS)
    chosen = next((found for kind in kinds if (found := [name for name in names if name.endswith(kind)])), [])
    if not chosen:
        raise ConfigError(
            f"{root} has no files of weights in it ({', '.join(k for kind in _KINDS for k in kind)}): {SET_IT}"
        )
    beside = [name for name in names if _BESIDE.fullmatch(name.rpartition("/")[2])]
    return tuple((name, root / name) for name in sorted({*chosen, *beside}))


def fingerprint(
    files: Iterable[tuple[str, Path]],
    *,
    kept: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> str:
    """SHA-256 over names and contents of `files`, as "sha256:…" in hex.

    Reads with several threads what no digest is kept of in `kept` (default: in `cache_folder()`). `on_progress(done,
    total)` bytes is called from those threads. Raises ConfigError for files that cannot be read, and NotReadyError soon
    after `stop` is set.
    """
    held = sorted(files)
    kept = cache_folder() / "fingerprints" if kept is None else kept
    total = sum(_size(path) for _, path in held)
    reader = _Reader(kept, total, on_progress or _Log(), stop or threading.Event())
    with ThreadPoolExecutor(
        min(8, os.cpu_count() or 1, len(held) or 1), thread_name_prefix="objectcache-weights"
    ) as pool:
        digests = list(pool.map(reader.digest, [path for _, path in held]))
    over = hashlib.sha256(b"objectcache-weights-1\0")
    for (name, _), digest in zip(held, digests, strict=True):
        over.update(f"{name}\0{digest}\n".encode())
    return f"sha256:{over.hexdigest()}"


def of_text(kind: str, text: str) -> str:
    """A fingerprint of what `text` describes wholly, such as weights made by a seed."""
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()}"


def _names_in(root: Path) -> Iterator[str]:
    """Files below a folder, without hidden folders and those that hold the same weights in another format."""
    count = 0
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "original"]
        for name in files:
            count += 1
            if count > MAX_FILES:
                raise ConfigError(f"{root} has more than {MAX_FILES:,} files, and cannot be one model's: {SET_IT}")
            yield str((Path(folder) / name).relative_to(root))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"cannot read the weights in {path}: {error}") from error


class _Log:
    """Says how far it is, once in a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_s = time.monotonic() + QUIET_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._next_s:
                return
            self._next_s = now + QUIET_S
        logger.info(
            "reading weights for their fingerprint: %.1f of %.1f GB (once a model and machine)", done / 1e9, total / 1e9
        )


class _Reader:
    """Digests of files, with those that are kept. Thread-safe."""

    def __init__(
        self, kept: Path, total_bytes: int, on_progress: Callable[[int, int], None], stop: threading.Event
    ) -> None:
        self._kept = kept
        self._total = total_bytes
        self._on_progress = on_progress
        self._stop = stop
        self._lock = threading.Lock()
        self._done = 0

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's contents, in hex."""
        try:
            real = path.resolve(strict=True)
            if _BLOB.fullmatch(real.name) and real.parent.name == "blobs":
                self._count(real.stat().st_size)
                return real.name
            with real.open("rb") as file:
                return self._read_once(real, file)
        except OSError as error:
            raise ConfigError(f"cannot read the weights in {path}: {error}") from error

    def _read_once(self, real: Path, file: BinaryIO) -> str:
        """The digest that is kept of this very file, or the file read: by one process at a time, others wait for it."""
        facts = os.fstat(file.fileno())
        key = f"{real}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ino}"
        place = self._kept / hashlib.sha256(key.encode()).hexdigest()
        with _locked(place.with_suffix(".lock")):
            known = _kept_digest(place)
            if known:
                self._count(facts.st_size)
                return known
            over = hashlib.sha256()
            while data := file.read(PIECE_BYTES):
                if self._stop.is_set():
                    raise NotReadyError("the weights are not read to their end")
                over.update(data)
                self._count(len(data))
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
                raise ConfigError(f"{real} changed while it was read: weights must not change under an engine")
            _keep(place, over.hexdigest())
        return over.hexdigest()

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size
            done = self._done
        self._on_progress(done, self._total)


def _kept_digest(place: Path) -> str:
    try:
        text = place.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _BLOB.fullmatch(text) else ""


def _keep(place: Path, digest: str) -> None:
    """Where the folder cannot be written, weights are read again the next time."""
    try:
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(digest)
        Path(name).replace(place)
    except OSError as error:
        logger.warning(
            "cannot keep the digest of weights in %s, so that they are read again next time: %s", place, error
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process (and one thread) at a time, where the folder can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
