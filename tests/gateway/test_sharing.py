"""A link that two gateways share: what one needs it gets from the other, and each can be without the other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.gateway.arrivals import Arrivals, make, set_caps, store_prefix
from tests.gateway.process import GatewayProcess, eventually

CAP, SHARE, LEND = 1e8, 0.05, 0.1
FLOOR = CAP * SHARE
MIB = 1 << 20


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """The lender, and the borrower."""
    lender = make(tmp_path_factory.mktemp("lender"), bandwidth="0.1GB/s", share=SHARE, lend=LEND)
    settings = {"bandwidth": "0.1GB/s", "share": SHARE, "bandwidth_from": f"http://127.0.0.1:{lender.port}"}
    borrower = make(tmp_path_factory.mktemp("borrower"), **settings)
    yield lender, borrower
    borrower.kill()
    lender.kill()


def cap_of(gateway: GatewayProcess) -> float:
    found: float = json.loads(gateway.ask("GET", "/?kv-bandwidth").body)["caps"]["gateway"]
    return found


def test_shares_follow_demand_and_floors_outlive_the_lender(two: tuple[GatewayProcess, GatewayProcess]) -> None:
    lender, borrower = two
    match = store_prefix(borrower, 64 * MIB)
    eventually(lambda: cap_of(borrower) > 4 * FLOOR, "the borrower has a share")
    with borrower.open(target="tcp", buffer_bytes=80 * MIB) as cache:
        arrivals = Arrivals(cache, match)
        began_s = time.monotonic()
        eventually(lambda: cap_of(borrower) > 0.75 * CAP, "the borrower has what nobody else wants")
        assert cap_of(lender) + cap_of(borrower) <= CAP * 1.001
        arrivals.close()
        assert arrivals.at(time.monotonic()) / (time.monotonic() - began_s) < CAP
    assert lender.ask("POST", "/?kv-bandwidth", b'{"caps": {"gateway": 1}}').error["Code"] == "InvalidRequest"
    assert borrower.ask("POST", "/?kv-bandwidth", b'{"caps": {"gateway": "1GB/s"}}').status == 400
    assert borrower.ask("POST", "/?kv-share", b"{}").status == 501
    for wrong in (b"", b"[]", b'{"name": "x"}', b'{"name": "", "floor_bytes_s": 0}'):
        assert lender.ask("POST", "/?kv-share", wrong).status == 400
    set_caps(lender, gateway=CAP / 2)
    eventually(lambda: cap_of(lender) + cap_of(borrower) <= CAP / 2 * 1.001, "less is there for both")
    lender.kill()
    eventually(lambda: cap_of(borrower) == FLOOR, "the borrower has what is always its own")
