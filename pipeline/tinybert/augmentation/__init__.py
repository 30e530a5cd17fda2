"""Word replacement: the masked language model, candidates, the draw."""
