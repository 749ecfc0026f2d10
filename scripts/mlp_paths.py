"""Rule mlp_paths (P3.1): each path from one MLP of the lookup to a later one, removed."""

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, MlpPathsConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.groups import chosen
    from factfinding.methods.head_reader import head_readers
    from factfinding.methods.mlp_paths import mlp_paths
    from factfinding.methods.proposal import read_circuit
    from factfinding.methods.readers import load_readers
    from factfinding.methods.simplified import parts_of
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("mlp_paths", MlpPathsConfig)
    anatomy = load_source(read_json(job.input.source), compute, job.log)
    circuit, logistic = read_circuit(job.input.circuit), load_readers(job.input.readers)
    candidates = read_table(job.input.candidates)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    heads = head_readers(
        anatomy, circuit.extract, candidates, prompts, logistic, batch_size=compute.batch_size
    )
    table = mlp_paths(
        anatomy,
        prompts,
        candidates,
        [logistic, *heads],
        parts_of(circuit, anatomy),
        draws=section.draws,
        batch_size=compute.batch_size,
        seed=section.seed,
    )
    write_table(table, job.output.paths)
    pairs = table.drop_nulls("source").select("source", "target").n_unique() if table.height else 0
    job.progress(f"{pairs} paths between MLPs removed, on {prompts.height} athletes")
