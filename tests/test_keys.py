"""Namespaces and chunk keys."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import LayoutError, RequestError
from objectcache.keys import KEY_BYTES, KeyChain, Namespace, chain_keys, keys_from_block_hashes, salt_digest
from objectcache.layout import KVLayout
from tests.segments import random_chain

LAYOUT = KVLayout.attention(num_layers=2, num_kv_heads=2, head_dim=8, dtype_bytes=2, chunk_tokens=4)
NAMESPACE = Namespace(model="sha256:café", layout=LAYOUT, kv_dtype="bfloat16", epoch=3, extra={"block": "16"})

# Golden vector, made with printf and sha256sum alone: keys that are stored somewhere must never change.
GOLDEN_JSON = (
    rb'{"adapter":"","attention":"","epoch":3,"extra":{"block":"16"},"format":"objectcache-namespace-1",'
    rb'"hash_algorithm":"sha256","hash_seed":"","kv_dtype":"bfloat16","kv_scales":"","layout":{"groups":['
    rb'{"chunk_tokens":4,"name":"full","rule":"prefix","shards":[{"layers":[0,1],'
    rb'"slice_bytes":[256,256]}],"window_tokens":0}]},"model":"sha256:caf\u00e9","salt_sha256":""}'
)
GOLDEN_ROOT = "5aede1d5aac7a4a8e71863274713591c7a7368d4310b31222be377e1d77a1f1d"
GOLDEN_TOKENS = [1, 2, 3, 4, 5, 0xFFFFFFFF, 0, 7, 9]
GOLDEN_KEYS = [
    "8ce5db48ac29ff507071378994ef255dd9349554fd21e70233d07871cbe8b9fa",
    "0dc1f78e3263892c6379c1457d270ed0f653530c0e3f1db8e1942996ca98aba5",
]
GOLDEN_BLOCK_KEY = "49833be418ae5d619d28c76d13578dacb3aabefcdf94cf1eb05b3c84e522af6f"
GOLDEN_SALT = "06d022fc49f836d5a4683427390b09cbe0f9f218468e69a1c7d1dd2a051e6764"

texts = st.text(max_size=10)
namespaces = st.builds(
    Namespace,
    model=texts,
    layout=st.just(LAYOUT),
    kv_dtype=texts,
    adapter=texts,
    kv_scales=texts,
    attention=texts,
    hash_algorithm=texts,
    hash_seed=texts,
    salt_sha256=st.builds(salt_digest, texts),
    epoch=st.integers(0, 1 << 70),
    extra=st.dictionaries(texts, texts, max_size=3),
)
tokens = st.lists(st.integers(0, 0xFFFFFFFF), max_size=40)


def test_golden_vector() -> None:
    assert NAMESPACE.to_json() == GOLDEN_JSON
    assert NAMESPACE.digest.hex() == GOLDEN_ROOT
    assert [key.hex() for key in chain_keys(NAMESPACE, GOLDEN_TOKENS)] == GOLDEN_KEYS
    assert keys_from_block_hashes(NAMESPACE, [b"\1" * 32]).data.hex() == GOLDEN_BLOCK_KEY
    assert salt_digest("pepper") == GOLDEN_SALT


# -- namespaces -------------------------------------------------------------------------------------


@given(namespaces)
def test_a_written_namespace_comes_back(namespace: Namespace) -> None:
    again = Namespace.from_json(namespace.to_json())
    assert again == namespace
    assert hash(again) == hash(namespace)
    assert again.digest == namespace.digest
    assert again.differences(namespace) == {}
    assert pickle.loads(pickle.dumps(namespace)).digest == namespace.digest


@given(namespaces, namespaces)
def test_namespaces_that_differ_say_where(mine: Namespace, theirs: Namespace) -> None:
    differences = mine.differences(theirs)
    assert (mine.digest != theirs.digest) is (mine != theirs) is bool(differences)
    for name, (left, right) in differences.items():
        assert left == getattr(mine, name) != getattr(theirs, name) == right
    same = {name: getattr(theirs, name) for name in differences}
    assert replace(mine, **same) == theirs


def test_a_difference_in_layout_is_told_as_written() -> None:
    other = KVLayout.attention(num_layers=2, num_kv_heads=1, head_dim=8, dtype_bytes=2, chunk_tokens=4)
    differences = NAMESPACE.differences(replace(NAMESPACE, layout=other, epoch=4))
    assert differences == {"layout": (LAYOUT.to_dict(), other.to_dict()), "epoch": (3, 4)}


def test_the_order_of_extra_does_not_matter() -> None:
    one, two = ({name: name for name in names} for names in ("ab", "ba"))
    assert replace(NAMESPACE, extra=one).digest == replace(NAMESPACE, extra=two).digest


def test_extra_is_the_namespaces_own() -> None:
    extra = {"block": "16"}
    namespace = replace(NAMESPACE, extra=extra)
    extra["block"] = "32"
    assert namespace.extra == {"block": "16"}
    assert namespace.digest == NAMESPACE.digest


@given(st.text(st.characters(categories=["L"], min_codepoint=0x400), min_size=6, max_size=30))
def test_the_salt_is_never_written_down(salt: str) -> None:
    namespace = replace(NAMESPACE, salt_sha256=salt_digest(salt))
    assert salt not in json.dumps(namespace.to_dict(), ensure_ascii=False)
    assert namespace.digest != NAMESPACE.digest
    assert salt_digest(salt) != salt_digest(salt + "x")
    with pytest.raises(RequestError) as refused:
        replace(NAMESPACE, salt_sha256=salt)
    assert salt not in str(refused.value)


def test_no_salt_is_no_digest() -> None:
    assert salt_digest("") == ""


def altered(**fields: Any) -> bytes:
    return json.dumps({**NAMESPACE.to_dict(), **fields}).encode()


BAD_NAMESPACES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"model": "\xff"}',
    "nested deeply": b"[" * 100_000,
    "a list": b"[]",
    "no format": b"{}",
    "another format": altered(format="objectcache-namespace-2"),
    "a missing field": GOLDEN_JSON.replace(b'"kv_dtype":"bfloat16",', b""),
    "an unknown field": altered(rope="yarn"),
    "a number for a string": altered(model=7),
    "null for a string": altered(adapter=None),
    "a string for a number": altered(epoch="3"),
    "a float for a number": altered(epoch=3.0),
    "true for a number": altered(epoch=True),
    "infinity for a number": altered(epoch=float("inf")),
    "a raw salt": altered(salt_sha256="pepper"),
    "extra of numbers": altered(extra={"block": 16}),
    "extra as a list": altered(extra=[]),
    "no layout": altered(layout=None),
    "an impossible layout": altered(layout={"groups": []}),
}


@pytest.mark.parametrize("data", BAD_NAMESPACES.values(), ids=BAD_NAMESPACES.keys())
def test_what_is_no_namespace_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        Namespace.from_json(data)


# -- chains -----------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(-25, 25), st.integers(-25, 25), st.sampled_from([1, 2, 3, -1, -2]))
def test_a_chain_is_a_sequence_of_its_keys(length: int, start: int, stop: int, step: int) -> None:
    chain = random_chain(length, length)
    keys = [chain.data[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(length)]
    assert list(chain) == keys
    assert len(chain) == length
    assert bool(chain) is bool(length)
    for bounds in (slice(start, stop), slice(start, stop, step), slice(start, None, step), slice(None, stop, step)):
        part = chain[bounds]
        assert isinstance(part, KeyChain)
        assert list(part) == keys[bounds]
        assert part == KeyChain(b"".join(keys[bounds]))
        assert hash(part) == hash(KeyChain(b"".join(keys[bounds])))
    if -length <= start < length:
        assert chain[start] == keys[start]
    else:
        with pytest.raises(IndexError):
            chain[start]


def test_chains_compare_with_chains_only() -> None:
    chain = random_chain(1, 2)
    assert chain != random_chain(2, 2)
    assert chain != list(chain)
    assert pickle.loads(pickle.dumps(chain)) == chain
    assert repr(chain) == f"KeyChain(2 keys, {chain[0].hex()[:12]}…{chain[1].hex()[:12]})"
    assert repr(KeyChain()) == "KeyChain()"


@pytest.mark.parametrize("length", [1, 31, 33])
def test_half_a_key_is_no_chain(length: int) -> None:
    with pytest.raises(RequestError):
        KeyChain(bytes(length))


@given(tokens, tokens, st.integers(1, 8))
def test_keys_are_those_of_the_common_prefix(mine: list[int], theirs: list[int], size: int) -> None:
    common = 0
    while common < min(len(mine), len(theirs)) and mine[common] == theirs[common]:
        common += 1
    left, right = (chain_keys(NAMESPACE, ids, size) for ids in (mine, theirs))
    assert len(left) == len(mine) // size
    assert left[: common // size] == right[: common // size]
    assert not set(left[common // size :]) & set(right[common // size :])
    assert len({NAMESPACE.digest, *left}) == len(left) + 1


@given(tokens)
def test_keys_depend_on_the_tokens_and_not_on_their_container(ids: list[int]) -> None:
    keys = chain_keys(NAMESPACE, ids)
    for dtype in (np.uint32, np.int64, np.uint64, ">u4"):
        assert chain_keys(NAMESPACE, np.array(ids, dtype=dtype)) == keys
    assert chain_keys(NAMESPACE, tuple(ids)) == keys
    assert chain_keys(NAMESPACE, np.repeat(np.array(ids, dtype=np.int64), 2)[::2]) == keys


def test_keys_belong_to_their_namespace() -> None:
    other = replace(NAMESPACE, epoch=4)
    assert not set(chain_keys(NAMESPACE, range(40))) & set(chain_keys(other, range(40)))
    hashes = [bytes([i]) * 32 for i in range(10)]
    assert not set(keys_from_block_hashes(NAMESPACE, hashes)) & set(keys_from_block_hashes(other, hashes))


@pytest.mark.parametrize(
    "bad",
    [
        [-1],
        [1 << 32],
        [1 << 64],
        [(1 << 63) + 1, -1],
        [1.0],
        [True],
        ["1"],
        [None],
        [[1, 2], [3, 4]],
        [[1, 2], [3]],
        7,
        "1234",
        {"a": 1},
        np.array(3),
        np.zeros(4, dtype=np.float32),
        np.array([-1], dtype=np.int8),
        np.array([1 << 32], dtype=np.uint64),
    ],
    ids=repr,
)
def test_bad_tokens_are_refused(bad: Any) -> None:
    with pytest.raises(RequestError, match="token ids must"):
        chain_keys(NAMESPACE, bad)


@pytest.mark.parametrize("size", [0, -1])
def test_chunks_have_tokens(size: int) -> None:
    with pytest.raises(LayoutError):
        chain_keys(NAMESPACE, [1], size)


@given(st.integers(0, 20), st.integers(1, 6))
def test_coarser_keys_name_the_same_prefixes(length: int, stride: int) -> None:
    chain = random_chain(3, length)
    coarse = chain.coarsen(stride)
    assert len(coarse) == length // stride
    for index, key in enumerate(coarse):
        assert key == chain[(index + 1) * stride - 1]


@given(st.lists(st.binary(min_size=16, max_size=40), unique=True, max_size=20))
def test_block_hashes_become_keys_one_by_one(hashes: list[bytes]) -> None:
    keys = keys_from_block_hashes(NAMESPACE, hashes)
    assert len(set(keys)) == len(keys) == len(hashes)
    for index, block_hash in enumerate(hashes):
        assert keys_from_block_hashes(NAMESPACE, [block_hash]) == keys[index : index + 1]


@pytest.mark.parametrize("bad", [b"", b"x" * 15, "x" * 32, 7, None, [1] * 32], ids=repr)
def test_block_hashes_too_short_to_name_kv(bad: Any) -> None:
    with pytest.raises(RequestError, match="at least 16"):
        keys_from_block_hashes(NAMESPACE, [b"y" * 32, bad])
