"""Reference implementation: the papers' equations as loops over pairs, in float64.

Slow on purpose, and independent of the package, which is compared with it. Each function returns
plain floats and a list with the gradient with respect to each logit. A negative is any index that
is not in ``positives``.
"""

import math


def step(x, delta):
    """Smoothed unit step, eq. 6 of the APE Loss paper with the 1/2 that its text implies."""
    if delta == 0:
        return 1.0 if x >= 0 else 0.0
    return min(max(x / (2 * delta) + 0.5, 0.0), 1.0)


def _negatives(logits, positives):
    positive_indices = set(positives)
    return [n for n in range(len(logits)) if n not in positive_indices]


def rank_sort(logits, positives, quality, delta=0.5, eps=1e-10):
    """Rank & Sort Loss, with the gradients S7 (negatives) and S16 (positives) of its supplement.

    Returns the two values and the two gradients.
    """
    count = len(positives)
    negatives = _negatives(logits, positives)
    y = dict(zip(positives, quality, strict=True))
    ranking = sorting = 0.0
    rank_gradient, sort_gradient = [0.0] * len(logits), [0.0] * len(logits)
    for i in positives:
        above = {j: step(logits[j] - logits[i], delta) for j in positives}
        above_n = {n: step(logits[n] - logits[i], delta) for n in negatives}
        false_positives = sum(above_n.values())
        true_rank = sum(above.values())

        rank_error = false_positives / (true_rank + false_positives)
        ranking += rank_error / count
        if false_positives > eps:
            rank_gradient[i] -= rank_error / count
            for n in negatives:
                rank_gradient[n] += rank_error * above_n[n] / false_positives / count

        better = [j for j in positives if y[j] >= y[i]]
        worse = [j for j in positives if y[j] < y[i]]
        current = sum(above[j] * (1 - y[j]) for j in positives) / true_rank
        target = sum(above[j] * (1 - y[j]) for j in better) / sum(above[j] for j in better)
        sort_error = current - target
        sorting += sort_error / count
        mass = sum(above[j] for j in worse)
        if mass > eps:
            sort_gradient[i] -= sort_error / count
            for j in worse:
                sort_gradient[j] += sort_error * above[j] / mass / count
    return ranking, sorting, rank_gradient, sort_gradient


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def average_precision(
    logits,
    positives,
    delta=1.0,
    interpolated=True,
    self_count=1.0,
    distance="step",
    lam=8.0,
    balance="rank",
    margin=0.25,
):
    """AP Loss with the error-driven update (equation 7), and its variants (appendix 1 to 3).

    Returns the value and the gradient. The two sigmoid distances leave out pairs below the
    published cutoff of -4 / lam.
    """

    def above(d):
        if distance == "step":
            return step(d, delta)
        return sigmoid(lam * d) if lam * d > -4 else 0.0

    count = len(positives)
    negatives = _negatives(logits, positives)
    value, best = 0.0, math.inf
    gradient = [0.0] * len(logits)
    for i in sorted(positives, key=lambda index: logits[index]):
        h = {n: above(logits[n] - logits[i]) for n in negatives}
        constant = self_count + sum(above(logits[j] - logits[i]) for j in positives if j != i)
        constant += sum(h.values())
        if balance == "negatives":
            constant = max(1, sum(logits[n] - logits[i] > -margin for n in negatives))
        error = sum(h.values()) / constant
        # The precision is 1 - error, so its running maximum is the running minimum of the error.
        best = min(best, error) if interpolated else error
        shrink = best / error if error > 0 else 0.0
        if distance == "cross_entropy":
            pairs = [softplus(lam * (logits[n] - logits[i])) for n in negatives if h[n] > 0]
            value += shrink * sum(pairs) / lam / constant / count
        else:
            value += best / count
        gradient[i] -= best / count
        for n in negatives:
            gradient[n] += h[n] / constant * shrink / count
    return value, gradient


def alrp(logits, positives, errors, delta=1.0, eps=1e-5):
    """Average localization-recall-precision (aLRP) Loss.

    Returns the classification and the localization value, the gradient of the first with respect to
    the logits, and the gradient of the second with respect to ``errors``.
    """
    count = len(positives)
    negatives = _negatives(logits, positives)
    e = dict(zip(positives, errors, strict=True))
    classification = localization = 0.0
    gradient, error_gradient = [0.0] * len(logits), {i: 0.0 for i in positives}
    for i in positives:
        other_positives = {j: step(logits[j] - logits[i], delta) for j in positives if j != i}
        above = {n: step(logits[n] - logits[i], delta) for n in negatives}
        false_positives = sum(above.values())
        rank = 1 + sum(other_positives.values()) + false_positives
        classification += false_positives / rank / count
        if false_positives > eps:
            share = (
                sum(other_positives[j] * e[j] for j in other_positives) + false_positives
            ) / rank
            gradient[i] -= share / count
            for n in negatives:
                gradient[n] += share * above[n] / false_positives / count
        for k in positives:
            if logits[k] >= logits[i]:
                localization += e[k] / rank / count
                error_gradient[k] += 1 / rank / count
    return classification, localization, gradient, [error_gradient[i] for i in positives]
