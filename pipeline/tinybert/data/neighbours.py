"""Pairs of near and of far things."""

import numpy as np

MOST = 4000  # things to compare each with each: all similarities are held in memory


def draw_pairs(similarity: np.ndarray, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` random pairs of numbers below n, in two arrays: the first of each pair, and one of its neighbours.

    Most things have little in common. So the second is the r-th nearest of the first, and the logarithm of r is drawn
    evenly: near and far things are paired alike. No number is paired with itself.

    similarity: (n, n), n at least 2; row i has the similarities of i to all. Its diagonal is overwritten.
    """
    size = len(similarity)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")
    firsts = draw.integers(size, size=count)
    ranks = np.exp(draw.uniform(0, np.log(size - 1), size=count)).astype(int) - 1
    return firsts, nearest[firsts, ranks]
