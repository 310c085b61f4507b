"""List the publications of the methods that runs use, as text and as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gpu4d._version import __version__


class Citation(NamedTuple):
    """A publication. `journal` is empty for software, and `number` is that of the article or of its first and last page."""

    authors: tuple[str, ...]  # "Family, Given"
    title: str
    journal: str
    volume: str
    number: str
    year: int
    doi: str


CITATIONS: dict[str, Citation] = {
    "gpu4d": Citation(
        ("{The gpu4d developers}",), "gpu4d: GPU-first, array-agnostic compute library for 4D-STEM", "", "", "", 2026, ""
    ),
    "savitzky2021": Citation(
        ("Savitzky, B. H.", "Zeltmann, S. E.", "Hughes, L. A.", "others"),
        "py4DSTEM: A software package for four-dimensional scanning transmission electron microscopy data analysis",
        "Microscopy and Microanalysis", "27", "712–743", 2021, "10.1017/S1431927621000477",
    ),
    "pekin2017": Citation(
        ("Pekin, T. C.", "Gammer, C.", "Ciston, J.", "Minor, A. M.", "Ophus, C."),
        "Optimizing disk registration algorithms for nanobeam electron diffraction strain mapping",
        "Ultramicroscopy", "176", "170–176", 2017, "10.1016/j.ultramic.2016.12.021",
    ),
    "zeltmann2020": Citation(
        ("Zeltmann, S. E.", "Müller, A.", "Bustillo, K. C.", "Savitzky, B. H.", "Hughes, L. A.", "Minor, A. M.", "Ophus, C."),
        "Patterned probes for high precision 4D-STEM Bragg measurements",
        "Ultramicroscopy", "209", "112890", 2020, "10.1016/j.ultramic.2019.112890",
    ),
    "ozdol2015": Citation(
        ("Ozdol, V. B.", "Gammer, C.", "Jin, X. G.", "Ercius, P.", "Ophus, C.", "Ciston, J.", "Minor, A. M."),
        "Strain mapping at nanometer resolution using advanced nano-beam electron diffraction",
        "Applied Physics Letters", "106", "253107", 2015, "10.1063/1.4922994",
    ),
    "padgett2020": Citation(
        ("Padgett, E.", "Holtz, M. E.", "Cueva, P.", "Shao, Y.-T.", "Langenberg, E.", "Schlom, D. G.", "Muller, D. A."),
        "The exit-wave power-cepstrum transform for scanning nanobeam electron diffraction: Robust strain mapping at subnanometer "
        "resolution and subpicometer precision",
        "Ultramicroscopy", "214", "112994", 2020, "10.1016/j.ultramic.2020.112994",
    ),
    "ophus2022": Citation(
        ("Ophus, C.", "Zeltmann, S. E.", "Bruefach, A.", "Rakowski, A.", "Savitzky, B. H.", "Minor, A. M.", "Scott, M. C."),
        "Automated crystal orientation mapping in py4DSTEM using sparse correlation matching",
        "Microscopy and Microanalysis", "28", "390–403", 2022, "10.1017/S1431927622000101",
    ),
    "mullercaspary2017": Citation(
        ("Müller-Caspary, K.", "Krause, F. F.", "Grieb, T.", "Löffler, S.", "Schowalter, M.", "others"),
        "Measurement of atomic electric fields and charge densities from average momentum transfers using scanning transmission "
        "electron microscopy",
        "Ultramicroscopy", "178", "62–80", 2017, "10.1016/j.ultramic.2016.05.004",
    ),
    "lazic2016": Citation(
        ("Lazić, I.", "Bosch, E. G. T.", "Lazar, S."),
        "Phase contrast STEM for thin samples: Integrated differential phase contrast",
        "Ultramicroscopy", "160", "265–280", 2016, "10.1016/j.ultramic.2015.10.011",
    ),
    "chapman1990": Citation(
        ("Chapman, J. N.", "McFadyen, I. R.", "McVitie, S."),
        "Modified differential phase contrast Lorentz microscopy for improved imaging of magnetic structures",
        "IEEE Transactions on Magnetics", "26", "1506–1511", 1990, "10.1109/20.104427",
    ),
    "krajnak2016": Citation(
        ("Krajnak, M.", "McGrouther, D.", "Maneuski, D.", "O'Shea, V.", "McVitie, S."),
        "Pixelated detectors and improved efficiency for magnetic imaging in STEM differential phase contrast",
        "Ultramicroscopy", "165", "42–50", 2016, "10.1016/j.ultramic.2016.03.006",
    ),
    "rodenburg1993": Citation(
        ("Rodenburg, J. M.", "McCallum, B. C.", "Nellist, P. D."),
        "Experimental tests on double-resolution coherent imaging via STEM",
        "Ultramicroscopy", "48", "304–314", 1993, "10.1016/0304-3991(93)90105-7",
    ),
    "pennycook2015": Citation(
        ("Pennycook, T. J.", "Lupini, A. R.", "Yang, H.", "Murfitt, M. F.", "Jones, L.", "Nellist, P. D."),
        "Efficient phase contrast imaging in STEM using a pixelated detector. Part 1: Experimental demonstration at atomic resolution",
        "Ultramicroscopy", "151", "160–167", 2015, "10.1016/j.ultramic.2014.09.013",
    ),
    "yang2016": Citation(
        ("Yang, H.", "Rutte, R. N.", "Jones, L.", "Simson, M.", "Sagawa, R.", "others"),
        "Simultaneous atomic-resolution electron ptychography and Z-contrast imaging of light and heavy elements in complex nanostructures",
        "Nature Communications", "7", "12532", 2016, "10.1038/ncomms12532",
    ),
    "rodenburg1992": Citation(
        ("Rodenburg, J. M.", "Bates, R. H. T."),
        "The theory of super-resolution electron microscopy via Wigner-distribution deconvolution",
        "Philosophical Transactions of the Royal Society A", "339", "521–553", 1992, "10.1098/rsta.1992.0050",
    ),
    "bangun2023": Citation(
        ("Bangun, A.", "Baumeister, P. F.", "Clausen, A.", "Weber, D.", "Dunin-Borkowski, R. E."),
        "Wigner distribution deconvolution adaptation for live ptychography reconstruction",
        "Microscopy and Microanalysis", "29", "994–1008", 2023, "10.1093/micmic/ozad021",
    ),
    "yu2025": Citation(
        ("Yu, Y.", "others"),
        "Dose-efficient cryo-electron microscopy for thick samples using tilt-corrected scanning transmission electron microscopy",
        "Nature Methods", "22", "2138–2148", 2025, "10.1038/s41592-025-02834-9",
    ),
    "thibault2012": Citation(
        ("Thibault, P.", "Guizar-Sicairos, M."),
        "Maximum-likelihood refinement for coherent diffractive imaging",
        "New Journal of Physics", "14", "063004", 2012, "10.1088/1367-2630/14/6/063004",
    ),
    "chen2021": Citation(
        ("Chen, Z.", "Jiang, Y.", "Shao, Y.-T.", "Holtz, M. E.", "others"),
        "Electron ptychography achieves atomic-resolution limits set by lattice vibrations",
        "Science", "372", "826–831", 2021, "10.1126/science.abg2533",
    ),
    "daulton2010": Citation(
        ("Daulton, T. L.", "Bondi, K. S.", "Kelton, K. F."),
        "Nanobeam diffraction fluctuation electron microscopy technique for structural characterization of disordered materials – "
        "Application to Al88−xY7Fe5Tix metallic glasses",
        "Ultramicroscopy", "110", "1279–1289", 2010, "10.1016/j.ultramic.2010.05.010",
    ),
    "voyles2002": Citation(
        ("Voyles, P. M.", "Muller, D. A."),
        "Fluctuation microscopy in the STEM",
        "Ultramicroscopy", "93", "147–159", 2002, "10.1016/S0304-3991(02)00155-9",
    ),
    "kaplow1965": Citation(
        ("Kaplow, R.", "Strong, S. L.", "Averbach, B. L."),
        "Radial density functions for liquid mercury and lead",
        "Physical Review", "138", "A1336–A1345", 1965, "10.1103/PhysRev.138.A1336",
    ),
    "gammer2018": Citation(
        ("Gammer, C.", "Ophus, C.", "Pekin, T. C.", "Eckert, J.", "Minor, A. M."),
        "Local nanoscale strain mapping of a metallic glass during in situ testing",
        "Applied Physics Letters", "112", "171905", 2018, "10.1063/1.5025686",
    ),
    "ophus2016": Citation(
        ("Ophus, C.", "Ciston, J.", "Nelson, C. T."),
        "Correcting nonlinear drift distortion of scanning probe and scanning transmission electron microscopies from image pairs with "
        "orthogonal scan directions",
        "Ultramicroscopy", "162", "1–9", 2016, "10.1016/j.ultramic.2015.12.002",
    ),
    "sang2014": Citation(
        ("Sang, X.", "LeBeau, J. M."),
        "Revolving scanning transmission electron microscopy: Correcting sample drift distortion without prior knowledge",
        "Ultramicroscopy", "138", "28–35", 2014, "10.1016/j.ultramic.2013.12.004",
    ),
}  # fmt: skip


def as_text(key: str) -> str:
    """Return a publication as a line of a list of references.

    Examples
    --------
    >>> as_text("voyles2002").partition(" doi:")[0]
    'Voyles, P. M. & Muller, D. A. Fluctuation microscopy in the STEM. Ultramicroscopy 93, 147–159 (2002).'
    """
    one = CITATIONS[key]
    names = [name.strip("{}") for name in one.authors if name != "others"]
    authors = f"{', '.join(names)} et al." if "others" in one.authors else _joined(names)
    volume = f" {one.volume}" if one.volume else ""
    where = f"{one.journal}{volume}{f', {one.number}' if one.number else ''} ({one.year})" if one.journal else f"Version {__version__}"
    doi = f" doi:{one.doi}" if one.doi else ""
    return f"{authors}{'' if authors.endswith('.') else '.'} {one.title}. {where}.{doi}"


def as_bibtex(keys: Iterable[str]) -> str:
    """Return publications as entries of a BibTeX file, in UTF-8.

    Examples
    --------
    >>> print(as_bibtex(["voyles2002"]).split(",")[0])
    @article{voyles2002
    """
    return "\n".join(_entry(key, CITATIONS[key]) for key in keys)


def _entry(key: str, one: Citation) -> str:
    fields = {"author": " and ".join(one.authors), "title": f"{{{one.title}}}", "year": str(one.year)}
    if one.journal:
        fields |= {"journal": one.journal, "volume": one.volume, "pages": one.number.replace("–", "--"), "doi": one.doi}
    else:
        fields |= {"version": __version__, "license": "MIT"}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{'article' if one.journal else 'software'}{{{key},", *lines, "}", ""])


def _joined(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} & {names[-1]}" if len(names) > 1 else names[0]
