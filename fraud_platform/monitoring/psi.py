"""The population stability index: how far one sample lies from another, over the reference's own bins.

What belongs here: bins and the index. What does not: which samples are compared (`drift`), what an index means
(`signals`). Evidently's own index uses bins of equal width over both samples pooled, which a long tail blinds.

    PSI = Σ (a − e) · ln(a / e), a and e the shares of a bin in the sample and in the reference

Source: B. Yurdakul, Statistical Properties of Population Stability Index, 2018; its customary limits are 0.1 and 0.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DECILES = tuple(np.arange(0.1, 1.0, 0.1).round(1))
_SMOOTHING = 0.5
"""Added to each bin's count (Krichevsky–Trofimov): an empty bin is no infinite distance."""


@dataclass(frozen=True)
class Bins:
    """A reference's distribution: bin 0 is up to `edges[0]`, the last but one above `edges[-1]`, the last is null."""

    edges: tuple[float, ...]
    """Ascending; fewer than nine where values repeat. Bins are closed above: (edges[i − 1], edges[i]]."""
    counts: tuple[int, ...]
    """Reference rows per bin, `len(edges) + 2` of them."""

    @staticmethod
    def of(values: NDArray[np.floating]) -> "Bins":
        """Decile bins of a reference sample, (n,), NaN for null."""
        known = values[~np.isnan(values)]
        # a decile is a value that occurs: interpolation would put edges where nothing lies
        edges = np.unique(np.quantile(known, DECILES, method="inverted_cdf")) if len(known) else np.empty(0)
        return Bins(tuple(map(float, edges)), tuple(map(int, _counts(edges, values))))

    @property
    def null_share(self) -> float:
        """Share of the reference that is null."""
        return self.counts[-1] / max(sum(self.counts), 1)

    def count(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """A sample's rows per bin."""
        return _counts(np.array(self.edges), values)

    def psi(self, counts: NDArray[np.int64]) -> float:
        """The index of a sample given as rows per bin."""
        expected, found = (_shares(np.asarray(each)) for each in (self.counts, counts))
        return float(np.sum((found - expected) * np.log(found / expected)))


def _counts(edges: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.int64]:
    null = np.isnan(values)
    bins = np.searchsorted(edges, values[~null], side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return np.append(counts, null.sum()).astype(np.int64)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    smoothed = counts + _SMOOTHING
    shares: NDArray[np.float64] = smoothed / smoothed.sum()
    return shares
