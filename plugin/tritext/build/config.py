"""From the templates in ``models/`` and ``ensembles/`` to typed Triton configurations.

Templates are parsed, fields are set on the protobuf, the result is printed: nothing is pasted as text.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelEnsembling, ModelInput, ModelOutput

import tritext
from tritext import contract
from tritext.contract import Tensor
from tritext.engines.base import Artefact
from tritext.engines.plan import Recipe
from tritext.errors import RepositoryError
from tritext.naming import ENGINE_ROLE, ROLES, step_name
from tritext.repository import read_config
from tritext.settings import TaskSettings
from tritext.tasks import task_named
from tritext.tasks.base import Task

_TYPES: Final = {
    "BYTES": DataType.TYPE_STRING,
    "INT32": DataType.TYPE_INT32,
    "FP32": DataType.TYPE_FP32,
    "BOOL": DataType.TYPE_BOOL,
    "UINT8": DataType.TYPE_UINT8,
}


def templates() -> Path:
    """The folder that holds ``models`` and ``ensembles``: inside the wheel, or the checkout's root."""
    package = Path(tritext.__file__).parent
    for folder in (package / "templates", package.parents[1]):
        if (folder / "models" / "tokenizer" / "config.pbtxt").is_file():
            return folder
    raise RepositoryError("The templates of tritext are missing from its installation. Install tritext again.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configurations of one build are made from."""

    name: str
    build: str
    settings: TaskSettings
    artefact: Artefact
    max_batch_size: int
    instances: int = 1  # of the encoder
    recipe: Recipe | None = None  # of its TensorRT plan, where it has one

    @property
    def encoder_inputs(self) -> tuple[Tensor, ...]:
        """The encoder's inputs, in the contract's order."""
        return tuple(t for t in contract.ENCODER_INPUTS if t.name in self.settings.encoder_inputs)


def configurations(plan: Plan) -> dict[str, ModelConfig]:
    """The configuration of each step by role, and of the ensemble under "ensemble"."""
    task = task_named(plan.settings.task)
    wiring = {
        "tokenizer": (task.inputs, tuple(dict.fromkeys((*plan.encoder_inputs, *task.carried, *contract.REPORT)))),
        "encoder": (plan.encoder_inputs, (task.logits,)),
        "postprocess": ((*task.carried, task.logits), task.outputs),
    }
    configs = {}
    for role, (inputs, outputs) in wiring.items():
        template = plan.artefact.encoder_template if role == "encoder" else role
        config = read_config(templates() / "models" / template)
        if role == "encoder" and plan.artefact.config is not None:
            config.MergeFrom(plan.artefact.config)
        config.name = step_name(plan.name, role, plan.build)
        # What the tokenizer makes of N rows must fit the steps behind it.
        grows = (task.expands or task.windows) and role != "tokenizer"
        config.max_batch_size = plan.settings.most_rows if grows else plan.max_batch_size
        if role == "encoder" and config.instance_group:
            config.instance_group[0].count = plan.instances
        preferred = config.dynamic_batching.preferred_batch_size if config.HasField("dynamic_batching") else []
        most = config.max_batch_size if task.expands else plan.max_batch_size  # Triton refuses larger ones
        preferred[:] = sorted({min(size, most) for size in preferred})
        _set_tensors(config, inputs, outputs)
        _fit_plan(config, plan, role)
        config.parameters[contract.PARAM_BUILD].string_value = plan.build
        configs[role] = config
    configs["ensemble"] = _ensemble(plan, configs)
    if plan.artefact.is_own_model:
        configs[ENGINE_ROLE] = _engine(plan, task)
    return configs


def _fit_plan(config: ModelConfig, plan: Plan, role: str) -> None:
    """What a plan's own step, or the one that calls it, has besides."""
    if plan.recipe is None or role != "encoder":
        return
    if plan.artefact.is_own_model:  # its rows hold more texts than a processor's, see Recipe
        config.dynamic_batching.preferred_batch_size[:] = [plan.max_batch_size]
    else:
        _set_profiles(config, plan.recipe)
        for each in config.input:  # a native backend would join ragged tensors end to end
            each.allow_ragged_batch = False


def _engine(plan: Plan, task: Task) -> ModelConfig:
    """The configuration of an engine that is a model of its own: the graph's inputs as they are, and its logits."""
    assert plan.recipe is not None  # noqa: S101 - only a plan is a model of its own; tells the type checker
    config = read_config(templates() / "models" / plan.artefact.template)
    config.name = step_name(plan.name, ENGINE_ROLE, plan.build)
    _set_profiles(config, plan.recipe)
    shapes = plan.recipe.profiles()[0]
    inputs = [Tensor(name, "INT32", (-1,) * (len(shapes[name][0]) - 1)) for name in plan.recipe.inputs]
    _set_tensors(config, inputs, [replace(task.logits, dims=(-1,) * (3 if task.per == "token" else 2))])
    config.max_batch_size = plan.recipe.plan_shapes().max_batch_size
    config.parameters[contract.PARAM_BUILD].string_value = plan.build
    return config


def _set_profiles(config: ModelConfig, recipe: Recipe) -> None:
    config.instance_group[0].profile[:] = [str(number) for number in range(len(recipe.profiles()))]


def _set_tensors(config: ModelConfig, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    del config.input[:]
    del config.output[:]
    config.input.extend(
        ModelInput(
            name=t.name, data_type=_TYPES[t.datatype], dims=t.dims, optional=t.optional, allow_ragged_batch=t.ragged
        )
        for t in inputs
    )
    config.output.extend(ModelOutput(name=t.name, data_type=_TYPES[t.datatype], dims=t.dims) for t in outputs)


def _ensemble(plan: Plan, steps: dict[str, ModelConfig]) -> ModelConfig:
    config = read_config(templates() / "ensembles" / plan.settings.task)
    config.name = plan.name
    config.max_batch_size = plan.max_batch_size
    for role, step in zip(ROLES, config.ensemble_scheduling.step, strict=True):
        step.model_name = steps[role].name
        _drop_absent(step, steps[role])
    values = {
        contract.PARAM_TASK: plan.settings.task,
        contract.PARAM_LABELS: json.dumps(plan.settings.labels, ensure_ascii=False),
        contract.PARAM_MAX_LENGTH: str(plan.settings.max_length),
        contract.PARAM_BUILD: plan.build,
        contract.PARAM_VERSION: tritext.__version__,
    }
    if sample := task_named(plan.settings.task).sample(plan.settings):
        values[contract.PARAM_SAMPLE] = sample
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config


def _drop_absent(step: ModelEnsembling.Step, config: ModelConfig) -> None:
    """Unwire the tensors of the template that this checkpoint has no use for."""
    for wires, tensors in ((step.input_map, config.input), (step.output_map, config.output)):
        for name in set(wires) - {tensor.name for tensor in tensors}:
            del wires[name]


def write_config(config: ModelConfig, path: Path) -> None:
    """Print `config` to `path` as protobuf text."""
    path.write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")
