"""gRPC's and Triton's errors as ours: the one place where they are told apart.

Seen with Triton 2.51: an unknown model, or one without a ready version, is NOT_FOUND; a lost Python process
is INTERNAL "Stub process … is not healthy"; a full queue is UNAVAILABLE; whatever is wrong with a request,
too many rows too, is INVALID_ARGUMENT. Errors of a step come with "in ensemble 'NAME', " in front.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tritext import access
from tritext.errors import (
    AccessDenied,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ServerFault,
    TritextError,
    Unavailable,
)

# By the name of grpc.StatusCode, so that gRPC need not be imported to read this table.
BY_CODE: Final[Mapping[str, type[TritextError]]] = {
    "OK": ServerFault,  # an error that says OK
    "CANCELLED": Unavailable,  # the server stopped, or this client was closed, with the call in flight
    "UNKNOWN": ServerFault,
    "INVALID_ARGUMENT": InvalidInput,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": ModelNotFound,
    "ALREADY_EXISTS": ServerFault,
    "PERMISSION_DENIED": AccessDenied,  # this one and UNAUTHENTICATED come from what may stand in front of a server
    "RESOURCE_EXHAUSTED": Unavailable,
    "FAILED_PRECONDITION": ServerFault,
    "ABORTED": ServerFault,
    "OUT_OF_RANGE": ServerFault,
    "UNIMPLEMENTED": ServerFault,
    "INTERNAL": ServerFault,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": ServerFault,
    "UNAUTHENTICATED": AccessDenied,
}

# Sentences that say more than their code, whatever code they come with. The first that is found decides.
BY_SENTENCE: Final[tuple[tuple[re.Pattern[str], type[TritextError]], ...]] = (
    (re.compile(r"Stub process .* is not healthy"), Unavailable),
    # A step that is being reloaded, not the model that was asked for.
    (re.compile(r"\bin ensemble .*(unknown model|not at ready state|no available versions)"), Unavailable),
    (re.compile(r"unknown model|not at ready state|no available versions"), ModelNotFound),
    (re.compile(access.REFUSAL), AccessDenied),
    (re.compile(r"message larger than max"), InvalidInput),
    (re.compile(r"Request timeout expired"), DeadlineExceeded),
)

_PREFIX: Final = re.compile(r"^(in ensemble '[^']*', |\[request id: [^\]]*\] )+")
# What gRPC says where the two ends do not agree on certificates, or only one of them wants any.
_TLS: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|Hostname Verification Check failed|(?i:ssl handshake failed)"
)
_ROW: Final = re.compile(r"\b([A-Z_]+)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Context:
    """What a failed request was about. ``items`` is None where it was the call's only request."""

    address: str
    model: str
    timeout: float | None = None
    items: range | None = None


def affected(error: BaseException) -> range | None:
    """Which of the caller's items `error` was about, by index; None where it was about the call as a whole."""
    items = vars(error).get("items")
    return items if isinstance(items, range) else None


def about(error: TritextError, items: range) -> TritextError:
    """`error`, marked as being about `items`; see `affected`."""
    vars(error)["items"] = items
    return error


def translate(code: str, details: str, context: Context) -> TritextError:
    """The exception for a gRPC status: `code` is the name of a grpc.StatusCode, `details` its sentence."""
    kind = next((kind for pattern, kind in BY_SENTENCE if pattern.search(details)), BY_CODE.get(code, ServerFault))
    sentence = _PREFIX.sub("", details).strip()
    items = context.items
    if kind is InvalidInput:
        sentence, items = _rebased(sentence, items)
    error = kind(_message(kind, code, sentence, replace(context, items=items)))
    return error if items is None else about(error, items)


def _rebased(sentence: str, items: range | None) -> tuple[str, range | None]:
    """Rows of the request, as the server counts, to the caller's items; and the items that it is about."""
    named = _ROW.search(sentence)
    if named is None:
        return sentence, None if sentence.startswith("Parameter ") else items
    start = items.start if items is not None else 0
    index = start + int(named[2])
    return _ROW.sub(lambda row: f"{row[1]}[{start + int(row[2])}]", sentence), range(index, index + 1)


def _message(kind: type[TritextError], code: str, sentence: str, context: Context) -> str:
    model, address = context.model, context.address
    which = _which(context.items)
    if kind is InvalidInput:
        return f"{_stop(sentence)} (Model {model} at {address}{'' if _ROW.search(sentence) else which}.)"
    if kind is DeadlineExceeded:
        limit = f" within {context.timeout:g} s" if context.timeout is not None else " in time"
        return f"Model {model} at {address} did not answer{limit}{which}. Allow more time, or send less at once."
    if kind is ModelNotFound:
        return f"The server at {address} has no model {model} that is ready: {_stop(sentence)}"
    if kind is AccessDenied:
        return (
            f"The server at {address} does not let this client ask model {model}: {_stop(sentence)} Give it the key: "
            f"`api_key=` in Python, --api-key-file or {access.KEY} on the command line."
        )
    if kind is Unavailable:
        return _unavailable(sentence, context)
    first_line = _stop(sentence.partition("\n")[0])
    return f"Model {model} failed inside the server at {address}{which} ({code}): {first_line} Its log says more."


def _unavailable(sentence: str, context: Context) -> str:
    address, model = context.address, context.model
    if "Socket closed" in sentence and "failed to connect" in sentence:
        return (
            f"What listens at {address} does not speak gRPC. Name Triton's gRPC port (8001 unless "
            "set otherwise), not its HTTP port, and give `credentials=` or --tls-ca if it has TLS. "
            f"Model {model} was asked for."
        )
    if "failed to connect" in sentence and (reason := _TLS.search(sentence)):
        return (
            f"The server at {address} and this client do not trust each other ({reason[0]}). With TLS, name the server "
            "as its certificate does, and give the certificate of its authority, and one of your own where it asks for "
            f"that (`credentials=`, or --tls-ca, --tls-cert and --tls-key). Model {model} was asked for."
        )
    if "failed to connect" in sentence or "errors resolving" in sentence:
        last = sentence.rpartition(": ")[2].rstrip("]")
        return (
            f"Nobody answers at {address} ({last}). Start a server (`tritext serve`), or name the host and gRPC port "
            f"of one; model {model} was asked for."
        )
    server, which = f"The server at {address}", _which(context.items)
    again = "" if "Try again" in sentence else " Try again."
    return f"{server} cannot serve model {model} now{which}: {_stop(sentence)}{again}"


def _which(items: range | None) -> str:
    if not items:
        return ""
    return f", text {items.start}" if len(items) == 1 else f", texts {items.start} to {items.stop - 1}"


def _stop(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def not_understood(what: str, context: Context) -> ClientError:
    """The exception for an answer that does not follow the contract."""
    return ServerFault(
        f"Model {context.model} at {context.address} gave an answer that this client does not understand ({what}). "
        "It may have been built anew meanwhile: ask again. If that does not help, was it built by another version of "
        "tritext?"
    )
