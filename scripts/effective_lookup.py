"""Rule effective_lookup (P3.3, P3.5): who makes what the effective model has beyond a sum, and where probes read it."""

from job import Job

with Job(snakemake) as job:
    from dataclasses import replace

    from factfinding.config import ComputeConfig, LookupConfig, ProbesConfig
    from factfinding.files import write_table
    from factfinding.methods.effective import EffectiveModel
    from factfinding.methods.effective_probes import effective_probes
    from factfinding.methods.excess import nonlinear_excess
    from factfinding.methods.groups import chosen
    from factfinding.methods.name_pairs import pairs_for, unknown_for
    from factfinding.methods.probes import ProbeSettings
    from factfinding.model.anatomy import pick_device
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("lookup", LookupConfig)
    probes = job.config("probes", ProbesConfig).model_dump(include=set(ProbeSettings.__dataclass_fields__))
    settings = replace(ProbeSettings(**probes), folds=section.probe_folds, control_folds=section.probe_folds)
    size = {
        "batch_size": 32 * compute.batch_size,
        "seed": section.seed,
    }  # a name is far smaller than a prompt
    everybody, recall = read_table(job.input.prompts), read_table(job.input.recall)
    model = None
    if read_table(job.input.accuracy).height:  # else the file says why there is none
        model = EffectiveModel.load(job.input.model).to(pick_device(compute.device))
    known = chosen(everybody, recall, section.athletes)
    names = pairs_for(model, known, name_tokens=section.name_tokens)
    if names is None:
        job.progress("no effective model, or too few names to pair: the tables are empty")
    else:
        begins, lasts = names.shape
        job.progress(
            f"{len(names.athletes)} names of {names.n_name_tokens} tokens; {begins} x {lasts} pairings of their parts"
        )
    unknown = unknown_for(names, everybody, seed=section.seed)
    excess = nonlinear_excess(model, names, unknown=unknown, **size)
    write_table(excess.summary, job.output.excess)
    write_table(excess.athletes, job.output.athletes)
    write_table(excess.neurons, job.output.neurons)
    table = effective_probes(model, names, settings=settings, repeats=section.probe_repeats, **size)
    write_table(table, job.output.probes)
    for row in excess.summary.filter(layers="all").iter_rows(named=True):
        job.progress(
            f"{row['names']} names: {row['excess']:.3f} beyond a sum, of which {row['made']:.3f} made"
        )
