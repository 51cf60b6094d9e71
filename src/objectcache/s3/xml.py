"""XML as S3 writes and reads it: elements, and the body of an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

from objectcache.errors import MalformedXMLError, ObjectCacheError, error_from_code

_UNPRINTABLE = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_PLAIN = re.compile("[A-Za-z0-9 /_.:=+-]*")
_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def element(tag: str, value: str | int | bool) -> str:
    """`<tag>` around a value, escaped."""
    content = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return f"<{tag}>{text(content)}</{tag}>"


def text(value: str) -> str:
    """`value` as it stands in an element, escaped."""
    return value if _PLAIN.fullmatch(value) else escape(_printable(value))


def group(tag: str, elements: Iterable[str]) -> str:
    """`<tag>` around elements that are XML already."""
    return f"<{tag}>{''.join(elements)}</{tag}>"


def document(tag: str, elements: Iterable[str]) -> bytes:
    """A whole body, in S3's namespace."""
    return f'{_DECLARATION}<{tag} xmlns="{NAMESPACE}">{"".join(elements)}</{tag}>'.encode()


def timestamp(time_s: float) -> str:
    """Unix time as S3 writes it in XML."""
    return _timestamp(math.floor(time_s))


@lru_cache(maxsize=4096)
def _timestamp(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def parse(body: bytes, tag: str) -> ElementTree.Element:
    """The root of a request's body, tags without their namespace. Raises MalformedXMLError unless it is a `tag`."""
    root = _read(body)
    if root.tag != tag:
        raise MalformedXMLError(f"the body should be a {tag}, not a {root.tag[:80]}")
    return root


def _read(body: bytes) -> ElementTree.Element:
    """Without document types, and so without entities that are longer than their names."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8", "}")
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag.rpartition("}")[2], attributes)

    def end(tag: str) -> None:
        builder.end(tag.rpartition("}")[2])

    def refuse(*_: object) -> None:
        raise MalformedXMLError("the body has a document type, which S3's XML never has")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise MalformedXMLError(f"the body is not XML: {error}") from error
    return builder.close()


def error_body(error: ObjectCacheError, resource: str, request_id: str) -> bytes:
    fields = {"Code": error.code, "Message": str(error), "Resource": resource, "RequestId": request_id}
    return f"{_DECLARATION}{group('Error', [element(name, value) for name, value in fields.items()])}".encode()


def parse_error(status: int, body: bytes) -> ObjectCacheError:
    """The error in a response; where the body is none, what the status says."""
    try:
        root = _read(body)
        code, message = root.findtext("Code"), root.findtext("Message")
    except MalformedXMLError:
        code = message = None
    if code is None:
        return ObjectCacheError(f"HTTP {status} without an S3 error body")
    return error_from_code(code, message or "", status)


def _printable(text: str) -> str:
    """XML 1.0 has no control characters and no lone surrogates (header bytes that are no UTF-8), escaped or not."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
