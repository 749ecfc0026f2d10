"""Rule name_structure (P3.6-P3.8): known names beside unknown ones, swapped names, and the orthogonal remainder."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.config import ComputeConfig, NamesConfig
    from factfinding.data.strangers import unknown_pairings
    from factfinding.files import read_json, write_table
    from factfinding.methods.groups import chosen
    from factfinding.methods.linearity import linear_structure
    from factfinding.methods.norms import mlp_norms
    from factfinding.methods.remainder import best_neurons, orthogonal_remainder
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("names", NamesConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    recall, neurons = read_table(job.input.recall), best_neurons(read_table(job.input.neurons))
    norms, linear, remainder = [], [], []
    for condition, path in zip(section.conditions, job.input.prompts, strict=True):
        table = read_table(path)
        known = chosen(table, recall, section.athletes)
        unknown = unknown_pairings(known, table, seed=section.seed)
        job.progress(
            f"{condition}: {known.height} known names, {unknown.height} unknown pairings of their tokens"
        )
        with_size = {"condition": condition, "batch_size": compute.batch_size, "seed": section.seed}
        norms.append(mlp_norms(anatomy, known, unknown, **with_size))
        linear.append(linear_structure(anatomy, known, table, pairs=section.swap_pairs, **with_size))
        remainder.append(orthogonal_remainder(anatomy, known, neurons, **with_size))
    write_table(pl.concat(norms), job.output.norms)
    write_table(pl.concat(linear), job.output.linear)
    write_table(pl.concat(remainder), job.output.remainder)
