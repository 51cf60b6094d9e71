"""obstore's calls on one bucket: bounded in time, counted, and their errors ours.

Synchronous calls only: obstore under asyncio has been seen to abort the interpreter at its exit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as Bucket

from objectcache.errors import BucketMissingError, ObjectNotFoundError, StoreError, StoreUnavailableError
from objectcache.stores.s3.errors import FOREIGN, store_error, translated
from objectcache.stores.s3.metadata import from_attributes
from objectcache.stores.s3.options import S3Options

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutMode

PAGE = 1000
"""Names in one answer to a LIST."""
PARALLEL_PARTS = 4

RequestKind = Literal["get", "head", "put", "list", "delete", "multipart"]


@dataclass(frozen=True, slots=True)
class S3Timing:
    """How long a request may take, and how often it is tried: seconds, since an engine can recompute in seconds.

    `request_timeout_s` counts from the connection to the last byte of a body. After `retry_timeout_s` nothing is tried
    again.
    """

    connect_timeout_s: float = 2.0
    request_timeout_s: float = 10.0
    max_retries: int = 2
    retry_timeout_s: float = 10.0
    max_backoff_s: float = 1.0

    @property
    def bound_s(self) -> float:
        """No call takes longer: the last try begins within the retry timeout, and a backoff."""
        return self.retry_timeout_s + self.max_backoff_s + self.request_timeout_s


@dataclass(frozen=True, slots=True)
class Stored:
    """What S3 says of an object. The etag has no quotes; "" where a service does not tell it. Time is in whole seconds
    everywhere, as in HTTP's headers: only listings have fractions."""

    size_bytes: int
    modified_s: float
    etag: str
    metadata: dict[str, str]


