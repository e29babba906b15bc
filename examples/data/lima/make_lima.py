"""Writes originals.jsonl and rewritten.jsonl: questions and answers about a mill, made of templates, and the same rewritten by rules.

A question keeps its subject and loses its form: another opening, synonyms, other case, sentences of the answer in the other order.
Run in this folder; there is no randomness.
"""

import json

SUBJECTS = [
    ("millstone", "the stone that grinds the grain", "dress it with a pick every two weeks", "it turns on an iron spindle"),
    ("sluice gate", "the gate that lets water onto the wheel", "grease its frame before winter", "it is raised with a rack"),
    ("hopper", "the funnel from which grain falls", "empty it before the bell stops", "it holds two sacks"),
    ("water wheel", "the wheel that the stream turns", "replace cracked buckets in spring", "it is twelve feet high"),
    ("bolter", "the sieve that parts flour from bran", "brush its silk after each batch", "it leans a little to one side"),
    ("damsel", "the iron that shakes the shoe", "listen for its clatter", "it strikes three times a turn"),
    ("grain elevator", "the chain of cups that lifts grain", "tighten its belt on Mondays", "it reaches the third floor"),
    ("brake wheel", "the great gear on the shaft", "oil its wooden cogs with tallow", "it has sixty-four cogs"),
    ("flour chute", "the slide to the sacks", "tap it when flour sticks", "it is lined with tin"),
    ("mill pond", "the water that is kept for dry days", "clear its reeds in autumn", "it is fed by two springs"),
]
QUESTIONS = [
    ("What is the {name} of a mill?", "The {name} is {what}. And {fact}.", "Explain to a beginner the {name} in mills.", "{Fact}. The {name}, in short, is {what}."),
    ("How do I look after a {name}?", "You should {care}. Note that {fact}.", "which care does a {name} need", "Bear in mind that {fact}. Otherwise, just {care}."),
    ("Why does the {name} matter?", "Because it is {what}. So {care}.", "Give a reason to value the {name}.", "Remember to {care}. For it is {what}."),
    ("Tell me one fact about the {name}.", "Here is one: {fact}.", "SHARE A DETAIL ON THE {NAME}!", "A detail would be that {fact}."),
]


def write(path, samples):
    with open(path, "w") as file:
        for number, question, answer in samples:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"id": f"mill_{number}", "messages": messages}) + "\n")


originals, rewritten = [], []
for row, (name, what, care, fact) in enumerate(SUBJECTS):
    words = dict(name=name, NAME=name.upper(), what=what, care=care, fact=fact, Fact=fact[0].upper() + fact[1:])
    for column, (question, answer, other_question, other_answer) in enumerate(QUESTIONS):
        # Ids have gaps, as those of published studies.
        number = 3 * (row * len(QUESTIONS) + column) + row % 2
        originals.append((number, question.format(**words), answer.format(**words)))
        rewritten.append((number, other_question.format(**words), other_answer.format(**words)))
write("originals.jsonl", originals)
write("rewritten.jsonl", rewritten)
