"""What benchmarks are told of their gateway."""

from __future__ import annotations

import pytest

from objectcache.cli.bench.options import gateway_settings
from objectcache.errors import ConfigError


def test_settings_of_a_gateway() -> None:
    assert gateway_settings(None) == {}
    assert gateway_settings(["workers=4", "store=s3://b/p?endpoint=http://h"]) == {
        "workers": "4",
        "store": "s3://b/p?endpoint=http://h",
    }


@pytest.mark.parametrize("text", ["workers", "=4", "", "a b=1", "a\nb = 2=3"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        gateway_settings([text])
