"""The jobs that `main.py` runs over data sets: each composes the input pipeline and the library."""
