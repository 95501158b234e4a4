"""Forms of the records in the metadata of an ONNX, which the passport of an engine copies.

``export.precision`` writes them. The forms name what is read again; the rest of a record is only printed.
"""

from __future__ import annotations

from engines.core.json_form import ANY, INTEGER, NUMBER, TEXT, Form, OrNull
from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY

# How INT8 was calibrated: export.precision.quantization.Quantization.
QUANTIZATION: Form = {"layout?": TEXT, "kept?": [TEXT], "*": ANY}
# What the precision costs: export.precision.accuracy_budget.Accuracy.
ACCURACY: Form = {
    "ap_fp32": NUMBER,
    "ap": NUMBER,
    "budget": NUMBER,
    "data": {"images": INTEGER, "*": ANY},
    "trials": [{"kept": [TEXT], "ap": NUMBER, "share": OrNull(NUMBER)}],
    "speed": OrNull(NUMBER),
    "speed_against": TEXT,
}
FORMS = {QUANTIZATION_KEY: QUANTIZATION, ACCURACY_KEY: ACCURACY}
