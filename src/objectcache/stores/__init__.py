"""Objects somewhere: the contract, and the stores that keep it."""

from objectcache.stores.ahead import ExpectedObjects, delete_all
from objectcache.stores.base import FileRange, ObjectInfo, ObjectReader, ObjectUpload, Store, StoreUsage, check_name
from objectcache.stores.file import FileStore
from objectcache.stores.memory import MemoryStore
from objectcache.stores.read_cache import ReadCache
from objectcache.stores.urls import child_url, open_store

__all__ = [
    "ExpectedObjects",
    "FileRange",
    "FileStore",
    "MemoryStore",
    "ObjectInfo",
    "ObjectReader",
    "ObjectUpload",
    "ReadCache",
    "Store",
    "StoreUsage",
    "check_name",
    "child_url",
    "delete_all",
    "open_store",
]
