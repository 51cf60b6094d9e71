"""Access keys of gateways in tests, and requests signed with them in ways that clients do not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from objectcache.s3 import Credentials, parse_authorization
from objectcache.s3.sigv4 import sign

STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


def key_named(id: str) -> Credentials:
    return Credentials(id, f"secret-of-{id}")


def write_keys(path: Path, grants: Mapping[str, Mapping[str, str]]) -> Path:
    """A file with a key for each id, and what it may do."""
    text = ""
    for id, granted in grants.items():
        text += f'[[key]]\nid = "{id}"\nsecret = "{key_named(id).secret_key}"\n[key.grants]\n'
        text += "".join(f'"{bucket}" = "{grant}"\n' for bucket, grant in granted.items())
    path.write_text(text)
    path.chmod(0o600)
    return path


def streaming_headers(key: Credentials, host: str, path: str, size_bytes: int) -> dict[str, str]:
    """Of a PUT whose body comes in signed chunks."""
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "host": host,
        "x-amz-date": stamp,
        "x-amz-content-sha256": STREAMING,
        "x-amz-decoded-content-length": str(size_bytes),
    }
    made = sign(key.secret_key, "us-east-1", stamp, "PUT", path, "", headers.items(), STREAMING)
    return headers | {"Authorization": made.authorization(key.access_key), "Content-Encoding": "aws-chunked"}


def streaming_body(key: Credentials, path: str, headers: Mapping[str, str], chunks: Iterable[bytes]) -> bytes:
    signed = parse_authorization("PUT", path, "", headers)
    assert signed is not None
    signing = signed.chunk_signing(key.secret_key)
    wire, previous = b"", signing.seed
    for chunk in (*chunks, b""):
        previous = signing.chunk(previous, hashlib.sha256(chunk).hexdigest())
        wire += f"{len(chunk):x};chunk-signature={previous}\r\n".encode() + chunk + b"\r\n"
    return wire
