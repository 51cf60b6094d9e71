"""Settings for all tests."""

import pytest
from hypothesis import settings

# How long an example takes says more about what else runs on the machine than about the code.
settings.register_profile("objectcache", parent=settings(), deadline=None)
settings.load_profile("objectcache")

# Files go to whoever is free, in this order: a long one that comes last would keep one process busy alone.
LONGEST = ("tests/test_demo.py", "tests/client/", "tests/bench/", "tests/gateway/", "tests/cache/", "tests/storing/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))
    )
