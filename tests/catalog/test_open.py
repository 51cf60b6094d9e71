"""Opening: who may write, what is trusted, what is discarded, and what outlives it all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest

from objectcache.catalog import Catalog, DamagedCatalogError, state
from objectcache.catalog.catalog import FORMAT_VERSION
from objectcache.catalog.environment import SEGMENTS, Environment
from objectcache.catalog.meta import Meta, save_meta
from objectcache.catalog.records import pack_id
from objectcache.errors import CatalogError
from objectcache.names import parse_segment_name
from tests.catalog.world import Log, Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefgh")


def fill(path: Path) -> str:
    """A catalog of one segment, closed; its writer id."""
    with Catalog.open(path) as catalog:
        Log(catalog).commit(Segments(NAMESPACE).entry(CHAIN, 0, 8))
        return catalog.writer_id


def leave(path: Path) -> None:
    """As `fill`, and the process dies."""
    catalog = Catalog.open(path)
    Log(catalog).commit(Segments(NAMESPACE).entry(CHAIN, 0, 8))
    catalog._environment.close()
    seat = catalog._writer
    seat.close(None)
    change_state(path, clean=False, boot_id=state.boot_id())


def change_state(path: Path, **changes: Any) -> None:
    file = path / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def segments_in(path: Path) -> int:
    with Catalog.open(path) as catalog:
        return catalog.stats().segments


def test_a_catalog_is_there_again(tmp_path: Path) -> None:
    writer = fill(tmp_path / "deep" / "catalog")
    with Catalog.open(str(tmp_path / "deep" / "catalog")) as catalog:
        assert catalog.writer_id == writer
        assert catalog.stats().segments == 1
        assert catalog.positions() == {"w": 1}


def test_a_second_writer_hears_who_is_first(tmp_path: Path) -> None:
    with Catalog.open(tmp_path), pytest.raises(CatalogError, match=r"process \d+ on "):
        Catalog.open(tmp_path)
    with Catalog.open(tmp_path):
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CatalogError):
        Catalog.open(tmp_path / "file")
    with pytest.raises(CatalogError):
        Catalog.open(tmp_path / "file" / "catalog")


def test_closing_twice_is_harmless_and_a_closed_catalog_says_so(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path)
    catalog.close()
    catalog.close()
    with pytest.raises(CatalogError):
        catalog.stats()
    with pytest.raises(CatalogError):
        catalog.flush()


# -- what is trusted --------------------------------------------------------------------------------


def test_the_death_of_a_process_loses_nothing(tmp_path: Path) -> None:
    leave(tmp_path)
    assert segments_in(tmp_path) == 1


def test_a_power_loss_discards(tmp_path: Path) -> None:
    leave(tmp_path)
    change_state(tmp_path, boot_id="another boot")
    assert segments_in(tmp_path) == 0


def test_without_boot_ids_only_a_clean_close_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_BOOT_ID", tmp_path / "none")
    fill(tmp_path / "closed")
    assert segments_in(tmp_path / "closed") == 1
    leave(tmp_path / "died")
    assert segments_in(tmp_path / "died") == 0


def test_a_clean_close_outlives_a_boot(tmp_path: Path) -> None:
    fill(tmp_path)
    change_state(tmp_path, boot_id="another boot")
    assert segments_in(tmp_path) == 1


def test_being_open_is_written_down_before_anything_else(tmp_path: Path) -> None:
    fill(tmp_path)
    catalog = Catalog.open(tmp_path)
    written = json.loads((tmp_path / "state.json").read_text())
    assert (written["clean"], written["boot_id"]) == (False, state.boot_id())
    catalog.close()
    assert json.loads((tmp_path / "state.json").read_text())["clean"] is True


@pytest.mark.parametrize("length", [0, 100, 4096, 8192, 20_000])
def test_a_database_that_was_cut_is_discarded(tmp_path: Path, length: int) -> None:
    fill(tmp_path)
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.truncate(length)
    assert segments_in(tmp_path) == 0
    assert fill(tmp_path)
    assert segments_in(tmp_path) == 1


def test_a_database_that_is_none_is_discarded(tmp_path: Path) -> None:
    fill(tmp_path)
    size = (tmp_path / "data.mdb").stat().st_size
    (tmp_path / "data.mdb").write_bytes(b"something else" * size)
    assert segments_in(tmp_path) == 0


def write_meta(path: Path, meta: Meta) -> None:
    def prepare(transaction: lmdb.Transaction[bytes], db: Any) -> None:
        save_meta(transaction, db, meta)

    Environment(path, prepare, readonly=False, map_bytes=1 << 20).close()


def test_another_format_is_discarded(tmp_path: Path) -> None:
    fill(tmp_path)
    write_meta(tmp_path, Meta(format=1))
    with pytest.raises(DamagedCatalogError):
        Catalog.open(tmp_path, readonly=True)
    assert segments_in(tmp_path) == 0


def test_a_part_of_a_snapshot_is_discarded(tmp_path: Path) -> None:
    fill(tmp_path)
    write_meta(tmp_path, Meta(format=FORMAT_VERSION, next_id=2, segments=1, complete=False))
    assert segments_in(tmp_path) == 0


def test_damage_that_is_found_later_is_built_anew(tmp_path: Path) -> None:
    fill(tmp_path)
    catalog = Catalog.open(tmp_path)
    environment = catalog._environment
    environment.write(lambda transaction: transaction.put(pack_id(1), b"\xc1", db=environment.db(SEGMENTS)))
    with pytest.raises(DamagedCatalogError):
        catalog.match_part(CHAIN, 0, 0)
    assert catalog.damaged
    catalog.close()
    assert segments_in(tmp_path) == 0
    with Catalog.open(tmp_path) as again:
        assert not again.damaged


def test_a_damaged_catalog_can_begin_anew_where_it_is(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        catalog._environment.damaged = True
        catalog.reset()
        assert not catalog.damaged
        assert catalog.stats().segments == 0
        Log(catalog).commit(Segments(NAMESPACE).entry(CHAIN, 0, 8))
    assert segments_in(tmp_path) == 1


# -- names ------------------------------------------------------------------------------------------


def test_sequences_are_given_out_once(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        given = [catalog.next_segment_sequence() for _ in range(3000)]
        assert given == list(range(1, 3001))
    with Catalog.open(tmp_path) as catalog:
        assert parse_segment_name(catalog.next_segment_name()) == (catalog.writer_id, 3001)
    leave(tmp_path)
    with Catalog.open(tmp_path) as catalog:
        assert catalog.next_segment_sequence() > 3001


def test_sequences_outlive_the_database(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        writer = catalog.writer_id
        last = catalog.next_segment_sequence()
    (tmp_path / "data.mdb").unlink()
    with Catalog.open(tmp_path) as catalog:
        assert catalog.writer_id == writer
        assert catalog.next_segment_sequence() > last


def test_a_sequence_is_reserved_on_disk_before_it_is_used(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        for _ in range(5):
            sequence = catalog.next_segment_sequence()
            assert json.loads((tmp_path / "state.json").read_text())["reserved"] >= sequence


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"writer_id": "w"}', b"\xff"])
def test_without_its_state_a_catalog_has_another_writer(tmp_path: Path, content: bytes) -> None:
    writer = fill(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    with Catalog.open(tmp_path) as catalog:
        assert catalog.writer_id != writer
        assert catalog.stats().segments == 0


@pytest.mark.parametrize(
    "changes", [{"writer_id": "A/b"}, {"reserved": "1"}, {"reserved": -1}, {"format": 2}, {"more": 1}]
)
def test_a_state_that_cannot_be_is_not_believed(tmp_path: Path, changes: dict[str, Any]) -> None:
    writer = fill(tmp_path)
    change_state(tmp_path, **changes)
    with Catalog.open(tmp_path) as catalog:
        assert catalog.writer_id not in (writer, "A/b")


def test_a_copy_has_another_writer(tmp_path: Path) -> None:
    writer = fill(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with Catalog.open(tmp_path / "one") as one, Catalog.open(tmp_path / "two") as two:
        assert one.writer_id == writer
        assert two.writer_id != writer


# -- read-only --------------------------------------------------------------------------------------


def test_readers_need_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        Catalog.open(tmp_path, readonly=True)
    with pytest.raises(CatalogError):
        Catalog.open(tmp_path / "none", readonly=True)
    assert not (tmp_path / "none").exists()


def test_readers_do_not_write(tmp_path: Path) -> None:
    fill(tmp_path)
    with Catalog.open(tmp_path, readonly=True) as catalog:
        assert len(catalog.match_part(CHAIN, 0, 0)) == 1
        for attempt in (
            catalog.flush,
            catalog.reset,
            catalog.next_segment_sequence,
            catalog.eviction_order,
            lambda: catalog.drop("x"),
            lambda: catalog.touch([1], 1.0),
            lambda: catalog.apply([]),
            lambda: catalog.writer_id,
        ):
            with pytest.raises(CatalogError):
                attempt()
    assert segments_in(tmp_path) == 1
