"""The student as a plain classifier, and as an ONNX file."""
