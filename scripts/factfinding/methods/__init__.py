"""The experiments: arrays and tables in, tables out."""
