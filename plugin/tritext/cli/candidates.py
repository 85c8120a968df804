"""What was tried for the encoder of a build, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table


def candidate_table(candidates: Sequence[Mapping[str, Any]]) -> Table:
    """One line a candidate, as the manifest has it; the fastest first."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("engine")
    for name in ("tokens/s", "labels equal", "drift p99", "MB"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for each in candidates:
        found = each["accuracy"] or {}
        table.add_row(
            f"{each['engine']} {each['precision']}",
            _number(each["tokens_per_second"], ",.0f"),
            _number(found.get("agreement"), ".2%"),
            _number(found.get("drift"), ".3f"),
            _number(each["megabytes"], ",.0f"),
            each["verdict"],
            style="bold green" if each["chosen"] else "",
        )
    return table


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
