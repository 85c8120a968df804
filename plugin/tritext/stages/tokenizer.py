"""The first step: texts in, token ids out, and the only place where a request is judged, or refused for overload."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tritext import admission, contract, parameters
from tritext.admission import Gate
from tritext.deadlines import Deadlines
from tritext.engines.shapes import bucket
from tritext.errors import InvalidInput, Overloaded, RepositoryError, TritextError
from tritext.parameters import Parameters
from tritext.settings import TOKENIZER, TaskSettings
from tritext.stages.base import (
    REFUSED_EXPIRED,
    REFUSED_INVALID,
    REFUSED_OVERLOAD,
    TRUNCATIONS,
    Answer,
    Request,
    zeros,
)
from tritext.stages.estimate import Estimate
from tritext.tasks import task_named
from tritext.tasks.inputs import Rows
from tritext.text.tokenizer import Encoded, TextTokenizer


@dataclass(frozen=True, slots=True)
class _Job:
    rows: Rows
    parameters: Parameters
    is_encoded: bool

    def row(self, index: int) -> int:
        """The request's row that the text at `index` is for."""
        return index if self.rows.of is None else self.rows.of[index]


class TokenizerStage:
    """Validates each request by itself, then tokenizes all their texts at once."""

    def __init__(self, settings: TaskSettings, tokenizer: TextTokenizer) -> None:
        self._settings = settings
        self._task = task_named(settings.task)
        self._tokenizer = tokenizer
        self._estimate = Estimate(settings.max_length)
        self.gate: Gate | None = None
        self.deadlines: Deadlines | None = None
        self.counts = zeros(TRUNCATIONS, REFUSED_INVALID, REFUSED_OVERLOAD, REFUSED_EXPIRED)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder (``settings.json``, ``tokenizer.json``)."""
        settings = TaskSettings.read(folder)
        carries_offsets = contract.OFFSETS in task_named(settings.task).carried
        path = folder / TOKENIZER
        try:
            tokenizer = TextTokenizer(
                path, settings.max_length, with_offsets=carries_offsets, unk_id=settings.unk_id,
                cut=task_named(settings.task).cut,
            )  # fmt: skip
        except Exception as error:  # the library raises nothing more special
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        stage = cls(settings, tokenizer)
        stage.gate, stage.deadlines = admission.gate(folder), admission.deadlines(folder)
        return stage

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Token ids [N, L] and what the task carries, padded to the longest text of each request."""
        refusals = self._refusals(requests)
        jobs = [refusal or self._judge(request) for request, refusal in zip(requests, refusals, strict=True)]
        good = [job for job in jobs if isinstance(job, _Job)]
        texts = [text for job in good for text in job.rows.texts]
        sides = [job.parameters.truncation for job in good for _ in job.rows.texts]
        cuts = [self._cut(job.parameters) for job in good for _ in job.rows.texts]
        begun = time.monotonic()
        encoded = self._tokenizer.encode(texts, sides, cuts)
        if self.gate and texts:
            self._estimate.learn(texts, encoded, time.monotonic() - begun)
        self.counts[TRUNCATIONS] += sum(row.truncated for row in encoded)
        rows = iter(encoded)
        return [
            self._answer(job, [next(rows) for _ in job.rows.texts]) if isinstance(job, _Job) else job for job in jobs
        ]

    def _refusals(self, requests: Sequence[Request]) -> list[Overloaded | None]:
        """Which of `requests` could not be begun in time. Cheap: nothing is decoded or tokenized for this."""
        if self.gate is None:
            return [None] * len(requests)
        pressure = self.gate.pressure()
        refusals: list[Overloaded | None] = []
        for request in requests:
            refusal = pressure.refusal(request.timeout)
            if refusal:
                refusals.append(Overloaded(str(refusal), misses_deadline=refusal.timeout is not None))
            else:
                refusals.append(None)
                pressure.add(*self._estimate.of(request.inputs.values()))
        return refusals

    def _judge(self, request: Request) -> _Job | InvalidInput:
        try:
            read = parameters.parse(self._task.parameters, request.parameters, self._settings.defaults)
            rows = self._task.rows(request.inputs, self._settings, read)
            if len(rows.texts) > contract.MOST_ROWS:
                return _too_many(len(rows.texts))
            if self.deadlines and request.timeout and request.id:
                self.deadlines.note(request.id, request.timeout)
            return _Job(rows, read, is_encoded=contract.COUNT_ONLY not in request.parameters)
        except InvalidInput as error:
            return error

    def _answer(self, job: _Job, encoded: list[Encoded]) -> Answer | InvalidInput:
        try:
            for index, each in enumerate(encoded):
                if job.parameters.truncation == "error" and each.truncated:
                    return self._too_long(job, index, each.count)
                self._task.check(each.input_ids, job.row(index), self._settings)
                if len(each.input_ids) > self._settings.max_length:
                    return self._kept_whole(job, index)
        except InvalidInput as error:
            return error
        if self.gate and job.is_encoded:
            self.gate.let_through(sum(len(row.input_ids) for row in encoded))
        return {**self._padded(encoded), **_report(encoded, job.rows), **job.rows.carried}

    def _cut(self, read: parameters.Parameters) -> parameters.Cut:
        """Which text of a pair is cut: the task says it, or leaves it to the request."""
        return read.truncation_strategy if isinstance(read, parameters.PairParameters) else self._task.cut

    def _kept_whole(self, job: _Job, index: int) -> InvalidInput:
        strategy, longest = self._cut(job.parameters), self._settings.max_length
        name = job.rows.names[strategy == "only_first"]
        return InvalidInput(
            f"{name}[{job.row(index)}] leaves none of the model's {longest} tokens to the other text, and "
            f"truncation_strategy={strategy} keeps it whole. Send less of it, or another truncation_strategy."
        )

    def _too_long(self, job: _Job, index: int, count: int) -> InvalidInput:
        names = [f"{name}[{job.row(index)}]" for name in job.rows.names]
        is_pair = isinstance(job.rows.texts[index], tuple)
        what = f"{names[0]} and {names[1]} together have" if is_pair else f"{names[0]} has"
        return InvalidInput(
            f"{what} {count} tokens, this model takes {self._settings.max_length}. Send less, or send the parameter "
            "truncation=right or truncation=left."
        )

    def _padded(self, rows: list[Encoded]) -> Answer:
        length = bucket(self._settings.lengths, max(len(row.input_ids) for row in rows))
        shape = (len(rows), length)
        answer: Answer = {
            contract.INPUT_IDS.name: np.full(shape, self._settings.pad_id, dtype=np.int32),
            contract.ATTENTION_MASK.name: np.zeros(shape, dtype=np.int32),
        }
        if contract.TOKEN_TYPE_IDS.name in self._settings.encoder_inputs:
            answer[contract.TOKEN_TYPE_IDS.name] = np.zeros(shape, dtype=np.int32)
        if contract.OFFSETS in self._task.carried:
            answer[contract.OFFSETS.name] = np.zeros((*shape, 2), dtype=np.int32)
            answer[contract.TOKEN_KIND.name] = np.full(shape, contract.SPECIAL, dtype=np.uint8)
        for index, row in enumerate(rows):
            _fill(answer, index, row)
        return answer


