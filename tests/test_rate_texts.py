"""Rates as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from objectcache.config import GatewayConfig, load_config, parse_rate
from objectcache.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("100Gbps", 12.5e9),
        ("100 Gbit", 12.5e9),
        ("1.5Gbit/s", 187.5e6),
        ("800Mbps", 1e8),
        ("12.5GB/s", 12.5e9),
        ("800MiB/s", 800 * 1024**2),
        ("2 GiB/s", 2 * 1024**3),
        (7, 7.0),
        (1.5e9, 1.5e9),
    ],
)
def test_rates(text: str | float, bytes_s: float) -> None:
    assert parse_rate(text) == pytest.approx(bytes_s)


@pytest.mark.parametrize("text", ["", "fast", "-1GB/s", "0", "7", "5k", 0, "1 PB/day", "1GBps/s", "GB/s", "1e9", True])
def test_what_is_no_rate(text: Any) -> None:
    with pytest.raises(ConfigError, match="rate"):
        parse_rate(text)


def settings(**values: Any) -> GatewayConfig:
    return load_config(None, {"data": "somewhere", **values})


def test_a_gateways_settings() -> None:
    config = settings(
        bandwidth="100Gbps", share=0.25, link_bandwidths={"client:10.*": "25Gbps"}, tenant_weights={"k": 2}
    )
    assert (config.bandwidth, config.share) == (12.5e9, 0.25)
    assert (config.link_bandwidths, config.tenant_weights) == ({"client:10.*": 3.125e9}, {"k": 2.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidth": "fast"},
        {"workers_per_session": 0},
        {"workers_per_session": 99},
        {"share": 0},
        {"share": 1.5},
        {"share": 0.5},
        {"tenant_weights": {"k": 0}},
        {"tenant_weights": {"k": float("nan")}},
        {"lend": 0.1},
        {"bandwidth": 1, "lend": 0.6, "share": 0.6},
        {"bandwidth": 1, "bandwidth_from": "gateway:9000"},
        {"bandwidth_from": "http://gateway:9000"},
        {"policy": "luck"},
        {"link_bandwidths": {"gateway": "fast"}},
        {"link_bandwidths": 7},
        {"tenant_weights": {"k": "much"}},
    ],
    ids=str,
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        settings(**wrong)
