"""Print what pyproject.toml requires: the package's own dependencies and those of the extras that are named.

Run by the Dockerfile, so that an image's dependencies are a layer that no change of the code touches:
``requirements.py PYPROJECT EXTRA...``. A name behind a minus is left out.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def required(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Those of `extra`, and of the extras that it includes."""
    for requirement in project["optional-dependencies"][extra]:
        if own := re.fullmatch(rf"{project['name']}\[(.+)\]", requirement):
            for name in own[1].split(","):
                yield from required(project, name)
        else:
            yield requirement


def main(pyproject: str, *names: str) -> None:
    """Print one requirement a line."""
    project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for n in names if not n.startswith("-") for r in required(project, n))]
    unwanted = {name[1:] for name in names if name.startswith("-")}
    print(*(r for r in dict.fromkeys(wanted) if re.split(r"[\[<>=~! ]", r)[0] not in unwanted), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
