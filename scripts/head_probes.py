"""Rule head_probes (P2.5, P2.6): what each head would answer if it read the name, and the best of them by layer."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import CircuitConfig, ComputeConfig, HeadsConfig
    from factfinding.engine.cached import rows_of
    from factfinding.files import read_json, write_table
    from factfinding.methods.direct import extracting_heads
    from factfinding.methods.groups import chosen
    from factfinding.methods.head_probes import halve, head_probe_layers, heads_to_follow, scan_heads
    from factfinding.model.source import load_source
    from factfinding.store import Activations
    from factfinding.tables import read_table

    section, fixed = job.config("heads", HeadsConfig), job.config("circuit", CircuitConfig).extract
    source, candidates = read_json(job.input.source), read_table(job.input.candidates)
    # weights alone are needed: the model does not run, and so claims no GPU
    compute = job.config("compute", ComputeConfig).model_copy(update={"device": "cpu"})
    anatomy = load_source(source, compute, job.log)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    halves = halve(prompts, candidates["sport"].to_list(), seed=section.seed)
    token_ids = candidates["token_id"].to_list()

    def residuals(path, condition):
        """(layer, activations of the athletes) at the final name token, the embeddings first."""
        with Activations(path, model=source["digest"], condition=condition) as file:
            rows = rows_of(file, prompts["athlete"])
            for layer in file.layers("resid@final_name"):
                yield layer, file.layer("resid@final_name", layer)[rows]

    job.progress(f"{anatomy.n_layers * anatomy.n_heads} heads on {prompts.height} athletes")
    scan = scan_heads(
        anatomy,
        residuals(job.input.full, "full"),
        halves,
        token_ids,
        permutations=section.permutations,
        seed=section.seed,
    )
    write_table(scan, job.output.heads)
    effects = read_table(job.input.effects)
    heads = heads_to_follow(
        scan, extracting_heads(anatomy, effects, fixed=fixed, count=section.top), fixed=fixed is not None
    )
    job.progress("by layer: " + (", ".join(f"{head} ({how})" for head, how in heads.items()) or "no head"))
    layers = (
        (condition, layer, resid)
        for condition, path in zip(section.conditions, job.input.activations, strict=True)
        for layer, resid in residuals(path, condition)
    )
    table = head_probe_layers(anatomy, heads, layers, halves, token_ids, seed=section.seed)
    write_table(table, job.output.layers)
