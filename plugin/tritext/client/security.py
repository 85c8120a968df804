"""How a command reaches a server: over TLS or in clear, with an API key or without."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tritext import access
from tritext.client import wire
from tritext.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Security:
    """In clear and without a key, unless said otherwise.

    `ca` is the authority of the server's certificate, `certificate` and `key` are the caller's own; all in PEM.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    files: tuple[Path | None, Path | None, Path | None] = (None, None, None)

    @classmethod
    def load(
        cls,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        api_key_file: Path | None = None,
    ) -> Self:
        """Read the files; InvalidInput where one is no good."""
        if (certificate is None) != (key is None):
            raise InvalidInput("--tls-cert and --tls-key belong together. Give both.")
        if certificate is not None and ca is None:
            raise InvalidInput(
                "--tls-cert is for TLS, which needs --tls-ca: the authority of the server's certificate."
            )
        files = (ca, certificate, key)
        return cls(
            _read("--tls-ca", ca),
            _read("--tls-cert", certificate),
            _read("--tls-key", key),
            access.key_from(api_key_file),
            files,
        )

    @property
    def credentials(self) -> Any:
        """For a gRPC channel; None where it is not encrypted."""
        if self.ca is None:
            return None
        return wire.grpc().ssl_channel_credentials(self.ca, self.key, self.certificate)

    def context(self) -> ssl.SSLContext | None:
        """The same for HTTP/2 of one's own."""
        ca, certificate, key = self.files
        if ca is None:
            return None
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context


def _read(option: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} ({option}) cannot be read: {error.strerror}.") from None
    if b"-----BEGIN " not in content:
        raise InvalidInput(f"{path} ({option}) is not a file in PEM.")
    return content
