"""Rule neuron_effects_shard (P3.2): the effect of every neuron of some lookup layers on every known fact."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.engine.engines import engine_of
    from factfinding.engine.sweep import Sweeping
    from factfinding.experiments.neuron_effects.effects import (
        neuron_effects,
        screen_of,
        shard_layers,
    )
    from factfinding.files import read_json, write_table
    from factfinding.methods.circuit import AT_NAME, read_circuit
    from factfinding.model.source import load_source
    from factfinding.tables import read_table

    compute, section = job.given.compute, job.given.neurons
    source, circuit = read_json(job.input.source), read_circuit(job.input.circuit)
    anatomy, recall = load_source(source, compute, job.log), read_table(job.input.recall)
    lookup = circuit.lookup if circuit.lookup_at == AT_NAME else None
    layers = shard_layers(lookup, int(job.wildcards.shard), section.shards)
    used = read_table(job.input.prompts).filter("used")
    job.progress(f"{used.height} facts of {used['subject'].n_unique()} subjects, layers {layers}")
    people = recall if section.subjects == "all" else recall.filter("known")
    how = Sweeping(
        engine=engine_of(anatomy, section.engine, section.products),
        model=source["digest"],
        folder=Path(snakemake.params.shards),
        tolerance=section.tolerance,
        twin_rows=section.twin_rows,
        seed=section.seed,
        log=job.log,
        progress=lambda done, total: job.log(f"{done} of {total} effects"),
    )
    screen = screen_of(anatomy, used, shard_layers(lookup, 0, 1), section)
    sweep = neuron_effects(
        anatomy,
        used,
        people,
        layers,
        how,
        draws=section.draws,
        batch_size=compute.batch_size,
        screen=screen,
    )
    write_table(sweep.table, job.output.effects)
    write_table(sweep.twin, job.output.twin)
    write_table(sweep.run, job.output.run)
