"""Responses that several handlers give."""

from __future__ import annotations

from aiohttp import web

from objectcache.gateway.object_headers import CHECKSUM_PREFIX


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
