"""The options by which a command reaches a server that has TLS or wants an API key."""

from pathlib import Path
from typing import Annotated, Final

import typer

from tritext import access

# What `serve` and the health check beside it are told by the environment of their container.
TLS_CERT: Final = "TRITEXT_TLS_CERT"
TLS_KEY: Final = "TRITEXT_TLS_KEY"
TLS_CLIENT_CA: Final = "TRITEXT_TLS_CLIENT_CA"

ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar=access.KEY_FILE,
        help=f"The server's API key is in this file; the variable {access.KEY} may hold it instead.",
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Use TLS; the authority of the server's certificate, or the latter itself."),
]
TlsCert = Annotated[Path | None, typer.Option(metavar="FILE", help="With TLS: a certificate to show to the server.")]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --tls-cert.")]
