"""Rule sport_neurons (P3.4): the neurons that tell a sport, and the dossiers of the best of them."""

from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.config import ComputeConfig, SportNeuronsConfig
    from factfinding.data.dossier import write_dossiers
    from factfinding.engine.cached import rows_of
    from factfinding.files import read_json, write_table
    from factfinding.methods.circuit import read_circuit
    from factfinding.methods.dossier import Study, check_named, dossiers, mlp_input, tables
    from factfinding.methods.dossier_texts import firing, read_running
    from factfinding.methods.groups import chosen
    from factfinding.methods.halves import halve
    from factfinding.methods.readers import load_readers
    from factfinding.methods.sport_neurons import detectors, scan_neurons
    from factfinding.model.source import load_source
    from factfinding.store import Activations
    from factfinding.tables import read_table

    compute, section = job.config("compute", ComputeConfig), job.config("sport_neurons", SportNeuronsConfig)
    source, candidates = read_json(job.input.source), read_table(job.input.candidates)
    anatomy, circuit = load_source(source, compute, job.log), read_circuit(job.input.circuit)
    prompts = chosen(read_table(job.input.prompts), read_table(job.input.recall), section.athletes)
    sports = candidates["sport"].to_list()
    halves = halve(prompts, sports, seed=section.seed)
    with Activations(job.input.activations, model=source["digest"], condition="full") as file:
        rows = rows_of(file, prompts["athlete"])
        check_named(section.neurons, anatomy, file.layers("post@final_name"))

        def neurons(site, layer):
            """Activations of all neurons of a layer at the final name token."""
            return file.layer(f"{site}@final_name", layer)[rows]

        def pre(layer):
            """Before the activation function, where that is stored."""
            name = "pre@final_name"
            return neurons("pre", layer) if name in file.names() and layer in file.layers(name) else None

        layers = [] if circuit.lookup is None else range(circuit.lookup[0], circuit.lookup[1] + 1)
        job.progress(f"{len(layers) * anatomy.d_mlp} neurons on {prompts.height} athletes")
        scan = scan_neurons(
            ((layer, neurons("post", layer)) for layer in layers),
            halves,
            sports,
            best=section.best,
            permutations=section.permutations,
            seed=section.seed,
        )
        write_table(scan, job.output.scan)
        study = Study(
            anatomy=anatomy,
            prompts=prompts,
            candidates=candidates,
            halves=halves,
            circuit=circuit,
            readers=load_readers(job.input.readers),
            post=lambda layer: neurons("post", layer),
            pre=pre,
            mid=lambda layer: mlp_input(file, layer, rows, parallel=anatomy.parallel),
        )
        found = detectors(scan, section.neurons, study.post, halves, sports)
        texts = {}
        if job.input.texts and found:
            running = read_running(
                job.input.texts,
                anatomy,
                source=section.texts or "the embedded model's own corpus",
                tokens=section.text_tokens,
                window=section.window,
            )
            if running is not None:
                sites = sorted({detector.site for detector in found})
                texts = firing(
                    anatomy, running, sites, shown=section.shown_texts, batch_size=compute.batch_size
                )
        job.progress(f"dossiers: {', '.join(str(detector.site) for detector in found) or 'none'}")
        made = dossiers(
            study,
            scan,
            found,
            texts,
            ablated_athletes=section.ablated_athletes,
            random_neurons=section.random_neurons,
            seed=section.seed,
        )
    write_dossiers(made, Path(job.output.dossiers))
    for part, table in tables(made).items():
        write_table(table, job.output[part])
