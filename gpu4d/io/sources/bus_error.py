"""Compile the signal handler of mapped files to machine code: it runs no Python, takes no lock and allocates nothing.

A handler written in Python would have to wait for the interpreter's lock in the middle of reading memory. LLVM, which comes with
numba, compiles this one in some milliseconds. It reads a table of addresses that `guard` fills.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from typing import Any

import numpy as np

SLOTS = 4096  # maps that can be guarded at the same time; 128 KiB, of which only the used part takes memory
START, STOP, LOST = range(3)  # columns of a slot; a slot has four, so that it never crosses a cache line
SA_SIGINFO, SA_ONSTACK, SA_NODEFER = 4, 0x08000000, 0x40000000  # values of Linux on 64-bit x86 and ARM, as all numbers below
MAP_FIXED = 0x10
SI_CODE, SI_ADDR = 8, 16  # offsets in siginfo_t: code (above 0 for a fault, else the signal was sent), address of the fault
NESTED = 8  # calls of the earlier handler under way; more mean that the two handlers call each other


class Sigaction(ctypes.Structure):
    """The C library's `struct sigaction`."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p))


class BusErrorHandler:
    """A handler of SIGBUS, the table it looks into, and the handler that was there before.

    Attributes
    ----------
    slots : (SLOTS, 4) uint64
        First address, address after the last, and 1 if the file was found shorter. A slot with stop = 0 is free.
    used : (2,) uint64
        How many slots the handler looks at, and how many calls of the earlier handler are under way.
    before : Sigaction
        The earlier handler. It gets every fault outside the table.
    default : Sigaction
        The system's default, which ends the process.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.slots, self.used, self.before = np.zeros((SLOTS, 4), np.uint64), np.zeros(2, np.uint64), Sigaction()
        self.default = Sigaction()  # all zeros: SIG_DFL
        self._engine = compiled(
            self.slots.ctypes.data,
            self.used.ctypes.data,
            ctypes.addressof(self.before),
            ctypes.addressof(self.default),
            *(ctypes.cast(getattr(self._libc, name), ctypes.c_void_p).value or 0 for name in ("mmap", "sigaction", "raise")),
        )
        self.address = self._engine.get_function_address("gpu4d_on_bus_error")

    def current(self) -> Sigaction:
        """Return what the process does on SIGBUS now."""
        now = Sigaction()
        self._libc.sigaction(signal.SIGBUS, None, ctypes.byref(now))
        return now

    def install(self) -> None:
        """Put the handler in front of the one that is there; do nothing if it is in front already."""
        now = self.current()
        if now.handler != self.address:
            # `before` is complete before the handler can be called. Only its contents are replaced: the code knows its address.
            ctypes.memmove(ctypes.byref(self.before), ctypes.byref(now), ctypes.sizeof(now))
            # Block the signals that the earlier handler wants blocked: it runs inside ours.
            ours = Sigaction(self.address, now.mask, SA_SIGINFO | SA_ONSTACK | now.flags & SA_NODEFER)
            self._libc.sigaction(signal.SIGBUS, ctypes.byref(ours), None)

    def remove(self) -> None:
        """Put the earlier handler back, unless another one was installed on top of ours, which may still call it."""
        if self.current().handler == self.address:
            self._libc.sigaction(signal.SIGBUS, ctypes.byref(self.before), None)


def compiled(slots: int, used: int, before: int, default: int, mmap_: int, sigaction: int, raise_: int) -> Any:
    """Compile the handler and return the engine that owns its code.

    Parameters
    ----------
    slots, used, before, default : int
        Addresses of the table, of the number of its slots, of the earlier `struct sigaction`, and of one that ends the process.
    mmap_, sigaction, raise_ : int
        Addresses of these functions of the C library.
    """
    import llvmlite.binding as llvm

    for initialise in (llvm.initialize_native_target, llvm.initialize_native_asmprinter):
        initialise()
    module = llvm.parse_assembly(str(handler_code(slots, used, before, default, mmap_, sigaction, raise_)))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine(opt=1))
    engine.finalize_object()
    return engine


def handler_code(slots: int, used: int, before: int, default: int, mmap_: int, sigaction: int, raise_: int) -> Any:
    """Write the handler in LLVM's intermediate language. In C it reads

    .. code-block:: c

        void gpu4d_on_bus_error(int number, siginfo_t *info, void *context) {
          uint64_t address = info->si_addr;
          for (uint64_t i = 0; i < used[0]; i++)
            if (slots[i].start <= address && address < slots[i].stop) {
              slots[i].lost = 1;
              uint64_t page = address & -PAGESIZE;
              if (mmap(page, slots[i].stop - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page) return;
              break;
            }
          if (before->handler <= SIG_IGN || info->si_code <= 0 || used[1] >= NESTED) {
            sigaction(SIGBUS, default, NULL);
            raise(SIGBUS);  // takes effect when this function returns
          } else {
            used[1]++;  // atomic, as the next
            before->handler(number, info, context);  // one without SA_SIGINFO ignores the further arguments
            used[1]--;
          }
        }

    A signal that was sent, and is not a fault, ends the process at once. Handlers send one to pass a fault on (faulthandler does). If
    it went to the earlier handler, the two could call each other for ever.
    """
    from llvmlite import ir

    i32, i64, void = ir.IntType(32), ir.IntType(64), ir.VoidType()
    module = ir.Module("gpu4d_guard")
    function = ir.Function(module, ir.FunctionType(void, [i32, i64, i64]), "gpu4d_on_bus_error")
    number, info, context = function.args
    entry, loop, look, match, again, other, give_up, call, end = (
        function.append_basic_block(name) for name in ("entry", "loop", "look", "match", "again", "other", "give_up", "call", "end")
    )
    b = ir.IRBuilder(entry)

    def at(address: Any) -> Any:
        return b.inttoptr(address, i64.as_pointer())

    def function_at(address: Any, result: Any, *arguments: Any) -> Any:
        return b.inttoptr(address, ir.FunctionType(result, arguments).as_pointer())

    address = b.load(at(b.add(info, i64(SI_ADDR))))
    count = b.load(at(i64(used)))
    b.branch(loop)

    b.position_at_end(loop)
    i = b.phi(i64)
    i.add_incoming(i64(0), entry)
    b.cbranch(b.icmp_unsigned("<", i, count), look, other)

    b.position_at_end(look)
    slot = b.add(i64(slots), b.mul(i, i64(32)))
    start, stop = b.load(at(slot)), b.load(at(b.add(slot, i64(8 * STOP))))
    inside = b.and_(b.icmp_unsigned("<=", start, address), b.icmp_unsigned("<", address, stop))
    b.cbranch(inside, match, again)

    b.position_at_end(again)
    i.add_incoming(b.add(i, i64(1)), again)
    b.branch(loop)

    b.position_at_end(match)
    b.store(i64(1), at(b.add(slot, i64(8 * LOST))))
    page = b.and_(address, i64(-mmap.PAGESIZE))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    arguments = (page, b.sub(stop, page), i32(mmap.PROT_READ), i32(flags), i32(-1), i64(0))
    mapped = b.call(function_at(i64(mmap_), i64, i64, i64, i32, i32, i32, i64), arguments)
    b.cbranch(b.icmp_unsigned("==", mapped, page), end, other)

    b.position_at_end(other)
    handler = b.load(at(i64(before + Sigaction.handler.offset)))
    nested = at(i64(used + 8))
    none = b.icmp_unsigned("<=", handler, i64(int(signal.SIG_IGN)))
    code = b.load(b.inttoptr(b.add(info, i64(SI_CODE)), i32.as_pointer()))
    too_many = b.icmp_unsigned(">=", b.load(nested), i64(NESTED))
    b.cbranch(b.or_(b.or_(none, b.icmp_signed("<=", code, i32(0))), too_many), give_up, call)

    b.position_at_end(give_up)
    b.call(function_at(i64(sigaction), i32, i32, i64, i64), (i32(int(signal.SIGBUS)), i64(default), i64(0)))
    b.call(function_at(i64(raise_), i32, i32), (i32(int(signal.SIGBUS)),))
    b.branch(end)

    b.position_at_end(call)
    b.atomic_rmw("add", nested, i64(1), "seq_cst")
    b.call(function_at(handler, void, i32, i64, i64), (number, info, context))
    b.atomic_rmw("sub", nested, i64(1), "seq_cst")
    b.branch(end)

    b.position_at_end(end)
    b.ret_void()
    return module
