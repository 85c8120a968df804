"""The first step: texts in, token ids out, and the only place where a request is judged, or refused for overload."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tritext import admission, contract
from tritext.admission import Gate
from tritext.calls import Calls
from tritext.deadlines import Deadlines
from tritext.engines.shapes import bucket
from tritext.errors import InvalidInput, Overloaded, RepositoryError, TritextError
from tritext.parameters import Parameters, Reader
from tritext.settings import TOKENIZER, TaskSettings
from tritext.stages.base import (
    GIVEN_UP,
    REFUSED_EXPIRED,
    REFUSED_INVALID,
    REFUSED_OVERLOAD,
    TRUNCATIONS,
    Answer,
    Counts,
    Request,
    zeros,
)
from tritext.tasks import task_named
from tritext.tasks.base import firsts
from tritext.tasks.inputs import Rows
from tritext.text.tokenizer import Encoded, TextTokenizer
from tritext.text.windows import Cuts, Windows


@dataclass(frozen=True, slots=True)
class _Job:
    rows: Rows
    parameters: Parameters
    is_encoded: bool


class TokenizerStage:
    """Validates each request by itself, then tokenizes all their texts at once."""

    def __init__(self, settings: TaskSettings, tokenizer: TextTokenizer) -> None:
        self._settings = settings
        self._task = task_named(settings.task)
        self._parameters = Reader(self._task.parameters, settings.defaults)
        self._tokenizer = tokenizer
        self.gate: Gate | None = None
        self.deadlines: Deadlines | None = None
        self.calls: Calls | None = None
        self.counts = zeros(TRUNCATIONS, REFUSED_INVALID, REFUSED_OVERLOAD, REFUSED_EXPIRED)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder (``settings.json``, ``tokenizer.json``)."""
        settings = TaskSettings.read(folder)
        carries_offsets = contract.OFFSETS in task_named(settings.task).carried
        path = folder / TOKENIZER
        try:
            tokenizer = TextTokenizer(path, settings.max_length, with_offsets=carries_offsets, unk_id=settings.unk_id)
        except Exception as error:  # the library raises nothing more special
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        stage = cls(settings, tokenizer)
        stage.gate, stage.deadlines = admission.gate(folder), admission.deadlines(folder)
        stage.calls = Calls.from_environment()
        return stage

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Token ids [N, L] and what the task carries, padded to the longest text of each request."""
        refusals = self._refusals(requests)
        jobs = [refusal or self._judge(request) for request, refusal in zip(requests, refusals, strict=True)]
        whole = [job for job in jobs if isinstance(job, _Job) and job.rows.windows is None]
        encoded = iter(self._whole(whole))
        answers: list[Answer | TritextError] = []
        for job in jobs:
            if not isinstance(job, _Job):
                answers.append(job)
            elif job.rows.windows is None:
                answers.append(self._answer(job, [next(encoded) for _ in job.rows.texts]))
            else:
                answers.append(self._windowed(job, job.rows.windows))
        self._tell(requests, answers)
        return answers

    def _tell(self, requests: Sequence[Request], answers: Sequence[Answer | TritextError]) -> None:
        """Let the fence know what of its calls was let through."""
        if self.calls:
            for request, answer in zip(requests, answers, strict=True):
                self.calls.judge(request.call, _let_through(request, answer))

    def counted_elsewhere(self) -> Counts:
        """What the fence refused by itself."""
        return {REFUSED_OVERLOAD: self.gate.refused_before()} if self.gate else {}

    def _whole(self, jobs: Sequence[_Job]) -> list[Encoded]:
        """One row for each text of `jobs`."""
        texts = [text for job in jobs for text in job.rows.texts]
        sides = [job.parameters.truncation for job in jobs for _ in job.rows.texts]
        cuts = [self._task.cut_for(job.parameters) for job in jobs for _ in job.rows.texts]
        encoded = self._tokenizer.encode(texts, sides, cuts)
        self.counts[TRUNCATIONS] += sum(row.truncated for row in encoded)
        return encoded

    def _windowed(self, job: _Job, windows: Windows) -> Answer | InvalidInput:
        texts = self._tokenizer.windowed(job.rows.texts, windows)
        for index, text in enumerate(texts):
            if not text.cuts.is_possible:
                return _no_room(job.rows, index, text.cuts)
        counts = [len(text.cuts) for text in texts]
        if sum(counts) > self._settings.most_rows:
            return _too_many(sum(counts), self._settings.most_rows, "less text")
        rows = [text.window(number) for text in texts for number in range(len(text.cuts))]
        return self._answer(replace(job, rows=job.rows.repeated(counts)), rows)

    def _refusals(self, requests: Sequence[Request]) -> list[Overloaded | None]:
        """Which of `requests` nobody waits for, or could not be begun in time.

        Cheap: nothing is decoded or tokenized for this.
        """
        pressure = self.gate.pressure() if self.gate else None
        refusals: list[Overloaded | None] = []
        for request in requests:
            refusal = pressure.refusal(request.timeout, was_let_in=request.call > 0) if pressure else None
            if request.is_given_up:
                refusals.append(Overloaded(GIVEN_UP, misses_deadline=True))
            elif refusal:
                refusals.append(Overloaded(str(refusal), misses_deadline=refusal.timeout is not None))
            else:
                refusals.append(None)
        return refusals

    def _judge(self, request: Request) -> _Job | InvalidInput:
        try:
            size = sum([sum(map(len, array.ravel())) for array in request.inputs.values() if array.dtype == np.object_])
            if size > contract.MOST_BYTES:
                return _too_large(size)
            read = self._parameters.read(request.parameters)
            rows = self._task.rows(request.inputs, self._settings, read)
            if len(rows.texts) > contract.MOST_ROWS:
                return _too_many(len(rows.texts), contract.MOST_ROWS, "fewer texts")
            if self._task.expands and (size := rows.characters) > contract.MOST_BYTES:
                return _too_much(size, len(rows.texts))
            if rows.windows and not self._settings.most_rows:
                return InvalidInput("This model was built by an older tritext and makes no windows. Build it again.")
            if self.deadlines and request.timeout and request.known_as:
                self.deadlines.note(request.known_as, request.timeout)
            return _Job(rows, read, is_encoded=contract.COUNT_ONLY not in request.parameters)
        except InvalidInput as error:
            return error

    def _answer(self, job: _Job, encoded: list[Encoded]) -> Answer | InvalidInput:
        try:
            for index, each in enumerate(encoded):
                if not each.count:
                    return InvalidInput(f"{job.rows.names[0]}[{job.rows.row(index)}] has no token. Send some text.")
                if job.parameters.truncation == "error" and each.truncated:
                    return self._too_long(job, index, each.count)
                self._task.check(each.input_ids, job.rows.row(index), self._settings)
                if len(each.input_ids) > self._settings.max_length:
                    return self._kept_whole(job, index)
            self._task.check_together([each.input_ids for each in encoded], self._settings, job.parameters)
        except InvalidInput as error:
            return error
        if self.gate and job.is_encoded:
            self.gate.let_through(sum(len(row.input_ids) for row in encoded))
        return {**self._padded(encoded), **_report(encoded, job.rows), **job.rows.carried}

    def _kept_whole(self, job: _Job, index: int) -> InvalidInput:
        strategy, longest = self._task.cut_for(job.parameters), self._settings.max_length
        name = job.rows.names[strategy == "only_first"]
        return InvalidInput(
            f"{name}[{job.rows.row(index)}] leaves none of the model's {longest} tokens to the other text, and "
            f"truncation_strategy={strategy} keeps it whole. Send less of it, or another truncation_strategy."
        )

    def _too_long(self, job: _Job, index: int, count: int) -> InvalidInput:
        names = [f"{name}[{job.rows.row(index)}]" for name in job.rows.names]
        is_pair = isinstance(job.rows.texts[index], tuple)
        what = f"{names[0]} and {names[1]} together have" if is_pair else f"{names[0]} has"
        return InvalidInput(
            f"{what} {count} tokens, this model takes {self._settings.max_length}. Send less, or send the parameter "
            f"truncation=right{', truncation=window' if self._task.windows else ''} or truncation=left."
        )

    def _padded(self, rows: list[Encoded]) -> Answer:
        length = bucket(self._settings.lengths, max(len(row.input_ids) for row in rows))
        answer: Answer = {
            contract.INPUT_IDS.name: _laid([row.input_ids for row in rows], length, self._settings.pad_id),
            contract.ATTENTION_MASK.name: _mask([len(row.input_ids) for row in rows], length),
        }
        if contract.TOKEN_TYPE_IDS.name in self._settings.encoder_inputs:
            answer[contract.TOKEN_TYPE_IDS.name] = _laid([row.token_type_ids for row in rows], length, 0)
        if contract.OFFSETS in self._task.carried:
            answer[contract.OFFSETS.name] = _laid([row.offsets for row in rows], length, 0)
            answer[contract.TOKEN_KIND.name] = _laid([row.kinds for row in rows], length, contract.SPECIAL)
        return answer


def _let_through(request: Request, answer: Answer | TritextError) -> int:
    """The tokens of `answer` that go on to the encoder."""
    if isinstance(answer, TritextError) or contract.COUNT_ONLY in request.parameters:
        return 0
    return int(np.count_nonzero(answer[contract.ATTENTION_MASK.name]))


def _report(encoded: Sequence[Encoded], rows: Rows) -> Answer:
    """TOKEN_COUNT and TRUNCATED [N, 1] and, where a row may have become several, ROW [M, 1] and WINDOW [M, 2].

    Of several it is the longest, and whether any was cut.
    """
    counts = np.array([[each.count] for each in encoded], np.int32)
    truncated = np.array([[each.truncated] for each in encoded], np.bool_)
    if rows.of is None:
        windows = _one_each(len(encoded))
    else:
        windows = np.array([(row, each.own) for row, each in zip(rows.of, encoded, strict=True)], np.int32)
        starts = firsts(windows[:, 0])
        counts, truncated = np.maximum.reduceat(counts, starts), np.logical_or.reduceat(truncated, starts)
    return {
        contract.TOKEN_COUNT.name: counts,
        contract.TRUNCATED.name: truncated,
        contract.ROW.name: windows[:, :1],
        contract.WINDOW.name: windows,
    }


@lru_cache(maxsize=8)
def _one_each(count: int) -> NDArray[np.int32]:
    """WINDOW [M, 2] of `count` texts that are a row each."""
    return np.array([(row, 1) for row in range(count)], np.int32)


def _too_large(size: int) -> InvalidInput:
    return InvalidInput(
        f"The request's texts have {size:,} bytes, and {contract.MOST_BYTES:,} are the most. Send fewer texts "
        "a request."
    )


def _too_much(size: int, rows: int) -> InvalidInput:
    return InvalidInput(
        f"The request's texts make {rows:,} pairs with {size:,} characters, and {contract.MOST_BYTES:,} are the most. "
        "Send fewer texts a request, or shorter ones."
    )


def _too_many(rows: int, most: int, less: str) -> InvalidInput:
    wider = "" if most >= contract.MOST_ROWS else (
        f" Its TensorRT plan takes no more rows; built with --batching packed, or for another --engine, a model takes "
        f"{contract.MOST_ROWS}."
    )  # fmt: skip
    return InvalidInput(
        f"The request's texts make {rows} rows for the model, and {most} are the most. Send {less} a request.{wider}"
    )


def _no_room(rows: Rows, index: int, cuts: Cuts) -> InvalidInput:
    where = f"{rows.names[isinstance(rows.texts[index], tuple)]}[{rows.row(index)}]"
    if cuts.room <= 0:
        return InvalidInput(
            f"{rows.names[0]}[{rows.row(index)}] leaves none of a window's tokens to {where}. Send a shorter one."
        )
    return InvalidInput(
        f"The stride of {cuts.stride} tokens is too large: a window has {cuts.room} of {where}. Send a smaller one."
    )


def _mask(sizes: Sequence[int], length: int) -> NDArray[np.int32]:
    """1 for the tokens of rows of these sizes, 0 for padding, [N, length]."""
    mask = np.zeros((len(sizes), length), np.int32)
    for row, size in zip(mask, sizes, strict=True):
        row[:size] = 1
    return mask


def _laid(rows: Sequence[Any], length: int, fill: int) -> NDArray[Any]:
    """Rows [l, …] of their own lengths as one array [N, length, …]."""
    laid: NDArray[Any]
    if len(rows) == 1 and len(rows[0]) == length:
        laid = rows[0][None]
        return laid
    laid = np.full((len(rows), length, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    for index, row in enumerate(rows):
        laid[index, : len(row)] = row
    return laid
