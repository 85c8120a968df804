"""Which build of each model is served at a start: the committed one, or the best earlier one where it is not fit.

One bad model takes no other down: where it has no build that is fit, the others are served, and `/ready` says 503 until
it answers. So a replica that starts without a model never takes the place of one that has it, callers of the others
are still answered by whoever asks for `/ready/MODEL`, and a restart by the container's keeper, which would help nobody,
is not provoked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritext.errors import ModelsUnfit, RepositoryError, TritextError
from tritext.progress import Progress, Silent
from tritext.repository import BuiltModel, earlier, survey
from tritext.serve import ensemble
from tritext.serve.prepare import prepare
from tritext.serve.server import Server
from tritext.serve.status import Status, Tell


@dataclass(frozen=True, slots=True)
class Refusal:
    """A build that was not taken into service; `build` is empty where it cannot be told which is committed."""

    name: str
    build: str
    reason: str  # without a full stop
    is_final: bool  # not before another commit; files that are missing may still be on their way

    def __str__(self) -> str:
        return f"{self.name}: {f'build {self.build}' if self.build else 'what is committed'} is refused: {self.reason}."


class Selection:
    """The builds that are fit as far as is known: of every model in `repository`, or of those in `names`.

    ServeError where there is no model to choose. Where no model has a build that is fit, the error that speaks against
    the first; `tell` gets a sentence for each if there are several.
    """

    def __init__(self, repository: Path, names: Sequence[str] | None, tell: Tell) -> None:
        self.repository, self._tell = repository.resolve(), tell
        self.models: list[BuiltModel] = []
        self.refusals: list[Refusal] = []
        self._first: TritextError | None = None
        self._prepared: set[BuiltModel] = set()
        self._left: dict[str, list[BuiltModel]] = {}  # to fall back to
        found, faults = survey(self.repository)
        committed = {model.name: model for model in found}
        for name in ensemble.choose_names(self.repository, names or (), sorted({*committed, *faults})):
            if name in committed:
                self._try(committed[name])
            else:
                self._replace(name, "", faults[name])
        self._raise_if_empty()

    def prepare(self, progress: Progress) -> None:
        """Have a plan for every model that needs one."""
        while new := [model for model in self.models if model not in self._prepared]:
            for model in new:
                try:
                    prepare([model], progress)
                    self._prepared.add(model)
                except TritextError as error:
                    self._drop(model, error)
        self._raise_if_empty()

    def bring_up(self, server: Server, timeout: float) -> None:
        """Start `server` with the models that are chosen, and again with others while some turn out not to be fit.

        ServeError as Server's `start` and `wait_ready` say; each start may take `timeout` seconds.
        """
        try:
            server.start()
            server.wait_ready(timeout)
        except ModelsUnfit as error:
            self._bring_up_others(server, timeout, error)

    def _bring_up_others(self, server: Server, timeout: float, error: ModelsUnfit) -> None:
        unfit: ModelsUnfit | None = error
        while unfit:
            for model in [model for model in self.models if model.name in unfit.names]:
                self._drop(model, unfit)
            self.prepare(Silent())
            server.models, unfit = list(self.models), None
            try:
                server.relaunch(timeout)
            except ModelsUnfit as another:
                unfit = another

    def record(self, status: Status) -> None:
        """Say what was refused, and note it in `status`, which knows the models that are served."""
        for refusal in self.refusals:
            serving = next((model.build for model in self.models if model.name == refusal.name), None)
            place = f"Build {serving} answers in its place." if serving else "Nothing answers in its place."
            self._tell(f"{refusal} {place}")
        for refusal in reversed(self.refusals):  # the first of a model's is the committed one
            status.refuse(refusal.name, refusal.build, refusal.reason, is_expected=True)

    def missing(self) -> list[str]:
        """Why models have no build that is fit, a sentence for each."""
        chosen = {model.name for model in self.models}
        return list({each.name: str(each) for each in reversed(self.refusals) if each.name not in chosen}.values())

    def _try(self, model: BuiltModel) -> None:
        try:
            model.manifest()
            self.models.append(model)
        except RepositoryError as error:
            self._replace(model.name, model.build, error)

    def _drop(self, model: BuiltModel, error: TritextError) -> None:
        self.models.remove(model)
        self._replace(model.name, model.build, error)

    def _replace(self, name: str, build: str, error: TritextError) -> None:
        """Try the next build that is left of `name` in the place of `build`, which `error` speaks against."""
        self._first = self._first or error
        reason = str(error).partition("\n")[0].rstrip(".")
        is_damage = isinstance(error.__cause__ or error, RepositoryError)
        self.refusals.append(Refusal(name, build, reason, is_final=not is_damage))
        if name not in self._left:
            try:
                self._left[name] = earlier(self.repository, name, build or None)
            except RepositoryError:  # the folder itself is not one that may be served
                self._left[name] = []
        if self._left[name]:
            self._try(self._left[name].pop(0))

    def _raise_if_empty(self) -> None:
        if self.models or self._first is None:
            return
        if len(self.refusals) > 1:
            for refusal in self.refusals:
                self._tell(str(refusal))
        raise self._first
