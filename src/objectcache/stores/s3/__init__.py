"""Stores on S3: AWS, Ceph RGW, MinIO, SeaweedFS and others. Needs the extra `s3`."""

from objectcache.stores.s3.calls import S3Timing
from objectcache.stores.s3.options import S3Options, parse_s3_url
from objectcache.stores.s3.store import S3Store, open_s3_store

__all__ = ["S3Options", "S3Store", "S3Timing", "open_s3_store", "parse_s3_url"]
