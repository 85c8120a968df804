"""Where a checkpoint comes from: a local directory, or the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tritext.errors import CheckpointError
from tritext.manifest import sha256

_PATTERNS: Final = ("*.json", "*.txt", "*.model", "*.safetensors")
_PICKLES: Final = ("pytorch_model*.bin",)
_MODULES: Final = (
    "[0-9]_*/config.json",
    "[0-9]_*/*.safetensors",
    "[0-9]_*/pytorch_model.bin",
)  # sentence-transformers'
_HASHED: Final = (*_PATTERNS, *_PICKLES, *_MODULES)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's files on this machine. `revision` is the hub's commit, None for a directory."""

    name: str
    folder: Path
    revision: str | None

    @property
    def title(self) -> str:
        """A hub id, or a directory's own name: its path says too much about the machine, and nothing elsewhere."""
        return self.name if self.revision else self.folder.name

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that may matter, by name; CheckpointError where one cannot be read."""
        files = sorted({path for pattern in _HASHED for path in self.folder.glob(pattern) if path.is_file()})
        try:
            return {
                path.relative_to(self.folder).as_posix(): sha256(path)
                for path in files
                if not path.name.startswith(".")
            }
        except OSError as error:
            raise CheckpointError(f"{error.filename or self.folder} cannot be read: {error.strerror}.") from error


def locate(checkpoint: str, revision: str | None = None) -> Source:
    """Find `checkpoint`, a directory or a hub id; CheckpointError says why it cannot be had."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if revision:
            raise CheckpointError(f"{checkpoint} is a directory, which has no revisions. Leave --revision out.")
        return Source(checkpoint, folder.resolve(), None)
    if folder.is_absolute() or checkpoint.startswith(".") or checkpoint.count("/") > 1:
        raise CheckpointError(f"{checkpoint} is not a directory.")
    return _from_hub(checkpoint, revision)


def _from_hub(name: str, revision: str | None) -> Source:
    try:
        folder = _download(name, revision, _PATTERNS)
        if not any(folder.glob("*.safetensors")):
            folder = _download(name, revision, (*_PATTERNS, *_PICKLES))
    except GatedRepoError as error:
        raise CheckpointError(f"{name} is gated on the hub: ask for access there, then run `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is neither a directory here nor a model on the hub (or it is private: `hf auth login`)."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub.") from error
    except HFValidationError as error:
        raise CheckpointError(f"{name} is neither a directory here nor a valid hub id.") from error
    # ValueError: what answers is no hub, but some network's page that asks to log in.
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(_out_of_reach(name, error)) from error
    return Source(name, folder, folder.name)


def _out_of_reach(name: str, error: BaseException) -> str:
    if constants.HF_HUB_OFFLINE:
        return (
            f"{name} is neither a directory here nor downloaded already, and HF_HUB_OFFLINE is set. Give the path of a "
            "local copy, or unset it."
        )
    while error.__cause__ is not None:
        error = error.__cause__
    return (
        f"{name} is not a directory here, and the hub cannot be asked for it ({sentence(error)}). Give the path of a "
        "local copy, or try again with network access."
    )


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    # Folders hold other formats, and earlier states of the training; but sentence-transformers' are called 1_Pooling.
    allowed = [*patterns, "[0-9]_*/pytorch_model.bin"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=allowed, ignore_patterns=["[!0-9]*/*"]))


def sentence(error: BaseException) -> str:
    """The start of a library's message, which often runs to pages: a line, and the next where it announces one."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (f"{first} {others[0]}" if first.endswith(":") and others else first)[:400]
