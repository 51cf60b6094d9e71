"""The access keys of these tests' gateways, and who gives a wrong one."""

from __future__ import annotations

from pathlib import Path

from objectcache.s3 import Credentials

OWNER = Credentials("OCOWNER", "owner-secret-of-the-tests")
READER = Credentials("OCREADER", "reader-secret-of-the-tests")
WRONG_SECRET = Credentials(OWNER.access_key, "not-the-secret-of-the-owner")
UNKNOWN_KEY = Credentials("OCNOBODY", "secret-of-nobody-at-all")

_FILE = f"""
[[key]]
id = "{OWNER.access_key}"
secret = "{OWNER.secret_key}"
[key.grants]
"*" = "admin"

[[key]]
id = "{READER.access_key}"
secret = "{READER.secret_key}"
[key.grants]
"*" = "read"
"""


def write_keys(folder: Path) -> Path:
    path = folder / "keys.toml"
    path.write_text(_FILE)
    path.chmod(0o600)
    return path
