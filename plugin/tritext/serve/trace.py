"""Traces of requests, sent by Triton itself to an OpenTelemetry collector: a span for the request and for each step.

Source: Triton's user guide, "Server Trace", mode opentelemetry.
"""

import subprocess
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from tritext.errors import ServeError
from tritext.serve.installation import Installation

_PATH: Final = "/v1/traces"  # where OTLP over HTTP listens by convention


@dataclass(frozen=True, slots=True)
class Trace:
    """One of `rate` requests is traced and sent to `url`."""

    url: str
    rate: int

    @classmethod
    def load(cls, url: str, rate: int, installation: Installation) -> Self:
        """ServeError where `url` is none that Triton can send to, or this Triton was built without tracing."""
        try:
            parts = urlsplit(url)
            known = parts.scheme == "http" and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ServeError(f"--trace is {url!r}. Give it as http://HOST:4318/v1/traces; Triton sends OTLP over HTTP.")
        if parts.username or parts.password or parts.query:
            raise ServeError(
                "The URL of --trace has a password or a query, and Triton takes it on its command line, where all see "
                "it. Put a collector without on this machine."
            )
        if "--trace-config" not in _help(installation):
            raise ServeError(f"{installation.executable} was built without tracing. Leave --trace out.")
        return cls(url if parts.path.strip("/") else url.rstrip("/") + _PATH, rate)

    def flags(self) -> list[str]:
        """What tritonserver is told."""
        settings = (
            "mode=opentelemetry",
            "level=TIMESTAMPS",
            f"rate={self.rate}",
            f"opentelemetry,url={self.url}",
            "opentelemetry,resource=service.name=tritext",
        )
        return [f"--trace-config={setting}" for setting in settings]


def _help(installation: Installation) -> str:
    line = [str(installation.executable), "--help"]
    done = subprocess.run(line, env=installation.environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr
