"""Activates gpu_without_gpu in a child process that was given `gpu_without_gpu.environment()`."""

import gpu_without_gpu

gpu_without_gpu.activate()
