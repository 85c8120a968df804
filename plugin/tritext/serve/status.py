"""What the supervisor knows: which models answer, why others do not, what it has done about it."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

# Prometheus metrics of the supervisor, beside Triton's own: name -> what it counts.
RESTARTS: Final = "tritext_restarts_total"
ROLLOUTS: Final = "tritext_rollouts_total"
READY: Final = "tritext_model_ready"
_HELP: Final = {
    RESTARTS: "Times that a step, or Triton itself, was brought back, by cause.",
    ROLLOUTS: "New builds that were taken into service or refused while serving.",
}

Tell = Callable[[str], None]


@dataclass(slots=True)
class ModelStatus:
    """One model. ``reason`` says why it does not answer, ``refused`` why a build that was committed is not served.

    ``build`` is None where none has answered yet; the server is ready without the model unless it is ``expected``.
    ``refused_commit`` tells which commit of ``refused_build`` that was, by the time of its configuration (ns): the same
    build may be committed again when the cause is put right. It is None until a look finds that commit still in place.
    """

    build: str | None
    ready: bool = True
    reason: str | None = None
    restarts: int = 0
    refused_build: str | None = None
    refused: str | None = None
    refused_commit: int | None = None
    expected: bool = True


class Status:
    """Of all models and of Triton; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, ModelStatus] = {}
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._outage: str | None = None

    def serve(self, model: str, build: str) -> None:
        """`model` answers, with `build`."""
        with self._lock:
            restarts = self._models[model].restarts if model in self._models else 0
            self._models[model] = ModelStatus(build, restarts=restarts)

    def forget(self, model: str) -> None:
        """`model` is served no more."""
        with self._lock:
            self._models.pop(model, None)

    def up(self, model: str) -> None:
        """`model` answers again."""
        with self._lock:
            if model in self._models:
                self._models[model].ready, self._models[model].reason = True, None

    def down(self, model: str, reason: str) -> None:
        """`model` does not answer."""
        with self._lock:
            if model in self._models:
                self._models[model].ready, self._models[model].reason = False, reason

    def refuse(self, model: str, build: str, reason: str, *, is_expected: bool = False) -> None:
        """`build` of `model` is committed and not fit to serve; what served before still does.

        Where nothing did, the server is not ready for want of it only if it `is_expected`.
        """
        with self._lock:
            known = self._models.setdefault(model, ModelStatus(None, ready=False, expected=is_expected))
            known.refused_build, known.refused, known.refused_commit = build or None, reason, None
            if known.build is None:
                known.reason = f"what is committed is refused: {reason}"

    def stay_refused(self, model: str, commit: int) -> None:
        """What was refused of `model` is still what is committed, by `commit`, and is not tried again."""
        with self._lock:
            if model in self._models:
                self._models[model].refused_commit = commit

    def outage(self, reason: str | None) -> None:
        """Triton itself is away, or back where `reason` is None."""
        with self._lock:
            self._outage = reason

    def restarted(self, model: str, step: str, cause: str) -> None:
        """Count that `step` of `model` was brought back."""
        with self._lock:
            if model in self._models:
                self._models[model].restarts += 1
        self.count(RESTARTS, model=model, step=step, cause=cause)

    def count(self, metric: str, **labels: str) -> None:
        """One more of `metric`."""
        with self._lock:
            self._counts[metric, tuple(sorted(labels.items()))] += 1

    @property
    def is_ready(self) -> bool:
        """Whether every model that is expected answers."""
        with self._lock:
            return self._is_ready()

    def document(self) -> dict[str, Any]:
        """All of it, for JSON."""
        with self._lock:
            models = {name: asdict(model) for name, model in sorted(self._models.items())}
            return {"ready": self._is_ready(), "reason": self._outage, "models": models}

    def _is_ready(self) -> bool:
        return self._outage is None and all(model.ready for model in self._models.values() if model.expected)

    def unserved(self) -> list[str]:
        """The models of which no build has answered."""
        with self._lock:
            return [name for name, model in self._models.items() if model.build is None]

    def metrics(self) -> str:
        """All of it in Prometheus' text format, version 0.0.4."""
        with self._lock:
            lines = []
            for metric, what in _HELP.items():
                lines += [f"# HELP {metric} {what}", f"# TYPE {metric} counter"]
                found = sorted((labels, n) for (name, labels), n in self._counts.items() if name == metric)
                lines += [f"{metric}{_labels(**dict(labels))} {n}" for labels, n in found]
            lines += [f"# HELP {READY} Whether the model answers (1) or not (0).", f"# TYPE {READY} gauge"]
            for name, model in sorted(self._models.items()):
                value = int(model.ready and self._outage is None)
                lines.append(f"{READY}{_labels(model=name, build=model.build or '')} {value}")
            return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    # A folder that was refused for its name may be called anything.
    escape = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return "{" + ",".join(f'{name}="{value.translate(escape)}"' for name, value in labels.items()) + "}"
