"""Talk to a model, and hand it on: terminal chat, streaming generation, export."""
