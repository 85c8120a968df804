"""Deploy, die, drain, end: what happens to a container in its life."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import served
import tritonclient.grpc as triton
from docker_engine import Container, container, docker, until

from building import quick_build

SLOW = "Alle Menschen sind frei und gleich an Würde und Rechten geboren. " * 30_000  # seconds of tokenization
REFUSED = {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"}


@pytest.fixture
def own(image: str, own_repository: Path) -> Iterator[Container]:
    """A server of one's own."""
    with container(image, repository=own_repository) as started:
        started.wait_healthy()
        yield started


def test_a_new_build_in_the_mounted_repository_is_served_without_a_restart(
    own: Container, own_repository: Path, checkpoints: dict[str, Path]
) -> None:
    old, new = (served.expected_labels(checkpoints[name]) for name in ("labels", "next"))
    assert old != new
    assert served.labels(own.address(8001)) == old
    started = own.state["StartedAt"]
    build = quick_build(checkpoints["next"], own_repository, "labels").model.build
    until(lambda: json.loads(own.http("GET", "/ready", port=8003)[1])["models"]["labels"]["build"] == build, own.logs)
    assert served.labels(own.address(8001)) == new
    assert served.entities(own.address(8001)) == served.expected_entities(checkpoints["entities"])
    assert own.state["StartedAt"] == started
    assert f"build {build} answers" in own.logs()


def stubs(own: Container) -> list[str]:
    """The processes of the encoder of labels."""
    found = [path.split("/")[2] for path in own.sh("grep -ls labels_encoder /proc/[0-9]*/cmdline").split()]
    return [pid for pid in found if own.sh(f"cat /proc/{pid}/comm").startswith("triton_python")]


def test_a_step_that_keeps_dying_is_unhealthy_and_healthy_again_when_it_stays(own: Container) -> None:
    right = served.labels(own.address(8001))
    (stub,) = stubs(own)
    own.sh(f"kill -9 {stub}")
    until(lambda: stubs(own) not in ([], [stub]), own.logs)
    own.wait_healthy()
    assert served.labels(own.address(8001)) == right  # the client tries again while the step is away

    said = set()

    def killed() -> bool:
        for pid in stubs(own):
            own.sh(f"kill -9 {pid}")
        said.add(own.http("GET", "/ready", port=8003)[0])
        return str(own.state["Health"]["Status"]) == "unhealthy"

    until(killed, own.logs, seconds=90)  # each restart comes later than the one before
    assert 503 in said  # it may be back since the check that Docker's word is from
    own.wait_healthy(seconds=120)
    assert served.labels(own.address(8001)) == right
    assert own.http("GET", "/ready", port=8003)[0] == 200
    assert "was brought back" in own.logs()


def ask(url: str, text: str) -> str:
    """The status of one call: OK, or what gRPC says."""
    tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
    with triton.InferenceServerClient(url) as client:
        try:
            client.infer("labels", [tensor], client_timeout=60)
        except triton.InferenceServerException as error:
            return str(error.status())
    return "OK"


def test_every_request_before_sigterm_is_answered_and_later_ones_are_refused(own: Container) -> None:
    url = own.address(8001)
    with ThreadPoolExecutor(8) as pool:
        accepted: list[Future[str]] = [pool.submit(ask, url, SLOW) for _ in range(4)]
        time.sleep(1)  # all are inside by then, and one at most is answered
        docker("kill", "--signal=TERM", own.id)
        until(lambda: own.http("GET", "/v2/models/labels/ready")[0] != 200, own.logs)
        waiting = sum(not future.done() for future in accepted)
        late = {ask(url, "too late") for _ in range(5)}
        assert [future.result() for future in accepted] == ["OK"] * 4
    assert waiting > 0
    assert late <= REFUSED
    assert own.wait_ended() == 0
    assert own.logs().rstrip().endswith("Stopped.")
    assert ask(url, "much too late") in REFUSED


def test_the_memory_limit_holds_under_load(image: str, repository: Path) -> None:
    limit = 512 << 20
    with container(image, options=(f"--memory={limit}", f"--memory-swap={limit}"), repository=repository) as limited:
        limited.wait_healthy()
        counted = limited.sh("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null")
        assert counted == str(limit)
        with ThreadPoolExecutor(4) as pool:
            texts = [text * 20 for text in served.TEXTS] * 32
            asked = [pool.submit(served.labels, limited.address(8001), texts) for _ in range(8)]
            assert {len(future.result()) for future in asked} == {len(texts)}
        assert (limited.state["OOMKilled"], limited.state["Running"]) == (False, True)
