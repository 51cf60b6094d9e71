"""Random deliveries over several capped links, and a scheduler that is told all that happens to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from hypothesis import strategies as st

from objectcache.scheduling import POLICIES, Admitted, Decision, Ended, Scheduler, Sent

LINKS = ("store", "gateway", "client a", "client b")


@dataclass
class World:
    """Deliveries that send exactly at their rates, but for those in `slow`: at most that many bytes a second."""

    scheduler: Scheduler
    caps: dict[str, float]
    admissions: list[Admitted]
    slow: dict[int, float] = field(default_factory=dict)
    now_s: float = 0.0
    sent: dict[int, float] = field(default_factory=dict)
    ended_s: dict[int, float] = field(default_factory=dict)
    active: dict[int, Admitted] = field(default_factory=dict)

    def step(self, shortest_s: float = 2e-3, longest_s: float = inf) -> Decision | None:
        """One decision and what follows until the next. None: all have ended."""
        waiting = [admission for admission in self.admissions if admission.delivery not in self.sent]
        if not self.active:
            if not waiting:
                return None
            self.now_s = max(self.now_s, min(admission.now_s for admission in waiting))
        for admission in waiting:
            if admission.now_s <= self.now_s:
                self.active[admission.delivery] = admission
                self.sent[admission.delivery] = 0.0
                self.scheduler.apply(admission)
        for number in self.active:
            self.scheduler.apply(Sent(self.now_s, number, int(self.sent[number])))
        decision = self.scheduler.decide(self.now_s)
        rates = {n: min(rate, self.slow.get(n, inf), 1e15) for n, rate in decision.bytes_s.items()}
        left = {n: sum(admission.unit_bytes) - self.sent[n] for n, admission in self.active.items()}
        ends_s = {n: self.now_s + left[n] / rates[n] if rates[n] > 0 else inf for n in self.active}
        until_s = min(max(decision.until_s, self.now_s + shortest_s), self.now_s + longest_s, *ends_s.values())
        until_s = min([until_s, *(a.now_s for a in waiting if a.now_s > self.now_s)])
        assert until_s < inf, "nothing is sent, and nothing will be"
        for number in list(self.active):
            self.sent[number] += rates[number] * (until_s - self.now_s)
            if ends_s[number] <= until_s:
                self.ended_s[number] = until_s
                del self.active[number]
                self.scheduler.apply(Ended(until_s, number))
        self.now_s = until_s
        return decision

    def assert_sound(self, decision: Decision, admitted: dict[int, Admitted]) -> None:
        """Never over a cap, and nobody could go faster without another going slower."""
        load = dict.fromkeys(self.caps, 0.0)
        for number, rate in decision.bytes_s.items():
            assert rate >= 0
            for link in set(admitted[number].links) & self.caps.keys():
                load[link] += rate
        full = {link for link, cap in self.caps.items() if load[link] >= cap * (1 - 1e-6)}
        for link, cap in self.caps.items():
            assert load[link] <= cap * (1 + 1e-9)
        for number, rate in decision.bytes_s.items():
            assert rate == inf or full & set(admitted[number].links)


@st.composite
def admissions(draw: st.DrawFn, most: int = 8) -> list[Admitted]:
    """Deliveries of all shapes: one unit or many, uneven, without windows, in gangs, of tenants, over any links."""
    found = []
    for number in range(draw(st.integers(1, most))):
        units = draw(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=6))
        windows = draw(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.2, inf]), max_size=7))
        found.append(
            Admitted(
                now_s=draw(st.sampled_from([0.0, 0.0, 0.004, 0.05])),
                delivery=number,
                links=tuple(draw(st.lists(st.sampled_from([*LINKS, "uncapped"]), unique=True, max_size=3))),
                unit_bytes=tuple(units * draw(st.sampled_from([1, 5]))),
                windows_s=tuple(windows),
                ready_s=draw(st.sampled_from([None, 0.0, 0.1])),
                gang=draw(st.sampled_from(["", "", "step"])),
                tenant=draw(st.sampled_from(["", "a"])),
            )
        )
    return found


caps = st.dictionaries(st.sampled_from(LINKS), st.floats(1e6, 1e9), min_size=1)
policies = st.sampled_from(sorted(POLICIES))
