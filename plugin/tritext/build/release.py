"""Changes of what is committed in a repository, without building: bring a build, go back to one, take a model away.

Each is one rename at its heart, so a server that follows the repository, or dies at any moment, sees either state.
"""

import json
import shutil
from pathlib import Path

from tritext.build.commit import ENSEMBLE, check_name, commit, is_free, transaction
from tritext.build.staging import staging
from tritext.errors import RepositoryError
from tritext.manifest import MANIFEST
from tritext.repository import BUILDS, CONFIG, KEPT, VERSION, BuiltModel, committed, read_config


def deploy(source: BuiltModel, repository: Path) -> BuiltModel:
    """Bring the build `source` into `repository`, where it takes the place of what is committed under its name.

    RepositoryError where `source` is damaged, or `repository` cannot take it.
    """
    if damage := source.damage():
        raise RepositoryError(f"{source.repository / source.name} is missing or not as built: {', '.join(damage[:3])}.")
    check_name(repository, source.name)
    model = BuiltModel(repository, source.name, source.build)
    with transaction(repository, model.name) as staged:
        if is_free(repository, model.name, model.build):
            _copy(source, staged, committed(repository, model.name))
            commit(staged, model)
            return model
    return rollback(repository, model.name, model.build)


def _copy(source: BuiltModel, staged: Path, before: BuiltModel | None) -> None:
    for role in source.roles:
        shutil.copytree(source.step(role).parent, staged / role)
    ensemble = staged / ENSEMBLE
    record = ensemble / BUILDS / source.build
    shutil.copytree(source.folder, record)
    shutil.copy(record / CONFIG, ensemble / CONFIG)
    (ensemble / VERSION).mkdir()
    (ensemble / VERSION / KEPT).touch()
    manifest = json.loads((record / MANIFEST).read_text(encoding="utf-8"))
    manifest["replaces"] = before.build if before else None  # here, not where it comes from
    (record / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rollback(repository: Path, name: str, build: str | None = None) -> BuiltModel:
    """Commit `build` of the model `name` again, the one before the committed one where None.

    RepositoryError where it is not there any more, or damaged.
    """
    _present(repository, name)
    with staging(repository, name) as staged:  # what others commit meanwhile is not gone back from unseen
        model = _way_back(repository, name, build)
        shutil.copy(model.folder / CONFIG, staged / CONFIG)
        read_config(staged)
        (staged / CONFIG).replace(repository / name / CONFIG)
    return model


def _way_back(repository: Path, name: str, build: str | None) -> BuiltModel:
    current = _present(repository, name)
    wanted = build or current.manifest().replaces
    there = sorted(folder.name for folder in (repository / name / BUILDS).iterdir() if (folder / CONFIG).is_file())
    if wanted is None or wanted not in there:
        others = ", ".join(other for other in there if other != current.build) or "none"
        raise RepositoryError(
            f"{name} has no build {wanted or 'before ' + current.build} in {repository} to go back to. "
            f"Beside {current.build} there is: {others}."
        )
    model = BuiltModel(repository, name, wanted)
    if damage := model.damage(is_committed=False):
        raise RepositoryError(f"Build {wanted} of {name} is missing or not as built: {', '.join(damage[:3])}.")
    return model


def remove(repository: Path, name: str) -> BuiltModel:
    """Take the model `name` and all its builds out of `repository`; RepositoryError where it is not there."""
    model = _present(repository, name)
    builds = [folder.name for folder in (repository / name / BUILDS).iterdir()]
    with staging(repository, name):
        (repository / name / CONFIG).unlink()
        for build in builds:
            each = BuiltModel(repository, name, build)
            for role in each.roles:
                shutil.rmtree(each.step(role).parent, ignore_errors=True)
        shutil.rmtree(repository / name)
    return model


def _present(repository: Path, name: str) -> BuiltModel:
    model = committed(repository, name)
    if model is None:
        raise RepositoryError(f"{repository} has no model {name}.")
    return model
