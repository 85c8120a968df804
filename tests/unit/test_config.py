"""Templates and built configurations: each parses, and its wires go where they should."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

import tritext
from tritext import contract
from tritext.build.config import Plan, configurations, templates, write_config
from tritext.contract import Tensor
from tritext.engines.base import Artefact
from tritext.engines.plan import Recipe
from tritext.engines.shapes import Buckets, CallShapes, shapes_values
from tritext.errors import RepositoryError
from tritext.naming import ROLES
from tritext.repository import BUILDS, BuiltModel, models, read_config
from tritext.settings import TaskSettings
from tritext.tasks import TASKS

ROOT = Path(__file__).parents[2]
TYPES = {
    "BYTES": DataType.TYPE_STRING,
    "INT32": DataType.TYPE_INT32,
    "FP32": DataType.TYPE_FP32,
    "BOOL": DataType.TYPE_BOOL,
    "UINT8": DataType.TYPE_UINT8,
}
OPTIONS = {"mask_token": "[MASK]"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Signature = tuple[int, tuple[int, ...]]


def contract_tensors() -> Iterator[Tensor]:
    yield from (value for value in vars(contract).values() if isinstance(value, Tensor))
    for task in TASKS.values():  # those of one task alone
        yield from (*task.inputs, *task.carried, task.logits, *task.outputs)


def allowed(name: str) -> set[Signature]:
    """Type and dims that the contract gives a tensor; logits have two forms."""
    return {(TYPES[t.datatype], t.dims) for t in contract_tensors() if t.name == name}


def signatures(tensors: object) -> dict[str, Signature]:
    return {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in tensors}


def check_tensors(config: ModelConfig) -> None:
    """Every tensor is one of the contract, of its type and dims."""
    for name, signature in (signatures(config.input) | signatures(config.output)).items():
        assert signature in allowed(name), name


def check_chain(ensemble: ModelConfig) -> None:
    """Each step's inputs are fed, all outputs are made, and no two steps are ever ready at once."""
    there = {tensor.name for tensor in ensemble.input}
    waiting = list(ensemble.ensemble_scheduling.step)
    while waiting:
        ready = [step for step in waiting if set(step.input_map.values()) <= there]
        assert len(ready) == 1, f"{[step.model_name for step in ready]} are ready at once"
        waiting.remove(ready[0])
        made = set(ready[0].output_map.values())
        assert not made & there, "a tensor is made twice"
        there |= made
    outputs = {tensor.name for tensor in ensemble.output}
    assert outputs <= there
    read = {name for step in ensemble.ensemble_scheduling.step for name in step.input_map.values()}
    assert there == read | outputs, "a wire leads nowhere"


def check_steps(ensemble: ModelConfig, steps: dict[str, ModelConfig], most_rows: int = contract.MOST_ROWS) -> None:
    """Names, types and dims are the same at both ends of each wire, and every tensor of a step has one."""
    task = TASKS[ensemble.parameters["task"].string_value]
    wires = signatures(ensemble.input) | signatures(ensemble.output)
    optional = {tensor.name for tensor in ensemble.input if tensor.optional}
    for step in ensemble.ensemble_scheduling.step:
        config = steps[step.model_name]
        grows = (task.expands or task.windows) and "_tokenizer_" not in step.model_name
        assert config.max_batch_size == (most_rows if grows else ensemble.max_batch_size) > 0
        assert step.model_version == -1
        for mapped, tensors in ((step.input_map, config.input), (step.output_map, config.output)):
            assert set(mapped) == {tensor.name for tensor in tensors}
            for name, signature in signatures(tensors).items():
                assert wires.setdefault(mapped[name], signature) == signature, name
        assert {t.name for t in config.input if t.optional} == optional & set(step.input_map)


def plan(task: str, inputs: tuple[str, ...]) -> Plan:
    settings = TaskSettings(
        task, ("négatif", 'a "quoted" one'), None, 128, inputs, 0, 1, options=OPTIONS, most_rows=contract.MOST_ROWS
    )
    return Plan("some.model", "0123abcd", settings, Artefact("model.onnx", ("model.onnx",), "encoder_python", {}), 32)


TEMPLATES = sorted((ROOT / "models").iterdir())
PLANS = [path for path in TEMPLATES if path.name.endswith("_tensorrt")]


