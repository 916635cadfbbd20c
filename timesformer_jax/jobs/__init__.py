"""The jobs of the command `timesformer`, one a file: each adds its arguments to a parser and runs with what was parsed."""
