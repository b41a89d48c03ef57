"""Makes bradley_terry.json with SciPy: strengths by a general-purpose optimizer on the likelihood, and
standard errors from a Hessian by finite differences, both with the sum of strengths held at 0.

    pip install scipy && python make_bradley_terry.py > bradley_terry.json
"""

import json
import sys

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

rng = np.random.default_rng(11)


def loss(s, games):
    i, j, p = (np.array(c) for c in zip(*games))
    d = s[i] - s[j]
    return -np.sum(p * log_expit(d) + (1 - p) * log_expit(-d))


def hessian(f, x, h=1e-4):
    n = len(x)
    e = np.eye(n) * h
    return np.array([
        [(f(x + e[a] + e[b]) - f(x + e[a] - e[b]) - f(x - e[a] + e[b]) + f(x - e[a] - e[b])) / (4 * h * h)
         for b in range(n)] for a in range(n)
    ])


cases = []
for n, share in [(2, 1.0), (4, 1.0), (6, 0.6)]:
    truth = rng.normal(0, 1.5, n)
    games = []
    for i in range(n):
        for j in range(i + 1, n):
            if j == i + 1 or rng.random() < share:
                games.append((i, j, round(float(expit(truth[i] - truth[j] + rng.normal(0, 0.5))), 4)))
    # Free coordinates span the space of zero sum.
    basis = np.linalg.svd(np.ones((1, n)))[2][1:].T
    f = lambda z: loss(basis @ z, games)
    z = minimize(f, np.zeros(n - 1), method="BFGS", options={"gtol": 1e-10}).x
    z = minimize(f, z, method="Nelder-Mead", options={"xatol": 1e-11, "fatol": 1e-15, "maxiter": 40000}).x
    covariance = basis @ np.linalg.inv(hessian(f, z)) @ basis.T
    cases.append({
        "n": n, "games": games, "strengths": (basis @ z).tolist(),
        "se": np.sqrt(np.diag(covariance)).tolist(),
    })
json.dump(cases, sys.stdout, indent=1)
print()