class S3Calls:
    """Requests to one bucket, by key. Thread-safe. Every failure is a StoreError."""

    def __init__(self, options: S3Options, timing: S3Timing) -> None:
        self.timing = timing
        self._where = f"s3://{options.bucket}"
        self._counts: Counter[str] = Counter()
        self._lock = Lock()
        self._bucket = open_bucket(options, timing)
        patience_s = timing.connect_timeout_s
        self._probe = open_bucket(options, replace(timing, request_timeout_s=patience_s, max_retries=0))

    def counts(self) -> dict[str, int]:
        """Requests so far by kind; repetitions by obstore itself are not seen, and a LIST is a thousand names."""
        with self._lock:
            return dict(self._counts)

    def head(self, key: str) -> Stored:
        self._count("head")
        with translated(f"HEAD of {key!r}"):
            answer = obstore.get(self._bucket, key, options={"head": True})
            return _stored(answer.meta, from_attributes(answer.attributes))

    def get(self, key: str, start: int, stop: int, etag: str) -> tuple[memoryview, Stored]:
        """Bytes `start` to `stop`, of the object with that etag ("": of any), and what the answer says of the whole."""
        self._count("get")
        options: GetOptions = {"range": (start, stop)}
        if etag:
            options["if_match"] = f'"{etag}"'
        with translated(f"reading {key!r}"):
            answer = obstore.get(self._bucket, key, options=options)
            stored, data = _stored(answer.meta, {}), memoryview(answer.bytes())
        if data.nbytes != min(stop, stored.size_bytes) - start:
            raise StoreUnavailableError(f"reading {key!r} gave {data.nbytes} bytes instead of {stop - start}")
        return data, stored

    def get_small(self, key: str, limit_bytes: int) -> tuple[memoryview | None, Stored]:
        """A whole object, in one request; None instead of its bytes when there are more than `limit_bytes`."""
        self._count("get")
        with translated(f"reading {key!r}"):
            answer = obstore.get(self._bucket, key)
            stored = _stored(answer.meta, {})
            if stored.size_bytes > limit_bytes:
                return None, stored
            data = memoryview(answer.bytes())
        if data.nbytes != stored.size_bytes:
            raise StoreUnavailableError(f"reading {key!r} gave {data.nbytes} bytes instead of {stored.size_bytes}")
        return data, stored

    def put(
        self,
        key: str,
        data: bytes | bytearray,
        attributes: dict[str, str],
        *,
        if_absent: bool = False,
        if_match: str = "",
    ) -> str:
        """One PUT. Returns the etag. `if_match` is sent as it is, with or without quotes."""
        self._count("put")
        mode: PutMode = {"e_tag": if_match} if if_match else "create" if if_absent else "overwrite"
        with translated(f"storing {key!r}"), nullcontext() if if_match else self._bucket_must_be():
            answer = obstore.put(self._bucket, key, data, attributes=attributes, mode=mode, use_multipart=False)
        return _unquoted(answer["e_tag"])

    def put_parts(
        self, key: str, parts: Iterator[bytes | bytearray], attributes: dict[str, str], part_bytes: int
    ) -> str:
        """A multipart upload of `parts`, each of `part_bytes` but the last, a few at a time. Returns the etag, or "".

        What `parts` raises aborts the upload and comes out again.
        """
        self._count("multipart", 2)  # its begin and its end

        def counted() -> Iterator[bytes | bytearray]:
            for part in parts:
                self._count("multipart")
                yield part

        with translated(f"storing {key!r}"), self._bucket_must_be():
            answer = obstore.put(
                self._bucket,
                key,
                counted(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARALLEL_PARTS,
            )
        return _unquoted(answer["e_tag"])

    def delete(self, key: str) -> None:
        self._count("delete")
        try:
            with translated(f"deleting {key!r}"):
                obstore.delete(self._bucket, key)
        except ObjectNotFoundError:
            pass  # some services say so

    def keys(self, directory: str, offset: str) -> Iterator[tuple[str, Stored]]:
        """Keys below `directory` ("": all) and after `offset`, as the service orders them, page by page."""
        pages = obstore.list(self._bucket, directory or None, offset=offset or None, chunk_size=PAGE)
        while True:
            self._count("list")
            try:
                page: Sequence[ObjectMeta] = next(pages)
            except StopIteration:
                return
            except FOREIGN as error:
                raise self._listing_error(error, directory) from error
            for meta in page:
                yield meta["path"], _stored(meta, {})
            if len(page) < PAGE:
                return

    def directories(self, directory: str) -> list[str]:
        """Directories, without a slash at the end, right below `directory`."""
        self._count("list")
        try:
            answer = obstore.list_with_delimiter(self._bucket, directory or None)
        except FOREIGN as error:
            raise self._listing_error(error, directory) from error
        return list(answer["common_prefixes"])

    def _count(self, kind: RequestKind, requests: int = 1) -> None:
        with self._lock:
            self._counts[kind] += requests

    def _listing_error(self, error: Exception, directory: str) -> StoreError:
        """What a failed LIST means: whether the bucket is missing or refused, obstore tells of objects only."""
        self._count("head")
        try:
            obstore.head(self._probe, "")  # HEAD of the bucket itself
        except FileNotFoundError:
            return self._missing()
        except (PermissionDeniedError, UnauthenticatedError) as refused:
            return store_error(refused, f"listing {self._where}")
        except FOREIGN:
            pass  # the error that led here says more
        return store_error(error, f"listing {directory or self._where!r}")

    @contextmanager
    def _bucket_must_be(self) -> Iterator[None]:
        """Nothing else can be missing when an object is made."""
        try:
            yield
        except FileNotFoundError as error:
            raise self._missing() from error

    def _missing(self) -> BucketMissingError:
        return BucketMissingError(f"there is no {self._where}: make the bucket, or correct the store's URL")


def open_bucket(options: S3Options, timing: S3Timing) -> Bucket:
    """Makes no request. Credentials are obstore's affair: environment, web identity, container, instance."""
    return Bucket(
        options.bucket,
        config={
            "region": options.region,
            "virtual_hosted_style_request": options.virtual,
            # One DELETE says what became of it; the bulk call needs rights and headers of its own.
            "disable_bulk_delete": True,
            # The name that comes first with obstore too, so that its own look at the environment changes nothing.
            **({"aws_endpoint_url_s3": options.request_endpoint} if options.endpoint else {}),
        },
        client_options={
            "allow_http": options.allow_http,
            "connect_timeout": timedelta(seconds=timing.connect_timeout_s),
            "timeout": timedelta(seconds=timing.request_timeout_s),
        },
        retry_config={
            "max_retries": timing.max_retries,
            "retry_timeout": timedelta(seconds=timing.retry_timeout_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=timing.max_backoff_s),
                "base": 2,
            },
        },
    )


def _stored(meta: ObjectMeta, metadata: dict[str, str]) -> Stored:
    return Stored(meta["size"], meta["last_modified"].timestamp() // 1, _unquoted(meta["e_tag"]), metadata)


def _unquoted(etag: str | None) -> str:
    return (etag or "").strip('"')
