"""NIXL itself: the only module that calls it. Its exceptions end here.

Agents have no thread of NIXL's own: the one that it starts from Python polls without a pause, a whole core for each
agent. UCX makes progress while an agent is asked something; its owner asks often enough.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

from objectcache.errors import ConfigError, DeliveryError
from objectcache.transports.shared_memory import MappedPiece

PACKAGES = ("nixl", "nixl_cu13", "nixl_cu12")
"""What it is imported as, by distribution: the first chooses between the others by the CUDA that is there."""
INSTALL = "target 'nixl' needs NIXL: pip install 'objectcache[nixl]'"
EXIT_TIMEOUT_S = 5.0
"""How long the process's end waits for calls that are under way. None takes as long."""


class Region(NamedTuple):
    """Memory that is registered: `memory` is "DRAM", or "VRAM" of `device`."""

    address: int
    size_bytes: int
    memory: str = "DRAM"
    device: int = 0


def is_installed() -> bool:
    """Without importing it."""
    return any(find_spec(name) is not None for name in PACKAGES)


def check_installed() -> None:
    """Raises ConfigError that says what to install."""
    if not is_installed():
        raise ConfigError(INSTALL)


class _Nixl(NamedTuple):
    """What is used of the package."""

    api: Any
    errors: tuple[type[Exception], ...]


_loading = threading.Lock()
_loaded: _Nixl | None = None


class _Calls:
    """Those into NIXL that are under way. A thread that the interpreter ends in one, as it ends daemons' when the
    process does, takes the whole process down: C++ does not let itself be unwound there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._over = False

    def __enter__(self) -> None:
        with self._changed:
            if self._over and threading.current_thread().daemon:
                self._changed.wait_for(lambda: False)  # it ends here, with the process
            self._under_way += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._under_way -= 1
            if self._over:
                self._changed.notify_all()

    def end(self) -> None:
        """Let no daemon begin another; returns when none is in one."""
        with self._changed:
            self._over = True
            self._changed.wait_for(lambda: not self._under_way, EXIT_TIMEOUT_S)


_calls = _Calls()


def _nixl() -> _Nixl:
    """Raises ConfigError."""
    global _loaded
    with _loading:
        if _loaded is None:
            check_installed()
            os.environ.setdefault("NIXL_LOG_LEVEL", "WARN")  # it prints to stderr, and says hello otherwise
            problem: ImportError | None = None
            raises = logging.raiseExceptions  # which NIXL turns off, for the whole process
            for name in PACKAGES:
                if find_spec(name) is None:
                    continue
                try:
                    importlib.import_module(name)
                    api, bindings = (importlib.import_module(f"{name}.{part}") for part in ("_api", "_bindings"))
                except ImportError as error:
                    problem = error
                    continue
                finally:
                    logging.raiseExceptions = raises
                kinds = [kind for kind in vars(bindings).values() if isinstance(kind, type)]
                errors = tuple(kind for kind in kinds if issubclass(kind, Exception))
                _loaded = _Nixl(api, (*errors, RuntimeError, ValueError))
                atexit.register(_calls.end)
                break
            else:
                raise ConfigError(f"NIXL is installed but cannot be imported: {problem}") from problem
        return _loaded


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raises DeliveryError for what NIXL raises."""
    errors = _nixl().errors
    try:
        with _calls:
            yield
    except errors as error:
        raise DeliveryError(f"NIXL: {what}: {type(error).__name__}: {error}") from error


