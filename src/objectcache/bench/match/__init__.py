"""`bench match`: what finding the longest stored prefix takes, in a catalog of millions of chunks."""

from objectcache.bench.match.rows import bars
from objectcache.bench.match.run import run_match
from objectcache.bench.match.settings import MatchSettings

__all__ = ["MatchSettings", "bars", "run_match"]
