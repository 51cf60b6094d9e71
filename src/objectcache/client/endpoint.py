"""Where a gateway is, and how one speaks to it: plainly or over TLS, signed or not."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from objectcache.errors import ConfigError
from objectcache.s3 import Credentials, sign_headers
from objectcache.transports.connecting import connect

_DEFAULT_PORTS = {False: 80, True: 443}
_TARGET = re.compile("/[!-~]*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`tls` None: plain HTTP. `server_name` is what the certificate is for. `credentials` None: nothing is signed."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str = ""
    credentials: Credentials | None = field(default=None, repr=False)
    region: str = "us-east-1"

    def at(self, host: str, port: int) -> Endpoint:
        """The same gateway's other address: the certificate stays the one for its name."""
        return replace(self, host=host, port=port, server_name=self.server_name or self.host)

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """Connected. Raises OSError (with ssl.SSLError among its kinds)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        connection.sock = connect(self.host, self.port, timeout_s)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            connection.sock = self.tls.wrap_socket(connection.sock, server_hostname=self.server_name or self.host)
        return connection

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        signed: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
    ) -> None:
        """A whole request, signed, in one go: http.client sends the body behind the head, and the gateway wakes twice.
        `signed` and `unsigned` are further headers.

        `responses.answer` has the response. Raises OSError, http.client.InvalidURL.
        """
        if not _TARGET.fullmatch(target):
            raise http.client.InvalidURL(f"{target!r} cannot stand in a request line")
        fields = self.headers(method, target, body, signed)
        fields |= unsigned or {}
        if body or method not in ("GET", "HEAD", "DELETE"):
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        connection.sock.sendall("\r\n".join(lines).encode() + body)

    def headers(
        self, method: str, target: str, payload: bytes | None, more: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """All headers of a request but the body's length. `payload` None: the body is not part of what is signed."""
        host, more = self._host_header, more or {}
        headers = {"Host": host, **more}
        if self.credentials is not None:
            headers |= sign_headers(self.credentials, method, host, target, more, payload=payload, region=self.region)
        return headers

    @property
    def _host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.tls is not None] else f"{host}:{self.port}"


def find_credentials(access_key: str, secret_key: str) -> Credentials | None:
    """Those given, or the environment's (AWS_ACCESS_KEY_ID, …); None where there are none. Raises ConfigError."""
    if bool(access_key) != bool(secret_key):
        raise ConfigError("access_key and secret_key go together: give both, or neither")
    if access_key:
        return Credentials(access_key, secret_key)
    found = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    return Credentials(*found, os.environ.get("AWS_SESSION_TOKEN", "")) if all(found) else None


def client_tls(ca_file: str) -> ssl.SSLContext:
    """Certificates must be of the system's authorities, or of `ca_file` (PEM). Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file} holds no certificates that can be used: {error}") from error
