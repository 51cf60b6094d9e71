"""What the scheduler knows of one delivery: what is left of it, when each unit is due, how late it has been."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from objectcache.scheduling.events import Admitted
from objectcache.scheduling.unused import Use

LONGEST_WINDOW_S = 3600.0  # what a client says beyond that, infinity included, counts as this
LONGEST_GUESS_S = 5e-3  # how far ahead of what was told bytes are taken for sent
LAST_FRAME_BYTES = 256 << 10  # until all is told to be sent, this much is taken to be left


class Flow:
    """One delivery under way.

    Unit u is due at `dues_s[u]`, when the engine asks for it if it never had to wait: added TTFT is the largest
    lateness of any unit. `at(now_s)` refreshes what the policies read: `position` (bytes sent, as far as is known), of
    the unit that is being sent `due_s` and the bytes that are missing of it (`head_bytes`), of the whole `left_bytes`
    and `span_s`, from `due_s` to when the last unit is due. Policies set `rate` (bytes/s).
    """

    __slots__ = (
        "ahead_bytes",
        "due_s",
        "dues_s",
        "ends",
        "equal_bytes",
        "equal_rate",
        "gang",
        "guessed",
        "head_bytes",
        "known_s",
        "landed_s",
        "late_s",
        "left_bytes",
        "links",
        "number",
        "position",
        "rate",
        "ready_s",
        "sent",
        "span_s",
        "tenant",
        "total",
        "unit",
        "use",
        "weight",
    )

    def __init__(self, admitted: Admitted) -> None:
        self.number = admitted.delivery
        self.links: tuple[str, ...] = ()  # those with a cap
        self.ends: list[int] = list(accumulate(admitted.unit_bytes))
        self.total = self.ends[-1] if self.ends else 0
        # Members of a gang wait for each other; whoever is in none is one alone.
        self.gang: str | int = (admitted.tenant + "\0" + admitted.gang) if admitted.gang else admitted.delivery
        self.tenant = admitted.tenant
        self.weight = 1.0
        self.ready_s = admitted.now_s if admitted.ready_s is None else admitted.ready_s
        self.sent = 0
        self.known_s = admitted.now_s  # until then no more than `sent` was sent, as far as was told
        self.guessed = 0.0
        self.rate = 0.0
        self.use = Use(admitted.now_s)
        self.landed_s: list[float] = []
        self.late_s = 0.0
        self.equal_rate = 0.0
        self.equal_bytes = 0.0
        self.unit = 0
        self.position = 0.0
        self.set_windows(admitted.windows_s, self.ready_s)
        self.at(admitted.now_s)

    @property
    def done(self) -> bool:
        """All is sent, as was told."""
        return self.sent >= self.total

    def set_windows(self, windows_s: Sequence[float], ready_s: float | None) -> None:
        """Units that no window is said of follow each other at once."""
        if ready_s is not None:
            self.ready_s = ready_s
        count = len(self.ends)
        said = [min(window, LONGEST_WINDOW_S) if window > 0 else 0.0 for window in windows_s[:count]]
        said += [0.0] * (count - len(said))
        self.dues_s: list[float] = list(accumulate(said[:-1], initial=self.ready_s))[: max(1, count)]
        self.late_s = 0.0
        for landed_s, due_s in zip(self.landed_s, self.dues_s, strict=False):
            self.late_s = max(self.late_s, landed_s - due_s)
        # By how much what is due is ever ahead of a straight line from the first unit to the last.
        span_s = self.dues_s[-1] - self.dues_s[0]
        self.ahead_bytes = 0.0
        if count > 2 and span_s > 0:
            slope = (self.total - self.ends[0]) / span_s
            ahead = max(
                end - slope * (due_s - self.dues_s[0]) for end, due_s in zip(self.ends, self.dues_s, strict=True)
            )
            if ahead - self.ends[0] > 1e-6 * self.total:
                self.ahead_bytes = ahead - self.ends[0]

    def told_sent(self, total_bytes: int, now_s: float) -> None:
        """Units whose end was passed are taken to land when it was; a client that reports later ones corrects that."""
        total = max(self.sent, min(total_bytes, self.total))
        self.use.told(total - self.sent)
        landed = len(self.landed_s)
        while landed < len(self.ends) and self.ends[landed] <= total:
            part = (self.ends[landed] - self.sent) / (total - self.sent) if total > self.sent else 1.0
            self._lands(landed, self.known_s + part * max(0.0, now_s - self.known_s))
            landed += 1
        self.sent = total
        self.known_s = max(self.known_s, now_s)
        self.guessed = 0.0

    def told_landed(self, units: int, now_s: float) -> None:
        """The last of them has landed just now; of those before, what was known stays."""
        units = min(units, len(self.ends))
        for unit in range(len(self.landed_s), units):
            self._lands(unit, now_s)
        if units:
            self._lands(units - 1, max(now_s, self.landed_s[units - 1]))

    def _lands(self, unit: int, landed_s: float) -> None:
        self.landed_s[unit : unit + 1] = [landed_s]
        late_s = landed_s - self.dues_s[unit]
        if late_s > self.late_s:
            self.late_s = late_s

    def at(self, now_s: float) -> None:
        """Bring up to `now_s` what the policies read."""
        position: float = self.sent
        if now_s > self.known_s:
            self.guessed = min(self.guessed + self.rate * (now_s - self.known_s), self.rate * LONGEST_GUESS_S)
            self.known_s = now_s
            position = max(position, min(position + self.guessed, self.total - LAST_FRAME_BYTES))
        self.position = position
        ends = self.ends
        if self.done:
            self.left_bytes = self.head_bytes = self.span_s = 0.0
            self.due_s = self.dues_s[-1]
            return
        unit = self.unit
        if ends[unit] <= position:
            self.unit = unit = bisect_right(ends, position, unit)
        elif unit and ends[unit - 1] > position:
            self.unit = unit = bisect_right(ends, position)
        self.left_bytes = self.total - position
        self.due_s = self.dues_s[unit]
        self.span_s = self.dues_s[-1] - self.due_s
        self.head_bytes = ends[unit] - position
        if self.ahead_bytes:
            self.head_bytes = min(self.left_bytes, self.head_bytes + self.ahead_bytes)
