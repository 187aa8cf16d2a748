"""Commands: the only place with gin."""
