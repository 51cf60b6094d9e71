"""docs/vllm.md says what the code does."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from objectcache.connectors.vllm.naming.safety import rows
from objectcache.connectors.vllm.naming.versions import NEWEST, OLDEST, text_of
from objectcache.connectors.vllm.options import AdmissionMode, VllmOptions
from objectcache.connectors.vllm.stats import COUNTERS
from objectcache.connectors.vllm.worker.counters import Outcome
from objectcache.storing.reasons import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "vllm.md").read_text()
BEGIN, END = "<!-- safety table: begin -->\n", "<!-- safety table: end -->\n"


def safety_table() -> str:
    lines = ["| vLLM | where | announced | why |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows())]) + "\n"


def shown(value: Any) -> str:
    return "" if value is MISSING else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("option", fields(VllmOptions), ids=lambda option: option.name)
def test_every_option_is_described_with_its_default(option: Any) -> None:
    row = re.search(rf"^\| `{option.name}` \| (.*?) ?\| (.+) \|$", PAGE, re.MULTILINE)
    assert row is not None
    assert row[1] == shown(option.default)


def test_no_option_is_described_that_is_not_there() -> None:
    table = PAGE[PAGE.index("| option | default |") :].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {option.name for option in fields(VllmOptions)}


def test_what_is_safe_where_is_as_the_code_has_it() -> None:
    assert PAGE.partition(BEGIN)[2].partition(END)[0] == safety_table()


def test_every_counter_reason_and_mode_is_described() -> None:
    names = [f"vllm:objectcache_{name}_total" for name in COUNTERS]
    names += [*Outcome, *Reason, *AdmissionMode]
    code = {quoted.strip('"') for quoted in re.findall(r"`([^`\n]+)`", PAGE)}
    assert [name for name in names if name not in code] == []


def test_the_versions_are_those_that_pass() -> None:
    assert f"vLLM {text_of(OLDEST)} and {text_of(NEWEST)} are tested" in PAGE
