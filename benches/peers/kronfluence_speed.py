"""EK-FAC influence by kronfluence on torch and by gristmill: the same model, documents, loss and damping, one thread each on the same core.

usage: kronfluence_speed.py INFLUENCE_SPEED [--hidden N] [--inner N] [--layers N] [--vocabulary N] [--documents N] [--longest N] [--queries N]
                            [--query-batch N] [--train-batch N] [--accumulate N] [--rank N] [--core C]

INFLUENCE_SPEED is `cargo build --release -p gristmill-operators --example influence_speed`. The model is a random GPT-NeoX, by default of the shape of Pythia-14M
(hidden 128, inner 512, 6 layers, a vocabulary of 50304). Documents and queries are N random ids each. Losses are sums over tokens, labels the tokens that are there, damping 0.1 times
the mean eigenvalue, precision f32 (kronfluence's eigenvectors f64, as it advises). kronfluence gets batches of --train-batch documents for factors and scores, and --query-batch queries
at a time, --accumulate such batches together. With --rank both replace queries by the nearest matrices of this rank (kronfluence with use_full_svd). Scores must agree: their correlation and
largest difference are shown.

pip install kronfluence==1.0.1 transformers torch
"""
import argparse
import json
import logging
import os
import subprocess
import tempfile
import time
import warnings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    for name, value in dict(hidden=128, inner=512, layers=6, heads=4, vocabulary=50304, documents=64, longest=128, queries=16,
                            query_batch=16, train_batch=8, accumulate=1, core=0).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--rank", type=int)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    import transformers
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    torch.set_num_threads(1)
    torch.manual_seed(7)
    folder = tempfile.TemporaryDirectory()
    config = transformers.GPTNeoXConfig(
        vocab_size=arguments.vocabulary, hidden_size=arguments.hidden, intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads, rotary_pct=0.25)
    model = transformers.GPTNeoXForCausalLM(config)
    model.save_pretrained(folder.name + "/model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder.name + "/model", dtype=torch.float32, attn_implementation="sdpa")
    corpus, queries = (torch.randint(4, arguments.vocabulary, (count, arguments.longest)) for count in (arguments.documents, arguments.queries))
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()]
    parameters = sum(p.numel() for p in model.parameters())
    attributed = sum(model.get_submodule(n).weight.numel() for n in linear)
    print(f"{parameters} parameters, {attributed} in {len(linear)} layers that count; {arguments.documents} documents and {arguments.queries} queries of {arguments.longest} tokens")

    class LanguageModel(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return linear

        def get_attention_mask(self, batch):
            return None

    class Documents(torch.utils.data.Dataset):
        def __init__(self, ids):
            self.ids = ids

        def __len__(self):
            return len(self.ids)

        def __getitem__(self, index):
            return self.ids[index]

    task = LanguageModel()
    model = prepare_model(model, task)
    analyzer = Analyzer(analysis_name="speed", model=model, task=task, cpu=True, output_dir=folder.name, disable_tqdm=True)
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
    theirs = {}

    def timed(name, call, **options):
        begun = time.perf_counter()
        call(**options)
        theirs[name] = time.perf_counter() - begun

    train = dict(per_device_batch_size=arguments.train_batch)
    timed("covariances", analyzer.fit_covariance_matrices, factors_name="f", dataset=Documents(corpus), factor_args=factors, **train)
    timed("eigenvectors", analyzer.perform_eigendecomposition, factors_name="f", factor_args=factors)
    timed("lambdas", analyzer.fit_lambda_matrices, factors_name="f", dataset=Documents(corpus), factor_args=factors, **train)
    scores = ScoreArguments(damping_factor=None, query_gradient_accumulation_steps=arguments.accumulate,
                            query_gradient_low_rank=arguments.rank, use_full_svd=arguments.rank is not None)
    timed("scores", analyzer.compute_pairwise_scores, scores_name="s", factors_name="f", query_dataset=Documents(queries), train_dataset=Documents(corpus),
          per_device_query_batch_size=arguments.query_batch, per_device_train_batch_size=arguments.train_batch, score_args=scores)
    expected = analyzer.load_pairwise_scores("s")["all_modules"].T.double()

    request = {"corpus": corpus.tolist(), "queries": queries.tolist(), "rank": arguments.rank}
    program = subprocess.run([arguments.program, folder.name + "/model"], input=json.dumps(request), capture_output=True, text=True, check=True)
    ours = json.loads(program.stdout)
    got = torch.tensor(ours.pop("values"), dtype=torch.float64)
    ours["scores"] += ours.pop("queries")
    for name in ["covariances", "eigenvectors", "lambdas", "scores"]:
        print(f"{name:12}  kronfluence {theirs[name]:8.2f} s  gristmill {ours[name]:8.2f} s  {theirs[name] / ours[name]:6.2f} times")
    print(f"{'all':12}  kronfluence {sum(theirs.values()):8.2f} s  gristmill {sum(ours.values()):8.2f} s  {sum(theirs.values()) / sum(ours.values()):6.2f} times")
    correlation = torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1].item()
    print(f"scores: correlation {correlation:.8f}, largest difference {((got - expected).abs().max() / expected.abs().max()).item():.1e} of the largest score")


if __name__ == "__main__":
    main()
