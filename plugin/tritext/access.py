"""API keys: how they are written in files, sent with requests, and told apart by the steps of a server.

A key is sent as ``authorization: Bearer KEY``, a header that Triton passes on to every step as a request parameter:
over gRPC and to ``/infer``. It keeps those of ``/generate`` (2.51), where the same is sent as a parameter.
The steps know only the SHA-256 digests of the keys that are good: nobody can ask a server with those.

Imports nothing but the standard library: each step loads it.
"""

import hmac
import os
import re
import stat
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from tritext.errors import InvalidInput

HEADER: Final = "authorization"
# In the environment of a server's steps; hexadecimal, separated by commas.
DIGESTS: Final = "TRITEXT_API_KEY_SHA256"
# In a caller's environment.
KEY: Final = "TRITEXT_API_KEY"
KEY_FILE: Final = "TRITEXT_API_KEY_FILE"

# What a server's refusals have in common; the client knows them by it.
REFUSAL: Final = "This server answers only who has its API key"
_SCHEME: Final = "bearer "
_SHORTEST: Final = 16  # characters
_KEY: Final = re.compile(r"[!-~]+")
# Where container engines mount secrets, readable by all, in a place that nobody outside of the container can see.
_SECRETS: Final = Path("/run/secrets")


class Guard:
    """Lets pass the requests that carry a key whose digest is among `digests`; all of them where there is none."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._digests = [bytes.fromhex(digest) for digest in digests]

    @classmethod
    def from_environment(cls) -> "Guard":
        """What the server that started this process laid down."""
        return cls(filter(None, os.environ.get(DIGESTS, "").split(",")))

    def admit(self, parameters: dict[str, object]) -> None:
        """Take the key out of a request's `parameters`; InvalidInput where it is not good."""
        sent = [parameters.pop(name) for name in list(parameters) if name.lower() == HEADER]
        if self._digests and not any(self._is_good(value) for value in sent):
            what = "the one that was sent is not it" if sent else "none was sent"
            raise InvalidInput(
                f"{REFUSAL}, and {what}. Send the header `authorization: Bearer KEY`; to /generate, whose headers "
                'Triton keeps to itself, send `"authorization": "Bearer KEY"` beside the text.'
            )

    def _is_good(self, value: object) -> bool:
        if not isinstance(value, str) or not value.lower().startswith(_SCHEME):
            return False
        sent = sha256(value[len(_SCHEME) :].strip().encode("utf-8", "surrogatepass")).digest()
        # All are compared, so that the time taken does not tell which one was near.
        return any([hmac.compare_digest(sent, digest) for digest in self._digests])  # noqa: C419


def digest(key: str) -> str:
    """The SHA-256 of `key`, hexadecimal."""
    return sha256(key.encode()).hexdigest()


def headers(key: str | None) -> Mapping[str, str]:
    """What a caller sends along."""
    return {} if key is None else {HEADER: f"Bearer {check(key)}"}


def check(key: str, where: str = "The API key") -> str:
    """`key`, if it can be one; InvalidInput, which does not show it, otherwise."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(f"{where} is empty or has characters other than visible ASCII.")
    return key


def read_keys(path: Path) -> list[str]:
    """The keys in `path`, one a line, the first of which is the one to send.

    InvalidInput, which shows none of them, where the file cannot be read, is open to others, or holds no good key.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"The API key file {path} cannot be read: {reason}.") from None
    exposed = mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP)
    if exposed and not path.absolute().is_relative_to(_SECRETS):
        raise InvalidInput(
            f"The API key file {path} is open to other users of this machine (mode {stat.S_IMODE(mode):04o}). "
            f"Close it: chmod 640 {path}"
        )
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise InvalidInput(f"The API key file {path} is empty. Write a key into it: openssl rand -hex 32")
    for number, key in enumerate(keys, start=1):
        check(key, f"Key {number} in {path}")
        if len(key) < _SHORTEST:
            raise InvalidInput(
                f"Key {number} in {path} is shorter than {_SHORTEST} characters, which can be guessed. Make one: "
                "openssl rand -hex 32"
            )
    return keys


def key_from(path: Path | None) -> str | None:
    """The key to send: the first one in `path`, else that of the environment, else None."""
    if path is not None:
        return read_keys(path)[0]
    key = os.environ.get(KEY)
    return check(key, f"The API key in {KEY}") if key else None
