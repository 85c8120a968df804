"""A container with an API key and TLS, given as deploy/secure.yaml gives them: by files that are mounted."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import served
from docker_engine import Container, container, inspect

from tritext import Client
from tritext.client import Classification
from tritext.errors import AccessDenied, Unavailable

sys.path.append(str(Path(__file__).parents[1] / "server"))  # where the other tests make certificates
from certificates import Authority

KEY = "a-key-for-the-container-0123456789"
SECRETS = "/run/secrets"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(
    image: str, repository: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    pair = authority.sign("server", san="DNS:localhost")
    key_file = tmp_path_factory.mktemp("key") / "api-key"
    key_file.write_text(KEY)
    files = {"api-key": key_file, "tls-cert.pem": pair.certificate, "tls-key.pem": pair.key}
    for path in files.values():
        path.chmod(0o644)
    mounts = [f"--volume={path}:{SECRETS}/{name}:ro" for name, path in files.items()]
    variables = {"API_KEY_FILE": "api-key", "TLS_CERT": "tls-cert.pem", "TLS_KEY": "tls-key.pem"}
    environment = [f"--env=TRITEXT_{name}={SECRETS}/{file}" for name, file in variables.items()]
    with container(image, options=(*mounts, *environment), repository=repository) as started:
        started.wait_healthy()  # the health check, too, has the key and trusts the certificate
        yield started


def client(secured: Container, authority: Authority | None, key: str | None = None) -> Client:
    credentials = authority and grpc.ssl_channel_credentials(authority.own.certificate.read_bytes())
    port = secured.address(8001).rpartition(":")[2]
    return Client(f"localhost:{port}", credentials=credentials, api_key=key)


def test_who_trusts_it_and_has_the_key_gets_the_checkpoints_labels(
    secured: Container, authority: Authority, checkpoints: dict[str, Path]
) -> None:
    with client(secured, authority, KEY) as asking:
        results = asking.classify("labels", served.TEXTS, result_type=Classification)
    assert [result.label for result in results] == served.expected_labels(checkpoints["labels"])


@pytest.mark.parametrize("key", [None, "another-key-of-some-length"])
def test_nobody_else_gets_any(secured: Container, authority: Authority, key: str | None) -> None:
    with client(secured, authority, key) as asking, pytest.raises(AccessDenied):
        asking.classify("labels", ["Hello"])
    with client(secured, None, KEY) as asking, pytest.raises(Unavailable):
        asking.classify("labels", ["Hello"])


def test_http_does_not_answer_the_published_port(secured: Container) -> None:
    with pytest.raises(ConnectionError):
        secured.http("GET", "/v2/health/live")


def test_the_key_is_nowhere_but_in_its_file(secured: Container) -> None:
    assert KEY not in secured.logs()
    assert KEY not in json.dumps(inspect(secured.id))
    pattern = f"[{KEY[0]}]{KEY[1:]}"  # so that the search does not find itself
    places = "/proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    assert secured.sh(f"grep -l '{pattern}' {places}; grep -q tritext /proc/1/cmdline && echo searched") == "searched"
    assert secured.sh(f"cat {SECRETS}/api-key") == KEY
