"""TinyBERT's losses, its two stages, and the general student."""
