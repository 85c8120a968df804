"""Where a checkpoint comes from: a local directory, or the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
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
_HASHED: Final = (*_PATTERNS, *_PICKLES)


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
        """SHA-256 of every file that may matter, by name."""
        files = sorted({path for pattern in _HASHED for path in self.folder.glob(pattern) if path.is_file()})
        return {path.name: sha256(path) for path in files if not path.name.startswith(".")}


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
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_PATTERNS)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*_PATTERNS, *_PICKLES]))
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
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} is not a directory here, and the hub cannot be reached to look for it. Give the path of a local "
            "copy, or try again with network access (and HF_HUB_OFFLINE unset)."
        ) from error
    return Source(name, folder, folder.name)
