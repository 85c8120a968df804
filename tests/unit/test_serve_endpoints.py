"""Ports and addresses."""

import socket

import pytest

from tritext.errors import ServeError
from tritext.serve.endpoints import Endpoints, claim


def test_zero_picks_free_ports_that_differ() -> None:
    found = claim("127.0.0.1", 0, 0, 0)
    assert len({found.grpc, found.http, found.metrics}) == 3
    for port in (found.grpc, found.http, found.metrics):
        socket.create_server(("127.0.0.1", port)).close()
    assert found.grpc_url == f"127.0.0.1:{found.grpc}"
    assert found.http_url == f"http://127.0.0.1:{found.http}"
    assert found.metrics_url == f"http://127.0.0.1:{found.metrics}/metrics"


def test_given_ports_stay() -> None:
    free = claim("127.0.0.1", 0, 0, 0)
    assert claim("localhost", free.grpc, free.http, free.metrics) == free


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_port_in_use_is_named_with_its_flag_and_the_way_out(position: int) -> None:
    flag = ("--grpc-port", "--http-port", "--metrics-port")[position]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [0, 0, 0]
        ports[position] = taken.getsockname()[1]
        with pytest.raises(ServeError) as error:
            claim("127.0.0.1", *ports)
    assert str(error.value).startswith(f"Port {ports[position]} on 127.0.0.1 is in use, so {flag} cannot have it.")
    assert f"{flag} 0 picks a free one" in str(error.value)


def test_a_port_that_somebody_holds_on_every_address_is_in_use() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken, pytest.raises(ServeError, match="in use"):  # noqa: S104
        claim("127.0.0.1", taken.getsockname()[1], 0, 0)


def test_two_flags_cannot_share_a_port() -> None:
    port = claim("127.0.0.1", 0, 0, 0).http
    with pytest.raises(ServeError, match=f"--http-port and --grpc-port are both {port}"):
        claim("127.0.0.1", port, port, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ServeError, match=f"--grpc-port {port} is not a port"):
        claim("127.0.0.1", port, 0, 0)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "nowhere.invalid"])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ServeError, match=r"--host.* is not an address of this machine"):
        claim(host, 0, 0, 0)


@pytest.mark.parametrize(
    ("address", "url", "grpc", "http"),
    [
        ("127.0.0.1", "127.0.0.1:1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1:1", "0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("::1", "[::1]:1", "[::1]", "ipv6:::1"),
        ("::", "[::1]:1", "[::]", "ipv6:::"),
        ("10.1.2.3", "10.1.2.3:1", "10.1.2.3", "10.1.2.3"),
    ],
)
def test_addresses_are_written_as_triton_and_its_callers_want_them(
    address: str, url: str, grpc: str, http: str
) -> None:
    endpoints = Endpoints(address, 1, 2, 3)
    assert endpoints.grpc_url == url
    assert endpoints.is_local == (address in {"127.0.0.1", "::1"})
    assert endpoints.flags()[:3] == [f"--grpc-address={grpc}", f"--http-address={http}", f"--metrics-address={http}"]
