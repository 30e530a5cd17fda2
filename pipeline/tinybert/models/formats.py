"""The released formats of the student, and their files."""

FILES = {"pytorch": "model.safetensors", "onnx": "model.onnx", "int8": "model_int8.onnx"}
