"""Makes the golden files beside it: what SciPy, scikit-learn and NumPy say.

    pip install numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1    # or tests/peers/requirements.txt
    python crates/rlaif-eval/tests/golden/make.py

Inputs are drawn here with fixed seeds and written beside the results, so that the Rust tests read
both. Where a library offers the statistic, the library computes it; where it does not (ECE, the
slope through the origin), the formula is written with NumPy and solved by another method than the
crate's.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats
from sklearn import calibration, metrics

HERE = Path(__file__).parent


def write(name, **content):
    content["made_with"] = {
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "scipy", "scikit-learn")},
    }
    text = json.dumps(content, indent=1, default=lambda value: value.tolist())
    (HERE / f"{name}.json").write_text(text + "\n")


def intervals():
    cases = [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (81, 263), (5000, 9999)]
    wilson = []
    for count, n in cases:
        for confidence in (0.8, 0.95, 0.999):
            got = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
            wilson.append([count, n, confidence, got.low, got.high])
    levels = [1e-300, 1e-20, 1e-6, 0.01, 0.074, 0.076, 0.3, 0.5, 0.7, 0.925, 0.975, 1 - 1e-9]
    sample = np.random.default_rng(1).normal(size=23).round(2)
    at = [0, 0.025, 0.1, 0.5, 0.77, 1]
    # The bootstrap itself: 100,000 replicates of the mean of a skewed sample, and of whole groups.
    values = np.random.default_rng(2).exponential(size=40).round(3)
    plain = stats.bootstrap(
        (values,), np.mean, n_resamples=100_000, method="percentile", rng=3, vectorized=True, axis=-1
    ).confidence_interval
    groups = np.repeat(np.arange(10), 4)
    values_by_group = (values.reshape(10, 4) + np.arange(10)[:, None]).reshape(-1)
    means = values_by_group.reshape(10, 4).mean(axis=1)  # equal sizes: mean of means = pooled mean
    clustered = stats.bootstrap(
        (means,), np.mean, n_resamples=100_000, method="percentile", rng=4, vectorized=True, axis=-1
    ).confidence_interval
    write(
        "intervals",
        wilson=wilson,
        normal_quantile=[[p, stats.norm.ppf(p)] for p in levels],
        quantile={"sample": sample, "at": at, "value": np.quantile(sample, at)},
        bootstrap={"values": values, "low": plain.low, "high": plain.high},
        clustered={
            "values": values_by_group,
            "groups": groups,
            "low": clustered.low,
            "high": clustered.high,
        },
    )


def agreement():
    rng = np.random.default_rng(5)
    cases = []
    for labels, n, keep in ((2, 50, 0.7), (3, 80, 0.5), (4, 31, 0.0)):
        left = rng.integers(labels, size=n)
        right = np.where(rng.random(n) < keep, left, rng.integers(labels, size=n))
        cases.append(
            {
                "left": left,
                "right": right,
                "accuracy": metrics.accuracy_score(left, right),
                "kappa": metrics.cohen_kappa_score(left, right),
            }
        )
    write("agreement", cases=cases)


def ece(p, y, edges):
    bins = np.searchsorted(edges[1:-1], p)
    return sum(
        abs(p[bins == b].sum() - y[bins == b].sum()) for b in range(len(edges) - 1)
    ) / len(p)


def calibrations():
    rng = np.random.default_rng(6)
    cases = []
    for n, digits in ((200, 6), (57, 1), (12, 2)):
        p = rng.beta(2, 1.5, size=n).round(digits)
        # Values on the edges of bins belong to the bin that ends there.
        p[:4] = [0.0, 1.0, 0.5, 0.25]
        y = (rng.random(n) < p**1.5).astype(int)
        y[:2] = [1, 1]  # p = 0 came true: the clipping decides what it costs
        case = {
            "p": p,
            "y": y,
            "brier": metrics.brier_score_loss(y, p),
            "log_loss": metrics.log_loss(y, p),
        }
        for name, strategy in (("width", "uniform"), ("mass", "quantile")):
            for bins in (4, 8):
                share, mean = calibration.calibration_curve(
                    y, p, n_bins=bins, strategy=strategy
                )
                edges = np.linspace(0, 1, bins + 1)
                if strategy == "quantile":
                    edges = np.quantile(p, edges)
                case[f"{name}_{bins}"] = {"share": share, "mean": mean, "ece": ece(p, y, edges)}
        cases.append(case)
    write("calibration", cases=cases)


def correlations():
    rng = np.random.default_rng(7)
    cases = []
    for n, digits in ((100, 8), (60, 0), (5, 1), (2, 3)):
        x = rng.normal(size=n).round(digits)
        y = (0.6 * x + rng.normal(size=n)).round(digits)
        cases.append(
            {
                "x": x,
                "y": y,
                "pearson": stats.pearsonr(x, y).statistic,
                "spearman": stats.spearmanr(x, y).statistic,
                "kendall": stats.kendalltau(x, y, variant="b").statistic,
            }
        )
    write("correlation", cases=cases)


def slopes():
    rng = np.random.default_rng(8)
    cases = []
    for n, beta, scale in ((300, 0.01, 80), (40, -0.2, 5), (15, 0.0, 1000)):
        x = rng.normal(scale=scale, size=n).round()
        y = (rng.random(n) < special.expit(beta * x)).astype(int)
        score = lambda b: float(np.sum(x * (y - special.expit(b * x))))
        slope = optimize.brentq(score, -30 / scale, 30 / scale, xtol=1e-300, rtol=1e-15)
        p = special.expit(slope * x)
        cases.append(
            {"x": x, "y": y, "slope": slope, "std_error": np.sum(x * x * p * (1 - p)) ** -0.5}
        )
    write("slope", cases=cases)


if __name__ == "__main__":
    intervals()
    agreement()
    calibrations()
    correlations()
    slopes()
