"""Where a server listens: free ports, and addresses as Triton and its callers want them written."""

import errno
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from tritext.errors import ServeError

GRPC: Final = "--grpc-port"
HTTP: Final = "--http-port"
METRICS: Final = "--metrics-port"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """A numeric address and three ports; HTTP may have an address of its own. URLs are for a caller on this machine.

    Where there are inner ones, Triton's servers listen there, on this machine alone, and the others are fenced.
    """

    address: str
    grpc: int
    http: int
    metrics: int
    inner_grpc: int = field(default=0, compare=False)
    inner_http: int = field(default=0, compare=False)
    inner_metrics: int = field(default=0, compare=False)
    http_address: str | None = None

    @property
    def reached_http(self) -> str:
        """The address at which HTTP is open to callers."""
        return self.http_address or self.address

    def url(self, port: int) -> str:
        """http://HOST:PORT of another port of ours."""
        return f"http://{_reached(self.address)}:{port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.address) and self.http_is_local

    @property
    def http_is_local(self) -> bool:
        """Whether only this machine can connect to HTTP."""
        return _is_loopback(self.reached_http)

    @property
    def grpc_url(self) -> str:
        """HOST:PORT."""
        return f"{_reached(self.address)}:{self.grpc}"

    @property
    def http_url(self) -> str:
        """http://HOST:PORT."""
        return f"http://{_reached(self.reached_http)}:{self.http}"

    @property
    def inner_grpc_url(self) -> str:
        """Triton's own gRPC server, past the fence."""
        return f"{LOOPBACK}:{self.inner_grpc}" if self.inner_grpc else self.grpc_url

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return f"http://{_reached(self.address)}:{self.metrics}/metrics"

    def flags(self) -> list[str]:
        """What tritonserver is told; its HTTP server writes IPv6 in a way of its own."""
        return [
            f"--grpc-address={LOOPBACK if self.inner_grpc else _bracketed(self.address)}",
            f"--http-address={LOOPBACK if self.inner_http else _evhtp(self.reached_http)}",
            f"--metrics-address={LOOPBACK if self.inner_metrics else _evhtp(self.address)}",
            f"{GRPC}={self.inner_grpc or self.grpc}",
            f"{HTTP}={self.inner_http or self.http}",
            f"{METRICS}={self.inner_metrics or self.metrics}",
        ]

    def open(self) -> bool:
        """Whether Triton accepts connections at all three."""
        servers = (
            (self.inner_grpc, self.address, self.grpc),
            (self.inner_http, self.reached_http, self.http),
            (self.inner_metrics, self.address, self.metrics),
        )
        places = [(LOOPBACK, inner) if inner else (address, outer) for inner, address, outer in servers]
        return all(_listening(_reached(address).strip("[]"), port) for address, port in places)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _reached(address: str) -> str:
    """Where a caller on this machine reaches `address`; in brackets where it is IPv6."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        return "127.0.0.1" if ip.version == 4 else "[::1]"
    return _bracketed(address)


def _evhtp(address: str) -> str:
    return f"ipv6:{address}" if ":" in address else address


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def claim(host: str, grpc: int, http: int, metrics: int, *, fence_grpc: bool = True) -> Endpoints:
    """Endpoints on `host`, with a free port for each 0; ServeError where one cannot be had.

    Triton's servers get inner ones, gRPC's only where `fence_grpc`.
    """
    address = resolve(host)
    ports = _free(address, {GRPC: grpc, HTTP: http, METRICS: metrics})
    inner_grpc, inner_http, inner_metrics = _inner(set(ports.values()))
    inner = (inner_grpc if fence_grpc else 0, inner_http, inner_metrics)
    return Endpoints(address, ports[GRPC], ports[HTTP], ports[METRICS], *inner)


def _inner(taken: set[int]) -> tuple[int, int, int]:
    """Three free ports of this machine alone, none of them `taken`."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < 3:
            bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            bound.bind((LOOPBACK, 0))
            if (port := int(bound.getsockname()[1])) not in taken:
                found.append(port)
    return found[0], found[1], found[2]


def resolve(host: str, option: str = "--host") -> str:
    """The numeric address of `host`, IPv4 where it has one; ServeError, which names the `option`, where it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServeError(f"{option} {host} is not an address of this machine ({error}).") from error
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def _free(address: str, wanted: Mapping[str, int]) -> dict[str, int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports: dict[str, int] = {}
    with ExitStack() as stack:  # all are held until all are known, so that they differ
        for flag, port in sorted(wanted.items(), key=lambda item: item[1] == 0):
            if other := next((f for f, p in ports.items() if p == port), None):
                raise ServeError(f"{flag} and {other} are both {port}. Give each a port of its own.")
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((address, port))
            except (OSError, OverflowError) as error:
                raise refused(address, flag, port, error) from error
            ports[flag] = bound.getsockname()[1]
    return ports


def refused(address: str, flag: str, port: int, error: OSError | OverflowError) -> ServeError:
    """Why `port`, which `flag` asks for, cannot be opened on `address`, and what to do."""
    if isinstance(error, OverflowError):
        return ServeError(f"{flag} {port} is not a port. Ports go from 1 to 65535, and 0 picks a free one.")
    if error.errno == errno.EADDRINUSE:
        return ServeError(
            f"Port {port} on {address} is in use, so {flag} cannot have it. Stop what listens there, or choose "
            f"another port; {flag} 0 picks a free one."
        )
    if error.errno == errno.EACCES:
        return ServeError(f"This user may not open port {port} ({flag}). Choose one above 1023.")
    if error.errno == errno.EADDRNOTAVAIL:
        return ServeError(f"{address} (--host) is not an address of this machine.")
    return ServeError(f"Port {port} on {address} ({flag}) cannot be opened: {error.strerror}.")


def _listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
