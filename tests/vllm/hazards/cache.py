"""A fake paged cache: each slot holds a tag of all the tokens up to its own, and of the weights that computed it."""

from __future__ import annotations

from collections.abc import Sequence

BAD = -1
WRONG_TOKEN = 0
Tags = tuple[int, ...]


def tags(tokens: Sequence[int], weights: int) -> list[int]:
    """What the slots of a sequence hold where all is right."""
    found, tag = [], weights
    for token in tokens:
        tag = hash((tag, token))
        found.append(tag)
    return found


def next_token(tokens: Sequence[int]) -> int:
    """What a model says to them; never a prompt's token, nor the wrong one."""
    return 300 + tags(tokens, 7)[-1] % 100


def continued(prompt: Sequence[int], tokens: int) -> list[int]:
    """A prompt and as many tokens after it."""
    found = list(prompt)
    for _ in range(tokens):
        found.append(next_token(found))
    return found


class PagedCache:
    """Of one rank: slots by group and block. What was never written is bad."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._blocks: dict[tuple[int, int], list[int]] = {}

    def block(self, group: int, id: int) -> Tags:
        return tuple(self._slots(group, id))

    def fill(self, group: int, id: int, content: Sequence[int]) -> None:
        self._blocks[group, id] = list(content)

    def spoil(self, group: int, id: int) -> None:
        self.fill(group, id, [BAD] * self.block_tokens)

    def slot(self, group: int, table: Sequence[int], position: int) -> int:
        return self._slots(group, table[position // self.block_tokens])[position % self.block_tokens]

    def write(self, group: int, table: Sequence[int], position: int, tag: int) -> None:
        self._slots(group, table[position // self.block_tokens])[position % self.block_tokens] = tag

    def _slots(self, group: int, id: int) -> list[int]:
        assert id, "the null block"
        return self._blocks.setdefault((group, id), [BAD] * self.block_tokens)
