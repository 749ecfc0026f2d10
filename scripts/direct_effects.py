"""Rule direct_effects (P2.2-P2.4): which nodes write the answer, where the top heads look, and what they read there."""

from job import Job

with Job(snakemake) as job:
    import polars as pl
    import torch

    from factfinding.config import CircuitConfig, ComputeConfig, HeadsConfig
    from factfinding.engine.cached import cached_nodes, cached_pattern, rows_of
    from factfinding.engine.direct import Readout
    from factfinding.files import CSV_ROWS, read_json, write_table
    from factfinding.methods.attention import (
        attention_athletes,
        attention_by_role,
        attention_roles,
        role_tokens,
    )
    from factfinding.methods.direct import (
        HEAD_INPUTS,
        direct_effects,
        extracting_heads,
        head_inputs,
        largest,
        pair_up,
    )
    from factfinding.methods.groups import chosen
    from factfinding.model.source import load_source
    from factfinding.store import Activations
    from factfinding.tables import read_table

    section, fixed = job.config("heads", HeadsConfig), job.config("circuit", CircuitConfig).extract
    source, candidates = read_json(job.input.source), read_table(job.input.candidates)
    # weights alone are needed: the model does not run, and so claims no GPU
    compute = job.config("compute", ComputeConfig).model_copy(update={"device": "cpu"})
    anatomy = load_source(source, compute, job.log)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    pairs = pair_up(prompts, candidates, seed=section.seed)
    readout = Readout.of(anatomy, candidates["token_id"].to_list())

    with Activations(job.input.activations, model=source["digest"], condition="full") as file:
        rows = rows_of(file, pairs.prompts["athlete"])
        job.progress(f"direct effects of every node, {len(rows)} athletes")
        nodes = cached_nodes(file, "end", rows, n_layers=anatomy.n_layers)
        effects = direct_effects(anatomy, nodes, pairs, readout, seed=section.seed)
        heads = extracting_heads(anatomy, effects, fixed=fixed, count=section.top)
        job.progress(f"top heads: {', '.join(map(str, heads)) or 'none'}")

        patterns = {str(head): cached_pattern(file, head.layer, rows)[:, head.index] for head in heads}
        inputs, at_name = (
            [pl.DataFrame(schema=HEAD_INPUTS)],
            torch.tensor(pairs.prompts["final_name"].to_list(), dtype=torch.int64),
        )
        for head in heads:
            job.progress(f"what {head} reads at the name")
            below = cached_nodes(file, "final_name", rows, n_layers=anatomy.n_layers, before=head.layer)
            attention = patterns[str(head)][torch.arange(len(rows)), at_name]
            given = {"attention": attention, "resid_end": nodes.resid, "seed": section.seed}
            inputs.append(head_inputs(anatomy, head, below, pairs, readout, **given))

    looked = attention_by_role({head: pattern.numpy() for head, pattern in patterns.items()}, pairs.prompts)
    tokens = role_tokens(pairs.prompts, anatomy.tokenizer.decode)
    write_table(largest(effects, CSV_ROWS), job.output.effects)
    write_table(largest(pl.concat(inputs), CSV_ROWS), job.output.inputs)
    write_table(attention_roles(looked, tokens=tokens, seed=section.seed), job.output.roles)
    write_table(attention_athletes(looked), job.output.athletes)
