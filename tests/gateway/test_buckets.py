"""Buckets: made, deleted with the KV in them, made again; and names that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from objectcache.descriptor import Target, TargetKind
from objectcache.errors import BucketNotFoundError
from objectcache.messages import SessionAnswer, SessionRequest
from objectcache.stores import FileStore
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, GatewayProcess
from tests.gateway.raw import connected, descriptor_of

LAYOUT = flat_layout(4, 4096)
LARGE = 3 << 20


def test_a_bucket_that_holds_objects_stays(gateway: GatewayProcess) -> None:
    assert gateway.ask("PUT", "/holding").status == 200
    assert gateway.ask("PUT", "/holding/x", b"x").status == 200
    refused = gateway.ask("DELETE", "/holding")
    assert (refused.status, refused.error["Code"]) == (409, "BucketNotEmpty")
    assert gateway.ask("GET", "/holding/x").body == b"x"
    assert gateway.ask("DELETE", "/holding/x").status == 204
    assert gateway.ask("DELETE", "/holding").status == 204
    assert gateway.ask("HEAD", "/holding").status == 404
    assert gateway.ask("DELETE", "/holding").error["Code"] == "NoSuchBucket"


def test_a_bucket_that_is_made_again_holds_nothing(gateway: GatewayProcess) -> None:
    """No KV, no uploads, no objects; and large ones work, which data workers open by themselves."""
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 4)
    for turn in range(3):
        assert gateway.ask("PUT", "/again").status == 200
        with gateway.open(bucket="again", buffer_bytes=1 << 26) as cache:
            assert cache.match(namespace, chain).tokens == 0
            store_parts(cache, namespace, chain)
            found = cache.match(namespace, chain)
            with cache.retrieve(found) as retrieval:
                check_delivery(retrieval, found)
        body = os.urandom(LARGE)
        assert gateway.ask("GET", "/again/large").status == 404
        assert gateway.ask("PUT", "/again/large", body).status == 200
        assert gateway.ask("GET", "/again/large").body == body
        assert b"<Upload>" not in gateway.ask("GET", "/again?uploads").body
        assert gateway.ask("POST", f"/again/large-{turn}?uploads").status == 200
        assert gateway.ask("DELETE", "/again/large").status == 204
        assert gateway.ask("DELETE", "/again").status == 204
    assert gateway.ask("GET", "/again").error["Code"] == "NoSuchBucket"
    left = [path.name for path in gateway.objects.parents[2].iterdir()]
    assert not [name for name in left if name.startswith((".removed", "again"))]


def test_what_goes_on_in_a_bucket_that_is_deleted_ends(own_gateway: StartGateway) -> None:
    """With errors, and without bringing it back."""
    gateway = own_gateway()
    gateway.ask("PUT", "/doomed")
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 2)
    with gateway.open(bucket="doomed", buffer_bytes=1 << 26) as cache:
        store_parts(cache, namespace, chain)
        found = cache.match(namespace, chain)
        session = SessionAnswer.decode(gateway.ask("POST", "/doomed?kv-session", SessionRequest(1).encode()).body)
        connection = gateway.connect()
        connection.putrequest("PUT", "/doomed/half")
        connection.putheader("Content-Length", str(LARGE))
        connection.endheaders()
        connection.send(bytes(LARGE // 2))
        assert gateway.ask("DELETE", "/doomed").status == 204
        with connected(session):
            body = descriptor_of(found, target=Target(TargetKind.TCP, session.session)).encode()
            refused = gateway.ask("POST", "/doomed?kv-retrieve", body)
            assert (refused.status, refused.error["Code"]) == (404, "NoSuchBucket")
        with pytest.raises(BucketNotFoundError):
            cache.retrieve(found)
        with pytest.raises(BucketNotFoundError):
            cache.match(namespace, chain)
        connection.send(bytes(LARGE // 2))
        assert connection.getresponse().status >= 400
        connection.close()
        with pytest.raises(BucketNotFoundError):
            store_parts(cache, namespace, prompt(namespace, 2, seed=1))
    assert gateway.ask("GET", "/doomed").error["Code"] == "NoSuchBucket"
    gateway.restart()
    assert gateway.ask("GET", "/doomed").error["Code"] == "NoSuchBucket"
    assert "Traceback" not in gateway.log


def test_a_removal_that_broke_off_is_finished_at_the_next_start(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    assert gateway.stop() == 0
    left = gateway.data / "store" / ".removed-0123"
    (left / "objects").mkdir(parents=True)
    gateway.start()
    assert not left.exists()
    assert b"removed" not in gateway.ask("GET", "/").body


@pytest.mark.parametrize("name", ["..%2Foutside", "%2e%2e%2Foutside", "x%2F..%2F..%2Foutside", "ABSOLUTE", "%00", "."])
def test_a_bucket_is_no_path(gateway: GatewayProcess, tmp_path: Path, name: str) -> None:
    """A store beside the data directory is not served by any spelling of its path."""
    if name == "ABSOLUTE":
        outside = tmp_path / "outside"
        name = str(outside).replace("/", "%2F")
    else:
        outside = gateway.data / "outside"
    with FileStore(outside / "objects") as store:
        store.put("secret", b"secret")
    before = sorted(outside.iterdir())
    for method, path in (
        ("GET", f"/{name}/secret"),
        ("GET", f"/{name}"),
        ("PUT", f"/{name}/x"),
        ("DELETE", f"/{name}"),
    ):
        answer = gateway.ask(method, path)
        assert (answer.status, answer.error["Code"]) == (404, "NoSuchBucket")
    assert gateway.ask("PUT", f"/{name}").error["Code"] == "InvalidBucketName"
    assert sorted(outside.iterdir()) == before


def test_buckets_as_host_names(own_gateway: StartGateway) -> None:
    gateway = own_gateway(domains=["S3.example.org"])
    host = {"Host": f"{BUCKET}.s3.example.org"}
    assert gateway.ask("PUT", "/metrics", b"not of the gateway", host).status == 200
    assert gateway.ask("GET", "/metrics", headers=host).body == b"not of the gateway"
    assert gateway.ask("GET", f"/{BUCKET}/metrics").body == b"not of the gateway"
    assert b"objectcache_" in gateway.ask("GET", "/metrics").body
    assert b"<Key>metrics</Key>" in gateway.ask("GET", "/?list-type=2", headers=host).body
    assert gateway.ask("GET", "/x", headers={"Host": "..s3.example.org"}).error["Code"] == "NoSuchBucket"
