"""Orders of the classes in a confusion matrix that is too large for names."""

from collections.abc import Sequence

import numpy as np

from timesformer_jax._typing import Int, ndarray

ORDERS = {"similar": "confused classes together", "accuracy": "by accuracy", "name": "by name", "data": "as in the data set"}
"""Maps an order of the classes to its title."""


def class_orders(confusion: Int[ndarray, "classes classes"], names: Sequence[str]) -> dict[str, list[int]]:
    """Return the classes' indices in each of `ORDERS`."""
    shares = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    return {
        "similar": _similar(confusion),
        "accuracy": np.argsort(shares, kind="stable").tolist(),
        "name": sorted(range(len(names)), key=lambda i: names[i].casefold()),
        "data": list(range(len(names))),
    }


def _similar(confusion: np.ndarray) -> list[int]:
    """Order the classes by average-linkage clustering, with the share of confused videos as similarity."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(confusion) < 3:
        return list(range(len(confusion)))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()


def confusion_data(confusion: Int[ndarray, "classes classes"], names: Sequence[str]) -> dict[str, object]:
    """Return the matrix for the page's script: names, totals, the counts that aren't 0 as (row, column, count), and orders."""
    counts = [[int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion)]
    totals = confusion.sum(axis=1).tolist()
    return {"names": list(names), "totals": totals, "counts": counts, "orders": class_orders(confusion, names)}
