"""What a gateway did not know how is tried again after a while."""

from __future__ import annotations

from objectcache.client.abilities import AGAIN_S, Ability


def test_an_ability_is_expected_until_it_is_missed_and_again_after_a_while() -> None:
    ability = Ability()
    assert ability.expected(0.0)
    ability.missed(5.0)
    assert not ability.expected(5.0)
    assert not ability.expected(5.0 + 0.9 * AGAIN_S)
    assert ability.expected(5.0 + AGAIN_S)
    ability.missed(5.0 + AGAIN_S)
    assert not ability.expected(6.0 + AGAIN_S)
