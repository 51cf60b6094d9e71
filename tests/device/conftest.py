from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from objectcache.device import DeviceLoader

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


def _made(**options: int | bool) -> Callable[[], DeviceLoader]:
    def make() -> DeviceLoader:
        from objectcache.device import DeviceLoader

        return DeviceLoader("cpu", **options)  # type: ignore[arg-type]  # of any of its options

    return make


LOADERS = {
    "direct": _made(),
    "staged": _made(staged=True),
    "staged in pieces": _made(staged=True, staging_bytes=1000, num_staging=2),
    "staged slice by slice": _made(staged=True, staging_bytes=1, num_staging=3),
}


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Iterator[DeviceLoader]:
    before = set(threading.enumerate())
    made = LOADERS[request.param]()
    yield made
    made.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
