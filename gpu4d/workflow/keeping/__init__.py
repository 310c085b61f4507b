"""Keep what the stages of a run made, so that only what changed is computed again.

`calls_of` makes what calls the stages of a run. `open_store` opens what is kept.
"""

from gpu4d.workflow.keeping.calls import calls_of
from gpu4d.workflow.keeping.effects import KeptRecord
from gpu4d.workflow.keeping.identity import identity_of
from gpu4d.workflow.keeping.store import open_store

__all__ = ["KeptRecord", "calls_of", "identity_of", "open_store"]
