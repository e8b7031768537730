"""Figures of the book: house style, published facts, committed run logs, generated drawings."""
