"""Ask a vLLM server about a long document, and say how long the first token took and what of the prompt was loaded.

    python ask.py http://127.0.0.1:8000 "What is this about?"
    python ask.py http://127.0.0.1:8000 --wait                  # until the server is ready

Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

MODEL = "example"
PATIENCE_S = 600.0
STORING_S = 30.0
WORTH_STORING = 512  # tokens
OWN = "vllm:prefix_cache_hits_total"
EXTERNAL = "vllm:external_prefix_cache_hits_total"
STORED = "vllm:objectcache_stored_bytes_total"
PROMPT = "vllm:prompt_tokens_total"


def document(tokens: int) -> str:
    """Text of so many characters, which are tokens to the model of make_model.py; always the same."""
    lines = [f"Section {number}: the answer to {number * number % 997} is {number}.\n" for number in range(tokens)]
    return "".join(lines)[:tokens]


def metrics(server: str) -> dict[str, float]:
    """Counters by name, over all labels."""
    with urllib.request.urlopen(f"{server}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            name = sample.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


@dataclass(frozen=True)
class Answer:
    text: str
    first_token_s: float


def ask(server: str, prompt: str, tokens: int = 16) -> Answer:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    begin_s, first_s, text = time.perf_counter(), 0.0, ""
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        for line in response:
            event = line.decode().removeprefix("data: ").strip()
            if event and event != "[DONE]":
                first_s = first_s or time.perf_counter() - begin_s
                text += json.loads(event)["choices"][0]["text"]
    return Answer(text, first_s)


def wait_until_ready(server: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(f"{server}/health", timeout=5).close()
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until_s:
                sys.exit(f"{server} is not ready after {PATIENCE_S:g} s: {error}")
            time.sleep(0.5)
        else:
            ask(server, "Warm up.")  # the first answer of a server takes longer
            print(f"{server} is ready")
            return


def wait_until_stored(server: str, before: dict[str, float]) -> int:
    """Bytes that became visible in the store since; storing goes on behind the answer, in pieces."""
    until_s, stored = time.monotonic() + STORING_S, 0.0
    while time.monotonic() < until_s:
        time.sleep(1)
        grown = metrics(server).get(STORED, 0.0) - before.get(STORED, 0.0)
        if grown and grown == stored:
            break
        stored = grown
    return int(stored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="http://host:port")
    parser.add_argument("question", nargs="?", default="What is this about?")
    parser.add_argument("--document-tokens", type=int, default=2048)
    parser.add_argument("--wait", action="store_true", help="only wait until the server is ready")
    options = parser.parse_args()
    if options.wait:
        wait_until_ready(options.server)
        return
    prompt = document(options.document_tokens) + options.question
    before = metrics(options.server)
    answer = ask(options.server, prompt)
    after = metrics(options.server)
    grown = {name: int(after.get(name, 0) - before.get(name, 0)) for name in (PROMPT, OWN, EXTERNAL)}
    print(f"first token after {answer.first_token_s:.3f} s")
    print(f"prompt: {grown[PROMPT]} tokens, {grown[OWN]} from vLLM's own cache, {grown[EXTERNAL]} from the store")
    print(f"answer: {answer.text!r}")
    if grown[PROMPT] - grown[OWN] - grown[EXTERNAL] > WORTH_STORING:
        print(f"stored: {wait_until_stored(options.server, before) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
