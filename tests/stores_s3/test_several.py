"""Several processes' caches straight over one bucket, with no other state in common."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import objectcache
from objectcache.stores import open_store
from tests.services import S3Service
from tests.several import SECONDS, Several


def test_several_caches_on_one_bucket(service: S3Service, tmp_path: Path) -> None:
    url = f"s3://{service.make_bucket()}/several?endpoint={service.endpoint}"
    with open_store(url) as behind:
        several = Several(
            {
                # Two processes of one machine share a folder, the third is elsewhere.
                name: partial(objectcache.open, url, state_dir=tmp_path / machine)
                for name, machine in (("a1", "a"), ("a2", "a"), ("b", "b"))
            },
            behind,
            seed=1,
        )
        try:
            several.run(SECONDS)
        finally:
            several.close()
    assert several.counts["store"]
    assert several.counts["read"]
