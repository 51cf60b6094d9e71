"""The document, the questions, and a tokenizer without a vocabulary to download."""

from __future__ import annotations

import itertools
from importlib import resources

VOCABULARY = 256 + 3
_SPECIAL_TOKENS = 3
"""Token ids 0 to 2 are padding, begin and end; a byte is its value plus three."""
_BEGIN = 1

QUESTIONS = {
    "A": "Question: why are the layers of a segment stored one after the other? Answer:",
    "B": "Question: what happens to a request when a layer does not arrive in time? Answer:",
}


def tokens(text: str) -> list[int]:
    """Byte-level tokens: one per UTF-8 byte. Longer prompts than a real tokenizer's, and no file to fetch."""
    return [_BEGIN, *(byte + _SPECIAL_TOKENS for byte in text.encode())]


def prompt(question: str) -> list[int]:
    """Tokens of the document that comes with the package, followed by question "A" or "B"."""
    document = resources.files("objectcache.demo").joinpath("document.txt").read_text()
    return tokens(f"{document}\n{QUESTIONS[question]}")


def shared_tokens() -> int:
    """How many tokens the two prompts have in common at their start."""
    pairs = zip(prompt("A"), prompt("B"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
