"""Metadata as S3 keeps it, and back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from objectcache.errors import MetadataError
from objectcache.stores.base import check_metadata
from objectcache.stores.s3.metadata import from_attributes, to_attributes

_HEADERS = st.sampled_from(
    [
        *("content-type", "content-encoding", "content-language", "content-disposition", "cache-control", "expires"),
        *("x-amz-meta-", "x-amz-meta-a", "x-amz-meta-objectcache-", "x-amz-meta-objectcache-expires", "objectcache-a"),
        *("x-amz-meta-x-amz-meta-a", "x-amz-meta-content-type", "a", "storage-class"),
    ]
)
_VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20) | st.sampled_from(
    ["", " a", "a ", "a  b", "=?utf-8?b?w6k=?=", "x =?UTF-8?B??=", "é", "a b"]
)


def _as_http(attributes: dict[str, str]) -> dict[str, str]:
    """What a careless service would make of headers."""
    for name, value in attributes.items():
        assert name.isascii()
        assert value.isascii()
        assert value == " ".join(value.split()) != ""
    lowered = {
        name if name.title() == name and "-" in name else name.lower(): value for name, value in attributes.items()
    }
    assert len(lowered) == len(attributes)
    return lowered


@given(st.dictionaries(_HEADERS, _VALUES, max_size=8))
@example({"content-type": ""})
def test_metadata_survives(metadata: dict[str, str]) -> None:
    assert from_attributes(_as_http(to_attributes(check_metadata(metadata)))) == metadata


def test_what_others_wrote() -> None:
    assert from_attributes(
        {"Content-Type": "a/b", "Storage-Class": "GLACIER", "Key": "v", "bad": "=?utf-8?b?w6?=", "objectcache-": "x"}
    ) == {
        "content-type": "a/b",
        "x-amz-meta-key": "v",
        "x-amz-meta-bad": "=?utf-8?b?w6?=",
        "x-amz-meta-objectcache-": "x",
    }


def test_too_much() -> None:
    to_attributes({"x-amz-meta-a": "x" * 2047})
    to_attributes({"content-type": "x" * 3000})
    for metadata in ({"x-amz-meta-a": "x" * 2048}, {"x-amz-meta-a": "é" * 800}, {"expires": "x" * 2040}):
        with pytest.raises(MetadataError):
            to_attributes(metadata)
