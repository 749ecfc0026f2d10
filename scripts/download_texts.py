"""Rule download_texts: fetch the texts of a data set from the hub."""

from pathlib import Path

from job import Job

with Job(snakemake, network=True) as job:
    from factfinding.data.texts import download_dataset
    from factfinding.files import write_table

    section = job.given.locality
    job.progress(f"downloading {section.dataset}")
    texts = download_dataset(
        section.dataset,
        config=section.dataset_config,
        split=section.dataset_split,
        revision=section.dataset_revision,
        field=section.field,
        texts=section.dataset_texts,
        folder=Path(job.output.texts).parent / "dataset",
    )
    write_table(texts, job.output.texts)
