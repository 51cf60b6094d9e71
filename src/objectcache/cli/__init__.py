"""The command line."""

from objectcache.cli.main import main

__all__ = ["main"]
