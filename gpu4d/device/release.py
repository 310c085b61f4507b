"""Give back the memory that is kept between calls."""

from __future__ import annotations


def release() -> int:
    """Give back what gpu4d keeps between calls, for other programs or for a process that goes on without it.

    Kept are page-locked host memory of earlier sweeps over a link (at most 256 MiB, `gpu4d.device.page_locked`) and tables on devices:
    masks, indices and transforms of templates (at most 64 MiB, `gpu4d.device.tables`). The next call allocates them again. Memory that a
    running sweep uses stays. For the pools of CuPy and torch call their own functions, such as
    `cupy.get_default_memory_pool().free_all_blocks()`.

    Returns
    -------
    int
        Bytes given back, of the host and of devices together.

    Examples
    --------
    >>> import gpu4d
    >>> _ = gpu4d.device.release()
    >>> gpu4d.device.release()
    0
    """
    from gpu4d.device import page_locked, tables

    return page_locked.store().shrink(0) + tables.release()
