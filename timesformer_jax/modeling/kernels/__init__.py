"""Kernels for hardware that wants them, each compared with plain operations in the tests."""
