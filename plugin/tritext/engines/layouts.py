"""The layouts by name, as ``settings.json`` has them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from tritext.engines.batching import Layout, Sorted
from tritext.engines.fixed import Bucketed, PackedCalls
from tritext.engines.packing import Packed
from tritext.engines.shapes import Buckets, CallShapes

AnyLayout = Sorted | Packed | PackedCalls | Bucketed
LAYOUTS: Final[Mapping[str, type[AnyLayout]]] = {kind.kind: kind for kind in (Sorted, Packed, PackedCalls, Bucketed)}


def layout_of(shapes: CallShapes | Buckets) -> AnyLayout:
    """The layout whose calls have these shapes."""
    return Bucketed(shapes.lengths, shapes.rows) if isinstance(shapes, Buckets) else PackedCalls(shapes.calls)


def layout_from(values: Mapping[str, Any]) -> Layout:
    """The layout that `layout_values` wrote; ValueError, KeyError or TypeError where it is none."""
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return LAYOUTS[options.pop("kind")](**options)


def layout_values(layout: AnyLayout) -> dict[str, Any]:
    """`layout` as JSON can hold it."""
    return {"kind": layout.kind, **asdict(layout)}
