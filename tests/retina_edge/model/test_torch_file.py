"""Damaged files of torch, and files that wrap weights in unexpected ways, raise only errors of one line."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.model.torch_file import check_weights, is_state_dict, read_torch_file
from retina_edge.model.wrapped_weights import EMA_KEYS, LOGITS, MODEL_KEYS, find_weights
from tests.hostile import accepted

CONTENT = {"weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(2))}, "epoch": 3}


def saved(*, as_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save(CONTENT, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


FILES = {as_zip: saved(as_zip=as_zip) for as_zip in (False, True)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch") / "file.pt"


@pytest.mark.parametrize("as_zip", FILES)
def test_both_formats_of_torch_are_read(path: Path, as_zip: bool) -> None:
    path.write_bytes(FILES[as_zip])
    content = read_torch_file(path, "weights")
    assert content["epoch"] == 3
    assert torch.equal(content["weights"]["a"], CONTENT["weights"]["a"])  # type: ignore[index]


@pytest.mark.parametrize("as_zip", FILES)
@settings(max_examples=60, deadline=None)
@given(edit=st.data())
def test_damaged_bytes_raise_nothing_else(path: Path, as_zip: bool, edit: st.DataObject) -> None:
    content = FILES[as_zip]
    start = edit.draw(st.integers(0, len(content)))
    removed, inserted = edit.draw(st.integers(0, 12)), edit.draw(st.binary(max_size=12))
    path.write_bytes(content[:start] + inserted + content[start + removed :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a damaged protocol number
        found = accepted(lambda: read_torch_file(path, "weights"))
    if isinstance(found, dict) and is_state_dict(found.get("weights")):
        accepted(lambda: check_weights(found["weights"], path))


KEYS = st.sampled_from([*MODEL_KEYS, *EMA_KEYS, LOGITS, f"module.{LOGITS}", f"ema.{LOGITS}", "n_averaged", "epoch"])
LEAVES = st.none() | st.integers() | st.text(max_size=3) | st.builds(torch.ones, st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=4), max_leaves=12), st.booleans())
def test_any_content_holds_weights_or_is_refused(content: object, ema: bool) -> None:
    found = accepted(lambda: find_weights(content, ema=ema))
    if found is not None:
        assert LOGITS in found.weights
