"""Random pairs of texts, similar and dissimilar ones."""

import numpy as np

MOST = 4000  # texts to compare each with each: all similarities are held in memory


def draw_pairs(similarity: np.ndarray, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` random pairs of indices below n, in two arrays.

    The second index of a pair is that of the r-th nearest neighbour of the first, and the logarithm of r is uniform:
    most texts have little in common, so a uniform r would rarely give similar pairs. No index is paired with itself.

    similarity: (n, n), n at least 2; row i has the similarities of i to all. Its diagonal is overwritten.
    """
    size = len(similarity)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")
    firsts = draw.integers(size, size=count)
    ranks = np.exp(draw.uniform(0, np.log(size - 1), size=count)).astype(int) - 1
    return firsts, nearest[firsts, ranks]
