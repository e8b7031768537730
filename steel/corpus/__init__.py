"""Text before it is tokens: sources, documents, operators, deduplication, the pipeline, and the closed world."""
