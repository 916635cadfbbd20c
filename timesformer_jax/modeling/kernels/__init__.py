"""Hardware-specific kernels, each tested against plain JAX operations."""
