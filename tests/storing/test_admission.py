"""What is admitted: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.cache import PartId
from objectcache.errors import ConfigError
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.storing import ALL, Admission, AdmissionOptions, Offer, Reason
from objectcache.storing.in_flight import Claim, InFlight, shared_keys
from objectcache.storing.sketch import SightSketch

PART = PartId(0, 0)


def chain_of(*numbers: int) -> KeyChain:
    """A key names its whole prefix: here by hashing the numbers up to it."""
    import hashlib

    keys = []
    before = b""
    for number in numbers:
        before = hashlib.sha256(before + number.to_bytes(8)).digest()
        keys.append(before)
    return KeyChain(b"".join(keys))


def offer(keys: KeyChain, first: int = 0, *, part: PartId = PART, ended: bool = True) -> Offer:
    return Offer(part, keys, first, len(keys), chunk_tokens=16, ended=ended)


def test_everything_is_admitted_where_nothing_is_asked() -> None:
    admission = Admission(ALL)
    assert admission.admit(offer(chain_of(1))) == 1
    assert admission.admit(offer(chain_of(1), ended=False)) == 1


def test_short_prefixes_are_not_worth_it() -> None:
    admission = Admission(AdmissionOptions(min_tokens=48))
    assert admission.admit(offer(chain_of(1, 2))) is Reason.TOO_SHORT
    assert admission.admit(offer(chain_of(1, 2, 3))) == 3
    # The prefix counts, not what is new of it.
    assert admission.admit(offer(chain_of(1, 2, 3), first=2)) == 3


def test_few_new_chunks_are_held_until_the_request_ends() -> None:
    admission = Admission(AdmissionOptions(min_tokens=0, min_new_chunks=3))
    keys = chain_of(1, 2, 3, 4, 5)
    assert admission.admit(offer(keys[:2], ended=False)) is Reason.TOO_FEW
    assert admission.admit(offer(keys[:4], first=2, ended=False)) is Reason.TOO_FEW
    assert admission.admit(offer(keys, first=2, ended=False)) == 5
    assert admission.admit(offer(keys, first=4)) == 5


def test_on_second_sight_what_two_prompts_share_is_admitted() -> None:
    admission = Admission(AdmissionOptions(second_sight=True, min_tokens=0))
    assert admission.admit(offer(chain_of(1, 2, 3, 4))) is Reason.FIRST_SIGHT
    assert admission.admit(offer(chain_of(1, 2, 7, 8))) == 2
    assert admission.admit(offer(chain_of(1, 2, 3, 4), first=2)) == 4
    assert admission.admit(offer(chain_of(1, 2, 3, 4), part=PartId(0, 1))) is Reason.FIRST_SIGHT  # of this part


def test_what_is_held_was_not_seen() -> None:
    admission = Admission(AdmissionOptions(second_sight=True, min_tokens=0, min_new_chunks=4))
    keys = chain_of(1, 2, 3, 4)
    assert admission.admit(offer(keys[:2], ended=False)) is Reason.TOO_FEW
    assert admission.admit(offer(keys, ended=False)) is Reason.FIRST_SIGHT


@pytest.mark.parametrize("wrong", [{"min_tokens": -1}, {"min_new_chunks": -1}, {"sight_chunks": 0}])
def test_options_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        AdmissionOptions(**wrong)  # type: ignore[arg-type]


# -- the sketch ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 3))
def test_the_last_chunks_are_always_remembered(numbers: list[int], seed: int) -> None:
    capacity = 16
    sketch = SightSketch(capacity, seed)
    seen: list[int] = []
    for number in numbers:
        found = sketch.see(PART, chain_of(number))
        if number in dict.fromkeys(reversed(seen[-capacity:])):
            assert found == 1
        seen.append(number)


def test_the_sketch_forgets_and_stays_as_small_as_it_is() -> None:
    sketch = SightSketch(1000)
    size = sketch.size_bytes
    assert size <= 1000 * 6
    first = chain_of(*range(100))
    assert sketch.see(PART, first) == 0
    assert sketch.see(PART, first) == 100
    for block in range(40):
        sketch.see(PART, chain_of(*range(1000 + block * 100, 1100 + block * 100)))
    assert sketch.see(PART, first) < 20
    assert sketch.size_bytes == size


def test_few_keys_are_taken_for_others() -> None:
    sketch = SightSketch(4096)
    wrong = 0
    for number in range(4000):
        wrong += sketch.see(PART, chain_of(10_000 + number))
    assert wrong < 4000 * 0.03


# -- in flight ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=20), st.lists(st.integers(0, 3), max_size=20))
def test_shared_keys_are_those_from_the_start(one: list[int], other: list[int]) -> None:
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert shared_keys(chain_of(*one), chain_of(*other)) == same


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), min_size=1, max_size=6)), max_size=12))
def test_no_chunk_is_claimed_twice(steps: list[tuple[bool, list[int]]]) -> None:
    flight = InFlight()
    held: list[Claim] = []
    for release, numbers in steps:
        if release and held:
            flight.release(held.pop(0))
            continue
        keys = chain_of(*numbers)
        claim = flight.claim(b"n", PART, keys)
        claimed = {key for other in held for key in other.keys}
        if claim is None:
            assert set(keys) <= claimed
        else:
            assert claim.keys[-1] == keys[-1]
            assert set(keys) - set(claim.keys) <= claimed
            if keys[0] not in {other.keys[0] for other in held}:
                assert claim.keys == keys
            held.append(claim)
    for claim in held:
        flight.release(claim)
        flight.release(claim)
    assert len(flight) == 0


def test_claims_are_of_one_part_of_one_namespace() -> None:
    flight = InFlight()
    keys = chain_of(1, 2)
    assert flight.claim(b"n", PART, keys) is not None
    assert flight.claim(b"n", PART, keys) is None
    assert flight.claim(b"n", PartId(0, 1), keys) is not None
    assert flight.claim(b"m", PART, keys) is not None
    assert len(keys.data) == 2 * KEY_BYTES
