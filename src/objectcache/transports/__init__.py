"""How layers travel: frames on byte streams, their sending and their receiving side."""

from objectcache.transports.active import ActiveDelivery
from objectcache.transports.receiver import Expected, ExpectedPart, Receiver
from objectcache.transports.sender import SenderSession

__all__ = ["ActiveDelivery", "Expected", "ExpectedPart", "Receiver", "SenderSession"]
