"""Encoders: checkpoints, families, attention scores, precision, batches, inference."""
