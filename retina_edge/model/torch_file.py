"""Files that torch wrote, read without running any code in them, and in memory of about their own size.

``torch.load(weights_only=True)`` runs no code, but it decompresses records, and calls functions that allocate as much
memory as the file asks for. The file is therefore looked at before it is loaded.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeGuard

import torch
from torch import Tensor

from engines.core.errors import ModelFileError, reason_of
from engines.core.json_form import short

# Names in the pickle of a state dict and of plain values beside it. All else in torch's own list for ``weights_only``
# is absent from weights, and some of it allocates memory without data in the file, such as bytearray.
_NAMES = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set|argparse Namespace"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|bool|(b?float|u?int|complex)\d\w*)"
)
# A file of torch.save before 1.6 is a sequence of pickles: magic number, version, system, content, keys of storages.
_ZIP_MAGIC, _LEGACY_PICKLES = b"PK\x03\x04", 5
# A pickled byte can become an object of a hundred bytes. A training state has less than a tenth as many.
_MAX_OPCODES = 2_000_000


def read_torch_file(path: Path, what: str, *, fix: str = "") -> Any:
    """Return the content of a file in CPU memory, read with ``weights_only=True``.

    A tensor may claim more elements than the file holds, by a stride of 0; see ``check_weights``.

    Args:
        path: path of an existing file.
        what: the expected content, for the message of an error.
        fix: the way out of a damaged file, for the message, a clause.

    Raises:
        ModelFileError: if the file holds other objects than weights and plain values, or torch cannot read it.
    """
    try:
        with path.open("rb") as file:
            name = _first_foreign_name(file)
        if not name:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load, zipfile and pickletools raise many types for a damaged file
        advice = f"; {fix}" if fix else ""
        raise ModelFileError(
            f"{path}: expected {what}, but torch cannot read it: {reason_of(error)}{advice}"
        ) from error
    raise ModelFileError(
        f"{path}: expected {what}, got a pickled {short(name)}, which cannot be read without running "
        "code; load it with the program that wrote it, and save its weights alone: "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Return True if a value is a mapping of names to tensors.

    Examples:
        >>> is_state_dict({"bias": torch.zeros(2)}), is_state_dict({"epoch": 3})
        (True, False)
    """
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def check_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Check that weights are numbers to compute with, and together not larger than their file.

    Args:
        weights: state dict from ``read_torch_file``.
        file: the file.

    Raises:
        ModelFileError: if they are not; the message names the tensor.
    """
    claimed, size = sum(value.numel() * value.element_size() for value in weights.values()), file.stat().st_size
    if claimed > size:
        name = max(weights, key=lambda name: weights[name].numel())
        raise ModelFileError(
            f"expected weights of at most the {size} bytes of their file, got {claimed} bytes, most of them in "
            f"{short(name)} of shape {tuple(weights[name].shape)}"
        )
    for name, value in weights.items():
        if value.is_complex():
            raise ModelFileError(f"{short(name)}: expected real numbers, got {value.dtype}")
        if not torch.isfinite(value.float()).all():
            raise ModelFileError(
                f"{short(name)}: expected finite numbers, got NaN or infinity; use an earlier checkpoint"
            )
        if name.endswith("running_var") and (value < 0).any():
            raise ModelFileError(f"{short(name)}: expected variances of 0 or more, got negative ones")


def _first_foreign_name(file: IO[bytes]) -> str:
    """Return the first name in a file's pickles that weights do not need, or an empty string.

    Raises:
        Exception: of many types, if the file is not one of torch.save.
    """
    size = os.fstat(file.fileno()).st_size
    if file.read(4) != _ZIP_MAGIC:
        file.seek(0)
        return next(filter(None, (_foreign_name(file) for _ in range(_LEGACY_PICKLES))), "")
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        # torch.save compresses nothing. Records that share their bytes would also exceed the file together.
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("records are compressed")
        if records[0].header_offset or sum(record.file_size for record in records) > size:
            raise ValueError(f"records do not fit into the {size} bytes of the file")
        content = archive.read(f"{records[0].filename.partition('/')[0]}/data.pkl")
    return _foreign_name(io.BytesIO(content))


def _foreign_name(file: IO[bytes]) -> str:
    """Return the first name in a pickle that weights do not need, as ``module name``, or an empty string."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MAX_OPCODES:
            raise ValueError(f"more than {_MAX_OPCODES} objects")
        if opcode.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
            return str(argument).replace(" ", ".")
    return ""
