"""Classification: which patterns show the same reflections, and where each class is."""

from gpu4d.classification.classes import Classes
from gpu4d.classification.classify import classify
from gpu4d.classification.cooccurrence import cooccurrence_seeds
from gpu4d.classification.factorise import factorise
from gpu4d.classification.several import Outlook, outlook
from gpu4d.classification.spot_counts import ClassPatterns, SpotCounts
from gpu4d.classification.vector_map_maxima import disk_features, vector_map_maxima

__all__ = [
    "ClassPatterns",
    "Classes",
    "Outlook",
    "SpotCounts",
    "classify",
    "cooccurrence_seeds",
    "disk_features",
    "factorise",
    "outlook",
    "vector_map_maxima",
]


def __dir__() -> list[str]:
    return list(__all__)
