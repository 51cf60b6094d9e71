"""obstore: the `object_store` crate of Rust, whose requests are its own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from objectcache.s3 import Credentials
from tests.gateway.process import BUCKET
from tests.s3_clients.conftest import require
from tests.s3_clients.keys import OWNER, READER, UNKNOWN_KEY, WRONG_SECRET
from tests.s3_clients.tools import REGION


@pytest.fixture
def obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ModuleNotFoundError:
        require("obstore is not installed: pip install obstore")
    return obstore


def store_of(obstore: Any, endpoint: str, keys: Credentials, **options: Any) -> Any:
    return obstore.store.S3Store(
        BUCKET,
        endpoint=endpoint,
        region=REGION,
        access_key_id=keys.access_key,
        secret_access_key=keys.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"checksum_algorithm": "SHA256"}, {"unsigned_payload": True}], ids=str)
def test_objects(obstore: Any, endpoint: str, options: dict[str, Any]) -> None:
    store = store_of(obstore, endpoint, OWNER, **options)
    folder = f"obstore/{len(options)}-{'-'.join(options)}"
    content = random.Random(4).randbytes(12 << 20)
    store.put(f"{folder}/small", content[:1000])
    store.put(f"{folder}/large", content)  # in parts
    assert bytes(store.get(f"{folder}/small").bytes()) == content[:1000]
    assert bytes(store.get(f"{folder}/large").bytes()) == content
    assert bytes(store.get_range(f"{folder}/large", start=5 << 20, end=7 << 20)) == content[5 << 20 : 7 << 20]
    store.copy(f"{folder}/small", f"{folder}/copy")
    found = sorted(item["path"] for batch in store.list(folder) for item in batch)
    assert found == [f"{folder}/{name}" for name in ("copy", "large", "small")]
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        store.put(f"{folder}/small", b"other", mode="create")
    store.delete([f"{folder}/copy", f"{folder}/small"])
    assert [item["path"] for batch in store.list(folder) for item in batch] == [f"{folder}/large"]
    with pytest.raises(FileNotFoundError):
        store.head(f"{folder}/small")


@pytest.mark.parametrize(
    ("keys", "code"),
    [(WRONG_SECRET, "SignatureDoesNotMatch"), (UNKNOWN_KEY, "InvalidAccessKeyId"), (READER, "AccessDenied")],
    ids=["wrong secret", "unknown key", "read only"],
)
def test_refusals(obstore: Any, endpoint: str, keys: Credentials, code: str) -> None:
    with pytest.raises(obstore.exceptions.BaseError, match=code):
        store_of(obstore, endpoint, keys).put("obstore/refused", b"some text")
