"""Clients that register memory with NIXL: names for their agents, and their metadata on the way to a data worker."""

from __future__ import annotations

import secrets

from aiohttp import web

from objectcache.descriptor import TargetKind
from objectcache.errors import DescriptorError, NixlRefusedError
from objectcache.gateway.call import Call
from objectcache.gateway.sessions import Session, SessionTable
from objectcache.messages import MAX_NIXL_STREAMS, NixlAnswer, NixlRequest

MSGPACK = "application/msgpack"


class NixlRoute:
    """`offered`: whether this gateway does it at all."""

    def __init__(self, sessions: SessionTable, *, offered: bool) -> None:
        self._sessions = sessions
        self._offered = offered

    def name(self, session: Session) -> str:
        """What the client's agent is to be called; "" where it may have none. Nobody else can guess it, so that nobody
        can bring another agent under that name."""
        if self._offered and not session.nixl_agent:
            session.nixl_agent = f"objectcache-{secrets.token_hex(16)}"
        return session.nixl_agent

    async def register(self, call: Call) -> web.StreamResponse:
        """The memory of one session's client. Once: what is registered later is another session's."""
        asked = NixlRequest.decode(await call.body())
        session = self._sessions.get(asked.session, call.bucket, call.caller.access_key)
        if not session.nixl_agent:
            raise NixlRefusedError("this gateway writes to no memory by NIXL: it is not installed there, or turned off")
        if session.kind is not None:
            raise DescriptorError(f"the session's target is {session.kind} already")
        if session.streams > MAX_NIXL_STREAMS:
            raise NixlRefusedError(f"a session with NIXL has at most {MAX_NIXL_STREAMS} streams, not {session.streams}")
        session.claim(TargetKind.NIXL)  # before anything is waited for
        session.carriers.narrow()
        answer = await session.carriers.first.ask(
            "nixl",
            session=asked.session,
            streams=session.streams,
            agent=session.nixl_agent,
            metadata=asked.metadata,
            region=[asked.address, asked.size_bytes, asked.memory, asked.device],
        )
        session.memory_bytes = asked.size_bytes
        return web.Response(body=NixlAnswer(answer["agent"]).encode(), content_type=MSGPACK)
