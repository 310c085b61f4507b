"""The brightest pixel of every pattern: a reduction, a stage of `gpu4d run`, and the format of the files that a detector writes."""

from gpu4d.data import RealSlice
from gpu4d.io.format import Format, Opened
from gpu4d.io.sources.mapped import MappedSource
from gpu4d.plot import image
from gpu4d.streaming import PerPositionReduction
from gpu4d.workflow import Stage
from gpu4d.workflow.picture import IMAGES, Picture


class Brightest(PerPositionReduction):
    def bytes_needed(self, scan, n_frames):
        return self.held_bytes(scan, n_frames)

    def update(self, frames, positions):
        self.put(positions, frames.max((1, 2))[:, None])

    def finish(self):
        return RealSlice.calibrated(self.values.result()[0], "brightest", "counts", self.scan.calibration.r_pixel)


class BrightestImage(Stage):
    name, title, makes = "brightest", "brightest pixel of every pattern", ("brightest",)

    def reductions(self, state):
        return {"map": Brightest()}

    def finish(self, state, results):
        state.save("brightest", results["map"])

    def pictures(self, state):
        words = Picture("brightest", IMAGES, "Brightest pixel", "The largest value of every pattern.")
        yield words, image(state["brightest"], "Brightest pixel")


class Plain(Format):  # a line "PLAIN4D Rx Ry Qx Qy", and the patterns as little-endian uint16
    name, accepts = "plain", "plain 4D files"

    def recognise(self, path, head):
        return head.startswith(b"PLAIN4D ")

    def open(self, path, options):
        with open(path, "rb") as file:
            line = file.readline()
        return Opened(MappedSource(path, len(line), tuple(map(int, line.split()[1:])), "<u2", "plain"))
