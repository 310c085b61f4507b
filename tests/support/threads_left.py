"""Threads that a sweep must not leave behind."""

import threading


def passing_threads():
    """All but those that compute, which the process keeps."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("gpu4d-compute")}
