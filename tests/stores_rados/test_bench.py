"""`bench stores` where a pool of the same cluster is beside its S3 gateway."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from objectcache.bench.result import ratio_row
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores import RADOS_BARS, BenchStore, StoresSettings, run_stores
from objectcache.stores import open_store
from tests.bench.checking import quiet
from tests.services import S3Service, rgw, s3_environment

__all__ = ["rgw"]

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)


@pytest.mark.parametrize("only_rados", [False, True])
def test_rados_is_measured_beside_the_gateway_of_its_cluster(
    rgw: S3Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_rados: bool
) -> None:
    s3_environment(monkeypatch)
    conf = rgw.directory / "ceph.conf"
    subprocess.run(["ceph", "-c", str(conf), "osd", "pool", "create", "beside"], check=True, capture_output=True)
    pool = f"rados://beside/kv?conf={conf}"
    store = replace(BenchStore.parse(f"x=s3://{rgw.make_bucket()}/kv?endpoint={rgw.endpoint}"), rados=pool)
    settings = StoresSettings((store,), context=96, pairs=2, delay_s=0, quick=True, shape=TINY, data=tmp_path)
    settings = replace(settings, only_rados=only_rados)
    result = run_stores(settings, quiet())
    assert ("x: direct, total" in {row["name"] for row in result.rows}) is not only_rados
    assert only_rados <= (result.summary.keys() == {bar.key for bar in RADOS_BARS})
    for key, length, figure in (
        ("rados_vs_rgw_first_layer", "", "first layer"),
        ("rados_vs_rgw_first_layer_short", ", 1 chunk", "first layer"),
        ("rados_vs_rgw_first_layer_short", ", 2 chunks", "first layer"),
        ("rados_vs_rgw_first_layer_short", ", 4 chunks", "first layer"),
        ("rados_vs_rgw_total", "", "total"),
    ):
        by_s3, by_rados = (f"x: gateway uncached{length}{on}, {figure}" for on in ("", " on RADOS"))
        expected = ratio_row("", result.row(by_s3), result.row(by_rados))
        assert result.summary[key][f"x{length}"] == expected["median"]
    assert len(result.summary["rados_vs_rgw_first_layer_short"]) == 3
    assert list(tmp_path.iterdir()) == []
    with open_store(pool) as left:
        assert list(left.list()) == []
