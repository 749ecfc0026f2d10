# The library in a notebook: copy the cells, or run the whole as `python docs/example.py`. It needs a finished study
# (`make`), and the library (`pip install -e .` in .venv, or `PYTHONPATH=scripts`). A test runs it.

# %% A finished study: its tables, with the columns that docs/tables.md describes.
from pathlib import Path

import torch

from factfinding.config import Config
from factfinding.inputs import Inputs, Settings
from factfinding.model.source import anatomy_of

settings = Settings(Config(study="organism"))
study = Inputs(Path("results/organism"), settings=settings)
print(study.table("recall_summary").filter(group="all").select("condition", "n", "recalled", "majority_rate"))

# %% An experiment: `compute` gives its tables, `show` its figures and sentences. This one takes half of the subjects.
from factfinding.experiments.recall import compute, show

half = {f"prompts/{name}": study.prompts(name).gather_every(2) for name in ("full", "zero_shot")}
inputs = Inputs(study.folder, settings=settings, held=half)
tables = compute.compute(inputs, settings, print)
print(*show.sentences(tables | {"candidates": study.candidates}), sep="\n")
drawn = {name: tables[name] for name in ("recall", "recall_summary", "known_filters")}
show.draw_recall(**drawn).savefig("recall.png")

# %% The model itself: any site may be read or replaced. Here the MLPs at the final name token are set to their means.
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run

anatomy, prompts = anatomy_of(study), study.prompts("full")
prompts = prompts.filter(n_tokens=prompts["n_tokens"].mode().min())  # one length: nothing is padded
tokens, name, end = (torch.tensor(prompts[column].to_list()) for column in ("token_ids", "final_name", "end"))
sites = [Site("mlp_out", layer) for layer in range(anatomy.n_layers)]

clean = run(anatomy, tokens, logits_at=end, reads=[Read(site=site, at=name) for site in sites])
means = [value.mean(0) for value in clean.values]
edits = [Edit(site=site, at=name, value=mean) for site, mean in zip(sites, means, strict=True)]
ablated = run(anatomy, tokens, logits_at=end, edits=edits)

answers = torch.tensor(study.candidates["token_id"].to_list())
right = torch.tensor([study.candidates["answer"].to_list().index(answer) for answer in prompts["answer"]])
for words, found in (("unchanged", clean), ("MLPs at the name averaged", ablated)):
    accuracy = (found.logits[:, answers].argmax(-1) == right).double().mean()
    print(f"{words}: {accuracy:.1%} of {len(right):,} right")
