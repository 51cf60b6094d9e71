"""Which chunk keys have been seen lately, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from objectcache.cache.base import PartId
from objectcache.keys import KEY_BYTES, KeyChain

_PROBES = KEY_BYTES // 8
_BITS_PER_CHUNK = 12
_ODD = np.uint64(0x9E3779B97F4A7C15)


class SightSketch:
    """A Bloom filter of chunk keys in two generations, without a clock: the older one goes when the newer is full.

    Remembers at least the last `chunks` different keys, and at most twice as many, in 3 to 6 bytes each. A few keys in
    a hundred, at most, are taken for seen though they were not: they are then stored a sight early. `seed` makes
    processes err differently. Not thread-safe.
    """

    def __init__(self, chunks: int, seed: int = 0) -> None:
        bits = 1 << max(10, (chunks * _BITS_PER_CHUNK - 1).bit_length())
        self._chunks = chunks
        self._shift = np.uint64(64 - (bits.bit_length() - 1))
        self._salts = np.random.default_rng(seed).integers(1 << 63, size=_PROBES, dtype=np.uint64)
        self._newer = np.zeros(bits // 8, np.uint8)
        self._older = np.zeros(bits // 8, np.uint8)
        self._count = 0

    @property
    def size_bytes(self) -> int:
        return self._newer.nbytes + self._older.nbytes

    def see(self, part: PartId, keys: KeyChain) -> int:
        """How many of `keys`, from the start, were seen before; all of them are from now on."""
        if not keys:
            return 0
        places = self._places(part, keys)
        newer, older = (_all_set(bits, places) for bits in (self._newer, self._older))
        fresh = places[~newer]
        np.bitwise_or.at(self._newer, (fresh >> np.uint64(3)).astype(np.intp), _masks(fresh))
        self._count += len(fresh)
        if self._count >= self._chunks:
            self._older, self._newer = self._newer, self._older
            self._newer[:] = 0
            self._count = 0
        unseen = np.flatnonzero(~(newer | older))
        return int(unseen[0]) if len(unseen) else len(keys)

    def _places(self, part: PartId, keys: KeyChain) -> npt.NDArray[np.uint64]:
        """Bit numbers, (keys, probes). Keys are digests: each of their words is a hash by itself."""
        words = np.frombuffer(keys.data, np.dtype("<u8")).reshape(-1, _PROBES).astype(np.uint64)
        salts = self._salts ^ np.uint64((part.group << 16 | part.shard) * 0x100000001B3)
        return np.right_shift((words ^ salts) * _ODD, self._shift)


def _masks(places: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))


def _all_set(bits: npt.NDArray[np.uint8], places: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    found = bits[(places >> np.uint64(3)).astype(np.intp)] & _masks(places)
    return np.asarray((found != 0).all(axis=1))
