"""Which features move a model's scores on a holdout, and which way: SHAP over a sample.

What belongs here: the sample, its SHAP values, their picture. What does not: computing them (`kinds`), explaining one
decision (`bundle`).
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import Catalogue
from fraud_platform.model.data import Examples, Matrix
from fraud_platform.model.kinds import Model

SAMPLE = 2_000
_SHOWN = 15


@dataclass(frozen=True)
class Attribution:
    """SHAP values in log-odds before calibration, (n, features), of the sampled vectors."""

    vectors: Matrix
    values: NDArray[np.float32]
    catalogue: Catalogue

    def strongest(self) -> list[tuple[str, float]]:
        """Features by mean absolute SHAP value, the strongest first."""
        means = np.abs(self.values).mean(axis=0)
        return [(self.catalogue.names[index], float(means[index])) for index in np.argsort(-means, kind="stable")]


def attribute(model: Model, examples: Examples, seed: int) -> Attribution:
    """SHAP values of up to SAMPLE rows, half of them frauds as far as there are so many."""
    random = np.random.default_rng(seed)
    frauds = random.permutation(np.flatnonzero(examples.is_fraud))[: SAMPLE // 2]
    goods = random.permutation(np.flatnonzero(~examples.is_fraud))[: SAMPLE - len(frauds)]
    vectors = examples.vectors[np.sort(np.concatenate([frauds, goods]))]
    values = np.asarray(model.contributions(vectors)[:, :-1], np.float32)
    return Attribution(vectors, values, examples.catalogue)


def summary_picture(attribution: Attribution, seed: int) -> bytes:
    """shap's beeswarm of the strongest features as PNG bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import shap

    names = list(attribution.catalogue.names)
    explanation = shap.Explanation(attribution.values, data=attribution.vectors, feature_names=names)
    # shap spreads its points with numpy's global generator
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        axes = shap.plots.beeswarm(explanation, max_display=_SHOWN, show=False, plot_size=(8.0, 5.5))
        axes.set_xlabel("SHAP value: change of the score in log-odds", fontsize=10)
        axes.tick_params(labelsize=9)
        sink = io.BytesIO()
        axes.figure.savefig(sink, format="png", dpi=70, bbox_inches="tight", metadata={"Software": None})
    finally:
        plt.close("all")
        np.random.set_state(state)
    return sink.getvalue()
