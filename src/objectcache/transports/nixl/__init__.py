"""KV written into the client's registered memory by NIXL, wherever UCX reaches: the third way of placing.

Needs `objectcache[nixl]` only when an agent is made; everything here can be imported without.
"""

from objectcache.transports.nixl.agent import INSTALL, Agent, Region, check_installed, is_installed
from objectcache.transports.nixl.arena import Slots
from objectcache.transports.nixl.line import Line, watch
from objectcache.transports.nixl.notifications import (
    InOrder,
    Notification,
    decode_notification,
    encode_notification,
)
from objectcache.transports.nixl.sending import NixlSession, Writer

__all__ = [
    "INSTALL",
    "Agent",
    "InOrder",
    "Line",
    "NixlSession",
    "Notification",
    "Region",
    "Slots",
    "Writer",
    "check_installed",
    "decode_notification",
    "encode_notification",
    "is_installed",
    "watch",
]
