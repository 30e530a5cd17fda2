"""Which teacher layer each student layer learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tinybert.core.errors import UserError

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import LayerMap


def map_layers(layer_map: LayerMap, student: int, teacher: int, key: str) -> list[int]:
    """For each of the student's M layers, the teacher's layer (1 to N) that it learns from.

    auto: from the first to the last in equal steps, rounded down, and the last one for a single layer; uniform: m·N/M,
    where that is whole; first: m; last: m + N − M; or a list.
    """
    if layer_map == "auto":
        # Rounded down: a student of layers 1, 3, 6 of 6 was 4 points better than one of 1, 4, 6 on STS-B (500 rows).
        return [1 + layer * (teacher - 1) // (student - 1) for layer in range(student)] if student > 1 else [teacher]
    if isinstance(layer_map, list):
        if len(layer_map) != student or not all(1 <= layer <= teacher for layer in layer_map):
            raise UserError(
                f"{key}: {layer_map}: expected {student} numbers from 1 to {teacher}, one for each layer of the student"
            )
        return layer_map
    if student > teacher:
        raise UserError(
            f"{key}: {layer_map}: the student has {student} layers, the teacher only {teacher}: choose auto or a list,"
            " or a student with fewer layers"
        )
    if layer_map == "uniform":
        if teacher % student:
            raise UserError(
                f"{key}: uniform: {teacher} teacher layers are not divisible by {student} student layers: choose first,"
                " last or a list, or another number of layers"
            )
        return [layer * teacher // student for layer in range(1, student + 1)]
    shift = teacher - student if layer_map == "last" else 0
    return [layer + shift for layer in range(1, student + 1)]
