"""What is served in a simulation: requests from files, or drawn."""

from objectcache.simulation.workload.arrival import Arrival
from objectcache.simulation.workload.files import MOONCAKE_BLOCK_TOKENS, read_workload
from objectcache.simulation.workload.generated import CONTEXTS, HITS, KINDS, Generated
from objectcache.simulation.workload.prefixes import BlockCache

__all__ = [
    "CONTEXTS",
    "HITS",
    "KINDS",
    "MOONCAKE_BLOCK_TOKENS",
    "Arrival",
    "BlockCache",
    "Generated",
    "read_workload",
]
