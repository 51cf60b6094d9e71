"""Stores on Ceph's RADOS. Needs python3-rados, which comes from the system: `docs/stores.md`."""

from objectcache.stores.rados.connection import RadosTiming
from objectcache.stores.rados.options import RadosOptions, parse_rados_url
from objectcache.stores.rados.store import RadosStore, open_rados_store
from objectcache.stores.rados.sweeping import SweepTiming

__all__ = ["RadosOptions", "RadosStore", "RadosTiming", "SweepTiming", "open_rados_store", "parse_rados_url"]
