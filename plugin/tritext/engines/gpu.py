"""The GPU and the TensorRT of this machine, asked from the libraries that Triton itself loads."""

import ctypes
from dataclasses import dataclass, fields
from typing import Any, Final

from tritext.errors import EngineError

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: the compute capability (CUDA driver API)
_LIBRARIES: Final = ("libnvinfer.so.11", "libnvinfer.so.10")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan must match: TensorRT's version ("10.13.3"), the GPU's name and its compute capability ("9.0").

    `cuda` is the driver's CUDA version, for the record only.
    """

    tensorrt: str
    gpu: str
    compute: str
    cuda: str = ""

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt or '?'} on {self.gpu or 'an unknown GPU'} (compute {self.compute or '?'})"

    @property
    def is_ampere_or_later(self) -> bool:
        """From which on plans can be made compatible with other GPUs."""
        return int(self.compute.partition(".")[0] or 0) >= 8

    @property
    def version(self) -> tuple[int, ...]:
        """TensorRT's, to compare."""
        return tuple(int(part) for part in self.tensorrt.split(".") if part.isdecimal())

    @classmethod
    def names(cls) -> list[str]:
        """Of the fields."""
        return [field.name for field in fields(cls)]


def this_machine() -> Machine:
    """Its GPU, or several of one kind, and the TensorRT library; EngineError says what is missing."""
    version = tensorrt_version()
    if version is None:
        raise EngineError(
            "TensorRT is not installed here: none of its libraries (libnvinfer.so) can be loaded. Use NVIDIA's Triton "
            "image, or build the model for this machine with --engine auto."
        )
    return Machine(version, *_gpu())


def tensorrt_version() -> str | None:
    """The version of the libnvinfer that programs here load; None where there is none."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = int(library.getInferLibVersion())  # NvInferRuntimeBase.h: major * 10000 + minor * 100 + patch
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None


def _gpu() -> tuple[str, str, str]:
    """Name, compute capability and CUDA version, of the CUDA driver API."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(
            "No NVIDIA driver is installed here, or the container was started without --gpus all."
        ) from error
    _asked(cuda.cuInit(0), "cuInit")
    count = ctypes.c_int()
    _asked(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    found = {_device(cuda, number) for number in range(count.value)}
    if len(found) != 1:
        names = ", ".join(sorted(f"{name} (compute {compute})" for name, compute in found)) or "none"
        raise EngineError(
            f"Triton would run a plan on every GPU here, and one plan is for one kind: {names}. Name those of one kind "
            "in CUDA_VISIBLE_DEVICES."
        )
    version = ctypes.c_int()
    _asked(cuda.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    (name, compute) = found.pop()
    return name, compute, f"{version.value // 1000}.{version.value % 1000 // 10}"


def _device(cuda: Any, number: int) -> tuple[str, str]:
    """Name and compute capability."""
    device = ctypes.c_int()
    _asked(cuda.cuDeviceGet(ctypes.byref(device), number), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _asked(cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    return name.value.decode(), ".".join(str(_attribute(cuda, which, device)) for which in (_MAJOR, _MINOR))


def _attribute(cuda: Any, which: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _asked(cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device), "cuDeviceGetAttribute")
    return value.value


def _asked(status: int, call: str) -> None:
    if status:
        raise EngineError(f"No NVIDIA GPU answers here: {call} failed with CUDA error {status}.")
