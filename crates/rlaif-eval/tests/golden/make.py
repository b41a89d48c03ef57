"""Makes the golden files beside it: what SciPy, scikit-learn and NumPy say.

    pip install numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1    # or tests/peers/requirements.txt
    pip install alpaca_eval==0.6.6                      # its own win rate
    pip install --no-deps rewardbench==0.1.4            # its tables of subsets and weights
    python crates/rlaif-eval/tests/golden/make.py

Inputs are drawn here with fixed seeds and written beside the results, so that the Rust tests read
both. Where a library offers the statistic, the library computes it; where it does not (ECE, the
slope through the origin), the formula is written with NumPy and solved by another method than the
crate's.
"""

import ast
import json
import platform
import runpy
from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats
from scipy.spatial import distance
from sklearn import calibration, isotonic, linear_model, metrics

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
                "about_zero": 1 - distance.cosine(x, y),
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


def newton_free(x, y):
    """Maximum likelihood of P(y = 1) = expit(x b): root of the gradient, by MINPACK's hybrd."""
    unit = np.abs(x).max(axis=0)
    z = x / unit
    root = optimize.root(lambda b: z.T @ (y - special.expit(z @ b)), np.zeros(x.shape[1]), tol=1e-14)
    assert np.abs(root.fun).max() < 1e-9, root
    b = root.x / unit
    p = special.expit(x @ b)
    covariance = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)
    # The same rows doubled and weighted, as scikit-learn takes soft targets.
    doubled = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10000)
    weight = np.concatenate([y, 1 - y])
    doubled.fit(np.vstack([z, z]), np.repeat([1, 0], len(y)), sample_weight=weight)
    assert np.allclose(doubled.coef_[0] / unit, b, rtol=1e-3, atol=1e-6), (doubled.coef_, b)
    return b, np.sqrt(np.diag(covariance))


def logistics():
    rng = np.random.default_rng(9)
    cases = []
    for n, beta, soft in ((400, (0.02, 1.1), False), (60, (-0.3, 0.0, 0.7), True), (25, (1.0,), True)):
        x = rng.normal(scale=[40, 1, 2][: len(beta)], size=(n, len(beta))).round(3)
        x[:, -1] = rng.choice([-1.0, 1.0], size=n)
        p = special.expit(x @ np.array(beta))
        y = p * 0.8 + 0.1 * rng.random(n) if soft else (rng.random(n) < p).astype(float)
        b, errors = newton_free(x, y)
        cases.append({"x": x, "y": y, "coefficients": b, "std_errors": errors})
    write("logistic", cases=cases)


def recalibrations():
    rng = np.random.default_rng(10)
    cases = []
    for n, digits, sharp in ((300, 6, 2.5), (80, 2, 0.6), (40, 1, 1.0)):
        truth = rng.beta(3, 1.5, size=n)
        y = (rng.random(n) < truth).astype(int)
        p = special.expit(sharp * special.logit(truth)).round(digits).clip(1e-6, 1 - 1e-6)
        x = special.logit(p)
        score = lambda b: float(np.sum(x * (y - special.expit(b * x))))
        temperature = 1 / optimize.brentq(score, -20, 20, xtol=1e-300, rtol=1e-15)
        hits = y.sum()
        target = np.where(y == 1, (hits + 1) / (hits + 2), 1 / (n - hits + 2))
        (slope, intercept), _ = newton_free(np.column_stack([x, np.ones(n)]), target)
        # scikit-learn's own Platt scaling, which stops at a looser gradient and has other signs.
        theirs = calibration._sigmoid_calibration(x, y)
        assert np.allclose([-theirs[0], -theirs[1]], [slope, intercept], rtol=1e-2, atol=1e-3), theirs
        rising = isotonic.IsotonicRegression(out_of_bounds="clip").fit(p, y)
        at = np.concatenate([np.linspace(0, 1, 41), p[:20]])
        cases.append(
            {
                "p": p,
                "y": y,
                "temperature": temperature,
                "platt": [slope, intercept],
                "isotonic": {"at": at, "value": rising.predict(at)},
            }
        )
    write("recalibrate", cases=cases)


def boards():
    """AlpacaEval's and RewardBench's rules, by the packages themselves."""
    from alpaca_eval.metrics import get_winrate

    # The files alone: importing the package needs a deep-learning stack.
    source = lambda name: Path(distribution("rewardbench").locate_file(f"rewardbench/{name}.py"))
    constants = runpy.run_path(source("constants"))
    EXAMPLE_COUNTS, SUBSET_MAPPING = constants["EXAMPLE_COUNTS"], constants["SUBSET_MAPPING"]
    name = "calculate_scores_per_section"
    tree = ast.parse(source("utils").read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) == name]
    exec(compile(tree, "utils.py", "exec"), rule := {})

    rng = np.random.default_rng(11)
    alpaca = []
    for n, soft in ((120, True), (60, False), (1, True)):
        preference = rng.uniform(1, 2, size=n) if soft else rng.choice([1.0, 2.0, 1.5, 0.0], size=n)
        got = get_winrate([{"preference": v} for v in preference])
        won = np.where(preference == 0, 0.5, preference - 1)
        case = {"won": won, **{k: float(v) for k, v in got.items()}}
        if n == 1:
            case["standard_error"] = None
        alpaca.append(case)
    bench = []
    for keep in (1.0, 0.5):
        subsets = [s for tests in SUBSET_MAPPING.values() for s in tests if rng.random() <= keep]
        rows = [(s, float(v)) for s in subsets for v in rng.choice([0, 0.5, 1], size=rng.integers(3, 9))]
        accuracy = {s: np.mean([v for t, v in rows if t == s]) for s in subsets}
        sections = rule[name](EXAMPLE_COUNTS, SUBSET_MAPPING, accuracy)
        # Of a section without rows it says 0; here such a section is absent.
        there = {s for s, tests in SUBSET_MAPPING.items() if set(tests) & set(subsets)}
        bench.append(
            {"rows": rows, "subsets": accuracy, "sections": {s: sections[s] for s in sorted(there)}}
        )
    write("boards", alpaca=alpaca, rewardbench=bench)


if __name__ == "__main__":
    intervals()
    agreement()
    calibrations()
    correlations()
    slopes()
    logistics()
    recalibrations()
    boards()
