"""Rule convert_gguf: turn a GGUF file into a model folder with plain weights."""

import shutil
from pathlib import Path

from job import Job

with Job(snakemake) as job:
    from factfinding.files import write_json
    from factfinding.model.gguf_file import convert_gguf
    from factfinding.model.source import describe
    from factfinding.model.weights import check_finite
    from factfinding.model_folder import check_gguf, check_model_folder

    model = job.given.model
    folder = Path(job.output.source).parent / "weights"
    shutil.rmtree(folder, ignore_errors=True)  # of another file
    check_gguf(Path(job.input.file))
    record = convert_gguf(Path(job.input.file), folder)
    check_model_folder(folder)
    job.log(f"{check_finite(folder)} weights, all finite; {record}")
    source = describe(
        folder, kind="gguf", id=record["file"], bos=model.bos, template=snakemake.params.template
    ) | {"converted_from": record}
    write_json(source, job.output.source)
