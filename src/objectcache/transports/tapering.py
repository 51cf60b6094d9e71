"""How much of a delivery a stream takes in one go: less towards the end of each layer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf


class Tapering:
    """Long turns save the sender's time, but a layer is there with the last of them. So each is at most a stream's
    share of what is left of the layer, and streams end it together (guided self-scheduling, Polychronopoulos and Kuck
    1987).
    """

    def __init__(self, layer_bytes: Iterable[float], streams: int) -> None:
        """`layer_bytes` are sent of each layer, one after the other, by `streams` together."""
        self._layers = iter(layer_bytes)
        self._streams = streams
        self._left_bytes = 0.0
        self.most_bytes = 0.0
        """Of the next turn, which has a frame at least, whatever this says."""
        self.take(0)

    def take(self, data_bytes: int) -> None:
        """A stream has taken a turn."""
        left_bytes = self._left_bytes - data_bytes
        while left_bytes <= 0:
            left_bytes += next(self._layers, inf)  # behind the last one nothing waits
        self._left_bytes = left_bytes
        self.most_bytes = left_bytes / self._streams