def _report(encoded: Sequence[Encoded], rows: Rows) -> Answer:
    """TOKEN_COUNT and TRUNCATED [N, 1] and, where a row may have become several, ROW [M, 1].

    Of several it is the longest, and whether any was cut.
    """
    of = np.arange(len(encoded)) if rows.of is None else np.asarray(rows.of)
    counts, truncated = np.zeros((of[-1] + 1, 1), np.int32), np.zeros((of[-1] + 1, 1), np.bool_)
    np.maximum.at(counts[:, 0], of, [each.count for each in encoded])
    np.logical_or.at(truncated[:, 0], of, [each.truncated for each in encoded])
    return {
        contract.TOKEN_COUNT.name: counts,
        contract.TRUNCATED.name: truncated,
        contract.ROW.name: of.astype(np.int32)[:, None],
    }


def _too_many(rows: int) -> InvalidInput:
    return InvalidInput(
        f"The request's texts make {rows} rows for the model, and {contract.MOST_ROWS} are the most. Send fewer texts "
        "a request."
    )


def _fill(answer: Answer, index: int, row: Encoded) -> None:
    size = len(row.input_ids)
    answer[contract.ATTENTION_MASK.name][index, :size] = 1
    values = {
        contract.INPUT_IDS.name: row.input_ids,
        contract.TOKEN_TYPE_IDS.name: row.token_type_ids,
        contract.OFFSETS.name: row.offsets,
        contract.TOKEN_KIND.name: row.kinds,
    }
    for name, value in values.items():
        if name in answer and value is not None:
            answer[name][index, :size] = value
