"""A cache opened to be explained, whoever else is using it: nothing is written there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from objectcache.cache.directory import CATALOG, OBJECTS
from objectcache.cache.explain.explainer import Explainer
from objectcache.catalog import Catalog, Follower
from objectcache.catalog.environment import DATA_FILE
from objectcache.catalog.state import load_state
from objectcache.errors import CatalogError, ConfigError
from objectcache.logview import LogView
from objectcache.stores import FileStore, Store

log = logging.getLogger(__name__)

CATCH_UP_S = 1.5
"""How long a catalog that its process follows the logs into may be behind them: three times its interval."""
_POLL_S = 0.1


def find_cache(root: Path) -> Path:
    """The directory with `objects` and its catalogs: `root`, or the one bucket in it. Raises ConfigError."""
    if (root / OBJECTS).is_dir():
        return root
    try:
        buckets = sorted(path for path in root.iterdir() if (path / OBJECTS).is_dir())
    except OSError as error:
        raise ConfigError(f"there is no cache at {root}: {error.strerror}") from error
    if not buckets:
        raise ConfigError(
            f"there is no cache at {root}: neither it nor a directory in it has an {OBJECTS!r} directory. "
            "Give what objectcache.open or `objectcache serve --data` was given"
        )
    if len(buckets) > 1:
        raise ConfigError(f"{root} has several buckets; give one of: {', '.join(map(str, buckets))}")
    return buckets[0]


@contextmanager
def open_explainer(root: Path) -> Iterator[Explainer]:
    """A directory's. Raises ConfigError, StoreError, CatalogError."""
    path = find_cache(root)
    with FileStore(path / OBJECTS) as store, explain_store(store, path) as explainer:
        yield explainer


@contextmanager
def explain_store(store: Store, path: Path) -> Iterator[Explainer]:
    """`store`, whose catalogs on this machine are in the folder `path`, if there are any. Raises StoreError,
    CatalogError.
    """
    with ExitStack() as opened:
        used = [opened.enter_context(catalog) for catalog in _readable(path)]
        current = next((catalog for catalog in used if _is_current(store, catalog)), None)
        if current is None:
            current = opened.enter_context(_temporary(store))
        yield Explainer(store, current, used=used, salted_by_prefix=True)


def _readable(path: Path) -> Iterator[Catalog]:
    """The catalogs beside the objects, read-only: their writers may be running."""
    for directory in sorted(path.glob(f"{CATALOG}*")):
        data, state = directory / DATA_FILE, load_state(directory)
        try:
            # What a power failure may have torn is not for reading: its writer discards it when it opens it.
            if state is not None and state.trusts_database(data.stat().st_size):
                yield Catalog.open(directory, readonly=True)
        except (CatalogError, OSError) as error:
            log.info("passing over the catalog at %s: %s", directory, error)


def _is_current(store: Store, catalog: Catalog) -> bool:
    """Whether the catalog has all that the logs have; one that somebody may be writing gets some time for it."""
    state = load_state(catalog.path)
    until_s = time.monotonic() + (0.0 if state is None or state.clean else CATCH_UP_S)
    while _is_behind(store, catalog):
        if time.monotonic() >= until_s:
            return False
        time.sleep(_POLL_S)
    return True


def _is_behind(store: Store, catalog: Catalog) -> bool:
    logs, positions = LogView(store), catalog.positions()
    return any(True for writer in logs.writers() for _ in logs.sequences(writer, positions.get(writer, 0)))


@contextmanager
def _temporary(store: Store) -> Iterator[Catalog]:
    """A catalog made from the logs, for as long as it is needed."""
    with TemporaryDirectory(prefix="objectcache-explain-") as directory, Catalog.open(directory) as catalog:
        Follower(store, catalog).poll()
        yield catalog
