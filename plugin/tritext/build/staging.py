"""Where a build is made until it is whole, and who may make it.

Triton takes every folder at the top of a repository for a model, also a hidden one, and one that is no model keeps
it from starting. It looks neither at files there nor into a model's folder for anything but versions. So the lock
of a name is a file at the top, and a build is staged inside the folder of a model, once there is one.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from tritext.errors import BuildError, RepositoryError
from tritext.repository import BUILDS, CONFIG

STAGING: Final = ".tritext-staging-"  # and the model's name
LOCK: Final = ".tritext-lock-"  # likewise
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of what is written, though shutil names what it read
_PATIENCE: Final = 1.0  # seconds; whoever clears up after a dead builder holds its lock for a moment


@contextmanager
def staging(repository: Path, name: str, *, outside: bool = False) -> Iterator[Path]:
    """A folder inside `repository`, for renames stay on one file system, that is gone in the end.

    Where `outside` is said it is not in the folder of `name` itself, which may then be moved into it. Nobody else can
    build `name` meanwhile, and what dead builders left is removed. RepositoryError where the repository cannot be
    written, or `name` is being built by another process; BuildError where it is a file elsewhere that cannot be used.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository, name):
            _sweep(repository, name)
            folder = _host(repository, name, outside=outside) / f"{STAGING}{name}"
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno is None and not isinstance(error, shutil.Error):  # what a library says in this class
            raise
        reason = error.strerror or _first_reason(error)
        if error.errno not in _FULL and _is_elsewhere(error.filename, repository):
            raise BuildError(f"{os.fsdecode(error.filename)} cannot be used: {reason}.") from error
        raise RepositoryError(f"{repository} cannot be written: {reason}.") from error


def _first_reason(error: OSError) -> object:
    """What is said of the first file where a folder could not be copied; `shutil` lists (source, target, reason)."""
    failed = error.args[0] if isinstance(error, shutil.Error) else None
    return failed[0][2] if isinstance(failed, list) else error


def _is_elsewhere(file: object, repository: Path) -> bool:
    """Whether an error's `file` is known, and lies outside of `repository`. A disk that is full names none."""
    if not isinstance(file, str | bytes):
        return False
    return not Path(os.fsdecode(file)).resolve().is_relative_to(repository.resolve())


@contextmanager
def _locked(repository: Path, name: str) -> Iterator[None]:
    path = repository / f"{LOCK}{name}"
    file = _take(path, _PATIENCE)
    if file is None:
        raise RepositoryError(
            f"{name} is being built into {repository} already, by process {_owner(path)}. Wait until that has ended."
        )
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        _give_up(file, path)


def _take(path: Path, patience: float = 0.0) -> TextIO | None:
    """The lock at `path`, or None where a living process keeps it for longer than `patience`.

    The kernel frees a lock when its process dies, however it dies.
    """
    deadline = time.monotonic() + patience
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(0.05)
        file.close()  # its last owner removed it: lock the one that is there now


def _give_up(file: TextIO, path: Path) -> None:
    with suppress(OSError):  # one that stays is free all the same
        path.unlink()  # while it is locked: none but its owner removes it
    file.close()


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "unknown"
    except OSError:
        return "unknown"


def _sweep(repository: Path, name: str) -> None:
    """Remove the staging folders of builders that are gone; `name` is locked by us."""
    for folder in _staged(repository):
        owner = folder.name.removeprefix(STAGING)
        if owner == name:
            shutil.rmtree(folder)
        elif file := _take(lock := repository / f"{LOCK}{owner}"):
            try:
                shutil.rmtree(folder)
            finally:
                _give_up(file, lock)


def _staged(repository: Path) -> list[Path]:
    return [*repository.glob(f"{STAGING}*"), *repository.glob(f"*/{STAGING}*")]


def has_leftovers(repository: Path) -> bool:
    """Whether somebody is building here, or left without clearing up."""
    return any(repository.glob(f"{LOCK}*")) or bool(_staged(repository))


def _host(repository: Path, name: str, *, outside: bool) -> Path:
    """A model's folder to stage in: the model's own, or any other that tritext made; else the repository."""
    own = repository / name
    folders = [*([] if outside else [own]), *sorted(folder for folder in repository.iterdir() if folder != own)]
    made = (folder for folder in folders if (folder / CONFIG).is_file() and (folder / BUILDS).is_dir())
    return next(made, repository)


def guests(folder: Path, name: str) -> list[str]:
    """The other models that are being built in the `folder` of the model `name`, which is in `staging`."""
    return sorted({path.name.removeprefix(STAGING) for path in folder.glob(f"{STAGING}*")} - {name})