@pytest.mark.parametrize("path", sorted(set(TEMPLATES) - set(PLANS)), ids=lambda path: path.name)
def test_step_template(path: Path) -> None:
    config = read_config(path)
    check_tensors(config)
    assert config.backend == "python"
    assert "from tritext.stages" in (path / "1" / "model.py").read_text()


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_plan_template(path: Path) -> None:
    config = read_config(path)
    assert config.platform == "tensorrt_plan"
    assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_AUTO]
    assert config.optimization.cuda.graphs
    assert not config.optimization.cuda.graph_spec  # else each would be tried, and fail, on every profile
    assert config.parameters["execution_context_allocation_strategy"].string_value == "ON_PROFILE_CHANGE"
    assert not any(tensor.allow_ragged_batch for tensor in config.input)


PACKED = (*INPUTS[::2], "position_ids", "segment_ids", "first_tokens")


def planned(task: str, template: str) -> Plan:
    if template == "engine_tensorrt":
        inputs, shapes = PACKED[: 4 if TASKS[task].per == "token" else 5], CallShapes.up_to(128)
    else:
        inputs, shapes = INPUTS, Buckets.up_to(128, 16)
    recipe = Recipe(("model.onnx",), "", inputs, "fp16", shapes_values(shapes))
    artefact = Artefact("model.onnx", ("model.onnx",), template, {})
    rows = 16 if isinstance(shapes, Buckets) else 256
    made = replace(plan(task, INPUTS), artefact=artefact, recipe=recipe, max_batch_size=rows)
    if isinstance(shapes, Buckets):
        made = replace(made, settings=replace(made.settings, most_rows=rows))
    return made


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not task.expands and task.per != "mask"])
def test_a_plan_in_the_ensemble(task: str) -> None:
    configs = configurations(planned(task, "encoder_tensorrt"))
    for config in configs.values():
        check_tensors(config)
    check_chain(configs["ensemble"])
    check_steps(configs["ensemble"], {configs[role].name: configs[role] for role in ROLES}, most_rows=16)
    encoder = configs["encoder"]
    assert encoder.platform == "tensorrt_plan"
    assert encoder.max_batch_size == configs["ensemble"].max_batch_size == 16
    assert max(encoder.dynamic_batching.preferred_batch_size) <= 16
    assert list(encoder.instance_group[0].profile) == [str(number) for number in range(6)]
    assert not any(tensor.allow_ragged_batch for tensor in encoder.input)  # it would join them end to end


@pytest.mark.parametrize("task", list(TASKS))
def test_a_plan_that_the_encoder_calls(task: str) -> None:
    given = planned(task, "engine_tensorrt")
    configs = configurations(given)
    check_chain(configs["ensemble"])
    check_steps(configs["ensemble"], {configs[role].name: configs[role] for role in ROLES})
    engine = configs["engine"]
    assert engine.name == "some.model_engine_0123abcd"
    assert configs["encoder"].backend == "python"
    assert engine.max_batch_size == 1  # with 0 the CUDA graphs would never be used
    assert given.recipe is not None
    shapes = given.recipe.profiles()[0]
    for tensor in engine.input:
        assert len(tensor.dims) == len(shapes[tensor.name][0]) - 1
    assert [len(tensor.dims) for tensor in engine.output] == [3 if TASKS[task].per == "token" else 2]
    assert len(engine.instance_group[0].profile) == len(given.recipe.profiles())


@pytest.mark.parametrize("task", list(TASKS))
def test_ensemble_template(task: str) -> None:
    config = read_config(ROOT / "ensembles" / task)
    assert config.platform == "ensemble"
    assert [step.model_name for step in config.ensemble_scheduling.step] == list(ROLES)
    check_tensors(config)
    check_chain(config)
    assert signatures(config.input) == {t.name: (TYPES[t.datatype], t.dims) for t in TASKS[task].inputs}
    outputs = (*TASKS[task].outputs, *contract.REPORT)
    assert signatures(config.output) == {t.name: (TYPES[t.datatype], t.dims) for t in outputs}


def test_every_task_has_an_ensemble_and_every_ensemble_a_task() -> None:
    assert {path.name for path in (ROOT / "ensembles").iterdir()} == set(TASKS)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("inputs", [INPUTS, INPUTS[:2]], ids=["token types", "no token types"])
def test_built_configurations(task: str, inputs: tuple[str, ...]) -> None:
    configs = configurations(plan(task, inputs))
    assert {role: configs[role].name for role in ROLES} == {role: f"some.model_{role}_0123abcd" for role in ROLES}
    for config in configs.values():
        check_tensors(config)
    check_chain(configs["ensemble"])
    check_steps(configs["ensemble"], {configs[role].name: configs[role] for role in ROLES})
    assert {tensor.name for tensor in configs["encoder"].input} == set(inputs)
    assert all(tensor.allow_ragged_batch for tensor in configs["encoder"].input)


