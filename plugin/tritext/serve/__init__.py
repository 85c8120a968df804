"""Find a tritonserver, start it on a model repository, see that it answers rightly, and stop it cleanly."""

from tritext.serve.installation import Installation, find
from tritext.serve.log import LEVELS, LogLevel
from tritext.serve.server import Server

__all__ = ["LEVELS", "Installation", "LogLevel", "Server", "find"]
