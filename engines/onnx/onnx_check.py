"""Checks of an ONNX file before any library loads it, with the wire format of protobuf alone.

The base install has no package onnx, and ONNX Runtime copies each function to all its calls: thirty functions that each
call the one before twice become a billion nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engines.core.errors import ModelFileError
from engines.core.json_form import short

# Far above the nodes of an export, which has about two thousand.
MAX_NODES = 100_000
# Numbers of fields in onnx.proto.
_GRAPH, _FUNCTION = 7, 25  # of a model
_NODE, _INITIALIZER = 1, 5  # of a graph
_FUNCTION_NAME, _FUNCTION_NODE = 1, 7
_OPERATOR, _ATTRIBUTE = 4, 5  # of a node
_SUBGRAPH, _SUBGRAPHS = 6, 11  # of an attribute
_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES = 2, 4, 8, 9, 10  # of a tensor
# Types of tensors with floating-point numbers, as in raw data.
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
# Kinds of fields in the wire format. The other two, groups, are unknown to ONNX.
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_onnx_file(path: Path) -> None:
    """Check an ONNX file; see ``check_onnx``. Its weights are mapped, not read.

    Raises:
        ModelFileError: if the file is not an ONNX model, or not one to run.
    """
    try:
        content = np.memmap(path, np.uint8, "r").data if path.stat().st_size else memoryview(b"")
        check_onnx(content)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def check_onnx(content: bytes | memoryview) -> None:
    """Check that an ONNX model is a plain sequence of nodes with finite weights, as ``retina-edge export`` writes it.

    Args:
        content: content of the file.

    Raises:
        ModelFileError: if the content is no ONNX, a function calls another one, a node contains a graph, there are too
            many nodes, or a weight is not finite.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> check_onnx(MODEL.read_bytes())
    """
    try:
        _check_model(memoryview(content))
    except (ValueError, IndexError) as error:
        raise ModelFileError(
            f"expected an ONNX model, got {len(content)} bytes that are not one ({error}); export it again"
        ) from error


def _check_model(model: memoryview) -> None:
    # Functions are told apart by their names alone. That may count a node too many, but none too few.
    parts = [(number, _message(value)) for number, value in _fields(model) if number in (_GRAPH, _FUNCTION)]
    functions, called = Counter[str](), set[str]()
    for body in (part for number, part in parts if number == _FUNCTION):
        name, operators = "", []
        for number, value in _fields(body):
            if number == _FUNCTION_NAME:
                name = _text(value)
            elif number == _FUNCTION_NODE:
                operators.append(_operator(_message(value)))
        functions[name] += len(operators)
        called.update(operators)
    if nested := sorted(called & functions.keys()):
        raise ModelFileError(f"expected functions that call no other one, got calls of {short(nested[0])}")
    if all(number != _GRAPH for number, _ in parts):
        raise ValueError("no graph")
    nodes = 0
    for graph in (part for number, part in parts if number == _GRAPH):
        for number, value in _fields(graph):
            if number == _NODE:
                nodes += functions.get(_operator(_message(value)), 1)
            elif number == _INITIALIZER:
                _check_tensor(_message(value))
    if not 0 < nodes <= MAX_NODES:
        raise ModelFileError(f"expected an ONNX model of 1 to {MAX_NODES} nodes, got {nodes}; export it again")


def _operator(node: memoryview) -> str:
    """Return the name of a node's operator or function.

    Raises:
        ModelFileError: if the node has a graph inside, as a loop or a condition.
    """
    operator, contains_graph = "", False
    for number, value in _fields(node):
        if number == _OPERATOR:
            operator = _text(value)
        elif number == _ATTRIBUTE:
            contains_graph |= any(inner in (_SUBGRAPH, _SUBGRAPHS) for inner, _ in _fields(_message(value)))
    if contains_graph:
        raise ModelFileError(f"expected a network without loops and conditions, got {short(operator)}")
    return operator


def _check_tensor(tensor: memoryview) -> None:
    """Raise ModelFileError if a weight is not finite."""
    name, kind = "", 0
    parts: list[tuple[int, memoryview]] = []
    for number, value in _fields(tensor):
        if number == _NAME:
            name = _text(value)
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number in (_FLOATS, _DOUBLES, _RAW):
            parts.append((number, _message(value)))
    for number, part in parts:
        dtype = {_FLOATS: "<f4", _DOUBLES: "<f8"}.get(number) or _FLOAT_TYPES.get(kind)
        if dtype and not np.isfinite(np.frombuffer(part, dtype)).all():
            raise ModelFileError(
                f"{short(name)}: expected finite numbers, got NaN or infinity; export the model from a checkpoint "
                "without them"
            )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number of each field of a message and its value: an integer, or bytes.

    Raises:
        ValueError, IndexError: if the bytes are not a message.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            size, position = _varint(message, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"unknown kind {kind} of field")
        if position + size > len(message):
            raise ValueError("the end is missing")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of seven bits in each byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("an integer has too many bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number is in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()
