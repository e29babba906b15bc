"""Reference numbers of kronfluence and bergson for tests: operators/src/influence/curvature/testdata/peers.json.

usage: kronfluence_values.py OUTPUT

kronfluence fits its factors on a few documents of token ids with models from tests/fixtures/models, in double precision, with the true tokens as labels
(use_empirical_fisher) and batches of one document, so that nothing is padded; a document's loss is the sum over its tokens. Of bergson come the multipliers and
inverses of hessians/inversion.py, and the mixing coefficient of utils/math.py, for given matrices.

pip install kronfluence==1.0.1 bergson==2.5.1 transformers torch
"""
import json
import logging
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task

FIXTURES = Path(__file__).resolve().parents[2] / "tests/fixtures/models"
DOUBLE = torch.float64


def documents(vocabulary, count, seed):
    """The same rule as in the tests."""
    def token(document, place):
        return (document * 31 + place * 17 + seed * 7 + place * place * 3) % vocabulary

    return [[token(document, place) for place in range(2 + (document * 5 + seed) % 13)] for document in range(count)]


class LanguageModel(Task):
    def __init__(self, names):
        self.names = names

    def compute_train_loss(self, batch, model, sample=False):
        assert not sample
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.names

    def get_attention_mask(self, batch):
        return None


class Documents(torch.utils.data.Dataset):
    def __init__(self, documents):
        self.documents = documents

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, index):
        return torch.tensor(self.documents[index])


def of_kronfluence(name, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=DOUBLE, attn_implementation="eager")
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.endswith(("embed_out", "lm_head"))]
    task = LanguageModel(linear)
    model = prepare_model(model, task)
    analyzer = Analyzer(analysis_name=name.replace("/", "-"), model=model, task=task, cpu=True, output_dir=folder, disable_tqdm=True)
    corpus, queries = (Documents(documents(model.config.vocab_size, *arguments)) for arguments in [(8, 2), (3, 9)])
    values = {"model": name, "modules": {}, "scores": []}
    for strategy in ["identity", "diagonal", "kfac", "ekfac"]:
        arguments = FactorArguments(
            strategy=strategy, use_empirical_fisher=True, activation_covariance_dtype=DOUBLE, gradient_covariance_dtype=DOUBLE,
            eigendecomposition_dtype=DOUBLE, per_sample_gradient_dtype=DOUBLE, lambda_dtype=DOUBLE)
        analyzer.fit_all_factors(factors_name=strategy, dataset=corpus, per_device_batch_size=1, factor_args=arguments)
        for damping in [None, 0.01]:
            arguments = ScoreArguments(
                damping_factor=damping, per_sample_gradient_dtype=DOUBLE, precondition_dtype=DOUBLE, score_dtype=DOUBLE)
            scores_name = f"{strategy}-{damping}"
            analyzer.compute_pairwise_scores(
                scores_name=scores_name, factors_name=strategy, query_dataset=queries, train_dataset=corpus,
                per_device_query_batch_size=1, per_device_train_batch_size=1, score_args=arguments)
            scores = analyzer.load_pairwise_scores(scores_name)["all_modules"]
            values["scores"].append({"strategy": strategy, "damping": damping, "documents": scores.T.tolist()})
    covariances, eigen = analyzer.load_covariance_matrices("ekfac"), analyzer.load_eigendecomposition("ekfac")
    lambdas, diagonal = analyzer.load_lambda_matrices("ekfac"), analyzer.load_lambda_matrices("diagonal")
    short = {"activation": "activations", "gradient": "gradients"}
    for module in linear:
        of_module = {}
        for side, key in short.items():
            covariance = covariances[f"{side}_covariance"][module] / covariances[f"num_{side}_covariance_processed"][module].item()
            of_module[key] = {
                "tokens": covariances[f"num_{side}_covariance_processed"][module].item(),
                "trace": covariance.trace().item(),
                "first_rows": covariance[:2, :6].tolist(),
                "norm": covariance.norm().item(),
                # The largest.
                "eigenvalues": eigen[f"{side}_eigenvalues"][module].sort().values[-8:].tolist(),
            }
        for key, matrices in [("lambda", lambdas), ("diagonal", diagonal)]:
            matrix = matrices["lambda_matrix"][module] / matrices["num_lambda_processed"][module].item()
            of_module[key] = {"norm": matrix.norm().item(), "last_rows": matrix[-2:, -6:].tolist(), "mean": matrix.mean().item()}
        values["modules"][module] = of_module
    return values


def of_bergson():
    from bergson.hessians.inversion import INVERSIONS, eigenvalue_multiplier, invert_psd_matrix
    from bergson.utils.math import compute_lambda

    def matrix(n, rows, seed):
        """The mean of outer products of made-up rows."""
        values = torch.tensor([[((i * 37 + j * 11 + seed * 5 + i * j * 7) % 19 - 9) / 9 for j in range(n)] for i in range(rows)], dtype=DOUBLE)
        return values.T @ values / rows

    activations, gradients = torch.tensor([0.1, 0.5, 2.0], dtype=DOUBLE), torch.tensor([0.3, 4.0], dtype=DOUBLE)
    grid = gradients[:, None] * activations[None, :] * torch.tensor([[1.5, 0.5, 1.0], [0.8, 1.2, 0.9]], dtype=DOUBLE)
    values = {"activations": activations.tolist(), "gradients": gradients.tolist(), "grid": grid.flatten().tolist(), "inversions": {}}
    gram = matrix(5, 7, 1)
    for inversion in INVERSIONS:
        mean = torch.ones(()) if inversion == "absolute_damped_inverse" else grid.mean()
        factors = dict(factor_a=activations, factor_g=gradients, mean_a=activations.mean(), mean_g=gradients.mean())
        multipliers = eigenvalue_multiplier(inversion, grid, mean, 0.1, **factors)
        values["inversions"][inversion] = {
            "multipliers": multipliers.flatten().tolist(),
            "inverse": invert_psd_matrix(gram, inversion, 0.1, -1.0).flatten().tolist(),
            "root": invert_psd_matrix(gram, inversion, 0.1, -0.5).flatten().tolist(),
        }
    queries, corpus = ({name: matrix(n, rows, seed + place) for place, (name, n) in enumerate([("a", 4), ("b", 6)])} for rows, seed in [(9, 3), (20, 8)])
    values["gram"] = gram.flatten().tolist()
    values["queries"], values["corpus"] = ({name: gram.flatten().tolist() for name, gram in grams.items()} for grams in (queries, corpus))
    eigen = [{name: torch.linalg.eigh(gram) for name, gram in grams.items()} for grams in (queries, corpus)]
    values["mixing"] = {str(components): compute_lambda(*eigen, components) for components in (1, 4, 8)}
    return values


def main():
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        values = {"kronfluence": [of_kronfluence(name, folder) for name in ("small/neox-sequential", "llama")], "bergson": of_bergson()}
    # Seven digits are more than are compared.
    values = json.loads(json.dumps(values), parse_float=lambda number: float(f"{float(number):.7g}"))
    Path(sys.argv[1]).write_text(json.dumps(values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
