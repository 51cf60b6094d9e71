"""The file of access keys: read, refused, written, followed."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path

import pytest

from objectcache.errors import ConfigError
from objectcache.s3 import AccessKeys, Grant

KEY = """
[[key]]
id = "AK1"
secret = "secret-of-one"
[key.grants]
kvcache = "write"
closed = "read"
"*" = "read"

[[key]]
id = "AK2"
secret = "secret-of-two"
[key.grants]
only = "admin"
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_secrets_and_grants(tmp_path: Path) -> None:
    keys = AccessKeys.load(written(tmp_path / "keys.toml", KEY))
    assert keys.ids == ("AK1", "AK2")
    assert (keys.secret("AK1"), keys.secret("AK2"), keys.secret("AK3")) == ("secret-of-one", "secret-of-two", None)
    assert keys.grant("AK1", "kvcache") is Grant.WRITE
    assert keys.grant("AK1", "any") is Grant.READ
    assert keys.grant("AK2", "only") is Grant.ADMIN
    assert keys.grant("AK2", "any") is None
    assert keys.grant("AK3", "kvcache") is None
    assert Grant.ADMIN > Grant.WRITE > Grant.READ


def test_a_buckets_own_line_counts_even_where_all_others_give_more(tmp_path: Path) -> None:
    text = '[[key]]\nid = "AK1"\nsecret = "12345678"\n[key.grants]\n"*" = "admin"\nclosed = "read"\n'
    keys = AccessKeys.load(written(tmp_path / "keys.toml", text))
    assert (keys.grant("AK1", "closed"), keys.grant("AK1", "any")) == (Grant.READ, Grant.ADMIN)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (KEY, "", "[[key]]"),
        (KEY, 'key = "AK1"', "[[key]]"),
        (KEY, "key = [1]", "number 1"),
        (KEY, "[[key]", "not TOML"),
        (KEY, "name = 1" + KEY, "[[key]]"),
        ('id = "AK2"', 'id = "AK1"', "AK1 is given to two keys"),
        ('id = "AK2"', 'id = "A/K"', "number 2"),
        ('id = "AK2"', "id = 2", "number 2"),
        ('id = "AK2"', "", "id, secret and grants"),
        ('id = "AK2"', 'id = "AK2"\nname = "x"', "nothing else"),
        ('"secret-of-two"', '"short"', "8 to 256"),
        ('"secret-of-two"', '"with space"', "8 to 256"),
        ('[key.grants]\nonly = "admin"', 'grants = "admin"', "[key.grants]"),
        ('only = "admin"', 'only = "all"', "read, write, admin"),
        ('only = "admin"', "only = 3", "read, write, admin"),
        ('only = "admin"', '"kv*" = "admin"', "'kv*'"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in KEY
    path = written(tmp_path / "keys.toml", KEY.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        AccessKeys.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret-of" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        AccessKeys.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError):
        AccessKeys.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        AccessKeys.load(tmp_path / "binary.toml")


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "keys.toml", KEY)
    AccessKeys.load(path)
    path.chmod(0o640)
    AccessKeys.load(path)
    assert not caplog.records
    path.chmod(0o644)
    AccessKeys.load(path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_new_file_has_one_key_for_everything(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    keys = AccessKeys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (id,) = keys.ids
    assert re.fullmatch("OC[A-Z0-9]{18}", id)
    secret = keys.secret(id)
    assert secret is not None
    assert re.fullmatch("[A-Za-z0-9_-]{40}", secret)
    assert keys.grant(id, "any") is Grant.ADMIN
    assert AccessKeys.load(path).secret(id) == secret
    with pytest.raises(ConfigError):
        AccessKeys.create(path)
    with pytest.raises(ConfigError):
        AccessKeys.create(tmp_path / "missing" / "keys.toml")
    assert AccessKeys.create(tmp_path / "other.toml").ids != keys.ids


def test_changes_are_followed_and_wrong_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = written(tmp_path / "keys.toml", KEY), Clock()
    keys = AccessKeys(path, clock)
    written(path, KEY.replace("secret-of-one", "another-secret").replace('"write"', '"admin"'))
    assert keys.secret("AK1") == "secret-of-one"  # not looked at yet
    clock.now_s = 1.0
    assert keys.grant("AK1", "kvcache") is Grant.ADMIN
    assert keys.secret("AK1") == "another-secret"

    written(path, KEY + "[")
    for _ in range(3):
        clock.now_s += 1.0
        assert keys.secret("AK1") == "another-secret"
    path.unlink()
    for _ in range(3):
        clock.now_s += 1.0
        assert keys.secret("AK1") == "another-secret"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2  # once each

    written(path, KEY)
    clock.now_s += 1.0
    assert keys.secret("AK1") == "secret-of-one"
    assert "secret" not in repr(keys)


def test_a_file_that_is_replaced_is_another_one(tmp_path: Path) -> None:
    """As editors and Kubernetes do it: same size, and here the same time."""
    path, clock = written(tmp_path / "keys.toml", KEY), Clock()
    keys = AccessKeys(path, clock)
    new = written(tmp_path / "new.toml", KEY.replace("secret-of-one", "secret-of-six"))
    times = path.stat()
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(path)
    clock.now_s = 1.0
    assert keys.secret("AK1") == "secret-of-six"
