"""S3 on the wire."""

from objectcache.s3.xml import error_body, list_body, parse_error

__all__ = ["error_body", "list_body", "parse_error"]
