"""Rule context (P2.10): does what comes before a name change what is made of it?"""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, InterventionsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.context import context_table
    from factfinding.methods.groups import chosen
    from factfinding.methods.readers import load_readers
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("interventions", InterventionsConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    table = context_table(
        anatomy, prompts, load_readers(job.input.readers), batch_size=compute.batch_size, seed=section.seed
    )
    write_table(table, job.output.context)
    job.progress(f"{table['context'].n_unique()} contexts of {prompts.height} athletes")
