"""The command line of tritonserver."""

from collections.abc import Iterable, Sequence
from typing import Final

from tritext.serve.endpoints import Endpoints
from tritext.serve.installation import Installation
from tritext.serve.remote import KEY_HEADER

# What nobody needs who asks a model: closed to whoever has not the key.
CLOSED: Final = "shared-memory,model-repository,trace,logging,statistics"

# Each step has a segment of shared memory for its requests. 1 MiB is the least that the Python backend takes and
# holds thousands of short texts; it grows by what a larger request needs and never shrinks.
SEGMENT: Final = 1 << 20

# For the case that we were killed and Triton has to stop by itself; otherwise we wait for the requests in flight.
EXIT_TIMEOUT: Final = 3  # seconds


def line(
    installation: Installation,
    endpoints: Endpoints,
    models: Iterable[str],
    *,
    key: str,
    segments: str,
    extra: Sequence[str] = (),
) -> tuple[str, ...]:
    """The command that serves `models` from the working folder; its shared memory's names begin with `segments`.

    The repository is the working folder because Triton puts its path, unquoted, into a `bash -c` line, and
    because the steps' Python looks for modules in the working folder first.
    """
    return (
        str(installation.executable),
        *installation.arguments,
        "--model-repository=.",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # Our configurations are complete. Completing them would start every step twice and sleep for a second.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT}",
        *endpoints.flags(),
        f"--grpc-restricted-protocol={CLOSED}:{KEY_HEADER}={key}",
        f"--http-restricted-api={CLOSED}:{KEY_HEADER}={key}",
        f"--backend-config=python,shm-region-prefix-name={segments}",
        f"--backend-config=python,shm-default-byte-size={SEGMENT}",
        f"--backend-config=python,shm-growth-byte-size={SEGMENT}",
        *extra,
    )
