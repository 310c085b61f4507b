"""List the gates of the techniques."""

from __future__ import annotations

from gpu4d.workflow.gates.rule import AFTER_DPC, AFTER_ORIENTATIONS, AFTER_STRAIN, GLASS, PHASE, GateRule

RULES = (
    GateRule(
        "strain_measured", "Reference of the strain", AFTER_STRAIN, "positions with a strain, of those with a lattice", "%",
        (50.0, None), (1.0, None),
        "the warning “no strain” says what to do; the lattices are measured, so only strain.reference has to be changed",
        "a reference that suits the scan suits all of it; without one there is no strain", "Q8, pitfall 1",
    ),
    GateRule(
        "strain_magnitude", "Strain magnitude", AFTER_STRAIN, "positions whose strain is beyond strain.max_strain", "%", (None, 1.0),
        (None, 10.0), "check the reference region and the disks of these positions; filter outliers",
        "solids yield or break below 10 %; a few wrong fits are outliers, a tenth of the scan is a wrong reference", "16.2, Q19 (1)",
    ),
    GateRule(
        "strain_continuity", "Continuity of strain", AFTER_STRAIN, "positions that differ from the median of their neighbours by more than "
        "2 % or 0.02 rad, and by more than five standard errors", "%", (None, 2.0), (None, 10.0),
        "sudden jumps may be indexing errors: look at the disks of these positions, and at the picture of the residual",
        "interfaces and grain boundaries are lines, on which most neighbours agree; jumps of single positions are wrong lattices",
        "Q19 (2)",
    ),
    GateRule(
        "strain_compatibility", "Compatibility of strain", AFTER_STRAIN, "curl of the inverse deformation gradient, squared, over all of "
        "its gradients squared, without counting noise", "", (None, 0.15), (None, 0.4),
        "a continuous crystal has no curl but at dislocations: check rotation and transpose between scan and detector, and the scan's "
        "drift",
        "0 for a continuous crystal; 0.5 for components that do not belong together", "Q19 (3)",
    ),
    GateRule(
        "strain_trace", "Sign of strain", AFTER_STRAIN, "slope of ε_xx + ε_yy against the growth of the cell that 1/g gives", "",
        (0.8, 1.25), (0.5, 1.5),
        "g = 1/d: a larger g is a smaller spacing. If the slope is about −1, they were exchanged somewhere",
        "1 to first order for every mechanism of deformation, −1 if g was taken for d", "Q19 (3), pitfall 1",
    ),
    GateRule(
        "strain_dilation", "Strain in all directions", AFTER_STRAIN, "growth or shrinkage that all directions share, at the strongest "
        "twentieth of the positions, without counting noise", "%", (None, 3.0), (None, 6.0),
        "shear, stress along one direction and slip share none: is the pixel size that of the reference, does the camera length drift, is "
        "it another phase? If composition changes, set the limits higher",
        "heat stretches a metal by 2 % before it melts, and coherent films bear 4 % of misfit; 6 % are a fifth of the volume", "Q19 (3)",
    ),
    GateRule(
        "strain_mechanism", "Strain and its mechanism", AFTER_STRAIN, "strain, squared, whose trace is not that of the mechanism which "
        "strain.mechanism names, without counting noise", "%", (None, 20.0), (None, 50.0),
        "is it this mechanism? The decision “Mechanism of the strain” has the shares of all. If it is, check rotation, ellipse, reference "
        "and disks",
        "a fifth is what a second, weaker mechanism adds; half means that the strain is another one", "Q19 (3)",
    ),
    GateRule(
        "strain_reference", "Strain of the reference region", AFTER_STRAIN, "rms strain in the reference region, without counting noise",
        "%", (None, 0.2), (None, 1.0), "choose a region that is not strained: strain.reference = \"auto\" finds the least strained one",
        "the precision of strain from disks is about 0.1 %: a region that varies by more is strained", "Q19 (5)",
    ),
    GateRule(
        "strain_brightness", "Strain and brightness", AFTER_STRAIN, "rank correlation of strain with the brightness of the disks", "",
        (-0.5, 0.5), (-0.95, 0.95),
        "look whether disks overlap or touch: a neighbour that becomes brighter can shift a disk, and such a shift looks like strain",
        "chance reaches 0.5 in one of a hundred maps of 30 positions; at 0.95 strain is a function of the brightness alone", "Q20",
    ),
    GateRule(
        "pixel_structure", "Pixel size and structures", AFTER_ORIENTATIONS, "pixel size that the reflections of the nearest structure "
        "give, against that of the calibration", "%", (-1.0, 1.0), (-5.0, 5.0),
        "a nominal pixel size, or another structure? Phases of like patterns are told apart by spacings alone: measure a standard with "
        "`gpu4d calibrate`",
        "reflections that are 1 % off miss by a third of a radius at the outer disks; nominal pixel sizes are wrong by 5 to 10 %",
        "pitfall 2",
    ),
    GateRule(
        "indexed_share", "Indexed share", AFTER_ORIENTATIONS, "positions with an orientation that explains 60 % of the √intensity, of "
        "those with diffracted disks", "%", (90.0, None), (50.0, None),
        "patterns with few disks have no orientation: lower bragg.min_significance. Else: is it the right structure, are there other "
        "phases, is the pixel size right? The map of what is explained shows where",
        "a tenth lies at boundaries of grains; where most positions have none, the structure or the pixel size is another",
    ),
    GateRule(
        "orientation_margin", "Margin of the orientations", AFTER_ORIENTATIONS, "difference of log likelihood to the next orientation, "
        "median over the scan", "nats", (5.0, None), (1.0, None),
        "look-alikes: search weaker disks (bragg.min_significance = 3), let counts decide (orientation.patterns = true), or name fewer "
        "phases",
        "at 5 nats the next orientation is 150 times less likely, at 1 only three times",
    ),
    GateRule(
        "halo_model", "Ring explained by its model", GLASS, "χ² of the fitted ring, for each degree of freedom, median over the scan", "",
        (None, 1.5), (None, 100.0),
        "speckles of a thin glass are larger than counting noise: errors are scaled by it; average positions, or tilt the beam",
        "counting noise gives 1; at 100 the speckles are ten times as large as the noise, and no more counts help",
    ),
    GateRule(
        "fem_probe", "Probe for fluctuations", GLASS, "convergence semi-angle", "mrad", (0.5, 2.0), (0.1, 10.0),
        "a larger probe averages ordered regions away, a smaller one sees single columns of atoms: choose the semi-angle for the size of "
        "the ordered regions",
        "the guide's 0.5 to 2; at 200 keV the probe has 15 nm at 0.1, and at 10 the 1.5 Å of a single atom", "17.5",
    ),
    GateRule(
        "rdf_scale", "Scale of the structure factor", GLASS, "scale that the region without atoms asks for, against the fitted one", "%",
        (-5.0, 5.0), (-25.0, 25.0),
        "look at the structure factor and its fit: another background, range of the fit, composition, or multiple scattering of a thick "
        "specimen. rdf.low_r_rounds = 8 takes off slow waves; give rdf.density if it is known",
        "coordination follows the scale: 5 % of 12 neighbours is half of an atom, 25 % is three",
    ),
    GateRule(
        "rdf_density", "Density of atoms", GLASS, "density of atoms from the slope of G(r), or as given", "1/Å³",
        (0.008, 0.18), (0.002, 0.2),
        "the pixel size, the composition or the background is wrong, or the density has to be given",
        "caesium has 0.0085 atoms in 1 Å³, diamond 0.176, and no solid has more", "17.5",
    ),
    GateRule(
        "dpc_potential", "DPC as a potential", AFTER_DPC, "the largest of thickness over 1.7 λ/α², step over probe, Bragg angle over "
        "semi-angle, and scattered share over 20 %", "times", (None, 1.0), (None, 3.0),
        "do not read the phase as a potential: it is named pseudo-DPC; ptychography or multislice methods may suit the specimen",
        "above 1 it is no potential; three times as thick, or 60 % scattered, electrons have scattered several times", "Q10, pitfall 3",
    ),
    GateRule(
        "dpc_boundary", "Boundary of the phase", AFTER_DPC, "misfit of the gradient of the phase to the field at the boundary, over that "
        "inside", "times", (None, 2.0), (None, 5.0),
        "the phase may have copies of the object from the opposite edge: increase the padding, or add iterations",
        "near 1 where the boundary is treated well; wrap-around makes ghosts at the rim alone", "16.2",
    ),
    GateRule(
        "dpc_curl", "Curl of the centre of mass", AFTER_DPC, "share of the curl in curl² + divergence² at the best rotation", "%",
        (None, 25.0), (None, 45.0), "check for noise, a descan that is not a plane, or a specimen too thick for DPC",
        "the gradient of a phase has no curl; noise alone has 50 %", "10.2, Q10",
    ),
    GateRule(
        "dpc_rotation", "Error of the rotation found by DPC", AFTER_DPC, "standard error of the rotation of least curl", "°",
        (None, 3.0), (None, 15.0),
        "measure the rotation with shadow images or a standard (`gpu4d calibrate`), and give --rotation: a phase from side bands of "
        "several aberrations needs it to a few degrees",
        "3° mix 5 % of one component of a vector into the other; 15° mix a quarter", "10.2, pitfall 4",
    ),
    GateRule(
        "magnetic_divergence", "Divergence of the induction", AFTER_DPC, "divergence of the measured induction, squared, over what the "
        "counts explain", "times", (None, 2.0), (None, 10.0),
        "the deflection is not that of a field alone: check the rotation, diffraction contrast, descan and drift",
        "div B = 0, so that counts alone give 1; at 10 the error is three times what the maps of errors say", "Q22",
    ),
    GateRule(
        "side_band_step", "Scan step", PHASE, "scan step over λ/(4α)", "times", (None, 1.001), (None, 2.0),
        "frequencies that the steps do not resolve are folded back into the phase: scan finer, or use parallax out of focus",
        "side bands reach to 2α/λ; with steps of λ/(2α), half of them and all that lies beyond α/λ is folded back", "Q11",
    ),
    GateRule(
        "side_bands", "Side bands and their aberrations", PHASE, "power of the scan's spectra that side bands with the fitted aberrations "
        "explain, of all that is not counting noise", "%", (75.0, None), (40.0, None),
        "the phase from side bands is not that of the object: measure the rotation and give --rotation, correct the drift of positions, "
        "check energy, pixel sizes and steps; a thick specimen has other side bands",
        "simulated thin objects have 79 to 100 %, also at 300 electrons a pattern; positions that are off by a step leave 70 %, and a "
        "rotation that is wrong by 13° besides 37 %, where the phase correlates with the true one by 0.45", "Q11, pitfall 4",
    ),
    GateRule(
        "parallax_shifts", "Shifts of bright-field images", PHASE, "scatter of the measured shifts about the fit, over the largest shift",
        "%", (None, 20.0), (None, 30.0),
        "the images are not moved copies of each other: in focus use SSB, and on a crystal give the defocus (phase.defocus)",
        "shifts of images that have nothing in common scatter by 30 % and more",
    ),
    GateRule(
        "ptychography_convergence", "Convergence of ptychography", PHASE, "decrease of the misfit over the last tenth of the sweeps", "%",
        (-2.0, 2.0), (-20.0, 20.0),
        "use more sweeps (ptychography.sweeps); if the misfit grows, check energy, pixel sizes, rotation and defocus",
        "a misfit that settles changes by less than 2 %; one that still falls by a fifth, or grows, is far from the object", "17.6",
    ),
)  # fmt: skip
