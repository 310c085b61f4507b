"""List the gates of the recording, the search of disks and the calibration."""

from __future__ import annotations

from gpu4d.workflow.gates.rule import ACQUISITION, AFTER_CALIBRATION, AFTER_DETECTION, AFTER_PREPROCESSING, GateRule

RULES = (
    GateRule(
        "electrons", "Electrons per pattern", ACQUISITION, "electrons of a pattern, median over the scan", "e", (100.0, None),
        (10.0, None), "sum neighbouring positions (--bin-scan) or detector pixels (--bin), or record with a longer dwell",
        "100 electrons give the centre of mass to a tenth of the disk's radius: less shows single electrons, not patterns", "pitfall 5",
    ),
    GateRule(
        "steadiness", "Steadiness of the scan", ACQUISITION, "change of the counts from the first rows to the last, where rows change "
        "steadily", "%", (-20.0, 20.0), (-80.0, 80.0),
        "compare the first with the last rows: beam current, contamination and damage change counts with time; a wedge does with place",
        "emission drifts by a few per cent an hour; a fifth within a scan changes what later rows show", "pitfall 5",
    ),
    GateRule(
        "pattern_drift", "Steadiness of the pattern", ACQUISITION, "shift of the direct beam from the first rows to the last, beyond "
        "what a descan that is alike along both scan axes explains; 0 within three standard errors", "disk radii",
        (None, 0.5), (None, 2.0),
        "compare the first with the last patterns: the beam or the specimen tilted, or the descan is not alike along both axes. Let the "
        "stage rest before the next scan, and record it faster",
        "half of a radius is more than a disk can move unnoticed; after two radii the first and the last rows see other directions",
        "pitfall 5",
    ),
    GateRule(
        "background", "Background at the detector's edge", AFTER_PREPROCESSING, "level of the edge of the mean pattern over that of the "
        "bright-field disk", "%", (-1.0, 1.0), (-5.0, 5.0),
        "subtract a dark reference, re-tune corrections.background_mask_radius, or check for scattering that reaches the edge",
        "1 % of the disk under every pixel moves a centre of mass by about a pixel on a detector ten times as wide as the disk", "16.2",
    ),
    GateRule(
        "edge_background", "Background at the edge", AFTER_PREPROCESSING, "level that is left at the edge of raw frames, over the noise of "
        "a pixel", "noise", (-0.1, 0.1), (-1.0, 1.0),
        "if it is positive, the beam reaches the edge: set corrections.background_mask_radius higher, or give corrections.edge; else "
        "check the dark reference",
        "a tenth of the noise of one pixel in one frame is far below what a pattern can show; once the noise is visible in it", "16.2",
    ),
    GateRule(
        "peak_count", "Bragg disks per pattern", AFTER_DETECTION, "disks of a pattern, median over the scan", "disks", (5.0, 30.0),
        (3.0, 200.0), "adjust the thresholds, check the probe; more than 30 are fine if the lattice is dense",
        "the guide's 5 to 30; a lattice needs three disks that do not lie on a line; 200 are maxima of noise", "16.2",
    ),
    GateRule(
        "lattice_share", "Disks on the lattice", AFTER_DETECTION, "disks that lie on the lattice of the scan", "%",
        (60.0, None), (30.0, None),
        "several grains or phases: look at the Bragg vector map, classify the patterns, or name structures for orientations",
        "below 60 % there is room for another grain; below 30 % most disks belong to others; about a tenth lies on a lattice by chance",
        "pitfall 1",
    ),
    GateRule(
        "vector_map_symmetry", "Symmetry of the Bragg vector map", AFTER_CALIBRATION, "overlap of the map with its inversion", "",
        (0.8, None), (0.5, None),
        "check the origin and the elliptical distortion; a tilted specimen or several grains also break the symmetry",
        "1 is perfect; half of the disks without a partner is no pattern about this origin", "16.2",
    ),
    GateRule(
        "sharpness", "Sharpness of the lattice", AFTER_CALIBRATION, "rms distance of disks from the local lattice, median over the scan",
        "disk radii", (None, 0.35), (None, 0.7),
        "check for overlapping grains, elliptical distortion, or a wrong lattice in the Bragg vector map",
        "disks found at random lie half a spacing, more than a radius, away; counting noise moves a disk by a tenth of its radius", "16.2",
    ),
    GateRule(
        "origin_surface", "Origin on its surface", AFTER_CALIBRATION, "rms distance of the measured origins from the surface through them; "
        "a radius counts as 5 px at least", "disk radii", (None, 0.1), (None, 0.5),
        "warnings name rows, columns and positions that no surface fits: a beam that jumps, flyback, several tiles",
        "counting noise moves a disk by a tenth of its radius; half of a radius away is another disk", "pitfall 2",
    ),
    GateRule(
        "lattice_spacing", "Spacings of the lattice", AFTER_CALIBRATION, "spacing d = 1/|g| of the lattice vector that is least like a "
        "crystal's", "Å", (0.6, 40.0), (0.4, 100.0),
        "is the detector pixel in 1/Å, with g = 1/d and without 2π? 1/nm are ten times as many, 2π/d is 6.28 times as much",
        "planes whose disks are separate have 0.6 to 40 Å; electrons of 200 keV are scattered by 60 mrad at 0.4 Å, beyond the detector",
        "pitfall 1",
    ),
    GateRule(
        "ellipse_significance", "Significance of the ellipse", AFTER_CALIBRATION, "standard error of a/b, over what it may be: a third of "
        "a/b − 1, or 0.3 % if that is more", "times", (None, 1.0), (None, 3.0),
        "more patterns, or a standard with more grains, measure it better; without it radii are of a circle",
        "an ellipse is seen if it is three standard errors large, or would be seen if it were 1 %; at 3 it is smaller than its error, and "
        "one of 1 % would not be seen", "pitfall 2",
        set_aside=True,
    ),
    GateRule(
        "ellipse_rings", "Rings on their ellipse", AFTER_CALIBRATION, "rms distance of the rings from the fitted ones, over the radius",
        "%", (None, 1.0), (None, 5.0),
        "a shadow, a beam stop with a soft edge, few grains, or a distortion that is no ellipse: give a mask, or measure a standard",
        "the ellipses to be measured are 1 to 3 %: rings that are off by 1 % hide them, rings that are off by 5 % are none", "pitfall 2",
        set_aside=True,
    ),
    GateRule(
        "ring_pixel", "Pixel size and rings", AFTER_CALIBRATION, "pixel size that the rings of the named crystals give, against that of "
        "the calibration", "%", (-1.0, 1.0), (-5.0, 5.0),
        "a nominal pixel size, or another crystal? Leave out the pixel size to take that of the rings",
        "rings give the pixel size to a few tenths of 1 %; nominal pixel sizes are wrong by 5 to 10 %", "pitfall 2",
    ),
    GateRule(
        "shadow_margin", "Shadow image and STEM image", AFTER_CALIBRATION, "agreement at the rotation that was found, over that at the "
        "best other answer", "times", (1.3, None), (1.05, None),
        "give more shadow images, the centre and radius of their disk, or points that you recognise",
        "below 1.3 another angle or a mirror may be meant; at 1.05 two answers are equally good", "17.2",
        set_aside=True,
    ),
    GateRule(
        "shadow_correlation", "Likeness of the shadow image", AFTER_CALIBRATION, "correlation of the shadow image with the STEM image, in "
        "magnitude", "", (0.3, None), (0.1, None),
        "do both show the same place? Give the position of the probe, the centre and radius of the disk, or points that you recognise",
        "less than 0.3 is reached by chance by two images that have no structure in common; 0.1 is no likeness", "17.2",
        set_aside=True,
    ),
    GateRule(
        "shadow_error", "Error of the rotation", AFTER_CALIBRATION, "standard error of the rotation from shadow images or points", "°",
        (None, 3.0), (None, 15.0),
        "give more shadow images, or points that lie farther apart",
        "3° mix 5 % of one component of a vector or of a shear into the other; 15° mix a quarter", "17.2, pitfall 4",
        set_aside=True,
    ),
    GateRule(
        "shadow_side", "Sign of the defocus of the shadow", AFTER_CALIBRATION, "how clearly Fresnel fringes tell underfocus from overfocus",
        "standard errors", (5.0, None), (2.0, None),
        "write shadow.side = under or over into the recipe: an underfocused probe shows the specimen upside down",
        "a wrong sign turns everything by 180°, so chance must be excluded: one in a million at 5, one in twenty at 2", "17.2",
        set_aside=True,
    ),
    GateRule(
        "shadow_points", "Images and points of the shadow", AFTER_CALIBRATION, "difference of the rotations that images and points give; a "
        "mirror counts as 180°", "standard errors", (None, 3.0), (None, 10.0),
        "look at both pictures: is a point misplaced, or the sign of the defocus wrong?",
        "points that are marked by hand are known to 2° at best, which counts as three standard errors", "17.2",
    ),
    GateRule(
        "drift_agreement", "Agreement of the positions", AFTER_CALIBRATION, "correlation of both scans, or of even and odd rows, at the "
        "measured positions, over what chance gives", "standard deviations", (5.0, None), (3.5, None),
        "the positions are not used: check that both scans show the same place with contrast, and the angle",
        "the search looks at thousands of positions, and the best of so many reaches 3.5 by chance", "pitfall 5",
        set_aside=True,
    ),
)  # fmt: skip