class Agent:
    """One end of NIXL. Thread-safe, but for `close`."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError where NIXL is missing, DeliveryError where it cannot begin."""
        api = _nixl().api
        self.name = name
        strict = api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
        with _translated("an agent"):
            config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"], sync_mode=strict)
            self._agent: Any = api.nixl_agent(name, config)
        if "UCX" not in self._agent.backends:
            raise DeliveryError("NIXL: it has no UCX here")
        self._registered: dict[Region, Any] = {}
        self._peers: set[str] = set()
        self._handles = 0
        self._counting = threading.Lock()

    @property
    def usage(self) -> tuple[int, int, int]:
        """Registrations, peers and handles of WRITEs that there are."""
        return len(self._registered), len(self._peers), self._handles

    @property
    def peers(self) -> frozenset[str]:
        """Names of those that were added."""
        return frozenset(self._peers)

    def register(self, region: Region) -> None:
        """Peers that are told of it from now on may write it. Raises DeliveryError."""
        with _translated(f"registering {region.size_bytes} bytes of {region.memory}"):
            descriptor = (region.address, region.size_bytes, region.device, "")
            self._registered[region] = self._agent.register_memory([descriptor], region.memory)

    def deregister(self, region: Region) -> None:
        """Nothing of it is in flight. What goes wrong is of no interest any more; harmless after `close`."""
        registered = self._registered.pop(region, None)
        if registered is not None:
            with suppress(DeliveryError), _translated("deregistering"):  # the agent's end does it too
                self._agent.deregister_memory(registered)

    def metadata(self) -> bytes:
        """How to reach this agent, and what is registered: a capability to write that. Raises DeliveryError."""
        with _translated("the agent's metadata"):
            data: bytes = self._agent.get_agent_metadata()
            return data

    def add_peer(self, metadata: bytes) -> str:
        """The name of the agent whose `metadata` these are. Raises DeliveryError."""
        with _translated("the metadata of a peer"):
            name = self._agent.add_remote_agent(metadata)
        text: str = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        self._peers.add(text)
        return text

    def remove_peer(self, name: str) -> None:
        """Nothing to it is in flight. What goes wrong is of no interest any more."""
        self._peers.discard(name)
        with suppress(DeliveryError), _translated(f"removing {name}"):
            self._agent.remove_remote_agent(name)

    def check_region(self, peer: str, region: Region) -> None:
        """Raises DeliveryError unless the peer has registered all of `region`."""
        with _translated(f"memory of {peer}"):
            descriptors = [(region.address, region.size_bytes, region.device)]
            self._agent.release_dlist_handle(self._agent.prep_xfer_dlist(peer, descriptors, region.memory))

    def post(self, pieces: Sequence[MappedPiece], peer: str, region: Region, offset: int, notification: bytes) -> Any:
        """`pieces` of memory, each in one registration here, one after another to `offset` of a region of the peer's;
        with what is said there when they have landed, unless that is empty. A handle, which is to be released.

        Raises DeliveryError: the peer is gone, or never registered that. Nothing is in flight then.
        """
        agent = self._agent
        with _translated(f"writing to {peer}"):
            sources, targets, at = [], [], region.address + offset
            for address, length in pieces:
                sources.append((address, length, 0))
                targets.append((at, length, region.device))
                at += length
            here, there = agent.get_xfer_descs(sources, "DRAM"), agent.get_xfer_descs(targets, region.memory)
            handle = agent.initialize_xfer("WRITE", here, there, peer, notification)
            self._count(1)
            try:
                agent.transfer(handle)  # what has become of it is asked for next
            except BaseException:
                self.release(handle)
                raise
        return handle

    def landed(self, handle: Any) -> bool:
        """Whether that WRITE has; and progress is made. Raises DeliveryError: it failed, and nothing is in flight."""
        with _translated("a WRITE"):
            state = self._agent.check_xfer_state(handle)
        if state not in ("DONE", "PROC"):
            raise DeliveryError(f"NIXL: a WRITE: {state}")
        return bool(state == "DONE")

    def release(self, handle: Any) -> None:
        """Raises DeliveryError."""
        self._count(-1)
        with _translated("a WRITE that is over"):
            self._agent.release_xfer_handle(handle)

    def _count(self, more: int) -> None:
        with self._counting:
            self._handles += more

    def notify(self, peer: str, notification: bytes) -> None:
        """Raises DeliveryError."""
        with _translated(f"a notification to {peer}"):
            self._agent.send_notif(peer, notification)

    def notifications(self) -> dict[str, list[bytes]]:
        """Those that have come, by the name that each sender says; and progress is made. Raises DeliveryError."""
        with _translated("notifications"):
            found: dict[str, list[bytes]] = self._agent.get_new_notifs()
            return found

    def close(self) -> None:
        """After this nothing that peers send is written anywhere. Harmless twice."""
        agent, self._agent = self._agent, None
        if agent is None:
            return
        for peer in list(self._peers):
            self._peers.discard(peer)
            with suppress(DeliveryError), _translated(f"removing {peer}"):  # others go all the same
                agent.remove_remote_agent(peer)
        registered, self._registered = self._registered, {}
        for one in registered.values():
            with suppress(DeliveryError), _translated("deregistering"):  # the agent's end does it too
                agent.deregister_memory(one)
        with _calls:
            del agent  # NIXL ends the agent with its last reference
