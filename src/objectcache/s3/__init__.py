"""S3 on the wire."""

from objectcache.s3.access import AccessKeys, Grant
from objectcache.s3.authorization import parse_authorization
from objectcache.s3.checksums import AnnouncedChecksums, Checksums, announced_checksums
from objectcache.s3.chunked import ChunkedDecoder, ChunkSigning, decoded_length_bytes
from objectcache.s3.payload import PayloadKind, payload_kind, unsigned_payload_kind
from objectcache.s3.signing import Credentials, SignedRequest, sign_headers, verify
from objectcache.s3.xml import error_body, parse_error

__all__ = [
    "AccessKeys",
    "AnnouncedChecksums",
    "Checksums",
    "ChunkSigning",
    "ChunkedDecoder",
    "Credentials",
    "Grant",
    "PayloadKind",
    "SignedRequest",
    "announced_checksums",
    "decoded_length_bytes",
    "error_body",
    "parse_authorization",
    "parse_error",
    "payload_kind",
    "sign_headers",
    "unsigned_payload_kind",
    "verify",
]
