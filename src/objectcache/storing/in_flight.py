"""Which chunks this process is storing at this moment, so that nobody begins them a second time. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from objectcache.cache.base import PartId
from objectcache.keys import KeyChain


@dataclass(frozen=True, slots=True)
class Claim:
    """Chunks of one part, whose keys are `keys`, and that nobody else is to begin while this is held."""

    namespace: bytes
    part: PartId
    keys: KeyChain


class InFlight:
    """Claims, by part and first key. Not thread-safe."""

    def __init__(self) -> None:
        self._claims: defaultdict[tuple[bytes, PartId, bytes], list[Claim]] = defaultdict(list)

    def claim(self, namespace: bytes, part: PartId, keys: KeyChain) -> Claim | None:
        """Of `keys` those that follow what is claimed already; None when that is all of them."""
        while keys:
            others = self._claims.get((namespace, part, keys[0]))
            if not others:
                claim = Claim(namespace, part, keys)
                self._claims[namespace, part, keys[0]].append(claim)
                return claim
            shared = max(shared_keys(other.keys, keys) for other in others)
            keys = keys[shared:]
        return None

    def release(self, claim: Claim) -> None:
        """Give a claim back. Harmless the second time."""
        place = (claim.namespace, claim.part, claim.keys[0])
        left = [other for other in self._claims.get(place, ()) if other is not claim]
        if left:
            self._claims[place] = left
        else:
            self._claims.pop(place, None)

    def __len__(self) -> int:
        return sum(map(len, self._claims.values()))


def shared_keys(one: KeyChain, other: KeyChain) -> int:
    """How many keys two chains have in common from their start. A key names its whole prefix: halving finds it."""
    same, differs = 0, min(len(one), len(other)) + 1
    while differs - same > 1:
        middle = (same + differs) // 2
        if one[middle - 1] == other[middle - 1]:
            same = middle
        else:
            differs = middle
    return same
