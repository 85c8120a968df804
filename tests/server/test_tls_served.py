"""gRPC over TLS: who trusts the certificate is answered, our own checks among them; bad files stop the start."""

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import toy
import tritonclient.grpc as triton
from test_serve import ask_http
from typer.testing import CliRunner

from certificates import NAME, Authority, Pair, openssl
from tritext import Client
from tritext.cli import app
from tritext.errors import ModelNotFound, ServeError, Unavailable
from tritext.serve import Server
from tritext.serve.protection import Protection


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """For any host below a name, and for no address of this machine."""
    return authority.sign("server", san=f"DNS:*.{NAME}")


@pytest.fixture(scope="module")
def local(authority: Authority) -> Pair:
    return authority.sign("local", san="DNS:localhost")


@pytest.fixture(scope="module")
def client_pair(authority: Authority) -> Pair:
    return authority.sign("client", san="DNS:client", usage="clientAuth")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    toy.write(folder)
    return folder


def serve(repository: Path, host: str = "127.0.0.1", **files: object) -> Server:
    protection = Protection.load(**files)  # type: ignore[arg-type]
    return Server(repository, host=host, grpc_port=0, http_port=0, metrics_port=0, protection=protection)


@pytest.fixture(scope="module")
def server(repository: Path, pair: Pair) -> Iterator[Server]:
    with serve(repository, "0.0.0.0", tls_cert=pair.certificate, tls_key=pair.key) as server:  # noqa: S104
        server.wait_ready()
        yield server
        assert server.stop() == 0  # which takes a drain


@pytest.fixture(scope="module")
def mutual(repository: Path, local: Pair, authority: Authority) -> Iterator[Server]:
    files = {"tls_cert": local.certificate, "tls_key": local.key, "tls_client_ca": authority.own.certificate}
    with serve(repository, **files) as server:
        server.wait_ready()
        yield server
        assert server.stop() == 0


def label(url: str, credentials: object, host: str | None = None) -> str:
    """What the server says to a text, known under the name `host`."""
    options = [("grpc.ssl_target_name_override", host)] if host else []
    with triton.InferenceServerClient(url, creds=credentials, channel_args=options) as client:
        tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"Hi"]], dtype=object))
        found = client.infer("toy", [tensor], client_timeout=30).as_numpy("LABEL")
        return str(found[0][0].decode())


def trusting(trusted: Pair, own: Pair | None = None) -> object:
    mine = (own.key.read_bytes(), own.certificate.read_bytes()) if own else (None, None)
    return grpc.ssl_channel_credentials(trusted.certificate.read_bytes(), *mine)


def at_localhost(server: Server) -> str:
    return f"localhost:{server.grpc_url.rpartition(':')[2]}"


def test_who_trusts_the_authority_is_answered(server: Server, authority: Authority) -> None:
    assert label(server.grpc_url, trusting(authority.own), f"any.{NAME}") == "POSITIVE"


def test_who_trusts_another_is_not(server: Server, client_pair: Pair) -> None:
    with pytest.raises(triton.InferenceServerException, match="CERTIFICATE_VERIFY_FAILED"):
        label(server.grpc_url, trusting(client_pair), f"any.{NAME}")


def test_http_stays_on_this_machine_unless_asked(server: Server, repository: Path, pair: Pair) -> None:
    assert ask_http(server.http_url, "Hi") == "POSITIVE"
    assert (server.http_is_local, server.is_local) == (True, False)
    port = int(server.http_url.rpartition(":")[2])
    with socket.socket(socket.AF_INET) as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # 0.0.0.0 would answer here
    files = {"tls_cert": pair.certificate, "tls_key": pair.key}
    with serve(repository, http_host="127.0.0.2", **files) as asked:
        asked.wait_ready()
        assert asked.http_url.startswith("http://127.0.0.2:")
        assert ask_http(asked.http_url, "Hi") == "POSITIVE"


