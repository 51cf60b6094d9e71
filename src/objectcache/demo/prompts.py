"""The document, the questions, and a tokenizer without a vocabulary to download."""

from __future__ import annotations

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


def document(limit_bytes: int = 0) -> str:
    """The text that comes with the package, or its first `limit_bytes` bytes."""
    text = resources.files("objectcache.demo").joinpath("document.txt").read_text()
    return text[:limit_bytes] if limit_bytes else text


def prompt(question: str, limit_bytes: int = 0) -> list[int]:
    """Tokens of the document followed by question "A" or "B"."""
    return tokens(document(limit_bytes) + "\n\n" + QUESTIONS[question])


def shared_tokens(limit_bytes: int = 0) -> int:
    """How many tokens the two prompts have in common at their start."""
    pairs = zip(prompt("A", limit_bytes), prompt("B", limit_bytes), strict=False)
    return next(index for index, (a, b) in enumerate(pairs) if a != b)
