"""Which builds are served: told by shared locks on their manifests, so that nobody cleans their files away.

The kernel frees a lock when its holder dies, however that happens, and knows it in every container that mounts the
same folder, also one that may not write there. A volume of a network that has no locks is cleaned as if nobody served.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from tritext.manifest import MANIFEST
from tritext.repository import BuiltModel


class InUse:
    """The builds that this process serves."""

    def __init__(self) -> None:
        self._held: dict[BuiltModel, int] = {}
        self._changing = threading.Lock()

    def keep(self, models: Iterable[BuiltModel]) -> None:
        """Hold these, and none but these; anew where the manifest is another file than the one that is held."""
        wanted = set(models)
        with self._changing:
            for model in self._held.keys() - wanted:
                os.close(self._held.pop(model))
            for model in wanted:
                with contextlib.suppress(OSError):  # whoever finds it damaged says so
                    self._hold(model)

    def _hold(self, model: BuiltModel) -> None:
        held = self._held.get(model)
        if held is not None and os.path.samestat(os.fstat(held), (model.folder / MANIFEST).stat()):
            return
        self._held[model] = _locked(model.folder, fcntl.LOCK_SH)
        if held is not None:
            os.close(held)


def is_in_use(record: Path) -> bool:
    """Whether somebody serves the build whose record is the folder `record`."""
    try:
        os.close(_locked(record, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _locked(record: Path, kind: int) -> int:
    # Over NFS an exclusive lock takes a file that may be written, and a shared one any.
    path, mode = record / MANIFEST, os.O_RDWR if kind & fcntl.LOCK_EX else os.O_RDONLY
    try:
        descriptor = os.open(path, mode)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
