"""Checks of an ONNX file before any library loads it, with the wire format of protobuf alone.

The base install has no package onnx, and ONNX Runtime copies each function to all its calls: thirty functions that each
call the one before twice become a billion nodes. When it loads a model, it computes the nodes that depend on constants
alone and keeps the results, so their number is limited here, and the size of each in ``session``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engines.core.errors import ModelFileError
from engines.core.json_form import short

# Far above the nodes of an export, which has about two thousand.
MAX_NODES = 100_000
# Nodes that depend on constants alone, and do not convert weights. An export has fewer than twenty.
MAX_CONSTANT_NODES = 64
# Numbers of fields in onnx.proto.
_GRAPH, _FUNCTION = 7, 25  # of a model
_NODE, _INITIALIZER, _GRAPH_INPUT, _SPARSE_INITIALIZER = 1, 5, 11, 15  # of a graph
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_NODE = 1, 4, 7
_INPUT, _OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5  # of a node
_SUBGRAPH, _SUBGRAPHS, _SPARSE, _SPARSES = 6, 11, 22, 23  # of an attribute
_VALUE_NAME = 1
_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL = 2, 4, 8, 9, 10, 13  # of a tensor
# Operators whose result is small, whatever they are applied to, or as large as the file says.
_SMALL = frozenset({"Constant", "Shape", "Size"})
# Operators that convert weights to another type.
_CONVERSIONS = frozenset({"Cast", "DequantizeLinear"})
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
        ModelFileError: if the content is no ONNX, a function calls another one, a node contains a graph, a tensor is
            sparse, there are too many nodes, too many depend on constants alone, or a weight is not finite or lies in
            another file.

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


class _Node(NamedTuple):
    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]


class _Function(NamedTuple):
    inputs: list[str]
    nodes: list[_Node]


def _check_model(model: memoryview) -> None:
    # Functions are told apart by their names alone. That may count a node too many, but none too few.
    parts = [(number, _message(value)) for number, value in _fields(model) if number in (_GRAPH, _FUNCTION)]
    functions: dict[str, list[_Function]] = {}
    for body in (part for number, part in parts if number == _FUNCTION):
        name, function = _function(body)
        functions.setdefault(name, []).append(function)
    called = {node.operator for bodies in functions.values() for body in bodies for node in body.nodes}
    if nested := sorted(called & functions.keys()):
        raise ModelFileError(f"expected functions that call no other one, got calls of {short(nested[0])}")
    if all(number != _GRAPH for number, _ in parts):
        raise ValueError("no graph")
    inputs: list[str] = []
    nodes: list[_Node] = []
    weights: set[str] = set()
    for graph in (part for number, part in parts if number == _GRAPH):
        for number, value in _fields(graph):
            if number == _NODE:
                nodes.append(_node(_message(value)))
            elif number == _INITIALIZER:
                weights.add(_check_tensor(_message(value)))
            elif number == _GRAPH_INPUT:
                inputs += [_text(name) for field, name in _fields(_message(value)) if field == _VALUE_NAME]
            elif number == _SPARSE_INITIALIZER:
                raise ModelFileError(_SPARSE_MESSAGE)
    sizes = {name: sum(len(body.nodes) for body in bodies) for name, bodies in functions.items()}
    count = sum(sizes.get(node.operator, 1) for node in nodes)
    if not 0 < count <= MAX_NODES:
        raise ModelFileError(f"expected an ONNX model of 1 to {MAX_NODES} nodes, got {count}; export it again")
    _check_constants(inputs, nodes, functions, weights)


_SPARSE_MESSAGE = (
    "expected dense tensors, got a sparse one, which may be of any size when it is loaded; export it again"
)


def _check_constants(
    inputs: list[str], nodes: list[_Node], functions: dict[str, list[_Function]], weights: set[str]
) -> None:
    """Raise ModelFileError if too many nodes depend on constants alone."""
    changing = set(inputs)
    stored, folded = set(weights), []
    for node in _constant_nodes(changing, nodes):
        if node.operator in _CONVERSIONS and node.inputs and node.inputs[0] in stored:
            stored.remove(node.inputs[0])  # a weight is converted once
        else:
            folded.append(node)
    for call in (node for node in nodes if node.operator in functions):
        for body in functions[call.operator]:
            given = {name for name, value in zip(body.inputs, call.inputs, strict=False) if value in changing}
            folded += _constant_nodes(given, body.nodes)
    if len(folded) > MAX_CONSTANT_NODES:
        node = folded[MAX_CONSTANT_NODES]
        raise ModelFileError(
            f"expected at most {MAX_CONSTANT_NODES} nodes that depend on constants alone, got {len(folded)}, among "
            f"them {short(node.name)} ({short(node.operator)}); export it again"
        )


def _constant_nodes(changing: set[str], nodes: list[_Node]) -> list[_Node]:
    """Return the nodes that depend on constants alone, except small ones.

    Args:
        changing: names of the inputs; the names of all tensors that depend on them are added.
        nodes: nodes in the order of their computation, which ONNX prescribes.
    """
    constant = []
    for node in nodes:
        if node.operator in _SMALL:
            continue
        if changing.isdisjoint(node.inputs):
            constant.append(node)
        else:
            changing.update(node.outputs)
    return constant


def _function(body: memoryview) -> tuple[str, _Function]:
    """Return the name of a function, and the function."""
    name, function = "", _Function([], [])
    for number, value in _fields(body):
        if number == _FUNCTION_NAME:
            name = _text(value)
        elif number == _FUNCTION_INPUT:
            function.inputs.append(_text(value))
        elif number == _FUNCTION_NODE:
            function.nodes.append(_node(_message(value)))
    return name, function


def _node(message: memoryview) -> _Node:
    """Return a node.

    Raises:
        ModelFileError: if the node has a graph inside, as a loop or a condition, or a sparse tensor.
    """
    node, name, operator, inner = _Node("", "", [], []), "", "", set[int]()
    for number, value in _fields(message):
        if number == _INPUT:
            node.inputs.append(_text(value))
        elif number == _OUTPUT:
            node.outputs.append(_text(value))
        elif number == _NODE_NAME:
            name = _text(value)
        elif number == _OPERATOR:
            operator = _text(value)
        elif number == _ATTRIBUTE:
            inner.update(field for field, _ in _fields(_message(value)))
    if inner & {_SUBGRAPH, _SUBGRAPHS}:
        raise ModelFileError(f"expected a network without loops and conditions, got {short(operator)}")
    if inner & {_SPARSE, _SPARSES}:
        raise ModelFileError(_SPARSE_MESSAGE)
    return node._replace(operator=operator, name=name)


def _check_tensor(tensor: memoryview) -> str:
    """Return the name of a weight; raise ModelFileError if it is not finite, or lies in another file."""
    name, kind = "", 0
    parts: list[tuple[int, memoryview]] = []
    for number, value in _fields(tensor):
        if number == _NAME:
            name = _text(value)
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number in (_FLOATS, _DOUBLES, _RAW):
            parts.append((number, _message(value)))
        elif number == _EXTERNAL:
            raise ModelFileError(
                f"{short(name)}: expected its numbers in the model, got the name of another file; export it again"
            )
    for number, part in parts:
        dtype = {_FLOATS: "<f4", _DOUBLES: "<f8"}.get(number) or _FLOAT_TYPES.get(kind)
        if dtype and not np.isfinite(np.frombuffer(part, dtype)).all():
            raise ModelFileError(
                f"{short(name)}: expected finite numbers, got NaN or infinity; export the model from a checkpoint "
                "without them"
            )
    return name


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
