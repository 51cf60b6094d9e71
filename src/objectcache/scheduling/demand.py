"""How early everything can be in time: lateness targets of flows, given who goes before whom.

Added TTFT of a request is the largest lateness of any of its units, so a request that is allowed to be `x` late is a
chain of jobs with due dates d + x. Targets can be kept on a link of `cap` bytes/s if and only if, for every t, what is
due by t is at most cap · (t - now). `Link` holds what a link has left of that, as straight pieces, and tells for one
more request the least x that fits beside those placed before it.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf

USED_UP_BYTES = 1.0  # that is rounding


class Link:
    """What is left of a link's bytes by each time: cap · (t - now) less what those placed before need by then.

    Pieces begin at `times` with `left` bytes and grow by `slopes` (bytes/s). At a jump, `left` is what is below it.
    """

    __slots__ = ("left", "slopes", "times")

    def __init__(self, now_s: float, cap: float) -> None:
        self.times = [now_s]
        self.left = [0.0]
        self.slopes = [cap]

    def least(self, due_s: float, head: float, total: float, span_s: float, late_s: float) -> float:
        """The least lateness (s), `late_s` or more, that a demand can have: `head` bytes due at `due_s`, and more
        evenly up to `total` after `span_s`."""
        times, left = self.times, self.left
        seeks_total = True
        slope = (total - head) / span_s if span_s > 0 else 0.0
        if slope == 0.0:
            head = total
        for piece in range(len(times) - 1, -1, -1):
            there = left[piece]
            if there < total:
                if seeks_total:
                    seeks_total = False
                    late = self._reached(piece, total) - due_s - span_s
                    if late > late_s:
                        late_s = late
                if there < head:
                    late = self._reached(piece, head) - due_s
                    return late if late > late_s else late_s
                late = times[piece] - due_s - (there - head) / slope
                if late > late_s:
                    late_s = late
        return late_s

    def _reached(self, piece: int, level: float) -> float:
        """When `level` bytes are there, which no later piece falls short of."""
        slope = self.slopes[piece]
        reached_s = self.times[piece] + (level - self.left[piece]) / slope if slope > 0 else inf
        return min(reached_s, self.times[piece + 1]) if piece + 1 < len(self.times) else reached_s

    def place(self, due_s: float, head: float, total: float, span_s: float) -> None:
        """Take off what a demand needs, its lateness included in `due_s`."""
        times, left, slopes = self.times, self.left, self.slopes
        due_s = max(due_s, times[0])
        first = bisect_right(times, due_s)
        there = left[first - 1] + slopes[first - 1] * (due_s - times[first - 1])
        times.insert(first, due_s)
        if span_s <= 0:
            slopes.insert(first, slopes[first - 1])
            left[first:] = [there - total, *[later - total for later in left[first:]]]
        else:
            slope = (total - head) / span_s
            last_s = due_s + span_s
            left.insert(first, there - head)
            slopes.insert(first, slopes[first - 1] - slope)
            piece, count = first + 1, len(times)
            while piece < count and times[piece] < last_s:
                left[piece] -= head + slope * (times[piece] - due_s)
                slopes[piece] -= slope
                piece += 1
            there = left[piece - 1] + slopes[piece - 1] * (last_s - times[piece - 1])
            times.insert(piece, last_s)
            slopes.insert(piece, slopes[piece - 1] + slope)
            left[piece:] = [there, *[later - total for later in left[piece:]]]
        # Up to where nothing is left, nothing more can be due: what was before does not matter any more.
        for piece in range(len(left) - 1, 0, -1):
            if left[piece] <= USED_UP_BYTES:
                del times[:piece], left[:piece], slopes[:piece]
                return
