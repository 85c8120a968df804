"""Builds that are killed, or starved of disk, at every point; run as a script, since it forks before any thread is.

    python tests/crashing.py WORK OLD_CHECKPOINT NEW_CHECKPOINT

prints a JSON list of `Finding`s: what was done, and what was wrong afterwards. A point is whatever changes the file
system below the repository (by Python's audit events), and every word of progress. Exporting and judging a model
touches nothing but its staging folder, so for most points it is done once and then played back.
"""

import importlib
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest import mock

from building import answers, quick_build, snapshot
from tritext.build import builder
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.source import locate
from tritext.build.staging import STAGING
from tritext.errors import RepositoryError
from tritext.repository import CONFIG, VERSION, committed, models

NAME: Final = "model"
OTHER: Final = "model_b"  # begins like a step of NAME, and is none
CHANGES: Final = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir"})
STARVED: Final = ((0, "onnxruntime"), (300, "onnxruntime"), (100_000, "onnxruntime"), (200_000, "openvino"))
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Finding:
    """`kind` is what was done, `point` where; `build` is the one committed right afterwards."""

    kind: str
    point: str
    build: str | None = None
    problems: list[str] = field(default_factory=list)


class Points:
    """Counts the points below `folder` while armed, and acts at one of them. An audit hook stays for good."""

    def __init__(self) -> None:
        self.passed = 0
        self.point = ""
        self._folder: str | None = None
        self._coarse = False
        self._events = CHANGES
        self._at = 0
        self._act: Callable[[], None] = lambda: None
        sys.addaudithook(self._hear)

    def arm(
        self, folder: Path, at: int, act: Callable[[], None], *, coarse: bool = False, events: Set[str] = CHANGES
    ) -> None:
        """Do `act` at the point number `at`; `coarse`: not counting what is written into staging."""
        self._events = events
        self._folder, self._at, self._act, self._coarse, self.passed = str(folder), at, act, coarse, 0

    def disarm(self) -> None:
        self._folder = None

    def pass_by(self, point: str) -> None:
        if self._folder is None:
            return
        self.passed += 1
        if self.passed == self._at:
            self.point = point.replace(self._folder, "")
            self.disarm()
            self._act()

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._folder is None or (event != "open" and event not in self._events):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        if self._coarse and event in {"open", "os.mkdir"} and STAGING in str(args[0]):
            return
        is_relative = event in {"os.remove", "os.rmdir"} and args[-1] != -1  # to a folder that is open, by rmtree
        if is_relative or any(str(arg).startswith(self._folder) for arg in args if isinstance(arg, str | os.PathLike)):
            self.pass_by(f"{event} {args[0]}")


class Heard:
    """A listener to a build's progress that makes a point of each word."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def step(self, title: str, _total: int | None = None, **_: object) -> None:
        self._points.pass_by(f"begin {title}")

    def advance(self) -> None:
        self._points.pass_by("advance")

    def done(self, _note: str = "") -> None:
        self._points.pass_by("done")


def played_back(cache: Path, points: Points) -> Any:
    """A patch that lets builds take what was once made for `cache` as if they had made it."""

    def make(_self: Any, staged: Path, *_: Any) -> Any:
        armed, points._folder = points._folder, None
        shutil.copytree(cache / "staged", staged, dirs_exist_ok=True)
        points._folder = armed
        return pickle.loads((cache / "made").read_bytes())  # noqa: S301 - our own

    return mock.patch.object(builder._Builder, "_make", make)


def record(cache: Path) -> Any:
    """A patch that keeps what a build makes in `cache`."""
    real = builder._Builder._make

    def make(self: Any, staged: Path, *others: Any) -> Any:
        made = real(self, staged, *others)
        shutil.copytree(staged, cache / "staged")
        (cache / "made").write_bytes(pickle.dumps(made))
        return made

    return mock.patch.object(builder._Builder, "_make", make)


def forked(task: Callable[[], Any]) -> Any:
    """What `task` returns, run in a child; None where that was killed."""
    return start(task)()


def start(task: Callable[[], Any]) -> Callable[[], Any]:
    """Begin `task` in a child; calling the result waits for what it returns, None where it was killed."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            result = pickle.dumps(task())
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            result = pickle.dumps([traceback.format_exc()])
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(result)
        os._exit(0)
    os.close(writer)

    def wait() -> Any:
        with os.fdopen(reader, "rb") as pipe:
            content = pipe.read()
        _, status = os.waitpid(child, 0)
        return None if os.WIFSIGNALED(status) else pickle.loads(content)  # noqa: S301 - our own

    return wait


