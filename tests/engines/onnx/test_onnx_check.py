"""ONNX files that would take all time or memory, or compute nothing, are refused before a library loads them."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from onnx.helper import make_function, make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from engines.core.errors import ModelFileError
from engines.onnx.onnx_check import MAX_CONSTANT_NODES, MAX_NODES, check_onnx
from retina_edge.assets import MODEL
from tests.hostile import accepted

SAMPLE = MODEL.read_bytes()
X, Y = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
OPSETS = [make_opsetid("", 18), make_opsetid("f", 1)]


def function(name: str, *operators: str) -> onnx.FunctionProto:
    """Return a function that applies operators or functions to its input, one after the other."""
    nodes = [
        make_node(operator, ["x" if index == 0 else f"t{index}"], [f"t{index + 1}"], domain="f")
        for index, operator in enumerate(operators)
    ]
    nodes[-1].output[0] = "y"
    return make_function("f", name, ["x"], ["y"], nodes, OPSETS)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    functions: Sequence[onnx.FunctionProto] = (),
    weights: Sequence[onnx.TensorProto] = (),
) -> bytes:
    graph = make_graph(nodes, "g", [X], [Y], weights)
    content: bytes = make_model(graph, functions=functions, opset_imports=OPSETS).SerializeToString()
    return content


def test_functions_that_call_functions_are_refused_at_once() -> None:
    """Thirty functions of two calls each would become 2^30 nodes."""
    functions = [function("f0", "Identity"), *(function(f"f{n}", f"f{n - 1}", f"f{n - 1}") for n in range(1, 30))]
    content = model_of([make_node("f29", ["x"], ["y"], domain="f")], functions)
    start = perf_counter()
    with pytest.raises(ModelFileError, match="expected functions that call no other one, got calls of 'f0'"):
        check_onnx(content)
    assert perf_counter() - start < 1
    with pytest.raises(ModelFileError, match="call no other one"):  # itself
        check_onnx(model_of([make_node("f", ["x"], ["y"], domain="f")], [function("f", "f")]))


def test_many_calls_of_a_large_function_are_refused() -> None:
    large = function("large", *["Identity"] * 1000)
    calls = [make_node("large", ["x"], [f"y{n}"], domain="f") for n in range(MAX_NODES // 1000 + 1)]
    with pytest.raises(ModelFileError, match=f"of 1 to {MAX_NODES} nodes, got 101000"):
        check_onnx(model_of(calls, [large]))
    check_onnx(model_of(calls[1:], [large]))


def test_loops_and_conditions_are_refused() -> None:
    body = make_graph([make_node("Identity", ["x"], ["z"])], "body", [], [Y])
    loop = make_node("Loop", ["x", ""], ["y"], body=body)
    for content in (model_of([loop]), model_of([], [make_function("f", "f", ["x"], ["y"], [loop], OPSETS)])):
        with pytest.raises(ModelFileError, match="expected a network without loops and conditions, got 'Loop'"):
            check_onnx(content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_that_are_not_finite_are_named(value: float, dtype: type) -> None:
    array: np.ndarray[tuple[int], np.dtype[np.floating]] = np.ones(5, dtype)
    as_list = onnx.helper.make_tensor("w\x1b", onnx.TensorProto.FLOAT, [5], [1, 1, 1, value, 1])
    identity = [make_node("Identity", ["x"], ["y"])]
    check_onnx(model_of(identity, weights=[numpy_helper.from_array(array, "w")]))
    array[3] = value
    for weights, name in ((numpy_helper.from_array(array, "w"), "w"), (as_list, r"w\\x1b")):
        with pytest.raises(ModelFileError, match=f"'{name}': expected finite numbers, got NaN or infinity"):
            check_onnx(model_of(identity, weights=[weights]))


def constants(count: int) -> list[onnx.NodeProto]:
    """Return nodes that expand a stored number, and add the results to the input."""
    nodes = [make_node("Expand", ["w", "size"], [f"c{n}"], name=f"grow{n}") for n in range(count)]
    return [*nodes, make_node("Sum", ["x", *(f"c{n}" for n in range(count))], ["y"])]


WEIGHTS = [numpy_helper.from_array(np.ones(1, np.float16), "w"), numpy_helper.from_array(np.array([1 << 40]), "size")]


def test_many_nodes_that_depend_on_constants_are_refused() -> None:
    """ONNX Runtime computes them when it loads the model, and keeps all results."""
    check_onnx(model_of(constants(MAX_CONSTANT_NODES), weights=WEIGHTS))
    message = rf"at most {MAX_CONSTANT_NODES} nodes .* alone, got {MAX_CONSTANT_NODES + 1}, among them 'grow\d+' "
    with pytest.raises(ModelFileError, match=message):
        check_onnx(model_of(constants(MAX_CONSTANT_NODES + 1), weights=WEIGHTS))
    with pytest.raises(ModelFileError, match=message):  # in another order, which ONNX does not allow
        check_onnx(model_of(constants(MAX_CONSTANT_NODES + 1)[::-1], weights=WEIGHTS))


def test_a_weight_may_be_converted_once() -> None:
    def model(weights: int, casts: int) -> bytes:
        stored = [numpy_helper.from_array(np.ones(1, np.float16), f"w{n}") for n in range(weights)]
        nodes = [make_node("Cast", [f"w{n % weights}"], [f"c{n}"], to=onnx.TensorProto.FLOAT) for n in range(casts)]
        return model_of([*nodes, make_node("Sum", ["x", *(f"c{n}" for n in range(casts))], ["y"])], weights=stored)

    check_onnx(model(300, 300))
    with pytest.raises(ModelFileError, match=f"alone, got {300 - 2},"):
        check_onnx(model(2, 300))


def test_constants_in_functions_count_for_each_call() -> None:
    body = [make_node("Tile", ["b", "b"], ["c"]), make_node("Add", ["a", "c"], ["y"])]
    grow = make_function("f", "grow", ["a", "b"], ["y"], body, OPSETS)
    calls = [make_node("grow", ["x", "size"], [f"y{n}"], domain="f") for n in range(MAX_CONSTANT_NODES + 1)]
    with pytest.raises(ModelFileError, match=r"depend on constants alone, got 65, among them '' \('Tile'\)"):
        check_onnx(model_of(calls, [grow], WEIGHTS))
    check_onnx(model_of(calls[1:], [grow], WEIGHTS))


def test_sparse_tensors_are_refused() -> None:
    """A sparse tensor of a hundred bytes takes any memory when it is loaded."""
    values, indices = (
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    sparse = onnx.helper.make_sparse_tensor(values, indices, [1 << 40])
    graph = make_graph([make_node("Add", ["x", "w"], ["y"])], "g", [X], [Y])
    graph.sparse_initializer.append(sparse)
    constant = make_node("Constant", [], ["y"], sparse_value=sparse)
    for content in (make_model(graph).SerializeToString(), model_of([constant])):
        with pytest.raises(ModelFileError, match="expected dense tensors, got a sparse one"):
            check_onnx(content)


def test_weights_in_another_file_are_refused() -> None:
    """They would be loaded without a check of their numbers."""
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    set_external_data(weight, "weights.bin")
    weight.ClearField("raw_data")
    with pytest.raises(ModelFileError, match="'w': expected its numbers in the model, got the name of another file"):
        check_onnx(model_of([make_node("Add", ["x", "w"], ["y"])], weights=[weight]))


def test_a_model_without_nodes_is_refused() -> None:
    with pytest.raises(ModelFileError, match=f"expected an ONNX model of 1 to {MAX_NODES} nodes, got 0"):
        check_onnx(model_of([]))


@pytest.mark.parametrize(
    "content", [b"", b"not a model", SAMPLE[:5000], b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(ModelFileError, match=f"expected an ONNX model, got {len(content)} bytes that are not"):
        check_onnx(content)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 400), st.integers(0, 400))
def test_damaged_bytes_never_raise_anything_else(inserted: bytes, start: int, removed: int) -> None:
    small = model_of([make_node("f", ["x"], ["y"], domain="f")], [function("f", "Identity")])
    content = small[:start] + inserted + small[start + removed :]
    accepted(lambda: check_onnx(content))


def test_the_reader_counts_what_onnx_counts() -> None:
    """The limit is exact: with one node less than the model has, it is refused."""
    model = onnx.load_from_string(SAMPLE)
    sizes = {item.name: len(item.node) for item in model.functions}
    count = sum(sizes.get(node.op_type, 1) for node in model.graph.node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.onnx.onnx_check.MAX_NODES", count)
        check_onnx(SAMPLE)
        patch.setattr("engines.onnx.onnx_check.MAX_NODES", count - 1)
        with pytest.raises(ModelFileError, match=f"got {count};"):
            check_onnx(SAMPLE)
