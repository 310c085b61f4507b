"""Make what calls the stages of a run of `gpu4d run`, and keeps what they make."""

from __future__ import annotations

from pathlib import Path

from gpu4d.data.datacube import DataCube
from gpu4d.workflow.content import Contents
from gpu4d.workflow.keeping.identity import scan_identity
from gpu4d.workflow.keeping.kept_stages import KeptStages
from gpu4d.workflow.keeping.store import open_store
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record


def calls_of(path: Path, cube: DataCube, recipe: Recipe, record: Record, contents: Contents) -> KeptStages | None:
    """Return what calls the stages of a run and keeps what they make. None if nothing can be kept, or GPU4D_CACHE is "off".

    Parameters
    ----------
    path : Path
        File of the scan.
    cube : DataCube
        The scan, as the recipe opens it.
    recipe : Recipe
    record : Record
        Is told why nothing can be kept.
    contents : Contents
        Of the files of the run.
    """
    store = open_store()
    if store is None:
        return None
    try:
        return KeptStages(store, scan_identity(path, cube.source, recipe, contents), path.name)
    except OSError as error:
        record.note(f"nothing is kept for later runs: {error}")
        return None
