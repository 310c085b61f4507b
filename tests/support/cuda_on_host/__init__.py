"""Runs CUDA sources on the CPU: an instrument of the tests, not a product path."""

from cuda_on_host.backend import HostBackend

__all__ = ["HostBackend"]
