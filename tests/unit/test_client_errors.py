from pathlib import Path

import grpc
import pytest

from tritext import Client, access
from tritext.client.errors import BY_CODE, Context, affected, translate
from tritext.client.retry import Refusal
from tritext.client.security import Security
from tritext.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ServerFault,
    TritextError,
    Unavailable,
)

CONTEXT = Context("here:8001", "spam", timeout=30.0, items=range(64, 96))


def test_every_grpc_status_is_mapped() -> None:
    assert set(BY_CODE) == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_message_is_a_sentence_that_names_model_and_address(code: str) -> None:
    error = translate(code, "It broke", CONTEXT)
    assert type(error) is BY_CODE[code]
    assert "spam" in str(error)
    assert "here:8001" in str(error)
    assert str(error).endswith((".", ".)"))


# As Triton 2.51 and gRPC 1.85 say them.
SENTENCES = [
    ("NOT_FOUND", "Request for unknown model: 'spam' is not found", ModelNotFound),
    ("UNKNOWN", "Request for unknown model: 'spam' has no available versions", ModelNotFound),
    ("UNAVAILABLE", "Request for unknown model: 'spam' version 1 is not at ready state", ModelNotFound),
    (
        "NOT_FOUND",
        "in ensemble 'spam', Request for unknown model: 'spam_encoder_1' has no available versions",
        Unavailable,
    ),
    ("INTERNAL", "in ensemble 'spam', Stub process 'spam_encoder_1_0_0' is not healthy.", Unavailable),
    ("INTERNAL", "in ensemble 'spam', Failed to process the request(s) for model 'x', message: boom", ServerFault),
    ("INVALID_ARGUMENT", "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'x'", InvalidInput),
    ("UNAVAILABLE", "in ensemble 'spam', Exceeds maximum queue size", Unavailable),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
    ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 4)", InvalidInput),
    ("CANCELLED", "CANCELLED", Unavailable),
]


@pytest.mark.parametrize(("code", "details", "kind"), SENTENCES)
def test_what_triton_says_decides(code: str, details: str, kind: type[TritextError]) -> None:
    assert type(translate(code, details, CONTEXT)) is kind


def test_rows_of_the_request_become_the_callers_items() -> None:
    details = "in ensemble 'spam', TEXT[3] has 900 tokens, this model takes 512. Shorten TEXT[3]."
    error = translate("INVALID_ARGUMENT", details, CONTEXT)
    assert str(error) == ("TEXT[67] has 900 tokens, this model takes 512. Shorten TEXT[67]. (Model spam at here:8001.)")
    assert affected(error) == range(67, 68)


def test_the_second_text_of_a_pair_too() -> None:
    error = translate("INVALID_ARGUMENT", "TEXT_PAIR[0] is not valid UTF-8", CONTEXT)
    assert str(error).startswith("TEXT_PAIR[64] is not valid UTF-8. ")


def test_the_only_request_of_a_call_is_not_named_by_its_items() -> None:
    context = Context("here:8001", "spam", timeout=30.0)
    error = translate("INVALID_ARGUMENT", "TEXT[3] is bad.", context)
    assert str(error) == "TEXT[3] is bad. (Model spam at here:8001.)"
    assert affected(error) == range(3, 4)
    assert affected(translate("INTERNAL", "x", context)) is None


def test_a_failed_batch_is_named() -> None:
    error = translate("INTERNAL", "in ensemble 'spam', boom\n\nAt:\n  model.py(11): execute\n", CONTEXT)
    assert str(error) == (
        "Model spam failed inside the server at here:8001, texts 64 to 95 (INTERNAL): boom. Its log says more."
    )
    assert affected(error) == range(64, 96)


def test_a_parameter_is_about_no_item_in_particular() -> None:
    error = translate("INVALID_ARGUMENT", "in ensemble 'spam', Parameter top_k is 0; it must be more.", CONTEXT)
    assert str(error) == "Parameter top_k is 0; it must be more. (Model spam at here:8001.)"
    assert affected(error) is None


def test_a_batch_of_one() -> None:
    error = translate("INTERNAL", "boom", Context("here:8001", "spam", items=range(3, 4)))
    assert "at here:8001, text 3 (INTERNAL)" in str(error)


def test_the_http_port() -> None:
    details = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:8000: Socket closed"
    assert "What listens at here:8001 does not speak gRPC." in str(translate("UNAVAILABLE", details, CONTEXT))


def test_nobody_there() -> None:
    details = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: "
        "Connection refused"
    )
    message = str(translate("UNAVAILABLE", details, CONTEXT))
    assert message.startswith("Nobody answers at here:8001 (Connection refused). Start a server")


def test_other_errors_are_about_no_items() -> None:
    assert affected(ValueError("x")) is None


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_no_key_is_said_with_the_way_to_give_one(code: str) -> None:
    sentence = f"in ensemble 'spam', {access.REFUSAL}, and none was sent." if code == "INVALID_ARGUMENT" else "No."
    error = translate(code, sentence, CONTEXT)
    assert isinstance(error, AccessDenied)
    assert not isinstance(error, Unavailable)  # another try would not help
    assert "does not let this client ask model spam" in str(error)
    assert "--api-key-file" in str(error)


@pytest.mark.parametrize(
    "details",
    [
        "UNKNOWN: ipv4:127.0.0.1:8001: Custom verification check failed with error: UNAUTHENTICATED: Hostname "
        "Verification Check failed.",
        "UNKNOWN: ipv4:127.0.0.1:8001: Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: "
        "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get an issuer",
    ],
)
def test_certificates_that_are_not_trusted(details: str) -> None:
    sentence = f"failed to connect to all addresses; last error: {details}"
    assert "do not trust each other" in str(translate("UNAVAILABLE", sentence, CONTEXT))


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\nbreak"])
def test_what_cannot_be_a_key_is_refused_at_once_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidInput, match="characters other than visible ASCII") as error:
        Client("localhost:1", api_key=key)
    assert not key or key not in str(error.value)


def test_files_for_tls(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no PEM")
    for arguments, said in (
        ({"ca": tmp_path / "text"}, r"text \(--tls-ca\) is not a file in PEM"),
        ({"ca": tmp_path / "none"}, r"none \(--tls-ca\) cannot be read: No such file"),
        ({"certificate": tmp_path / "text"}, "belong together"),
        ({"certificate": tmp_path / "text", "key": tmp_path / "text"}, "needs --tls-ca"),
    ):
        with pytest.raises(InvalidInput, match=said):
            Security.load(**arguments)


def test_a_model_whose_step_is_away_is_worth_another_try_and_an_unknown_one_is_not() -> None:
    away = "Request for unknown model: 'spam' has no available versions"
    assert Refusal.of("NOT_FOUND", away) == Refusal(is_broken=True)
    assert Refusal.of("NOT_FOUND", "Request for unknown model: 'spam' is not found") is None
