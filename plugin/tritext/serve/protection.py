"""Who may ask a server, and how its answers travel: API keys, TLS, and which addresses are open."""

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from tritext import access
from tritext.errors import ServeError
from tritext.serve.endpoints import Endpoints, resolve
from tritext.serve.remote import Remote
from tritext.serve.tls import Tls


@dataclass(frozen=True)
class Protection:
    """What a server is started with; nothing at all where it is made without arguments.

    `digests` are those of the API keys; `own_key` is one more, made for each start, by which our own checks are let in.
    `http_host` is where HTTP listens, which Triton cannot encrypt: on this machine alone where gRPC is encrypted.
    """

    tls: Tls | None = None
    digests: Sequence[str] = ()
    http_host: str | None = None
    own_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def load(
        cls,
        *,
        api_key_file: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        tls_client_ca: Path | None = None,
        http_host: str | None = None,
    ) -> Self:
        """Read the files; ServeError or InvalidInput where one is no good."""
        keys = [] if api_key_file is None else access.read_keys(api_key_file)
        if (tls_cert is None) != (tls_key is None):
            raise ServeError("--tls-cert and --tls-key belong together. Give both.")
        if tls_client_ca is not None and tls_cert is None:
            raise ServeError("--tls-client-ca asks callers for certificates, which needs --tls-cert and --tls-key.")
        tls = Tls.load(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
        return cls(tls, tuple(map(access.digest, keys)), http_host)

    @property
    def has_key(self) -> bool:
        """Whether callers need an API key."""
        return bool(self.digests)

    def placed(self, endpoints: Endpoints) -> Endpoints:
        """`endpoints`, with HTTP where it belongs."""
        if self.http_host is not None:
            return replace(endpoints, http_address=resolve(self.http_host, "--http-host"))
        if self.tls is None or endpoints.is_local:
            return endpoints
        loopback = "127.0.0.1" if ipaddress.ip_address(endpoints.address).version == 4 else "::1"
        return replace(endpoints, http_address=loopback)

    def warnings(self, *, is_local: bool, http_is_local: bool, native: Sequence[str] = ()) -> list[str]:
        """What whoever starts the server should know of it, in sentences; `native` steps ask for no key."""
        said = []
        if not (is_local or self.has_key or (self.tls and self.tls.asks_for_certificates and http_is_local)):
            said.append("Whoever reaches this machine can ask these models: there is no API key (--api-key-file).")
        if self.has_key and not (http_is_local and (self.tls or is_local)):
            said.append("API keys travel in clear over what is not encrypted; put TLS in front, or see --tls-cert.")
        if self.has_key and native:
            said.append(f"Triton runs {', '.join(native)} by itself: who knows these names gets logits without a key.")
        if self.tls and http_is_local and not is_local:
            said.append("HTTP, which Triton cannot encrypt, answers only this machine (--http-host).")
        return said

    def flags(self, numbers: str) -> list[str]:
        """What tritonserver is told: no secret of a caller's among it. `numbers` is the header with the calls'."""
        pattern = _forwarded(*([access.HEADER] if self.has_key else []), numbers)
        return [f"--{protocol}-header-forward-pattern={pattern}" for protocol in ("grpc", "http")]

    def environment(self) -> dict[str, str]:
        """What the steps are told. An empty value hides what may stand there already."""
        digests = [*self.digests, access.digest(self.own_key)] if self.has_key else []
        return {access.DIGESTS: ",".join(digests), access.KEY: ""}

    def connect(self, endpoints: Endpoints, key: str) -> Remote:
        """A connection for our own checks, past the fence, with the `key` to what is closed to others."""
        return Remote(endpoints.inner_grpc_url, key, api_key=self.own_key if self.has_key else None)


def _forwarded(*headers: str) -> str:
    """The pattern for those, which Triton matches anywhere in a header's name."""
    return f"(?i)^({'|'.join(headers)})$"
