"""The training loop, and fine-tuning on labels."""
