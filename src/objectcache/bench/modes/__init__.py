"""`bench modes`: the gateway's choice of layers per unit beside fixed ones, by the time to the first token."""

from objectcache.bench.modes.run import BARS, run_modes
from objectcache.bench.modes.settings import ModesSettings

__all__ = ["BARS", "ModesSettings", "run_modes"]
