"""What the machine is, its state, its energy, and what is said of it: from trees of files and an NVML that are made here."""

import getpass
import json
import os
import platform
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cards import H200, RTX, FakeNvml, FakeRuntime, Forbidden
from gpu4d.benchmarks.suite import conditions, doctor, energy, machine, sensors, sustained, system_files
from gpu4d.benchmarks.suite.conditions import Mark, between, mark, reasons
from gpu4d.benchmarks.suite.sensors import Sensed
from gpu4d.benchmarks.suite.workload import Place

from gpu4d.cli import run_command
from gpu4d.device.listing import DeviceInfo
from gpu4d.device.nvml import Link
from gpu4d.findings import LEVELS, as_text

CPU = "sys/devices/system/cpu"


def put(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(str(content) + "\n")


@pytest.fixture
def place(tmp_path):
    return Place(np, False, "cpu", tmp_path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workstation: 4 cores with two threads each in one package, of which this process may use the processors 0 and 1."""
    monkeypatch.setattr(conditions, "processors", lambda: [0, 1])
    monkeypatch.setattr(machine, "processors", lambda: [0, 1])
    tree = tmp_path / "tree"
    for cpu in range(8):
        put(tree, {f"{CPU}/cpu{cpu}/topology/core_id": cpu % 4, f"{CPU}/cpu{cpu}/topology/physical_package_id": 0})
        put(tree, {f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq": 1_000_000 * (cpu + 1)})
        for index, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "32K", cpu % 4),
                (1, "Instruction", "64K", cpu % 4),
                (2, "Unified", "1024K", cpu % 4),
                (3, "Unified", "32M", "0-7"),
            ]
        ):
            folder = f"{CPU}/cpu{cpu}/cache/index{index}"
            put(tree, {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size, f"{folder}/shared_cpu_list": shared})
    put(
        tree,
        {
            "proc/cpuinfo": "model name\t: Ryzen 9\nflags\t\t: fpu avx2 fma avx512f\nmodel name\t: Ryzen 9",
            "proc/meminfo": "MemTotal:       64000000 kB\nMemAvailable:   32000000 kB\nSwapTotal:  9000000 kB\nSwapFree:  2000000 kB",
            "proc/loadavg": "1.50 0.70 0.30 2/512 4242",
            "proc/stat": "cpu  9 9 9 9\ncpu0 1000 0 500 8000 100 0 0 50\ncpu1 2000 0 500 7000 100 0 0 50\ncpu7 99999 0 0 0 0 0 0 0",
            "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000",
            "proc/self/io": "rchar: 5\nread_bytes: 4096",
            "proc/self/cgroup": "0::/user.slice",
            "proc/self/mountinfo": "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n23 22 0:30 / /dev/shm rw - tmpfs tmpfs rw",
            "sys/fs/cgroup/user.slice/cpu.stat": "usage_usec 1\nthrottled_usec 1500000",
            f"{CPU}/online": "0-7",
            f"{CPU}/smt/active": 1,
            f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": 5_700_000,
            f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave",
            f"{CPU}/cpu0/cpufreq/scaling_driver": "acpi-cpufreq",
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": 3,
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 4,
            "sys/devices/system/node/online": "0",
            "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]",
            "sys/class/dmi/id/sys_vendor": "Maker Inc.",
            "sys/class/dmi/id/product_name": "Station 7",
            "sys/class/dmi/id/product_serial": "SERIAL-4711",
            "sys/class/hwmon/hwmon0/name": "k10temp",
            "sys/class/hwmon/hwmon0/temp1_input": 61500,
            "sys/class/power_supply/AC/online": 0,
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13"',
        },
    )
    disk = tree / "sys/devices/pci/sda"
    put(
        tree,
        {"sys/devices/pci/sda/queue/rotational": 0, "sys/devices/pci/sda/device/model": "Disk 870", "sys/devices/pci/sda/sda2/dev": "8:2"},
    )
    put(tree, {"sys/devices/pci/sda/sda2/partition": 2, "sys/devices/pci/sda/device/serial": "SERIAL-4712"})
    (tree / "sys/class/block").mkdir(parents=True)
    (tree / "sys/class/block/sda").symlink_to(disk)
    (tree / "sys/class/block/sda2").symlink_to(disk / "sda2")
    return tree


# ---------------------------------------------------------------- the machine


def test_a_machine_is_described(root, place):
    found = machine.describe(place, root)
    cpu = found["cpu"]
    assert (cpu["model"], cpu["sockets"], cpu["cores"], cpu["processors"], cpu["usable"], cpu["smt"]) == ("Ryzen 9", 1, 4, 8, 2, True)
    assert cpu["caches"] == {
        "L1": {"bytes": 32 << 10, "number": 4},
        "L2": {"bytes": 1 << 20, "number": 4},
        "L3": {"bytes": 32 << 20, "number": 1},
    }
    assert (cpu["numa"], cpu["max_mhz"], cpu["governor"], cpu["instructions"]) == (1, 5700.0, "powersave", ["avx2", "fma", "avx512f"])
    assert (found["memory"], found["huge_pages"], found["product"]) == (64_000_000 * 1024, "never", "Maker Inc. Station 7")
    assert (found["label"], found["virtual"], found["os"]["distribution"]) == ("Ryzen 9, 2 threads", [], "Debian GNU/Linux 13")
    disk = found["disk"]
    assert (disk["file_system"], disk["device"], disk["model"], disk["rotational"]) == ("ext4", "sda", "Disk 870", False)
    json.dumps(found)


def test_a_machine_that_tells_nothing(tmp_path, place):
    """Another system has none of these files: everything is None, nothing fails."""
    found = machine.describe(place, tmp_path / "nothing")
    assert found["memory"] is None and found["disk"]["file_system"] is None and found["cpu"]["cores"] is None
    assert found["label"]
    seen = mark(place, tmp_path / "nothing")
    later = between(seen, mark(place, tmp_path / "nothing"))
    assert later["others_cores"] is None and later["steal"] is None and later["mhz"] is None
    assert conditions.state(place, tmp_path / "nothing")["load"] is None
    json.dumps([found, later])


def test_nothing_says_whose_machine_it_is(nvml, place):
    """Of this machine, and of one with cards that have UUIDs: results are published."""
    nvml(H200, RTX)
    told = [machine.describe(place), machine.cards(), conditions.state(place)]
    text = json.dumps(told)
    private = [platform.node(), str(Path.home()), os.getcwd(), str(place.folder), "SERIAL", "GPU-0000", "0000:C1", "0000:01"]
    if getpass.getuser() not in ("root", "user"):
        private.append(getpass.getuser())
    for word in private:
        assert len(word) < 3 or word not in text, word


def test_nothing_says_whose_workstation_it_is(root, place):
    text = json.dumps(machine.describe(place, root))
    assert "SERIAL" not in text and str(place.folder) not in text


def test_numbers_of_the_kernel():
    assert system_files.listed("0-2,8") == [0, 1, 2, 8] and system_files.listed(None) == []
    assert system_files.size_in_bytes("32M") == 32 << 20 and system_files.size_in_bytes("") is None


# ---------------------------------------------------------------- conditions


def test_what_happened_between_two_marks(root, place, monkeypatch):
    """Ticks of 10 ms of processors 0 and 1: +250 busy, +20 stolen of 2 × 200 in 2 s, of which this process used 1.5 s."""
    ticks = os.sysconf("SC_CLK_TCK") / 100
    times = iter([10.0, 12.0])
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: next(times))
    used = iter([5.0, 6.5])
    monkeypatch.setattr(conditions, "own_seconds", lambda: next(used))
    a = mark(place, root)
    stat = [(0, 1000 + 150, 500, 8000 + 50, 50 + 20), (1, 2000 + 90, 500 + 10, 7000 + 100, 50)]
    lines = [
        f"cpu{k} {user * ticks:.0f} 0 {system * ticks:.0f} {idle * ticks:.0f} 100 0 0 {steal * ticks:.0f}"
        for k, user, system, idle, steal in stat
    ]
    put(
        root,
        {
            "proc/stat": "\n".join(lines),
            "proc/pressure/cpu": "some avg10=0.00 total=3500000",
            "proc/self/io": "read_bytes: 8192",
            "sys/fs/cgroup/user.slice/cpu.stat": "throttled_usec 1700000",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 6,
            f"{CPU}/cpu1/cpufreq/scaling_cur_freq": 1_500_000,
        },
    )
    found = between(a, mark(place, root))
    assert a.mhz == 2000.0, "the fastest of the processors that may be used"
    assert found["seconds"] == 2.0 and found["own_cpu_s"] == 1.5 and found["processors"] == 2
    assert found["others_cores"] == pytest.approx((2.5 - 1.5) / 2)
    assert found["steal"] == pytest.approx(0.2 / 4)
    assert found["pressure"] == pytest.approx(0.5) and found["quota"] == pytest.approx(0.1)
    assert (found["throttled"], found["mhz"], found["read_bytes"]) == (2, 1500.0, 4096)
    json.dumps(found)


def test_the_state_of_a_machine(root, place):
    found = conditions.state(place, root)
    assert found["load"] == [1.5, 0.7, 0.3] and found["temperature"] == 61.5 and found["on_battery"] is True
    assert found["swap_used"] == 7_000_000 * 1024 and found["governor"] == "powersave"


def stretch(**what):
    """Two seconds of a quiet machine with two processors, changed."""
    quiet = between(Mark(0.0, 0.0, 2), Mark(2.0, 2.0, 2))
    return quiet | {"others_cores": 0.0, "steal": 0.0} | what


def card(held=None, now=()):
    return {"held": held or {}, "reasons": list(now)}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"others_cores": 0.7}, "other processes used 0.7 of 2 cores"),
        ({"steal": 0.12}, "the host took 12 % of the time (steal)"),
        ({"quota": 0.3}, "the container's CPU quota stopped the process for 30 % of the time"),
        ({"iowait": 0.4}, "processors waited for a disk for 40 % of the time"),
        ({"throttled": 3}, "the CPU was slowed down by heat 3 times"),
        ({"card": card({"power": 0.25})}, "the GPU's clock was lowered for 25 % of the time: power cap"),
        ({"card": card({"thermal": 0.5})}, "the GPU's clock was lowered for 50 % of the time: heat"),
        ({"card": card(now=["power cap", "idle"])}, "the GPU's clock was lowered: power cap"),
    ],
)
def test_reasons_are_told(what, said):
    found = reasons([stretch(), stretch(**what)], 0.08)
    assert len(found) == 1 and said in found[0], found


def test_a_clock_that_changes_is_a_reason():
    assert "from 3000 to 2000 MHz" in reasons([stretch(mhz=3000.0), stretch(mhz=2000.0)])[0]


def test_no_reason_is_made_up():
    """A quiet machine, and a workload that waits for the disk it reads."""
    for what in ({}, {"others_cores": 0.05}, {"steal": 0.005}, {"iowait": 0.9, "read_bytes": 1 << 30}, {"card": card(now=["idle"])}):
        found = reasons([stretch(**what)], 0.08)
        assert len(found) == 1 and "for an interval of 8 % is unknown: close other programs" in found[0], found


# ---------------------------------------------------------------- cards


@dataclass
class Values:
    """What the NVML of these tests answers."""

    energy_mj: int | None = 5_000_000
    power_mw: int | None = 300_000
    events: int = 0x4
    held_ns: int = 2 * 10**9


class Nvml(FakeNvml):
    """The stand-in of the cards' tests, with sensors."""

    def __init__(self, cards, values=None, **options):
        super().__init__(cards, **options)
        self.values = values or Values()

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, card):  # an old pynvml: the new name is missing
        return self.values.events

    def _nvmlDeviceGetClockInfo(self, card, kind):
        return {1: 1980, 2: 3201}[kind]

    def _nvmlDeviceGetTemperature(self, card, sensor):
        return 64

    def _nvmlDeviceGetPowerUsage(self, card):
        if self.values.power_mw is None:
            raise RuntimeError("Not Supported")
        return self.values.power_mw

    def _nvmlDeviceGetEnforcedPowerLimit(self, card):
        return 350_000

    def _nvmlDeviceGetPowerManagementLimitConstraints(self, card):
        return [200_000, 700_000]

    def _nvmlDeviceGetTotalEnergyConsumption(self, card):
        if self.values.energy_mj is None:
            raise RuntimeError("Not Supported")
        return self.values.energy_mj

    def _nvmlDeviceGetViolationStatus(self, card, policy):
        if policy != 0:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(referenceTime=0, violationTime=self.values.held_ns)


@pytest.fixture
def nvml(monkeypatch):
    """Function that puts cards and an NVML into this machine, and returns the NVML."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = []

    def put_in(*cards, values=None):
        made.append(Nvml(cards, values))
        monkeypatch.setitem(sys.modules, "cupy", Forbidden("cupy", cuda=Forbidden("cupy.cuda", runtime=FakeRuntime(cards))))
        monkeypatch.setitem(sys.modules, "pynvml", made[-1])
        sensors.release()
        return made[-1]

    sensors.release()
    yield put_in
    sensors.release()
    assert not any(one.open for one in made), "NVML was not shut down"


@pytest.fixture
def gpu(tmp_path):
    return Place(None, True, "cuda:1", tmp_path)


def test_a_card_is_sensed(nvml, gpu):
    nvml(H200, RTX)
    found, why = sensors.card_of(gpu)
    assert why == "" and found.handle is RTX, "CUDA's number 1"
    now = found.sense()
    assert (now.sm_mhz, now.memory_mhz, now.temperature, now.power, now.power_limit, now.energy) == (1980, 3201, 64, 300, 350, 5000)
    assert now.reasons == ("power cap",) and now.held_s == {"power": 2.0}
    about = found.about()
    assert about["power_limits_w"] == [200.0, 700.0] and about["ecc"] is None and about["mig"] is False


def test_a_place_without_a_card(place, nvml, gpu, monkeypatch):
    assert sensors.card_of(place) == (None, "not a GPU")
    nvml(H200, RTX)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors.release()
    assert sensors.card_of(gpu) == (None, "pip install nvidia-ml-py")


def test_what_a_card_did_between_two_marks(nvml, gpu, monkeypatch):
    """Its clock was held down by power for 0.5 of 2 s, and it used 600 J."""
    library = nvml(H200, RTX)
    times = iter([0.0, 2.0])
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: next(times))
    a = mark(gpu)
    library.values = Values(energy_mj=5_600_000, held_ns=int(2.5e9))
    found = between(a, mark(gpu))
    assert found["card"]["held"] == {"power": 0.25} and found["card"]["energy"] == pytest.approx(600.0)
    assert any("25 % of the time: power cap" in one for one in reasons([found]))
    json.dumps(found)


# ---------------------------------------------------------------- energy


def test_energy_of_packages_and_memory(place, root):
    """The counter of package 0 begins again at 1 000 J; subzones that are parts of a package do not count, nor the same by mmio."""
    cap = "sys/class/powercap"
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:2": "psys",
    }
    zones |= {"intel-rapl-mmio:0": "package-0"}
    for zone, name in zones.items():
        put(root, {f"{cap}/{zone}/name": name, f"{cap}/{zone}/energy_uj": 900_000_000, f"{cap}/{zone}/max_energy_range_uj": 1_000_000_000})
    meter = energy.Meter(place, root)
    put(
        root,
        {
            f"{cap}/intel-rapl:0/energy_uj": 50_000_000,
            f"{cap}/intel-rapl:1/energy_uj": 907_000_000,
            f"{cap}/intel-rapl:0:1/energy_uj": 903_000_000,
        },
    )
    used = meter.stop()
    assert used.parts == pytest.approx({"package-0": 150.0, "package-1": 7.0, "dram of 0": 3.0})
    assert used.joules == pytest.approx(160.0) and used.unknown == {} and set(used.how.values()) == {"RAPL"}


def test_counters_that_only_root_may_read(place, root):
    put(root, {"sys/class/powercap/intel-rapl:0/name": "package-0"})
    used = energy.Meter(place, root).stop()
    assert used.joules is None and "only root" in used.unknown["cpu"]
    assert energy.Meter(place, root / "none").stop().unknown["cpu"].startswith("this machine has no RAPL")


def test_energy_of_a_card(nvml, gpu, root):
    library = nvml(H200, RTX)
    meter = energy.Meter(gpu, root)
    library.values = Values(energy_mj=5_250_000)
    used = meter.stop()
    assert used.joules == pytest.approx(250.0) and used.how == {"gpu": "counter of NVML"} and "cpu" in used.unknown


@pytest.mark.parametrize(("power", "joules"), [(300_000, 600.0), (None, None)])
def test_energy_of_a_card_that_does_not_count(nvml, gpu, power, joules):
    library = nvml(H200, RTX)
    library.values = Values(energy_mj=None, power_mw=power)
    found, _ = sensors.card_of(gpu)
    used, how = energy.card_joules(found, found.sense(), found.sense(), 2.0)
    assert used == joules
    assert how == ("power × time of NVML" if power else "NVML knows neither the energy nor the power of this card")


def test_energy_of_an_instance_is_not_known(nvml, gpu):

    nvml(H200, replace(RTX, mig=True))
    used = energy.Meter(gpu).stop()
    assert used.joules is None and "MIG" in used.unknown["gpu"]


# ---------------------------------------------------------------- heat


def test_a_machine_that_becomes_slower(place):
    """A call takes 0.1 s in the first 6 s and 0.125 s afterwards: it keeps 0.8 of its speed."""
    now = [0.0]

    def call():
        now[0] += 0.1 if now[0] < 6.0 else 0.125

    found = sustained.sustain(call, place, 30.0, clock=lambda: now[0])
    assert found["burst"] == pytest.approx(0.1) and found["sustained"] == pytest.approx(0.125) and found["ratio"] == pytest.approx(0.8)
    assert 30.0 <= found["seconds"] < 30.3 and found["notes"] and len(found["samples"]) <= sustained.KEPT
    at = [one["at"] for one in found["over_time"]]
    assert len(at) == 15 and all(2.0 <= b - a < 2.3 for a, b in pairwise(at))
    json.dumps(found)


def test_what_is_called_before_a_call_is_not_timed(place):
    now = [0.0]

    def advance(seconds):
        now[0] += seconds

    found = sustained.sustain(lambda: advance(0.5), place, 6.0, before=lambda: advance(1.0), clock=lambda: now[0])
    assert found["burst"] == found["sustained"] == pytest.approx(0.5) and found["ratio"] == 1.0 and found["notes"] == []
    assert found["calls"] == 4


def test_one_call_longer_than_all(place):
    now = [0.0]

    def call():
        now[0] += 100.0

    found = sustained.sustain(call, place, 60.0, clock=lambda: now[0])
    assert (found["calls"], found["ratio"]) == (1, 1.0)


def test_samples_are_thinned_by_medians():
    times = [(float(k), 2.0 if k % 10 == 5 else 1.0) for k in range(1000)]
    kept = sustained.thinned(times, 100)
    assert len(kept) == 100 and kept[3] == [30.0, 1.0]
    assert sustained.thinned(times[:2], 100) == [[0.0, 1.0], [1.0, 1.0]]


# ---------------------------------------------------------------- doctor


def levels(findings):
    return {(one.topic, one.level) for one in findings}


def test_the_doctor_of_this_machine(tmp_path):
    found = doctor.doctor("cpu", tmp_path)
    assert {one.topic for one in found} >= {"software", "cpu", "blas", "load", "memory", "compiler", "disk"}
    assert all(one.level in LEVELS and one.what for one in found)
    assert not list(tmp_path.iterdir()), "its folder is taken away"
    text = as_text(found)
    assert all(one.what in text and one.advice in text for one in found)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "WATCHED", 0.05)
    assert not run_command(["bench", "doctor", "--device", "cpu", "--scratch", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"topic", "level", "what", "advice"} == set(found[0]) and any(one["topic"] == "disk" for one in found)


def test_a_machine_with_faults(root, place):
    found = [*doctor.processor(place, root), *doctor.memory(place, root)]
    said = as_text(found)
    for words in ("runs from its battery", "the governor is powersave", "huge pages are off", "7.17 GB are swapped out"):
        assert words in said, said
    assert ("cpu", "warn") in levels(found)


def test_matrices_with_few_threads():
    (found,) = doctor.blas_findings({"name": "openblas", "version": "0.3", "threads": 1}, 8)
    assert found.level == "warn" and "openblas 0.3 has 1 threads, 8 compute" in found.what and "OPENBLAS_NUM_THREADS" in found.advice
    (found,) = doctor.blas_findings({"name": "openblas", "version": "0.3", "threads": 8}, 8)
    assert found.level == "ok"


def test_a_link_with_lanes_missing():
    (found,) = doctor.link_findings(DeviceInfo("cuda:0", "X", link=Link(4, 8), max_link=Link(4, 16)))
    assert found.level == "warn" and "8 of 16 lanes" in found.what and "2 times as long" in found.what
    (found,) = doctor.link_findings(DeviceInfo("cuda:0", "X", link=Link(1, 16), max_link=Link(4, 16)))
    assert found.level == "ok" and "32 GB/s, now 1.0: idle cards save power" in found.what
    assert not list(doctor.link_findings(DeviceInfo("cuda:0", "X")))


def test_a_card_that_is_held_down_and_used_by_others(nvml):
    nvml(H200, RTX)
    info = DeviceInfo("cuda:1", "RTX", total=16 * 10**9, free=2 * 10**9, processes=2)
    said = as_text(list(doctor.card_findings(info, *sensors.card_number(1))))
    for words in ("less than half of its memory", "2 processes compute on it", "lowered now: power cap", "limited to 350 W of 700 W"):
        assert words in said, said


def test_a_machine_without_a_card_is_told_why(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    (found,) = doctor.gpus(place, system_files.ROOT)
    assert found.level == "note" and "pip install 'gpu4d[cuda12]'" in found.what


def test_sensed_values_can_be_written():
    json.dumps(Sensed(reasons=("idle",)).as_dict())
