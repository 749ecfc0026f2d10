"""One function per figure: table in, figure out."""
