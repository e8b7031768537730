"""Text before it is tokens: sources, operators, deduplication, the pipeline, the closed world."""
