"""Writes pairs.json: what torch and transformers give for the gradients of two samples of tests/fixtures/models/llama.

Run in this folder. The loss is that of transformers with labels of -100 in front of the answer, in double precision.
"""

import json
import pathlib

import tokenizers
import torch
import transformers

MODEL = pathlib.Path("../../../../../tests/fixtures/models/llama")
SAMPLES = [
    [("user", "Name a grain of the mill."), ("assistant", "Rye is a grain.")],
    [("user", "Which grain does the mill grind?"), ("assistant", "It grinds rye and barley.")],
]

model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float64)
tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
template = (MODEL / "chat_template.jinja").read_text()


def render(messages, answer):
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": content} for role, content in messages]
    return environment.from_string(template).render(messages=messages, add_generation_prompt=answer)


def gradient(messages):
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    ids, prompt = encode(render(messages, False)), encode(render(messages[:-1], True))
    same = next((place for place, (one, other) in enumerate(zip(ids, prompt)) if one != other), min(len(ids), len(prompt)))
    labels = [-100] * same + ids[same:]
    model.zero_grad()
    loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    loss.backward()
    gradients = {name: parameter.grad.clone().flatten() for name, parameter in model.named_parameters()}
    return ids, same, loss.item(), gradients


samples = [gradient(messages) for messages in SAMPLES]
(_, _, _, one), (_, _, _, other) = samples
dots = lambda a, b: {name: torch.dot(a[name], b[name]).item() for name in a}
flat = lambda gradients: torch.cat(list(gradients.values()))
cosine = torch.nn.functional.cosine_similarity(flat(one), flat(other), dim=0).item()
content = {
    "messages": [[{"role": role, "content": content} for role, content in messages] for messages in SAMPLES],
    "ids": [sample[0] for sample in samples],
    "answers": [sample[1] for sample in samples],
    "losses": [sample[2] for sample in samples],
    "self_products": [dots(one, one), dots(other, other)],
    "products": dots(one, other),
    "cosine": cosine,
}
pathlib.Path("pairs.json").write_text(json.dumps(content, indent=1) + "\n")
