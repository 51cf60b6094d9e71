"""`objectcache serve` as somebody starts it for the first time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import objectcache
from objectcache.cli import main
from objectcache.client import ClientOptions
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts

PATIENCE_S = 30.0


@contextmanager
def serving(*options: str, until: str = "Ctrl-C") -> Iterator[list[str]]:
    """What is printed until it is ready."""
    command = [sys.executable, "-m", "objectcache", "serve", "--port", "0", *options]
    # Nobody's keys from outside, and a terminal that is too narrow.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {"COLUMNS": "40"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while until not in "".join(lines[-1:]):
                line = process.stdout.readline()
                assert line, "it ended"
                lines.append(line.strip())
            yield lines
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def url_in(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("objectcache.open")).split('"')[1]


def test_the_first_start_makes_a_key_and_says_where(tmp_path: Path) -> None:
    data = tmp_path / "a directory/of data"
    keys = data / "access-keys.toml"
    with serving("--data", str(data)) as lines:
        said = "\n".join(lines)
        assert "one access key was made" in said
        assert str(keys) in said
        assert "AWS_ACCESS_KEY_ID" in said
        assert keys.stat().st_mode & 0o777 == 0o600
        key = tomllib.loads(keys.read_text())["key"][0]
        assert key["secret"] not in said
        options = ClientOptions(access_key=key["id"], secret_key=key["secret"], buffer_bytes=1 << 20)
        namespace = new_namespace(flat_layout(1, 4096))
        with objectcache.open(url_in(lines), options=options) as cache:
            store_parts(cache, namespace, prompt(namespace, 1))
    written = keys.read_text()
    with serving("--data", str(data), "--ready-json", until="{") as lines:
        assert json.loads(lines[-1])["access_keys"] == str(keys)
    assert keys.read_text() == written
    with serving("--data", str(data)) as lines:
        assert "one access key was made" not in "\n".join(lines)


def test_where_nobody_signs_it_says_so(tmp_path: Path) -> None:
    with serving("--data", str(tmp_path), "--anonymous", "admin", "--bucket", "mine") as lines:
        assert "may do everything" in "\n".join(lines)
        assert url_in(lines).endswith("/mine")
        with objectcache.open(url_in(lines), options=ClientOptions(buffer_bytes=1 << 20)) as cache:
            namespace = new_namespace(flat_layout(1, 4096))
            assert cache.match(namespace, prompt(namespace, 1)).tokens == 0
    assert not (tmp_path / "access-keys.toml").exists()


def test_keys_of_ones_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[key]]\nid = "mine"\nsecret = "0123456789"\n[key.grants]\n"*" = "read"\n')
    options = ("--data", str(tmp_path / "data"), "--access-keys", str(keys), "--anonymous", "read")
    with serving(*options, "--region", "eu-west-3", "--domain", "example.org", "--no-plain-data") as lines:
        said = "\n".join(lines)
        assert str(keys) in said
        assert "not signed have read access" in said
        assert "no data connections" in said


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--anonymous", "everything", "anonymous must be one of"),
        ("--tls-cert", "cert.pem", "tls_cert and tls_key go together"),
        ("--access-keys", "/missing", "cannot read"),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    complaint: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["objectcache", "serve", "--data", str(tmp_path / "d"), option, value])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert complaint in " ".join(capsys.readouterr().err.split())
