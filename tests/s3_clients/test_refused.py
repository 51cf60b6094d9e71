"""Who may not: every client is told so with S3's own code."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache.s3 import Credentials
from tests.s3_clients.conftest import NewTool
from tests.s3_clients.keys import OWNER, READER, UNKNOWN_KEY, WRONG_SECRET
from tests.s3_clients.tools import ToolError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("some text")
    return path


@pytest.mark.parametrize(
    ("keys", "code"),
    [(WRONG_SECRET, "SignatureDoesNotMatch"), (UNKNOWN_KEY, "InvalidAccessKeyId"), (READER, "AccessDenied")],
    ids=["wrong secret", "unknown key", "read only"],
)
def test_writing(new_tool: NewTool, file: Path, keys: Credentials, code: str) -> None:
    with pytest.raises(ToolError) as refused:
        new_tool(keys).put(file, "refused")
    assert code in str(refused.value)
    owner = new_tool(OWNER) if keys is not WRONG_SECRET else None
    assert owner is None or owner.list("refused") == []


def test_a_key_that_may_read_does(new_tool: NewTool, file: Path, tmp_path: Path) -> None:
    owner, reader = new_tool(OWNER), new_tool(READER)
    owner.put(file, f"{owner.name}/readable")
    reader.get(f"{owner.name}/readable", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "some text"
    assert reader.list(f"{owner.name}/readable") == [f"{owner.name}/readable"]
