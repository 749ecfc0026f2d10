"""Rule layer_probes (P2.6): where the sport can be read, beside what the name alone gives away."""

from job import Job

with Job(snakemake) as job:
    import polars as pl

    from factfinding.config import ProbesConfig
    from factfinding.files import read_json, write_table
    from factfinding.methods.probes import (
        ProbeSettings,
        enough_for_folds,
        layer_probes,
        name_baselines,
        table_schema,
        with_name_groups,
    )
    from factfinding.store import Activations
    from factfinding.tables import read_table

    section = job.config("probes", ProbesConfig)
    settings = ProbeSettings(**section.model_dump(include=set(ProbeSettings.__dataclass_fields__)))
    digest, recall = read_json(job.input.source)["digest"], read_table(job.input.recall)
    chosen = recall if section.athletes == "all" else recall.filter("known")
    names = chosen["athlete"].to_list()

    def layers():
        for condition, path in zip(section.conditions, job.input.activations, strict=True):
            with Activations(path, model=digest, condition=condition) as file:
                row_of = {name: row for row, name in enumerate(file.athletes()["athlete"])}
                rows = [row_of[name] for name in names]
                for layer in file.layers("resid@final_name"):
                    job.progress(f"{condition}, layer {layer}, {len(rows)} athletes")
                    yield condition, layer, file.layer("resid@final_name", layer)[rows]

    athletes = with_name_groups(chosen.select("athlete", "sport"))
    prompts = chosen.select("athlete").join(
        read_table(job.input.prompts), on="athlete", how="left", maintain_order="left"
    )
    tokens = [
        row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in prompts.iter_rows(named=True)
    ]
    tables = [pl.DataFrame(schema=table_schema())]
    if enough_for_folds(athletes, settings):
        tables.append(name_baselines(athletes, tokens, settings=settings, seed=section.seed))
        tables.append(layer_probes(layers(), athletes, settings=settings, seed=section.seed))
    else:
        job.progress(
            f"only {chosen.height} athletes to probe, too few for {settings.n_folds} folds: the table is empty"
        )
    write_table(pl.concat(tables), job.output.probes)
