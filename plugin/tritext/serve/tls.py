"""The certificate that a server shows to its gRPC callers: looked at beforehand, and trusted by `tritext health`.

Its checks come over a numeric address, and no certificate stands for that: they trust this one certificate instead,
under the name that is in it.
"""

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from tritext.errors import ServeError

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_ROUNDS: Final = 8  # of a handshake, twice what it needs


@dataclass(frozen=True, slots=True)
class Trust:
    """One certificate, in PEM, and a name that it stands for."""

    pem: str
    name: str

    @classmethod
    def of_server(cls, certificate: Path, url: str, timeout: float) -> Self:
        """That of the server at `url` (HOST:PORT), if it shows `certificate`; ServeError otherwise."""
        context = _client(certificate)
        context.set_alpn_protocols(["h2"])  # gRPC's server hangs up on others
        host, _, port = url.rpartition(":")
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), timeout) as plain,
                context.wrap_socket(plain) as connection,
            ):
                return cls(_first(certificate), _name(connection.getpeercert() or {}, certificate))
        except ssl.SSLError as error:
            raise ServeError(f"{url} does not show the certificate {certificate}: {_reason(error)}.") from error
        except (OSError, ValueError) as error:
            raise ServeError(f"Nobody answers at {url}: {error}.") from error

    def credentials(self) -> Any:
        """For a gRPC channel."""
        return grpc.ssl_channel_credentials(self.pem.encode())

    @property
    def channel_options(self) -> list[tuple[str, str]]:
        """To go with the credentials."""
        return [("grpc.ssl_target_name_override", self.name)]


@dataclass(frozen=True, slots=True)
class Tls:
    """How callers are met: with a certificate that is good now; whether they need one of their own."""

    context: ssl.SSLContext
    asks_for_certificates: bool

    @classmethod
    def load(cls, certificate: Path, key: Path, client_ca: Path | None = None) -> Self:
        """ServeError where a file cannot be read, the key belongs to another, or the certificate is not valid now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
        _load_pair(context, certificate, key)
        _name(_shown(context, certificate), certificate)
        if client_ca is not None:
            _load_authority(context, client_ca, "--tls-client-ca")
            context.verify_mode = ssl.CERT_REQUIRED
        return cls(context, client_ca is not None)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        _check_readable(option, path)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ServeError(f"The key {key} (--tls-key) is not that of the certificate {certificate}.") from error
        raise ServeError(
            f"{certificate} (--tls-cert) and {key} (--tls-key) are not a certificate and its key in PEM: "
            f"{_reason(error)}."
        ) from error
    except _Encrypted:
        raise ServeError(
            f"The key {key} (--tls-key) has a passphrase, which nobody could be asked for. Take it off: "
            f"openssl pkey -in {key} -out NEW"
        ) from None


class _Encrypted(Exception):
    """The key has a passphrase."""


def _no_password() -> str:
    raise _Encrypted


def _load_authority(context: ssl.SSLContext, path: Path, option: str) -> None:
    _check_readable(option, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ServeError(f"{path} ({option}) holds no certificate in PEM: {_reason(error)}.") from error


def _check_readable(option: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ServeError(f"{path} ({option}) cannot be read: {error.strerror}.") from error


def _client(certificate: Path) -> ssl.SSLContext:
    """Trusts `certificate` alone, also where it is not its own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _load_authority(context, certificate, "--tls-cert")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _shown(server: ssl.SSLContext, certificate: Path) -> Mapping[str, Any]:
    """What a caller of `server` sees of its certificate; ServeError where it would not accept it today.

    A handshake in memory: the standard library reads a certificate only from a peer.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = _client(certificate).wrap_bio(down, up)
    ends = [caller, server.wrap_bio(up, down, server_side=True)]
    for _ in range(_ROUNDS):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                raise ServeError(f"The certificate {certificate} (--tls-cert) is no good: {_reason(error)}.") from error
            ends.remove(end)
    return caller.getpeercert() or {}


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    return error.reason.replace("_", " ").lower() if error.reason else "it cannot be parsed"


def _first(certificate: Path) -> str:
    """The first certificate of a chain, which is the server's own."""
    found = _PEM.search(certificate.read_text(encoding="utf-8", errors="replace"))
    return found[0] if found else ""


def _name(shown: Mapping[str, Any], certificate: Path) -> str:
    """A name that `shown`, as `getpeercert` gives it, stands for."""
    names = [value for kind, value in shown.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}]
    names += [value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
    if not names:
        raise ServeError(
            f"The certificate {certificate} (--tls-cert) stands for no name, so no caller can trust it. Make one with "
            "a subjectAltName."
        )
    return str(names[0]).replace("*", "any", 1)
