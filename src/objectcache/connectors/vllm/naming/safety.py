"""Where a prefix may be announced to vLLM before they are verified: where vLLM recovers rightly from a load that fails.

Elsewhere only what lies verified in staging is announced, so that a failure merely makes the match shorter. The rules
were found by reading vLLM's scheduler and model runners, of 0.28 and of 0.32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from objectcache.connectors.vllm.naming.facts import EngineFacts
from objectcache.connectors.vllm.naming.versions import NEWEST, OLDEST, text_of

BEFORE, AFTER = "before they are verified", "when they are verified"


@dataclass(frozen=True, slots=True)
class Rule:
    """Engines of versions `oldest` to `newest` that `applies` to: `where` in words, and what would go wrong."""

    where: str
    why: str
    applies: Callable[[EngineFacts], bool]
    oldest: tuple[int, int] = OLDEST
    newest: tuple[int, int] = NEWEST


@dataclass(frozen=True, slots=True)
class Safety:
    """`layerwise`: a prefix may be announced as soon as it is known, and its layers waited for one by one. `reason`
    says why, or why not."""

    layerwise: bool
    reason: str


# The first that applies is what is told.
UNSAFE = (
    Rule(
        "several KV cache groups",
        "vLLM names failed loads by block, which it cannot tell apart by group: its engine raises",
        lambda facts: len(facts.groups) > 1,
    ),
    Rule(
        "kv_load_failure_policy fail (vLLM's default)",
        "a load that fails would fail its request: ask for recompute",
        lambda facts: not facts.recompute_failures,
    ),
    Rule(
        "model runner V2",
        "the number of computed tokens is not set back on the device, so that the wrong tokens are computed again "
        "(vLLM#49250)",
        lambda facts: facts.new_runner,
    ),
    Rule(
        "async scheduling",
        "the next step is scheduled before the failure is known, and the tokens it would sample are not taken back "
        "(vLLM#49250)",
        lambda facts: facts.async_scheduling,
    ),
    Rule(
        "pipeline parallelism",
        "the next chunk of a prompt is scheduled before the failure is known, and is computed on what did not come",
        lambda facts: facts.pipeline_parallel > 1,
    ),
    Rule(
        "speculative decoding",
        "drafts that follow a token which was never sampled rightly are scheduled with the recomputation",
        lambda facts: bool(facts.draft_method),
    ),
)
SAFE = Rule(
    "everything else: model runner V1, no async scheduling, one KV cache group",
    "vLLM sets the request back to the first block that failed and computes from there. The connector has vLLM's "
    "prefix cache forget those blocks, and has nobody else use blocks in the step that they are loaded in",
    lambda _: True,
)


def safety(facts: EngineFacts) -> Safety:
    """Of one engine. A version that no rule was found for is taken to recover from nothing."""
    if not OLDEST <= facts.minor_version <= NEWEST:
        return Safety(False, f"nobody has looked at how vLLM {facts.version} recovers from loads that fail")
    for rule in UNSAFE:
        if rule.oldest <= facts.minor_version <= rule.newest and rule.applies(facts):
            return Safety(False, f"{rule.where}: {rule.why}")
    return Safety(True, SAFE.why)


def policy_warning(facts: EngineFacts) -> str:
    """What to say of the failure policy at start-up; empty where it is as it should be."""
    if facts.recompute_failures:
        return ""
    return (
        'kv_load_failure_policy is "fail", so that vLLM would fail a request whose KV does not come: set it to '
        '"recompute" in kv_transfer_config. Until then only prefixes that are verified are loaded'
    )


def rows() -> list[tuple[str, str, str, str]]:
    """The table of what is safe where: (vLLM versions, where, announced, why), the first that applies counts."""
    table = [(_range(rule), rule.where, AFTER, rule.why) for rule in UNSAFE]
    return [*table, (_range(SAFE), SAFE.where, BEFORE, SAFE.why)]


def _range(rule: Rule) -> str:
    return f"{text_of(rule.oldest)} to {text_of(rule.newest)}"
