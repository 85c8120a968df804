"""The images as such: what they say of themselves, what they share, what a change of code costs."""

import shutil
from pathlib import Path

import images
import pytest
import served
from docker_engine import ROOT, container, docker, inspect, run


@pytest.fixture(scope="module")
def gpu(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `gpu` image, on a base that has the names of NVIDIA's files and not what is in them."""
    library, name = "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.13.3", f"{images.REPOSITORY}:nvidia"
    context = tmp_path_factory.mktemp("nvidia")
    lines = f"FROM {base}\nRUN mkdir -p /usr/local/cuda-13.0 {Path(library).parent} && touch {library}\n"
    (context / "Dockerfile").write_text(lines, encoding="utf-8")
    docker("build", f"--tag={name}", context)
    return images.build("gpu", base, arguments=[f"--build-arg=GPU_BASE={name}"])


def test_the_image_says_what_it_is_and_how_to_run_it(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tritext"]
    assert config["Cmd"] == ["serve", "/repository", "--host", "0.0.0.0"]  # noqa: S104
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "tritext", "health", "/repository"]
    assert {"title", "description", "licenses", "version", "revision"} <= {
        label.removeprefix("org.opencontainers.image.") for label in config["Labels"]
    }


def test_a_change_of_code_changes_one_small_layer(image: str, base: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for name in ("plugin", "models", "ensembles", "deploy"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, context / name)
    before = inspect(image)
    with (context / "plugin" / "tritext" / "errors.py").open("a") as file:
        file.write("\n# changed\n")
    with (context / "pyproject.toml").open("a") as file:
        file.write("\n# what is no requirement has no layer to change\n")
    try:
        after = inspect(images.build("cpu", base, context=context))
    finally:
        docker("tag", before["Id"], image)
    docker("rmi", after["Id"])
    layers, changed = (thing["RootFS"]["Layers"] for thing in (before, after))
    assert layers[:-1] == changed[:-1]
    assert layers[-1] != changed[-1]


def test_a_repository_can_be_baked_in(
    image: str, repository: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "repository")
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY repository /repository\n")
    baked = docker("build", "--quiet", tmp_path)
    try:
        with container(baked) as started:
            started.wait_healthy()
            assert served.labels(started.address(8001)) == served.expected_labels(checkpoints["labels"])
    finally:
        docker("rmi", "--force", baked)


def test_the_other_commands_are_there(image: str) -> None:
    for command in ("serve", "classify", "bench", "build", "prepare", "health"):
        assert run("run", "--rm", "--read-only", "--tmpfs=/tmp", image, command, "--help").returncode == 0


def test_the_gpu_image_differs_where_it_must(image: str, gpu: str) -> None:
    ours, theirs = (inspect(name)["Config"] for name in (image, gpu))
    for key in ("User", "Entrypoint", "Cmd", "StopSignal", "ExposedPorts", "Labels"):
        assert theirs[key] == ours[key], key
    assert theirs["Healthcheck"]["Test"] == ours["Healthcheck"]["Test"]
    assert "TRITEXT_CACHE=/var/cache/tritext" in theirs["Env"]


def test_the_gpu_image_has_tensorrts_bindings_and_no_triton_of_its_own(gpu: str, repository: Path) -> None:
    names = "'tensorrt_bindings', 'pytriton', 'torch'"
    script = f"from importlib.util import find_spec; print(*[find_spec(name) is not None for name in ({names})])"
    assert docker("run", "--rm", "--entrypoint=python3", gpu, "-c", script) == "True False False"
    version = "from importlib.metadata import version; print(version('tensorrt-cu13-bindings'))"
    assert docker("run", "--rm", "--entrypoint=python3", gpu, "-c", version).startswith("10.13.3.")
    done = run("run", "--rm", "--read-only", "--tmpfs=/tmp", f"--volume={repository}:/repository:ro", gpu)
    assert done.returncode != 0
    assert "There is no tritonserver" in done.stderr
    assert docker("run", "--rm", "--entrypoint=sh", gpu, "-c", "touch /var/cache/tritext/x && id -u") == "10001"
