"""Objects somewhere: the contract, and the stores that keep it."""

from objectcache.stores.base import ObjectInfo, ObjectReader, ObjectUpload, Store, StoreUsage, check_name

__all__ = ["ObjectInfo", "ObjectReader", "ObjectUpload", "Store", "StoreUsage", "check_name"]
