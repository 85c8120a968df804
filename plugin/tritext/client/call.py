"""One call of `classify`: all that the two clients do alike, with no input or output of its own."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from tritext import contract
from tritext.client.batching import Batch, Batcher, lone_surrogate
from tritext.client.codec import Malformed, RequestEncoder, decode, model_info
from tritext.client.errors import Context, not_understood, translate
from tritext.client.options import wire_parameters
from tritext.client.results import ModelInfo, Result
from tritext.client.retry import Patience, Refusal
from tritext.client.wire import metadata, status
from tritext.errors import CheckpointError, ClientError, InvalidInput, ModelNotFound, TritextError
from tritext.parameters import NAMES

if TYPE_CHECKING:
    from tritext.tasks.base import Task

# Small enough that a server works on one batch while the next ones travel, large enough that a request's own
# cost does not show.
BATCH_SIZE: Final = 32
IN_FLIGHT: Final = 4
TIMEOUT: Final = 60.0
_LONGEST: Final = 366 * 86_400.0  # gRPC takes what is far beyond for the past

ResultType = type[Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a request may take: `seconds` each, or all of a call's requests until `until` (monotonic)."""

    seconds: float
    until: float | None = None

    @classmethod
    def of_call(cls, seconds: float) -> "Limit":
        """All requests together get `seconds` from now."""
        return cls(seconds, time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds that a request sent now may take."""
        return self.seconds if self.until is None else max(0.0, self.until - time.monotonic())


@dataclass(frozen=True, slots=True)
class Plan:
    """What the caller asked for, checked as far as a client can."""

    model: str
    address: str
    limit: Limit
    parameters: Mapping[str, bool | int | float | str]
    result_type: ResultType | None = None
    batch_size: int = BATCH_SIZE
    in_flight: int = IN_FLIGHT
    retries: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limit.seconds, int | float) or not 0 < self.limit.seconds <= _LONGEST:
            raise InvalidInput(f"timeout is {self.limit.seconds!r}. Give a number of seconds above 0, a year at most.")
        for name, value in (("batch_size", self.batch_size), ("max_in_flight", self.in_flight)):
            if not isinstance(value, int) or value < 1:
                raise InvalidInput(f"{name} is {value}. Give a whole number of at least 1.")
        if self.retries is not None and (not isinstance(self.retries, int) or self.retries < 0):
            raise InvalidInput(f"retries is {self.retries}. Give a whole number, 0 for none.")

    def patience(self) -> Patience:
        """Of a request that is sent now for the first time."""
        return Patience(time.monotonic() + self.limit.left(), self.retries, is_own=self.limit.until is None)

    def context(self, items: range | None = None) -> Context:
        """For messages; `items` are the request's, None where it is the call's only one."""
        return Context(self.address, self.model, self.limit.seconds, items)


class Call:
    """Turns items into requests and answers into results, for one `plan`."""

    def __init__(self, plan: Plan, info: ModelInfo) -> None:
        self._task: Final = _task(plan, info)
        self.plan: Final = plan
        self._encoder = encoder(plan, self._task, ids=token_hex(4))
        width = self._encoder.width
        self.batcher: Final = Batcher(
            max(1, min(plan.batch_size, info.max_batch_size, contract.MOST_ROWS // width)),
            width=width,
            shared_bytes=self._encoder.shared_bytes,
        )

    def request(self, batch: Batch, left: float) -> Any:
        """The ModelInferRequest for `batch`; InvalidInput where it holds pairs for a task of single texts, or not.

        It says that `left` seconds are left, so that the server does not begin it later.
        """
        texts = self._task.texts
        if batch.pairs is not None and len(texts) == 1:
            raise InvalidInput(
                f"Model {self.plan.model} at {self.plan.address} does {self._task.name}, which takes single texts, not "
                "pairs. Leave the second texts out."
            )
        if batch.pairs is None and len(texts) == 2 and not texts[1].optional:
            raise InvalidInput(
                f"Model {self.plan.model} at {self.plan.address} does {self._task.name}, which takes pairs: "
                f"{texts[0].name} and {texts[1].name}. Give each item as a tuple of two."
            )
        return self._encoder.encode(batch, left)

    def results(self, response: Any, batch: Batch) -> list[Result]:
        """The results in the ModelInferResponse to `batch`; Malformed where it is none."""
        return decode(response, len(batch.texts), self._task)


class ClientBase:
    """What a client knows: the address, the models it has met, whether it is closed."""

    def __init__(self, address: str, timeout: float, api_key: str | None = None) -> None:
        if not address.strip() or address.startswith(("http://", "https://", "grpc://")):
            raise InvalidInput(f"{address!r} is no address. Write host:port, the port being gRPC's: localhost:8001.")
        self.address: Final = address
        self._timeout = timeout
        self._metadata: Final = metadata(api_key)
        self._infos: dict[str, ModelInfo] = {}
        self._is_closed = False

    def _plan(
        self, model: str, result_type: ResultType | None, options: Mapping[str, Any], *, whole_call: bool
    ) -> Plan:
        rest = dict(options)
        timeout, size, in_flight, retries = (
            rest.pop(name, None) for name in ("timeout", "batch_size", "max_in_flight", "retries")
        )
        return Plan(
            model,
            self.address,
            _limit(self._timeout if timeout is None else timeout, whole_call=whole_call and timeout is not None),
            wire_parameters(rest),
            result_type,
            BATCH_SIZE if size is None else size,
            IN_FLIGHT if in_flight is None else in_flight,
            retries,
        )

    def _info_plan(self, model: str) -> Plan:
        return Plan(model, self.address, Limit(self._timeout), {})

    def _remember(self, plan: Plan, response: Any) -> ModelInfo:
        """Read a ModelConfigResponse; Malformed where it is none."""
        info = self._infos[plan.model] = model_info(response, self.address)
        return info

    @contextmanager
    def _doubting(self, plan: Plan) -> Iterator[None]:
        """Around a call: where something does not fit what is known of the model, that is forgotten.

        The model may have been built anew, for another task even, so that the next call has to ask what it is.
        """
        try:
            yield
        except (InvalidInput, ModelNotFound):
            self._infos.pop(plan.model, None)
            raise
        except Malformed as error:
            self._infos.pop(plan.model, None)
            raise not_understood(str(error), plan.context()) from error

    @staticmethod
    def _failure(plan: Plan, error: Any, items: range | None = None) -> TritextError:
        """The exception for an RpcError; `items` as in `Plan.context`."""
        return translate(*status(error), plan.context(items))

    @staticmethod
    def _wait(error: Any, patience: Patience) -> float | None:
        """Seconds after which the request that got this RpcError is to be sent again; None where it is not."""
        refusal = Refusal.of(*status(error))
        return patience.wait(refusal) if refusal else None

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientError(f"This client of {self.address} is closed. Make a new one.")


def _limit(seconds: float, *, whole_call: bool) -> Limit:
    # What is no number is refused by `Plan`, which knows how to say it.
    return Limit.of_call(seconds) if whole_call and isinstance(seconds, int | float) else Limit(seconds)


def check_texts(texts: object) -> None:
    """Refuse what is iterable and yet no list of texts."""
    if isinstance(texts, str | bytes):
        raise InvalidInput("texts is a single text; it must be a list of them. Write [text].")


def _task(plan: Plan, info: ModelInfo) -> "Task":
    """The model's task; InvalidInput where its results are not of the type that is expected."""
    from tritext.tasks import task_named  # with numpy, which the client's import does not pay for

    try:
        task = task_named(info.task)
    except CheckpointError:
        raise InvalidInput(
            f"Model {plan.model} at {plan.address} does {info.task}, which this version of tritext does not know. "
            "Install the version that built it."
        ) from None
    if plan.result_type is not None and plan.result_type is not task.result:
        raise InvalidInput(
            f"Model {plan.model} at {plan.address} does {info.task}: its results are {task.result.__name__}, not "
            f"{plan.result_type.__name__}."
        )
    return task


def encoder(plan: Plan, task: "Task", *, ids: str = "") -> RequestEncoder:
    """An option that is named as one of the task's inputs travels as that tensor, the rest as parameters.

    InvalidInput where an input is missing; `ids` as in `RequestEncoder`.
    """
    sent, shared = dict(plan.parameters), {}
    for tensor in task.shared:
        if (value := sent.pop(tensor.name.lower(), None)) is not None:
            shared[tensor.name] = _row(tensor.name.lower(), value)
        elif not tensor.optional:
            raise InvalidInput(
                f"Model {plan.model} at {plan.address} does {task.name}, which needs {tensor.name.lower()}: a list of "
                "strings, the same for all texts of a call."
            )
    return RequestEncoder(plan.model, sent, task.names, shared, ids=ids)


def _row(name: str, value: object) -> Sequence[str]:
    try:
        row: Sequence[str] = NAMES.parse(value)
    except UnicodeEncodeError as error:  # JSON can spell what UTF-8 cannot carry
        raise InvalidInput(f"Parameter {name} {lone_surrogate(error)}") from None
    except (ValueError, TypeError, RecursionError):
        row = ()
    if not row:
        raise InvalidInput(f"{name} is {value!r}; it must be {NAMES.expects}.")
    return row
