"""What implementers of our contracts test theirs with. Needs pytest and hypothesis (the `dev` extra)."""

import pytest

# Their asserts then say what differed, as those of test files do.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("stores", "store_listing", "store_uploads", "store_model")),
    *(f"{__name__}.cache_{module}" for module in ("deliveries", "lives", "matching", "storing")),
    f"{__name__}.synthetic",
)
