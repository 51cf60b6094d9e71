"""What is stored, and why something does not match: over any store and its catalog, changing nothing."""

from objectcache.cache.explain.explainer import (
    DEFAULT_LIMIT,
    Explainer,
    Explains,
    InspectRequest,
    ListRequest,
    VerifyRequest,
    WhyRequest,
    answer,
)
from objectcache.cache.explain.opening import explain_store, open_explainer
from objectcache.cache.explain.results import (
    Explanation,
    Inspection,
    KeyInspection,
    LayerVerdict,
    Listing,
    NamespaceInspection,
    Reason,
    SegmentInspection,
)

__all__ = [
    "DEFAULT_LIMIT",
    "Explainer",
    "Explains",
    "Explanation",
    "InspectRequest",
    "Inspection",
    "KeyInspection",
    "LayerVerdict",
    "ListRequest",
    "Listing",
    "NamespaceInspection",
    "Reason",
    "SegmentInspection",
    "VerifyRequest",
    "WhyRequest",
    "answer",
    "explain_store",
    "open_explainer",
]
