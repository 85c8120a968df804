"""Images of this checkout, and the base they stand on: pulled, or made where no registry can be reached."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from docker_engine import ROOT, client, docker, run

PULLED = "python:3.12-slim-bookworm"  # the Dockerfile's own default
MADE = "tritext-base:bookworm"
REPOSITORY = "tritext-test"


class NoBase(Exception):
    """Neither could a base be pulled nor made."""


def base() -> str:
    """A base image: TRITEXT_CPU_BASE, what is there, what can be pulled, or one that `deploy/base-image` makes."""
    if named := os.environ.get("TRITEXT_CPU_BASE"):
        return named
    for image in (PULLED, MADE):
        if run("image", "inspect", image).returncode == 0:
            return image
    pulled = run("pull", "--quiet", PULLED, timeout=240)
    if pulled.returncode == 0:
        return PULLED
    # The script calls the first docker on PATH, which must be the one that works here.
    path = os.pathsep.join((str(Path(client() or "docker").parent), os.environ["PATH"], "/usr/sbin", "/sbin"))
    made = subprocess.run(
        [ROOT / "deploy" / "base-image", MADE],
        capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip
    if made.returncode:
        raise NoBase(f"No base image. The pull said: {pulled.stderr.strip()} deploy/base-image said: {made.stderr}")
    return MADE


def build(target: str, base_image: str, *, context: Path = ROOT, arguments: Sequence[str] = ()) -> str:
    """Build `target` of the Dockerfile; the image's name. What this machine trusts goes in as a secret."""
    name = f"{REPOSITORY}:{target}"
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    secrets = [f"--secret=id=ca,src={bundle}"] if bundle else []
    bases = [f"--build-arg={which}_BASE={base_image}" for which in ("CPU", "GPU")]
    # The host's network: where no registry is reachable, an engine of one's own often has no network either.
    options = ["--network=host", "--progress=plain", f"--target={target}", f"--tag={name}", *secrets, *bases]
    docker("build", *options, *arguments, context, timeout=280)
    return name
