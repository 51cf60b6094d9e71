"""Any store against a dict: random calls, as a Hypothesis state machine."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from objectcache.errors import ObjectExistsError, ObjectNotFoundError
from objectcache.stores.base import ObjectReader, ObjectUpload, Store

_COMPONENTS = ["a", "b", "a-", "a.", "A", "%", "é", " ", "x" * 79, "x" * 80, "x" * 81, "é" * 40]
# Few, so that names meet each other: as equals, prefixes, directories of one another.
_NAMES = st.lists(st.sampled_from(_COMPONENTS), min_size=1, max_size=3).map("/".join)
_ANYWHERE = st.one_of(_NAMES, _NAMES.map(lambda name: name + "/"), _NAMES.map(lambda name: name[:-1]))
_DATA = st.binary(max_size=40)


class _Upload:
    def __init__(self, name: str, size_bytes: int, if_absent: bool, upload: ObjectUpload) -> None:
        self.name, self.size_bytes, self.if_absent, self.upload = name, size_bytes, if_absent, upload
        self.written = b""


class StoreModel(RuleBasedStateMachine):
    """One store and the dict it should be."""

    uploads: Bundle[_Upload] = Bundle("uploads")
    readers: Bundle[tuple[ObjectReader, bytes]] = Bundle("readers")

    def __init__(self, store: Store, *, counts_bytes: bool, keeps_open_readers: bool, like_a_tree: bool) -> None:
        super().__init__()
        self._store = store
        self._like_a_tree = like_a_tree
        self._directories: set[str] = set()
        self._counts_bytes, self._keeps_open_readers = counts_bytes, keeps_open_readers
        self._model: dict[str, bytes] = {}
        self._running: set[_Upload] = set()
        self._open: list[ObjectReader] = []
        self._base_bytes = store.usage().used_bytes

    def teardown(self) -> None:
        for running in self._running:
            running.upload.abort()
        for reader in self._open:
            reader.close()
        self._store.close()

    def _is_taken(self, name: str) -> bool:
        return name in self._model or (self._like_a_tree and name in self._directories)

    def _stored(self, name: str, data: bytes) -> None:
        self._model[name] = data
        self._directories |= {name[:at] for at, character in enumerate(name) if character == "/"}

    @rule(name=_NAMES, data=_DATA, if_absent=st.booleans())
    def put(self, name: str, data: bytes, if_absent: bool) -> None:
        try:
            self._store.put(name, data, if_absent=if_absent)
            assert not (if_absent and name in self._model)
            self._stored(name, data)
        except ObjectExistsError:
            assert if_absent
            assert self._is_taken(name)

    @rule(target=uploads, name=_NAMES, size_bytes=st.integers(0, 40), if_absent=st.booleans())
    def begin(self, name: str, size_bytes: int, if_absent: bool) -> _Upload:
        running = _Upload(
            name, size_bytes, if_absent, self._store.upload(name, size_bytes=size_bytes or None, if_absent=if_absent)
        )
        self._running.add(running)
        return running

    @rule(running=uploads, data=_DATA)
    def write(self, running: _Upload, data: bytes) -> None:
        running.upload.write(data)
        running.written += data

    @rule(running=consumes(uploads))
    def publish(self, running: _Upload) -> None:
        self._running.remove(running)
        try:
            assert running.upload.publish().size_bytes == len(running.written)
            assert not (running.if_absent and running.name in self._model)
            self._stored(running.name, running.written)
        except ObjectExistsError:
            assert running.if_absent
            assert self._is_taken(running.name)

    @rule(running=consumes(uploads))
    def abort(self, running: _Upload) -> None:
        self._running.remove(running)
        running.upload.abort()

    @rule(name=_NAMES)
    def delete(self, name: str) -> None:
        self._store.delete(name)
        self._model.pop(name, None)

    @rule(data=st.data())
    def delete_one_of_them(self, data: st.DataObject) -> None:
        if self._model:
            self.delete(data.draw(st.sampled_from(sorted(self._model))))

    @rule(name=_NAMES)
    def get(self, name: str) -> None:
        expected = self._model.get(name)
        try:
            assert self._store.get(name) == expected
            assert self._store.head(name).size_bytes == len(expected or b"")
        except ObjectNotFoundError:
            assert expected is None

    @rule(target=readers, data=st.data(), name=_NAMES)
    def open(self, data: st.DataObject, name: str) -> tuple[ObjectReader, bytes]:
        name = data.draw(st.sampled_from(sorted(self._model))) if self._model else name
        if name not in self._model:
            self._store.put(name, b"for a reader")
            self._stored(name, b"for a reader")
        reader = self._store.open(name)
        self._open.append(reader)
        return reader, self._model[name]

    @rule(opened=readers, offset=st.integers(0, 40), length=st.integers(0, 40))
    def read(self, opened: tuple[ObjectReader, bytes], offset: int, length: int) -> None:
        reader, expected = opened
        if self._keeps_open_readers and offset + length <= len(expected):
            assert reader.read(offset, length) == expected[offset : offset + length]

    @rule(prefix=st.one_of(st.just(""), _ANYWHERE), start_after=st.one_of(st.just(""), _ANYWHERE))
    def list(self, prefix: str, start_after: str) -> None:
        if self._like_a_tree:
            start_after = ""
        listed = [(info.name, info.size_bytes) for info in self._store.list(prefix, start_after=start_after)]
        if self._like_a_tree:
            listed.sort(key=lambda found: found[0].encode())
        assert listed == [
            (name, len(self._model[name]))
            for name in sorted(self._model, key=str.encode)
            if name.startswith(prefix) and name.encode() > start_after.encode()
        ]

    @rule(prefix=st.one_of(st.just(""), _NAMES.map(lambda name: name + "/")))
    def list_prefixes(self, prefix: str) -> None:
        below = {name[len(prefix) :] for name in self._model if name.startswith(prefix)}
        expected = {prefix + name.split("/", 1)[0] + "/" for name in below if "/" in name}
        listed = [*self._store.list_prefixes(prefix)]
        if self._like_a_tree:
            listed = [found for found in listed if found in expected or found[:-1] not in self._directories]
        assert listed == sorted(expected, key=str.encode)

    @invariant()
    def usage_is_right(self) -> None:
        if self._counts_bytes:
            held_bytes = sum(map(len, self._model.values()))
            running_bytes = sum(max(running.size_bytes, len(running.written)) for running in self._running)
            assert self._store.usage().used_bytes == self._base_bytes + held_bytes + running_bytes


def check_against_model(
    make_store: Callable[[], Store],
    *,
    counts_bytes: bool = True,
    keeps_open_readers: bool = True,
    like_a_tree: bool = False,
    examples: int = 40,
) -> None:
    """Run `examples` random sequences of calls, each on a store of its own, which is empty. Raises AssertionError."""

    class Machine(StoreModel):
        def __init__(self) -> None:
            super().__init__(
                make_store(),
                counts_bytes=counts_bytes,
                keeps_open_readers=keeps_open_readers,
                like_a_tree=like_a_tree,
            )

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