def test_the_ensemble_tells_clients_what_it_is() -> None:
    parameters = configurations(plan("text-classification", INPUTS))["ensemble"].parameters
    told = {key: value.string_value for key, value in parameters.items()}
    assert json.loads(told.pop("labels")) == ["négatif", 'a "quoted" one']
    assert told == {
        "task": "text-classification",
        "max_length": "128",
        "build": "0123abcd",
        "tritext_version": tritext.__version__,
    }


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    for config in configurations(plan("token-classification", INPUTS)).values():
        write_config(config, tmp_path / "config.pbtxt")
        assert read_config(tmp_path) == config


def test_a_built_repository(repository: Path) -> None:
    found = models(repository)
    assert [model.name for model in found] == ["texts", "tokens"]
    for model in found:
        ensemble = read_config(repository / model.name)
        steps = {name: read_config(repository / name) for name in model.manifest().steps.values()}
        assert ensemble.name == model.name
        assert all(config.name == name for name, config in steps.items())
        check_chain(ensemble)
        check_steps(ensemble, steps)
        assert read_config(repository / model.name / BUILDS / model.build) == ensemble
        assert (repository / model.name / "1").is_dir()


@pytest.mark.parametrize("most", [1, 16, 64, 256])
def test_no_batch_is_preferred_that_is_larger_than_any_may_be(most: int) -> None:
    """Triton would not load the step."""
    built = replace(plan("text-classification", ("input_ids", "attention_mask")), max_batch_size=most)
    template = read_config(ROOT / "models" / "encoder_python").dynamic_batching.preferred_batch_size
    assert template
    preferred = configurations(built)["encoder"].dynamic_batching.preferred_batch_size
    assert list(preferred) == [min(size, most) for size in template]


def test_an_engine_can_add_to_its_template() -> None:
    settings = plan("text-classification", INPUTS).settings
    config = ModelConfig()
    config.optimization.priority = 1
    artefact = Artefact("model.onnx", ("model.onnx",), "encoder_python", {}, config)
    encoder = configurations(Plan("m", "0123abcd", settings, artefact, 8))["encoder"]
    assert encoder.optimization.priority == 1
    assert encoder.backend == "python"


def drop_wire(ensemble: ModelConfig) -> None:
    del ensemble.ensemble_scheduling.step[0].output_map["attention_mask"]


def skip_the_encoder(ensemble: ModelConfig) -> None:
    del ensemble.ensemble_scheduling.step[2].input_map["logits"]


def make_twice(ensemble: ModelConfig) -> None:
    ensemble.ensemble_scheduling.step[1].output_map["logits"] = "input_ids"


def lose_an_output(ensemble: ModelConfig) -> None:
    del ensemble.ensemble_scheduling.step[2].output_map["SCORE"]


def lead_nowhere(ensemble: ModelConfig) -> None:
    del ensemble.output[0]


@pytest.mark.parametrize("spoil", [drop_wire, skip_the_encoder, make_twice, lose_an_output, lead_nowhere])
def test_the_check_of_the_chain_sees(spoil: Callable[[ModelConfig], None]) -> None:
    ensemble = copy.deepcopy(configurations(plan("token-classification", INPUTS))["ensemble"])
    check_chain(ensemble)
    spoil(ensemble)
    with pytest.raises(AssertionError):
        check_chain(ensemble)


def test_the_check_of_the_steps_sees_another_type() -> None:
    configs = configurations(plan("token-classification", INPUTS))
    configs["postprocess"].input[0].data_type = DataType.TYPE_UINT8
    with pytest.raises(AssertionError):
        check_steps(configs["ensemble"], {configs[role].name: configs[role] for role in ROLES})


def test_templates_are_missed_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plugin" / "tritext").mkdir(parents=True)
    monkeypatch.setattr(tritext, "__file__", str(tmp_path / "plugin" / "tritext" / "__init__.py"))
    with pytest.raises(RepositoryError, match="templates of tritext are missing"):
        templates()


def test_the_models_folder_is_named(repository: Path) -> None:
    model = BuiltModel(repository, "texts", "nothing")
    with pytest.raises(RepositoryError, match="cannot be read"):
        model.manifest()