class Workshop:
    """The places and the two checkpoints that all findings are made with."""

    def __init__(self, work: Path, old: Path, new: Path) -> None:
        self.old, self.new = old, new
        self.template, self.cache, self.repository = work / "template", work / "cache", work / "repository"
        self.cache.mkdir()
        self.points = Points()
        self._warm_up()
        self.old_build, self.old_answers = forked(lambda: self._prepare(old, self.template, OTHER))
        self.new_build, self.new_answers = forked(self._record)
        self.other = snapshot(self.template / OTHER)

    def _warm_up(self) -> None:
        """Import what every child would, and compute nothing: a fork takes no thread along."""
        importlib.import_module("onnxruntime")
        inspect(locate(str(self.old)), Overrides())

    def _prepare(self, checkpoint: Path, repository: Path, *others: str) -> Any:
        for other in others:
            quick_build(checkpoint, repository, other)
            quick_build(checkpoint, repository, NAME, max_batch_size=8)  # one to be removed
        model = quick_build(checkpoint, repository, NAME).model
        return model.build, answers(model)

    def _record(self) -> Any:
        with record(self.cache):
            return self._prepare(self.new, self.cache / "repository")

    def reset(self, *, first: bool) -> None:
        """A repository with the old build and another model, or, for a first build, none."""
        shutil.rmtree(self.repository, ignore_errors=True)
        if not first:
            shutil.copytree(self.template, self.repository)

    def build(self, **options: Any) -> Any:
        return quick_build(self.new, self.repository, NAME, progress=Heard(self.points), **options)

    # --- what is done ---

    def killed(self, points: Iterable[int], *, first: bool = False, at_once: bool = True) -> Iterator[Finding]:
        """Kill a build at each of `points`, while there are any; `at_once`: with the making played back."""
        kind = ("first" if first else "second") + (" build" if at_once else " build, in the making")
        log = self.repository.with_suffix(".point")
        for at in points:
            self.reset(first=first)
            if forked(lambda at=at: self._killed(at, log, first=first, at_once=at_once)) is not None:
                return
            finding = Finding(kind, log.read_text())
            judged = forked(lambda finding=finding: self.judged(finding, first=first))
            if not isinstance(judged, Finding):  # the judge's own traceback
                finding.problems += judged
                judged = finding
            yield judged

    def _killed(self, at: int, log: Path, *, first: bool, at_once: bool) -> str:
        def die() -> None:
            log.write_text(f"{at}: {self.points.point}")
            os.kill(os.getpid(), signal.SIGKILL)

        if at_once:
            self.points.arm(self.repository, at, die, coarse=first)
            with played_back(self.cache, self.points):
                self.build()
        else:  # words alone, and a few, for each costs a second
            self.points.arm(Path("/nowhere/at/all"), at, die)
            self.build()
        return "survived"

    def starved(self, limit: int, engine: str) -> Finding:
        """A build that cannot write files of more than `limit` bytes."""
        finding = Finding("starved", f"{engine} {limit}")
        self.reset(first=False)
        before = snapshot(self.repository)

        def task() -> list[str]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                self.build(engine=engine)
            except RepositoryError as error:
                words = str(error)
                return [] if "cannot be written: " in words and "\n" not in words else [f"says {error}"]
            return ["was not starved"]

        finding.problems += forked(task)
        if snapshot(self.repository) != before:
            finding.problems.append("left the repository changed")
        return finding

    # --- what must hold ---

    def judged(self, finding: Finding, *, first: bool) -> Finding:
        """Look at what a dead builder left, then build again and look at that."""
        found = committed(self.repository, NAME) if self.repository.exists() else None
        finding.build = found.build if found else None
        # While the staging folder is emptied the hashes alone are looked at: asking takes longer.
        ask = "os.remove" not in finding.point and "os.rmdir" not in finding.point
        finding.problems += self._check_whole(finding.build, first=first, ask=ask)
        with played_back(self.cache, self.points):
            result = self.build()
        finding.problems += self._check_clean(result.model.build, first=first)
        if result.changed != (finding.build != self.new_build):
            finding.problems.append(f"the next build says changed={result.changed}")
        return finding

    def _check_whole(self, build: str | None, *, first: bool, ask: bool) -> Iterator[str]:
        expected = {self.old_build: self.old_answers, self.new_build: self.new_answers}
        if build is None and not first:
            yield "no build is committed"
        if build is not None and build not in expected:
            yield f"build {build} is committed"
        for folder in self.repository.iterdir() if self.repository.exists() else ():
            is_model = (folder / CONFIG).is_file() and (folder / VERSION).is_dir()
            if folder.is_dir() and not is_model and not (first and folder.name.startswith(STAGING)):
                yield f"Triton takes {folder.name} for a model and does not start"
        if build in expected:
            model = committed(self.repository, NAME)
            assert model is not None
            if damage := model.damage():
                yield f"damage: {damage}"
            if ask and answers(model) != expected[build]:
                yield "the answers are another build's"
        if not first and snapshot(self.repository / OTHER) != self.other:
            yield "the other model is changed"

    def _check_clean(self, build: str, *, first: bool) -> Iterator[str]:
        model = committed(self.repository, NAME)
        if model is None or model.build != build:
            yield "the next build is not committed"
            return
        if model.damage():
            yield "the next build is not whole"
        kept = [] if first else [f"{NAME}_{role}_{self.old_build}" for role in model.manifest().steps]
        own = {NAME, *kept, *model.manifest().steps.values()}
        others = {OTHER, *committed(self.repository, OTHER).manifest().steps.values()} if not first else set()
        if extra := {path.name for path in self.repository.iterdir()} ^ (own | others):
            yield f"left over or lost: {sorted(extra)}"
        if hidden := [str(path) for path in self.repository.rglob(".tritext*")]:
            yield f"left over: {hidden}"
        if any(found.damage() for found in models(self.repository)):
            yield "a model is damaged"


def main(work: Path, old: Path, new: Path) -> None:
    """Print all findings."""
    os.fsync = lambda _: None  # a killed process loses nothing that the kernel has
    workshop = Workshop(work, old, new)

    def half(number: int) -> list[Finding]:
        workshop.repository = work / f"repository {number}"
        return [
            *workshop.killed(count(1 + number, 2)),
            *workshop.killed(count(1 + number, 2), first=True),
            *workshop.killed((16,) if number else (18,), at_once=False),
            *(workshop.starved(*case) for case in STARVED[number::2]),
        ]

    halves = [start(lambda number=number: half(number)) for number in (0, 1)]
    print(json.dumps([asdict(finding) for wait in halves for finding in wait()]))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
