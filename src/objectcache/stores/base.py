"""The store contract: objects somewhere, by name.

Calls block and may be made from any thread (an upload: from one at a time). Names are like S3 keys: UTF-8, 1 to 1,024
bytes, any characters but control characters, no component that is empty, `.` or `..`. Objects appear whole or not at
all. Every failure is a StoreError. `objectcache.testing.stores` holds what any store must pass.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from objectcache.errors import InvalidObjectNameError, MetadataError, RangeError
from objectcache.integrity import Buffer

MAX_NAME_BYTES = 1024
MAX_METADATA_BYTES = 3072
"""Names and values together: what fits beside a file on every filesystem; S3's own limit for users' part is 2 KiB."""
COPY_BYTES = 1 << 20
ANY_ETAG = "*"
"""`if_match` for any object of that name."""
UNLIMITED_BYTES = 1 << 62
"""A limit that is none, for stores that would set one of their own otherwise."""

# Lone surrogates are in: they have no UTF-8.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|(?:^|/)\.{1,2}(?:/|$)|//|^/|/$")


def check_name(name: str) -> str:
    """`name` itself. Raises InvalidObjectNameError, saying what a name may be."""
    if not name or _FORBIDDEN.search(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidObjectNameError(
            f"{name[:80]!r} is not an object name: 1 to 1,024 bytes, no control characters, and no path component "
            "that is empty, '.' or '..'"
        )
    return name


def check_prefix(prefix: str) -> str:
    """`prefix` itself, of `list_prefixes`. Raises InvalidObjectNameError unless it is "" or ends in "/"."""
    if prefix and not prefix.endswith("/"):
        raise InvalidObjectNameError(f"{prefix[:80]!r} cannot be listed by component: it must be empty or end in '/'")
    return prefix


_METADATA_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,256}")
_METADATA_VALUE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")


def check_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """`metadata` itself. Raises MetadataError, saying what may be kept with an object."""
    total_bytes = 0
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name) or not _METADATA_VALUE.fullmatch(value):
            raise MetadataError(f"{name[:80]!r} cannot be kept: names are lower-case header names, values printable")
        total_bytes += len(name) + len(value.encode())
    if total_bytes > MAX_METADATA_BYTES:
        raise MetadataError(f"an object keeps at most {MAX_METADATA_BYTES} bytes of metadata, not {total_bytes}")
    return metadata


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`modified_s` is Unix time; `etag` changes whenever the content does.

    `metadata` maps lower-case header names (`content-type`, `x-amz-meta-…`) to what the upload said of them. Listings
    leave it empty, and it does not count when two are compared.
    """

    name: str
    size_bytes: int
    modified_s: float
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class StoreUsage:
    used_bytes: int
    limit_bytes: int | None


def check_range(info: ObjectInfo, offset: int, length: int) -> None:
    """Raises RangeError unless `length` bytes from `offset` lie within the object."""
    if offset < 0 or length < 0 or offset + length > info.size_bytes:
        raise RangeError(f"{length} bytes from {offset} are outside {info.name!r}, which has {info.size_bytes}")


class FileRange(NamedTuple):
    """`length` bytes from `offset` of the file that `descriptor` is open for."""

    descriptor: int
    offset: int
    length: int


