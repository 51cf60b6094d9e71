"""From keys to segments: what a descriptor asks for, and whether chunks are stored. Nothing is read."""

from __future__ import annotations

from objectcache.cache.base import PartId
from objectcache.catalog import Catalog
from objectcache.errors import InvalidObjectNameError, RequestError
from objectcache.names import parse_segment_name


def is_covered(catalog: Catalog, namespace: bytes, part: PartId, leaf: bytes, first: int, stop: int) -> bool:
    """Whether chunks [first, stop) of the chain that ends in `leaf` are all stored."""
    with catalog.view() as view:
        try:
            view.resolve(namespace, part.group, part.shard, leaf, first, stop)
        except RequestError:
            return False
    return True


def is_visible(catalog: Catalog, name: str) -> bool:
    """Whether a segment is stored under `name`, which may be anything."""
    try:
        parse_segment_name(name)
    except InvalidObjectNameError:
        return False
    return catalog.segment_named(name) is not None
