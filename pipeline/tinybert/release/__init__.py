"""What is shipped: ONNX files, vocabulary, latency, model card."""
