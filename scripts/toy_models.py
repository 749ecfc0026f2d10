"""Rule toy_models: small networks that learn tables of pairs by heart, or the rule behind them (post 4)."""

from job import Job

with Job(snakemake) as job:
    import torch

    from factfinding.config import ToysConfig
    from factfinding.files import write_table
    from factfinding.methods.toys.illustrations import illustrations
    from factfinding.methods.toys.tables import toy_tables

    torch.set_num_threads(1)  # sums in another order would be other networks
    section = job.config("toys", ToysConfig)
    tables = toy_tables(section, progress=job.progress)
    write_table(tables.models, job.output.models)
    write_table(tables.readings, job.output.readings)
    write_table(tables.neurons, job.output.neurons)
    write_table(tables.summary, job.output.summary)
    write_table(tables.verdict, job.output.verdict)
    write_table(illustrations(section), job.output.illustrations)
