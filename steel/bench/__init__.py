"""Benchmarks and drills: what the project claims about speed and safety, measured again."""
