"""Checks every .onnx file of a directory with the ONNX checker, shapes included; prints what it refuses."""
import pathlib
import sys

import onnx

refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        refused += 1
        print(f"{path.name}: {error}", file=sys.stderr)
sys.exit(refused > 0)
