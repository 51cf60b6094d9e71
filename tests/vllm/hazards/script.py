"""What goes wrong, and when: drawn from a seed, or said by a test."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """Chances, and steps that things take at most, or `exactly`."""

    look_up_steps: int = 2
    transfer_steps: int = 3
    copy_steps: int = 3
    exactly: bool = False
    fails: float = 0.0
    """A transfer, on one rank."""
    fits: float = 0.3
    """A report says that the rest fits the windows."""
    aborts: float = 0.0
    """A request, in each step."""
    resets: float = 0.0
    """vLLM's prefix cache and the connector's, in each step."""
    new_weights: float = 0.0
    """With a reset for which all requests were preempted, in each step where that is possible."""


class Draws:
    """Of one rank or of the engine."""

    def __init__(self, script: Script, seed: str) -> None:
        self.script = script
        self.random = random.Random(seed)

    def chance(self, of: float) -> bool:
        return self.random.random() < of

    def steps(self, most: int) -> int:
        return most if self.script.exactly else self.random.randint(0, most)
