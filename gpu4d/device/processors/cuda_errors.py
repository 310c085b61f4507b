"""Turn errors of CUDA and of its libraries into two types: MemoryError (out of memory) and DeviceError (device lost).

CuPy, cuFFT, cuBLAS, cuSOLVER, torch and JAX have exceptions of their own, most of them RuntimeErrors. They are recognised by CUDA's name
of the error, which is part of their messages. So none of these libraries needs to be imported.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from gpu4d.errors import DeviceError, Gpu4dError

# cudaErrorIllegalAddress (runtime), CUDA_ERROR_ILLEGAL_ADDRESS (driver), CUFFT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, …
CODE = re.compile(
    r"\bcudaError(?P<runtime>[A-Za-z0-9]+)|\bCUDA_ERROR_(?P<driver>\w+)|\b(?P<library>(?:CUFFT|CUBLAS|CUSOLVER|CUSPARSE)_\w+)"
)

# A library without memory for its handle reports that it is not initialised.
MEMORY = {"memoryallocation", "outofmemory"}
MEMORY_OF_LIBRARIES = re.compile(r"_(ALLOC_FAILED|NOT_INITIALIZED|NO_WORKSPACE|INSUFFICIENT_RESOURCES)$")
MEMORY_IN_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "RESOURCE_EXHAUSTED")  # torch, torch, JAX

# After these every call fails until the process ends, or, for those that are ABSENT, there is no device to call.
LOST = set(
    """
    assert contained contextisdestroyed cudartunloading deinitialized devicealreadyinuse devicenotlicensed devicesunavailable
    deviceunavailable deviceuninitialized eccuncorrectable externaldevice hardwarestackerror illegaladdress illegalinstruction
    initializationerror insufficientdriver invalidaddressspace invalidcontext invaliddevice invalidpc launchfailed launchfailure
    launchtimeout misalignedaddress mpsclientterminated mpsconnectionfailed mpsrpcfailure mpsservernotready nodevice notinitialized
    nvlinkuncorrectable startupfailure systemdrivermismatch systemnotready tensormemoryleak unknown
    """.split()
)
ABSENT = set(
    """
    devicealreadyinuse devicenotlicensed devicesunavailable deviceunavailable initializationerror insufficientdriver invaliddevice nodevice
    notinitialized startupfailure systemdrivermismatch systemnotready
    """.split()
)
LOST_IN_WORDS = (  # torch leaves the name out: "CUDA error: an illegal memory access was encountered"
    "CUDA error: an illegal memory access",
    "CUDA error: unspecified launch failure",
    "CUDA error: device-side assert",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction",
    "CUDA error: the launch timed out",
    "CUDA error: uncorrectable",
    "CUDA error: hardware stack error",
    "CUDA error: unknown error",
)

LITTLE_FREE = 64 << 20  # bytes: with less free memory, a library's "internal error" is taken for a lack of memory


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error of any of these libraries means that memory is lacking."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, Gpu4dError):
        return False
    found, text = CODE.search(str(error)), str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in MEMORY_IN_WORDS):
        return True
    if found is None:
        return False
    library = found["library"]
    return bool(MEMORY_OF_LIBRARIES.search(library)) if library else _plain(found) in MEMORY


def lost(error: BaseException) -> bool:
    """Say whether an error means that the device no longer works for this process."""
    if not isinstance(error, RuntimeError) or isinstance(error, Gpu4dError):
        return False
    found = CODE.search(str(error))
    if found is not None and not found["library"]:
        return _plain(found) in LOST
    return any(words in str(error) for words in LOST_IN_WORDS)


def of_library(error: BaseException) -> bool:
    """Say whether an error comes from cuFFT, cuBLAS, cuSOLVER or cuSPARSE."""
    found = CODE.search(str(error)) if isinstance(error, RuntimeError) and not isinstance(error, Gpu4dError) else None
    return found is not None and bool(found["library"])


@contextlib.contextmanager
def in_our_words(device: str) -> Iterator[None]:
    """Let errors of CUDA and of its libraries leave the block as MemoryError or DeviceError. Other errors pass unchanged."""
    try:
        yield
    except (MemoryError, Gpu4dError):
        raise
    except RuntimeError as error:
        short = out_of_memory(error)
        if of_library(error):
            asked = _free_memory_or_error()  # libraries report a lost device and a lack of memory in the same way
            if isinstance(asked, RuntimeError):
                raise device_error(device, asked) from error
            short = short or asked < LITTLE_FREE
        if short:
            raise MemoryError(f"{device}: {_first_line(error)}") from error
        if lost(error):
            raise device_error(device, error) from error
        raise


def device_error(device: str, error: BaseException) -> DeviceError:
    found = CODE.search(str(error))
    if found is not None and not found["library"] and _plain(found) in ABSENT:
        return DeviceError(
            f"{device} cannot be used ({_first_line(error)}): see `gpu4d devices`, or use another device, device='cpu' for one"
        )
    return DeviceError(
        f"{device} does not answer this process any more ({_first_line(error)}): what it had worked out is lost. "
        "Start Python again; if it happens again, see what nvidia-smi and dmesg (lines with Xid) say of the card, or use another "
        "device, device='cpu' for one"
    )


def _free_memory_or_error() -> int | RuntimeError:
    """Return the bytes free on the current device, or the error that every call on a lost device gives."""
    from cupy.cuda import runtime

    try:
        return int(runtime.memGetInfo()[0])
    except RuntimeError as error:
        return error


def _plain(found: re.Match[str]) -> str:
    return (found["runtime"] or found["driver"]).replace("_", "").lower()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
