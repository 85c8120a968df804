"""Certificates as an operator would make them, with the `openssl` command."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAME = "models.example"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def openssl(*arguments: object) -> None:
    """Run ``openssl ARGUMENTS``."""
    path = shutil.which("openssl")
    if path is None:
        pytest.skip("There is no openssl command to make certificates with.")
    subprocess.run([path, *map(str, arguments)], check=True, capture_output=True, timeout=60)


class Authority:
    """Signs certificates; `own` is its certificate."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self.own = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _request(self.own, f"/CN={name}", "-x509", "-days", 3)

    def sign(self, name: str, san: str = f"DNS:{NAME}", usage: str = "serverAuth", days: int = 2) -> Pair:
        """A certificate for `san`; one of -1 days ended yesterday."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        _request(Pair(request, pair.key), f"/CN={name}")
        extensions.write_text(f"subjectAltName={san}\nextendedKeyUsage={usage}\n")
        authority = ("-CA", self.own.certificate, "-CAkey", self.own.key, "-CAcreateserial", "-extfile", extensions)
        openssl("x509", "-req", "-in", request, *authority, "-days", days, "-out", pair.certificate)
        return pair


def _request(pair: Pair, subject: str, *more: object) -> None:
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", *kind, "-subj", subject, "-keyout", pair.key, "-out", pair.certificate, *more)
