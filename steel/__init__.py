"""Steel: the production package behind "Steel, the book".

A walk through the house goes one way: corpus -> tokenizer -> data -> train -> align -> evaluation -> serve.
Importing this package does nothing; import the room you need.
"""

__version__ = "0.1.0"
