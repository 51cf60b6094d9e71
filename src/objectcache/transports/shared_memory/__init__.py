"""KV placed in the client's own memory, by a worker on its host: no socket carries the bytes, only word of them."""

from objectcache.transports.shared_memory.mapped_files import MappedFiles, MappedPiece
from objectcache.transports.shared_memory.memory import ClientMemory, check_memory
from objectcache.transports.shared_memory.receiving import PlacedReceiver
from objectcache.transports.shared_memory.sending import PlacingDelivery, PlacingSession

__all__ = [
    "ClientMemory",
    "MappedFiles",
    "MappedPiece",
    "PlacedReceiver",
    "PlacingDelivery",
    "PlacingSession",
    "check_memory",
]