class ObjectReader(AbstractContextManager["ObjectReader"], ABC):
    """An open object. It stays readable after its name is deleted or replaced, where the store can do that.

    Thread-safe: a read that runs while another thread closes the reader ends with the right bytes or a StoreError.
    """

    info: ObjectInfo

    @abstractmethod
    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (writable, C-contiguous, of any format) from byte `offset`.

        Raises RangeError past the end, StoreError otherwise.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises like `read_into`."""
        check_range(self.info, offset, length)  # before memory is allocated for it
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """The same in order, in the pieces it comes in: for whoever passes them on, without a copy of its own."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        yield memoryview(data)

    def files(self, offset: int, length: int) -> AbstractContextManager[Sequence[FileRange] | None]:
        """In which files the range lies, in order, for zero-copy while the context is open; None: in none.

        May bring it there first. Raises like `read_into`.
        """
        return nullcontext(None)

    def prefetch(self, offset: int, length: int) -> None:
        """The range will be read soon. A hint, for stores that are far away: does not block, never fails."""

    @abstractmethod
    def close(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ObjectUpload(AbstractContextManager["ObjectUpload"], ABC):
    """An object being written. Invisible until `publish`; leaving the context without it aborts.

    An error of `write` or `publish` aborts it too; calls on an upload that has ended raise StoreError.
    """

    @abstractmethod
    def write(self, data: Buffer) -> None:
        """Append a copy of `data`. Raises StoreFullError at the byte limit or a full disk."""

    def write_from(self, source: ObjectReader, offset: int, length: int) -> None:
        """Append a range of another object. Raises like `write` and `read_into`."""
        for at in range(offset, offset + length, COPY_BYTES):
            self.write(source.read(at, min(COPY_BYTES, offset + length - at)))

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """More to keep with the object, known only now. Raises MetadataError.

        Best effort: stores that have sent the metadata ahead of the bytes keep none of it.
        """

    @abstractmethod
    def publish(self, *, etag: str = "") -> ObjectInfo:
        """Make it visible, whole, at once. `etag` becomes the object's, in stores that do not make their own.

        Raises ObjectExistsError when `if_absent` was asked and the name is taken: of several at once, one succeeds.
        With `if_match`, raises ObjectChangedError when the object has another etag, ObjectNotFoundError when there is
        none: of several at once with the same etag, one succeeds.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop it and what it wrote. Harmless after `publish`, and twice."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class Store(AbstractContextManager["Store"], ABC):
    """Objects by name. `url` is what `stores.open_store` opens again, in another process too (but `memory://`)."""

    url: str

    far: ClassVar[bool] = False
    """Asking it takes a round trip: reads should be few, large, in parallel and announced."""

    def request_counts(self) -> Mapping[str, int]:
        """Requests made so far, by kind, of a store that is asked over a network. Whoever counts a span subtracts."""
        return {}

    @abstractmethod
    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        """Begin an object. With `size_bytes` the space is reserved at once (StoreFullError when there is none).

        The object will be as long as what is written: `size_bytes` is a reservation, not a promise. `if_absent` makes a
        new object only, `if_match` replaces only the one with that etag ("*": any one). Raises MetadataError.
        """

    def put(
        self,
        name: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store a small object, replacing any of that name unless `if_absent`."""
        size_bytes = memoryview(data).nbytes
        with self.upload(
            name, size_bytes=size_bytes, if_absent=if_absent, if_match=if_match, metadata=metadata
        ) as upload:
            upload.write(data)
            return upload.publish()

    @abstractmethod
    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        """Open for ranged reads. Raises ObjectNotFoundError.

        Whoever knows the size says so: stores that are far away then ask nothing yet, `info` has only that much, and
        it is the first read that raises ObjectNotFoundError. Elsewhere it makes no difference.
        """

    def get(self, name: str) -> bytes:
        """A whole object."""
        with self.open(name) as reader:
            return reader.read(0, reader.info.size_bytes)

    @abstractmethod
    def head(self, name: str) -> ObjectInfo:
        """Raises ObjectNotFoundError."""

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose names begin with `prefix`, in order of their UTF-8 bytes, after `start_after`. Lazily.

        `prefix` and `start_after` are any strings. What is there throughout is listed once; what comes or goes
        meanwhile may be.
        """

    @abstractmethod
    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        """Distinct `prefix` + one component + "/", in order: like a LIST with delimiter "/".

        Raises InvalidObjectNameError unless `prefix` is "" or ends in "/".
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove; no error when it is not there. Open readers go on."""

    @abstractmethod
    def usage(self) -> StoreUsage:
        """Bytes held by objects and running uploads, and the limit. Cheap."""

    def discard(self, name: str) -> None:
        """Drop copies of an object that are kept nearer than the object itself.

        For bytes that turned out to be wrong: what is read from then on is the object itself. Never fails.
        """

    def account(self, delta_bytes: int) -> None:
        """Another process, on this one's behalf, has added (or removed) bytes that `usage` should show at once."""

    def close(self) -> None:
        """Release what the store holds open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
