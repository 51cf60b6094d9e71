"""`bench peers`: layerwise retrieval beside what users have today, all of it holding the same KV."""

from objectcache.bench.peers.rows import BARS
from objectcache.bench.peers.run import run_peers
from objectcache.bench.peers.settings import SERVERS, PeersSettings

__all__ = ["BARS", "SERVERS", "PeersSettings", "run_peers"]