def test_there_is_no_tls_without_the_fence(repository: Path, pair: Pair) -> None:
    protection = Protection.load(tls_cert=pair.certificate, tls_key=pair.key)
    with pytest.raises(ServeError, match="Leave out --no-grpc-fence, or --tls-cert"):
        Server(repository, protection=protection, grpc_fence=False)


def test_what_is_said_of_it(server: Server, mutual: Server) -> None:
    first, second = server.warnings()
    assert "there is no API key" in first
    assert "answers only this machine" in second
    assert mutual.warnings() == []


def test_the_client_says_why_it_does_not_get_through(server: Server, authority: Authority) -> None:
    with Client(server.grpc_url) as client, pytest.raises(Unavailable, match="--tls-ca if it has TLS"):
        client.model("toy")
    named = Client(server.grpc_url, credentials=trusting(authority.own))
    with named, pytest.raises(Unavailable, match="do not trust each other"):
        named.model("toy")


def test_health_trusts_the_certificate_under_whatever_name(
    server: Server, mutual: Server, repository: Path, pair: Pair, local: Pair
) -> None:
    def asked(url: str, *options: object) -> object:
        return CliRunner().invoke(app, ["health", str(repository), "--url", url, *map(str, options)]).exception

    assert asked(server.grpc_url, "--tls-cert", pair.certificate) is None
    assert "does not show the certificate" in str(asked(server.grpc_url, "--tls-cert", local.certificate))
    assert isinstance(asked(server.grpc_url), ServeError)
    assert asked(mutual.http_url) is None  # gRPC would ask for a certificate of our own


def test_with_an_authority_for_callers_nobody_else_is_answered(
    mutual: Server, authority: Authority, client_pair: Pair, tmp_path: Path
) -> None:
    assert label(at_localhost(mutual), trusting(authority.own, client_pair)) == "POSITIVE"
    stranger = Authority(tmp_path, "stranger").sign("mallory", usage="clientAuth")
    for own in (None, stranger):
        with pytest.raises(triton.InferenceServerException):
            label(at_localhost(mutual), trusting(authority.own, own))


def test_commands_take_certificates(mutual: Server, authority: Authority, client_pair: Pair) -> None:
    ca = ["--tls-ca", str(authority.own.certificate)]
    own = ["--tls-cert", str(client_pair.certificate), "--tls-key", str(client_pair.key)]
    ask = ["classify", "elsewhere", "Hi", "--url", at_localhost(mutual)]
    assert isinstance(CliRunner().invoke(app, [*ask, *ca, *own]).exception, ModelNotFound)  # the server said so
    assert isinstance(CliRunner().invoke(app, [*ask, *ca]).exception, Unavailable)
    assert "belong together" in str(CliRunner().invoke(app, [*ask, *ca, *own[:2]]).exception)


@pytest.mark.parametrize(
    "kind", ["expired", "another's key", "no certificate", "not there", "passphrase", "only a key"]
)
def test_files_that_are_no_good_are_named_before_triton_starts(
    kind: str, repository: Path, authority: Authority, pair: Pair, local: Pair, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    if kind == "passphrase":
        openssl("ec", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", locked)
    files = {
        "expired": (authority.sign("old", days=-1) if kind == "expired" else pair, "certificate has expired"),
        "another's key": (Pair(pair.certificate, local.key), r"local.key \(--tls-key\) is not that of the certificate"),
        "no certificate": (Pair(pair.key, pair.key), "are not a certificate and its key"),
        "not there": (
            Pair(pair.certificate, tmp_path / "no.key"),
            r"no.key \(--tls-key\) cannot be read: No such file",
        ),
        "passphrase": (Pair(pair.certificate, locked), "has a passphrase.*openssl pkey"),
        "only a key": (Pair(Path(), pair.key), "belong together"),
    }
    given, said = files[kind]
    certificate = [] if kind == "only a key" else ["--tls-cert", str(given.certificate)]
    ran = CliRunner().invoke(app, ["serve", str(repository), *certificate, "--tls-key", str(given.key)])
    assert isinstance(ran.exception, ServeError)
    with pytest.raises(ServeError, match=said):
        raise ran.exception
