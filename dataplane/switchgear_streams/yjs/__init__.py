"""The Yjs protocol on top of streams: documents, their snapshots, and awareness.

A request travels `paths` (which document, which part) → `frames` (is the body well-formed) → `api` (streams of the same
store, named by `documents`). `compactor` makes snapshots in a process of its own (`worker`, `merge`), so that documents
are never decoded in this one.
"""
