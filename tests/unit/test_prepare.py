"""Plans are built where they are missing or do not fit, once, and never half."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import planning
from building import make_checkpoint, quick_build, record_anew
from planning import MACHINE, build_plan, prepared
from tritext.cli import app
from tritext.engines import gpu
from tritext.engines.gpu import Machine
from tritext.engines.plan import PLAN, RECORD, PlanOptions, Recipe
from tritext.engines.tensorrt_builder import BuildProgress
from tritext.errors import EngineError, ExportError, RepositoryError
from tritext.progress import Silent
from tritext.repository import BuiltModel
from tritext.serve import ensemble
from tritext.serve import prepare as preparing
from tritext.serve.ensemble import plan_folder
from tritext.serve.prepare import prepare


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltModel:
    folder = tmp_path_factory.mktemp("prepare")
    return quick_build(make_checkpoint(folder / "checkpoint"), folder / "repository", engine="tensorrt").model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(preparing.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(built: BuiltModel) -> Path:
    found = plan_folder(built)
    assert found is not None
    for name in (PLAN, RECORD):
        (found / name).unlink(missing_ok=True)
    return found


def refuse(folder: Path, recipe: Recipe, plan: Path, timings: Path, progress: BuildProgress) -> None:
    raise AssertionError("built although there was no need")


def test_a_missing_plan_is_built_and_an_existing_one_stays(built: BuiltModel, folder: Path) -> None:
    (first,) = prepared([built])
    assert first.reason == "there is none yet"
    assert not first.from_cache
    assert json.loads((folder / PLAN).read_text())["graph"] == "model.onnx"
    record = json.loads((folder / RECORD).read_text())
    assert record["machine"] == {"tensorrt": "10.13.3", "gpu": MACHINE.gpu, "compute": "9.0", "cuda": "12.8"}
    assert record["recipe"]["precision"] == "fp32"
    (second,) = prepare([built], machine=MACHINE, build=refuse)
    assert second.reason is None


@pytest.mark.parametrize(
    "other",
    [
        Machine("10.14.1", MACHINE.gpu, MACHINE.compute),
        Machine(MACHINE.tensorrt, "NVIDIA A10", "8.6"),
        Machine(MACHINE.tensorrt, "NVIDIA H100 PCIe", MACHINE.compute),
    ],
)
def test_a_plan_of_another_machine_is_named_and_built_again(other: Machine, built: BuiltModel, folder: Path) -> None:
    prepared([built], other)
    (found,) = prepared([built])
    assert found.reason == f"it was built for {other}, and here is {MACHINE}"
    assert json.loads((folder / RECORD).read_text())["machine"]["gpu"] == MACHINE.gpu


def test_a_driver_alone_makes_no_difference(built: BuiltModel, folder: Path) -> None:
    prepared([built])
    newer = Machine(MACHINE.tensorrt, MACHINE.gpu, MACHINE.compute, "13.0")
    (found,) = prepare([built], machine=newer, build=refuse)
    assert found.reason is None


A100 = Machine(MACHINE.tensorrt, "NVIDIA A100-SXM4-80GB", "8.0")
T4 = Machine(MACHINE.tensorrt, "Tesla T4", "7.5")
NEWER = Machine("10.14.1", MACHINE.gpu, MACHINE.compute)


@pytest.mark.parametrize(
    ("options", "fits", "does_not"),
    [
        (PlanOptions(hardware_compatible=True), A100, [T4, NEWER]),
        (PlanOptions(version_compatible=True), NEWER, [A100, Machine("11.0.1", MACHINE.gpu, MACHINE.compute)]),
    ],
)
def test_a_compatible_plan_serves_other_machines_too(
    options: PlanOptions, fits: Machine, does_not: list[Machine], built: BuiltModel, folder: Path
) -> None:
    whole = (folder / "plan.json").read_text()
    replace(Recipe.read(folder), options=options).write(folder)
    try:
        prepared([built])
        (found,) = prepare([built], machine=fits, build=refuse)
        assert found.reason is None
        for other in does_not:
            with pytest.raises((AssertionError, EngineError), match=r"there was no need|needs a GPU from Ampere on"):
                prepare([built], machine=other, build=refuse)
        flags = ensemble.backend_flags([built])
        assert bool(flags) == options.version_compatible
    finally:
        (folder / "plan.json").write_text(whole)


@pytest.mark.parametrize(
    "option", ["optimization_level=6", "optimization_level=high", "hardware_compatible=yes", "x=1"]
)
def test_an_unknown_option_of_a_plan_is_refused(option: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    command = ["build", str(checkpoint), "--name", "m", "--out", str(tmp_path / "out"), "--engine", "tensorrt"]
    ran = CliRunner().invoke(app, [*command, "--plan", option])
    assert ran.exit_code == 2
    assert "optimization_level=0 to 5" in " ".join(ran.stderr.split())


def test_what_was_built_is_taken_from_the_cache(built: BuiltModel, folder: Path) -> None:
    prepared([built])
    (folder / PLAN).unlink()
    (found,) = prepare([built], machine=MACHINE, build=refuse)
    assert found.from_cache
    assert (folder / PLAN).is_file()


def test_a_damaged_cache_is_not_believed(built: BuiltModel, folder: Path, cache: Path) -> None:
    prepared([built])
    (folder / PLAN).unlink()
    (plan,) = (cache / "plans").glob("*.plan")
    plan.write_bytes(b"half")
    (found,) = prepared([built])
    assert not found.from_cache
    assert json.loads((folder / PLAN).read_text())["graph"] == "model.onnx"


@pytest.mark.parametrize(("name", "reason"), [(PLAN, "damaged"), (RECORD, "nothing says what it was built for")])
def test_a_damaged_plan_is_replaced(name: str, reason: str, built: BuiltModel, folder: Path) -> None:
    prepared([built])
    (folder / name).write_bytes(b"damaged")
    (found,) = prepared([built])
    assert reason in str(found.reason)
    (again,) = prepare([built], machine=MACHINE, build=refuse)
    assert again.reason is None


def test_two_replicas_build_once(built: BuiltModel, folder: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()
    builds: list[int] = []
    told: list[str] = []

    class Listening(Silent):
        def tell(self, line: str) -> None:
            told.append(line)

    def slowly(folder: Path, recipe: Recipe, plan: Path, timings: Path, progress: BuildProgress) -> None:
        builds.append(1)
        entered.set()
        assert go_on.wait(20)
        build_plan(folder, recipe, plan, timings, progress)

    def replica() -> None:
        found.extend(prepare([built], Listening(), machine=MACHINE, build=slowly))

    found: list[preparing.Prepared] = []
    first = threading.Thread(target=replica)
    first.start()
    assert entered.wait(20)
    second = threading.Thread(target=replica)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    first.join(20)
    second.join(20)
    assert len(found) == 2
    assert builds == [1]
    assert "Another process is building the plan of model." in told


def test_a_failed_build_leaves_the_old_plan(built: BuiltModel, folder: Path) -> None:
    old = Machine("10.3.0", MACHINE.gpu, MACHINE.compute)
    prepared([built], old)
    before = (folder / PLAN).read_bytes()

    def fail(folder: Path, recipe: Recipe, plan: Path, timings: Path, progress: BuildProgress) -> None:
        raise ExportError("TensorRT does not take the graph.")

    with pytest.raises(ExportError):
        prepare([built], machine=MACHINE, build=fail)
    assert (folder / PLAN).read_bytes() == before
    assert not list(folder.glob(f".{PLAN}*"))


def test_a_damaged_graph_is_not_built_from(built: BuiltModel, folder: Path) -> None:
    graph = folder / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    try:
        with pytest.raises(RepositoryError, match="is not as it was built"):
            prepare([built], machine=MACHINE, build=refuse)
    finally:
        graph.write_bytes(whole)


def test_a_damaged_recipe_is_refused(built: BuiltModel, folder: Path) -> None:
    recipe = folder / "plan.json"
    whole = recipe.read_text()
    try:
        for damage in ("{", "{}", whole.replace('"calls"', '"spirals"')):
            recipe.write_text(damage)
            with pytest.raises(RepositoryError, match=r"plan\.json cannot be read"):
                prepare([built], machine=MACHINE, build=refuse)
    finally:
        recipe.write_text(whole)


def test_models_without_plans_ask_for_no_gpu(tmp_path: Path) -> None:
    model = quick_build(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "repository").model
    assert prepare([model]) == []
    ran = CliRunner().invoke(app, ["prepare", str(tmp_path / "repository")])
    assert ran.exit_code == 0
    assert "No model of this repository needs a plan." in ran.stdout


@pytest.mark.skipif(gpu.tensorrt_version() is not None, reason="TensorRT is here")
def test_without_tensorrt_it_says_what_is_missing(built: BuiltModel, folder: Path) -> None:
    with pytest.raises(EngineError, match="TensorRT is not installed here"):
        prepare([built])


def test_without_a_gpu_it_says_so(built: BuiltModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "tensorrt_version", lambda: "10.13.3")

    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(gpu.ctypes, "CDLL", no_driver)
    with pytest.raises(EngineError, match="--gpus all"):
        prepare([built])


def test_the_command_says_what_it_did(built: BuiltModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "this_machine", lambda: MACHINE)
    monkeypatch.setitem(preparing.prepare.__kwdefaults__, "build", build_plan)
    command = ["prepare", str(built.repository), "--no-check"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert f"model needs a plan for {MACHINE}: there is none yet." in ran.stderr
    assert "because there is none yet" in ran.stdout
    ran = CliRunner().invoke(app, [*command, "--json"])
    (found,) = json.loads(ran.stdout)
    assert (found["model"], found["reason"], found["gpu"]) == ("model", None, MACHINE.gpu)


def test_the_new_plan_is_asked_for_the_checkpoints_answers(
    built: BuiltModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = prepared([built])
    with planning.standin(tmp_path):
        preparing.verify(done)
    wrong = folder / "model.onnx"
    whole = wrong.read_bytes()
    other = make_checkpoint(tmp_path / "other", seed=1)
    stranger = plan_folder(quick_build(other, tmp_path / "strangers", engine="tensorrt").model)
    assert stranger is not None
    wrong.write_bytes((stranger / "model.onnx").read_bytes())
    record_anew(built)
    try:
        with planning.standin(tmp_path), pytest.raises(preparing.WrongEngine, match="is wrong on this machine"):
            preparing.verify(done)
        assert not (folder / PLAN).exists()
    finally:
        wrong.write_bytes(whole)
        record_anew(built)
