"""A tier of local DRAM, shared by the processes of a host: the first layers of prefixes, then whole prefixes."""

from objectcache.tier.files import Registrar
from objectcache.tier.holding import Holding
from objectcache.tier.local import DEFAULT_FIRST_LAYERS, LocalTier
from objectcache.tier.parts import TierPart, TierStats

__all__ = ["DEFAULT_FIRST_LAYERS", "Holding", "LocalTier", "Registrar", "TierPart", "TierStats"]
