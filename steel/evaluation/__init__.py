"""Judging a model: exams scored three ways, cloze, bits per byte by domain, and the report card."""
