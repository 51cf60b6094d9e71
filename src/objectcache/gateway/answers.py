"""Responses that several handlers give."""

from __future__ import annotations

import logging

from aiohttp import web

from objectcache.errors import (
    EntityTooLargeError,
    KeyNotFoundError,
    ObjectCacheError,
    ObjectNotFoundError,
    TruncatedBodyError,
)
from objectcache.gateway.object_headers import CHECKSUM_PREFIX

log = logging.getLogger(__name__)


def xml_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/xml")


def put_response(etag: str, checksum: tuple[str, str], *, closes: bool) -> web.Response:
    """`checksum`: algorithm and base64, or ("", ""). `closes`: the connection cannot carry another request."""
    algorithm, value = checksum
    response = web.Response(headers={"ETag": f'"{etag}"'})
    if algorithm:
        response.headers[f"{CHECKSUM_PREFIX}{algorithm}"] = value
    if closes:
        response.force_close()
    return response


def typed_error(problem: Exception, request: web.Request) -> ObjectCacheError:
    """What is answered for what went wrong."""
    if isinstance(problem, ObjectNotFoundError):
        return KeyNotFoundError(str(problem))  # as S3 calls it
    if isinstance(problem, ObjectCacheError):
        return problem
    if isinstance(problem, web.HTTPRequestEntityTooLarge):
        return EntityTooLargeError(problem.text or "the body is too large")
    if isinstance(problem, web.RequestPayloadError) or (
        isinstance(problem, ConnectionError) and request.transport is None
    ):
        return TruncatedBodyError(f"the body broke off: {problem}")
    log.error("%s %s failed", request.method, request.path, exc_info=problem)
    return ObjectCacheError("the gateway failed: its log says why")
