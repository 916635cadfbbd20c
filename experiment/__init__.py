"""Jobs of `main.py` over data sets, composed of the input pipeline and the library."""
