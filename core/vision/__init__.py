"""Measuring eyes behind small protocols: pictures and texts in, vectors out; models load when first used."""
