"""The container images: what is in them, how they are put together without an engine, and their SBOMs."""
