"""Changes of what is committed in a repository, without building: bring a build, go back to one, take a model away.

Each is one rename at its heart, so a server that follows the repository, or dies at any moment, sees either state.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Final

from tritext.build.commit import ENSEMBLE, check_name, commit, flush, flush_names, is_free, own_steps, transaction
from tritext.build.staging import guests, staging
from tritext.errors import RepositoryError
from tritext.manifest import MANIFEST, Manifest
from tritext.naming import STEP_PATTERN
from tritext.repository import BUILDS, CONFIG, KEPT, NAME_PATTERN, VERSION, BuiltModel, committed, is_ours, read_config

_MENDED: Final = "mended"  # the folder in staging with what takes the place of damaged files


def deploy(source: BuiltModel, repository: Path) -> BuiltModel:
    """Bring the build `source` into `repository`, where it takes the place of what is committed under its name.

    Where that very build is there already, what is damaged of it is mended. In any case what was committed until then
    is the build to go back to. RepositoryError where `source` is damaged, or `repository` cannot take it.
    """
    if damage := source.damage():
        raise RepositoryError(f"{source.repository / source.name} is missing or not as built: {', '.join(damage[:3])}.")
    check_name(repository, source.name)
    model = BuiltModel(repository, source.name, source.build)
    with transaction(repository, model.name) as staged:
        if is_free(repository, model.name, model.build):
            is_new = not (repository / model.name).exists()
            _copy(source, staged, None if is_new else _committed_build(repository, model.name))
            commit(staged, model)
        else:
            _mend(model, source, staged)
            _succeed(model, _committed_build(repository, model.name), staged)
            _commit_again(model, staged)
    return model


def _copy(source: BuiltModel, staged: Path, before: str | None) -> None:
    for role in source.roles:
        shutil.copytree(source.step(role).parent, staged / role)
    ensemble = staged / ENSEMBLE
    record = ensemble / BUILDS / source.build
    shutil.copytree(source.folder, record)
    shutil.copy(record / CONFIG, ensemble / CONFIG)
    (ensemble / VERSION).mkdir()
    (ensemble / VERSION / KEPT).touch()
    _copy_manifest(source, record, before)  # of here, not of where it comes from


def _copy_manifest(source: BuiltModel, record: Path, before: str | None) -> None:
    """Write that of `source` into the folder `record`, saying that it took the place of the build `before`."""
    manifest = json.loads((source.folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["replaces"] = before
    (record / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _mend(model: BuiltModel, source: BuiltModel, staged: Path) -> None:
    """Have every file of `model` as `source` has it, the same build elsewhere; RepositoryError where it is another one.

    File by file, each by one rename: what is whole, and may be served, is not touched, and nothing is ever missing.
    """
    recorded = _record(model)
    if recorded is not None and recorded.files != source.manifest().files:
        raise RepositoryError(
            f"{model.repository} has a build {model.build} of {model.name} that was made of the same inputs elsewhere, "
            f"and its files are not those of {source.repository}. Build that one again with --force, which gives it "
            "an id of its own, and deploy it."
        )
    made = staged / _MENDED
    made.mkdir()
    if recorded is None:
        _copy_manifest(source, made, None)
        _put(made / MANIFEST, model.folder / MANIFEST, model.repository)
    files, damaged = source.manifest().files, model.damage(is_committed=False)
    for path in damaged:
        if path in files:
            shutil.copy(source.repository / path, made / CONFIG)
            _put(made / CONFIG, model.repository / path, model.repository)
    (model.repository / model.name / VERSION).mkdir(exist_ok=True)
    kept = model.repository / model.name / VERSION / KEPT
    if not kept.exists():
        (made / KEPT).touch()
        _put(made / KEPT, kept, model.repository)
    if damaged and (left := model.damage(is_committed=False)):
        raise RepositoryError(
            f"{', '.join(left[:3])} in {model.repository} cannot be mended. Remove {model.name} there, and deploy it."
        )


def _succeed(model: BuiltModel, current: str | None, staged: Path) -> None:
    """Have the records say that `model`, which is there already, takes the place of the committed build `current`.

    What `current` may say of `model` is of an earlier time. It goes, for two builds that each come after the other
    would both be passed over by whoever looks for one to fall back to.
    """
    if current in (None, model.build):
        return
    former, here = model.manifest().replaces, BuiltModel(model.repository, model.name, current)
    _say_before(model, current, staged)
    if (recorded := _record(here)) and recorded.replaces == model.build:
        _say_before(here, None if former == current else former, staged)


def _say_before(model: BuiltModel, before: str | None, staged: Path) -> None:
    if model.manifest().replaces != before:
        _copy_manifest(model, staged, before)
        _put(staged / MANIFEST, model.folder / MANIFEST, model.repository)


def _record(model: BuiltModel) -> Manifest | None:
    """None where it is damaged or gone."""
    try:
        return model.manifest()
    except RepositoryError:
        return None


def _put(made: Path, path: Path, repository: Path) -> None:
    """Move the file `made` to `path`, on the disk; left undone where that is outside of `repository`, or a folder."""
    if path.is_dir() or not path.parent.resolve().is_relative_to(repository.resolve()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    flush_names(made)
    made.replace(path)
    flush_names(path.parent)


def rollback(repository: Path, name: str, build: str | None = None) -> BuiltModel:
    """Commit `build` of the model `name` again, the one before the committed one where None.

    RepositoryError where it is not there any more, or damaged.
    """
    _committed_build(repository, name)
    with staging(repository, name) as staged:  # what others commit meanwhile is not gone back from unseen
        model = _way_back(repository, name, build)
        _commit_again(model, staged)
    return model


def _commit_again(model: BuiltModel, staged: Path) -> None:
    folder = model.repository / model.name
    shutil.copy(model.folder / CONFIG, staged / CONFIG)
    read_config(staged)
    flush(staged)
    (staged / CONFIG).replace(folder / CONFIG)
    flush_names(folder)


def _way_back(repository: Path, name: str, build: str | None) -> BuiltModel:
    current = _committed_build(repository, name)
    there = sorted(path.parent.name for path in (repository / name / BUILDS).glob(f"*/{CONFIG}"))
    others = ", ".join(other for other in there if other != current) or "none"
    if build is None and current is None:
        raise RepositoryError(
            f"{repository / name / CONFIG} is missing or damaged, so it cannot be told which build to go back from. "
            f"Name the build with --to. There is: {others}."
        )
    wanted = build or BuiltModel(repository, name, current or "").manifest().replaces
    if wanted is None or wanted not in there:
        beside = f"Beside {current} there" if current else "There"
        raise RepositoryError(
            f"{name} has no build {wanted or f'before {current}'} in {repository} to go back to. {beside} is: {others}."
        )
    model = BuiltModel(repository, name, wanted)
    if damage := model.damage(is_committed=False):
        raise RepositoryError(f"Build {wanted} of {name} is missing or not as built: {', '.join(damage[:3])}.")
    return model


def remove(repository: Path, name: str) -> None:
    """Take the model `name` and all its builds out of `repository`, also what an earlier try left of it.

    RepositoryError where it is not there, or another model is being built in its folder.
    """
    is_half_gone = NAME_PATTERN.fullmatch(name) and not os.path.lexists(repository / name)
    if not (is_half_gone and own_steps(repository, name)):
        _committed_build(repository, name)
    with staging(repository, name, outside=True) as staged:
        folder, steps = repository / name, own_steps(repository, name)
        _check_guests(folder, name)
        # All of it whole, by renames, for what is half a model would keep Triton from starting; the ensemble before
        # the steps that it calls.
        if os.path.lexists(folder):
            folder.rename(staged / name)
            try:
                _check_guests(staged / name, name)  # who came in between
            except RepositoryError:
                (staged / name).rename(folder)
                raise
        for step in steps:
            step.rename(staged / step.name)
        flush_names(repository)


def _check_guests(folder: Path, name: str) -> None:
    if others := guests(folder, name):
        raise RepositoryError(
            f"{name} cannot be removed now: {', '.join(others)} is being built in its folder. Wait until that is done."
        )


def _committed_build(repository: Path, name: str) -> str | None:
    """The id of the build of `name` that is committed; None where the configuration that says so is damaged or gone.

    RepositoryError where tritext made nothing of that name.
    """
    if not NAME_PATTERN.fullmatch(name) or STEP_PATTERN.fullmatch(name):  # a step's configuration says its build too
        raise RepositoryError(f"{repository} has no model {name}.")
    folder = repository / name
    is_inside = folder.resolve().is_relative_to(repository.resolve())
    try:
        if model := committed(repository, name):
            return model.build
    except RepositoryError:
        if not (is_inside and is_ours(folder)):
            raise
    else:
        if not (is_inside and is_ours(folder)):
            raise RepositoryError(f"{repository} has no model {name}.")
    return None
