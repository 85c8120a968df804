"""Everything tritext raises on purpose.

::

    TritextError
    ├── InvalidInput          a request's own fault: an input, a parameter; the server says INVALID_ARG
    ├── Overloaded            a step refuses a request for now; the server says UNAVAILABLE, and when to try again
    ├── BuildError            a model could not be built
    │   ├── CheckpointError   the checkpoint cannot be read, or is of a kind not supported
    │   ├── ExportError       the exporter or the engine refuses the graph
    │   ├── ParityError       the built pipeline's answers are not the checkpoint's
    │   └── RepositoryError   the repository is damaged, or a name is taken
    ├── EngineError           an engine is missing or cannot run its artefact
    ├── StageFault            a stage failed on a request that is not known to be at fault
    ├── ServeError            the server is not found, does not start, or does not get ready
    │   └── ModelsUnfit       some of its models are at fault
    └── ClientError           a call to a server failed, and not through its input
        ├── Unavailable       nobody answers there, or the server refuses for now: worth another try
        ├── AccessDenied      the server wants an API key, or another one
        ├── DeadlineExceeded  no answer within the timeout
        ├── ModelNotFound     the server has no such model, or it is not ready
        └── ServerFault       the server failed inside; its log says more

A message is a whole sentence or two: what was wrong, where, and what to do. It is shown as it stands to
callers and on the command line, without a traceback.
"""

from collections.abc import Sequence


class TritextError(Exception):
    """The root of the tree above."""


class InvalidInput(TritextError):
    """A request that can never succeed as it was sent."""


class Overloaded(TritextError):
    """A request that could not be begun in time: too much is waiting. `misses_deadline`: the request's own."""

    def __init__(self, message: str, *, misses_deadline: bool = False) -> None:
        super().__init__(message)
        self.misses_deadline = misses_deadline


class BuildError(TritextError):
    """A model could not be built."""


class CheckpointError(BuildError):
    """The checkpoint cannot be read, or is of a kind that is not supported."""


class ExportError(BuildError):
    """The exporter or the engine's compiler refuses the graph."""


class ParityError(BuildError):
    """The built pipeline does not give the checkpoint's answers."""


class RepositoryError(BuildError):
    """The model repository is damaged, or a name in it is taken."""


class EngineError(TritextError):
    """An engine is not installed or cannot load or run its artefact."""


class StageFault(TritextError):
    """A stage failed on a request that is not known to be at fault: its log, and ``__cause__``, say more."""


class ServeError(TritextError):
    """The server is not found, does not start, or does not get ready."""


class ModelsUnfit(ServeError):
    """The server cannot be had with some of its models: those in `names`."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class ClientError(TritextError):
    """A call to a server failed for a reason other than its input."""


class Unavailable(ClientError):
    """Nobody answers at the address, or the server refuses for now."""


class AccessDenied(ClientError):
    """The server answers only who has its API key, and none or another one was sent."""


class DeadlineExceeded(ClientError):
    """No answer came within the timeout."""


class ModelNotFound(ClientError):
    """The server has no model of that name, or it is not ready."""


class ServerFault(ClientError):
    """The server failed inside."""
