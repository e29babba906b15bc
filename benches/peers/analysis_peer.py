"""Golden values for the analysis of rankings: scipy's rank correlations, trec_eval's retrieval metrics, scikit-learn's precision and recall, numpy's quantiles.

usage: analysis_peer.py operators/src/analysis/testdata/golden.json

Inputs are drawn from a fixed seed and written beside the values, so that the tests need nothing else.

pip install numpy scipy scikit-learn pytrec-eval-terrier
"""
import json
import sys

import numpy
import pytrec_eval
import scipy
import scipy.stats
import sklearn
import sklearn.metrics

KS = [1, 3, 5, 10]


def correlations(random):
    cases = []
    for count, levels in [(3, 50), (7, 3), (20, 5), (31, 1000), (40, 2)]:
        a, b = (random.integers(levels, size=count).astype(float) / 4 - 3 for _ in range(2))
        cases.append(dict(
            a=a.tolist(), b=b.tolist(), ranks=scipy.stats.rankdata(a).tolist(), pearson=float(scipy.stats.pearsonr(a, b)[0]),
            spearman=float(scipy.stats.spearmanr(a, b)[0]), kendall=float(scipy.stats.kendalltau(a, b)[0]),
            quantiles={str(share): float(numpy.quantile(a, share)) for share in (0.05, 0.25, 0.5, 0.9)},
            mean=float(a.mean()), std=float(a.std()), median=float(numpy.median(a)), standard_error=float(scipy.stats.sem(a))))
    return cases


def retrieval(random):
    truth, ranking, run = {}, [], {}
    for query in range(12):
        name = f"q{query}"
        relevant = random.choice(60, size=int(random.integers(1, 9)), replace=False)
        truth[name] = {f"d{item}": int(random.integers(1, 4)) for item in relevant}
        # The last two have nothing of what is relevant, and no ranking at all.
        listed = [item for item in random.permutation(60) if query < 10 or item not in relevant][:int(random.integers(4, 25))]
        if query < 11:
            ranking += [dict(query=name, rank=rank + 1, row=f"d{item}") for rank, item in enumerate(listed)]
            # trec_eval orders by score.
            run[name] = {f"d{item}": float(len(listed) - rank) for rank, item in enumerate(listed)}
        else:
            run[name] = {"nothing": 1.0}
    measures = {"map", "recip_rank"} | {f"{name}.{','.join(map(str, KS))}" for name in ("P", "recall", "success", "ndcg_cut")}
    each = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(run)
    return dict(truth=truth, ranking=ranking, ks=KS, each=each)


def datamodels(random):
    rows, queries, subsets = 30, 4, 12
    scores = random.normal(size=(rows, queries)).astype(numpy.float32)
    lists = [sorted(random.choice(rows, rows // 2, replace=False).tolist()) for _ in range(subsets)]
    sums = numpy.array([scores[chosen].astype(float).sum(axis=0) for chosen in lists])
    outputs = numpy.round(sums + random.normal(size=sums.shape) * 3)
    each = [float(scipy.stats.spearmanr(sums[:, query], outputs[:, query])[0]) for query in range(queries)]
    return dict(scores=scores.astype(float).tolist(), subsets=lists, outputs=outputs.tolist(), each=each, mean=float(numpy.mean(each)))


def influence(random):
    rows = [dict(index=index, score=float(score), trained=bool(random.random() < 0.4)) for index, score in enumerate(random.normal(size=57))]
    found = {}
    for order, key in [("by_score", lambda row: -row["score"]), ("by_magnitude", lambda row: -abs(row["score"]))]:
        ranked = sorted(rows, key=key)
        found[order] = []
        for percent in (10, 25, 50, 75, 100):
            taken = len(rows) * percent // 100
            wanted, predicted = [row["trained"] for row in ranked], [place < taken for place in range(len(rows))]
            precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(wanted, predicted, average="binary", zero_division=0)
            found[order].append([float(precision), float(recall), float(f1)])
    return dict(rows=rows, **found)


def main():
    random = numpy.random.default_rng(20240229)
    golden = dict(
        made_with=dict(numpy=numpy.__version__, scipy=scipy.__version__, sklearn=sklearn.__version__),
        correlations=correlations(random), retrieval=retrieval(random), datamodels=datamodels(random), influence=influence(random))
    with open(sys.argv[1], "w") as file:
        json.dump(golden, file)
        file.write("\n")


main()
