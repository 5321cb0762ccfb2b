"""lam of a model of which there is only an ONNX file; its logits are read, so that saturation costs nothing.

Run: python docs/examples/black_box_onnx.py FILE.onnx INPUT_SHAPE, such as model.onnx 1,8,8
"""

from __future__ import annotations

import sys

import fimtheory as ft
from fimtheory.blackbox import OnnxQuery
from fimtheory.data import load_data
from fimtheory.targets import parse_shape

path, shape = sys.argv[1], parse_shape(sys.argv[2])
assert shape is not None
inputs = load_data("random:3", shape).inputs.double().numpy()
found = ft.estimate_black_box(OnnxQuery(path), inputs, outputs="logits", checkpoint="answers.npz")
print(found)
print(found.note)
