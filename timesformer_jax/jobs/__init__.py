"""Jobs of the command `timesformer`, one per file: each adds its arguments to a parser and runs with the parsed arguments."""
