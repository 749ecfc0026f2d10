"""How a language model recalls facts: the library behind the workflow. It imports no Snakemake."""
