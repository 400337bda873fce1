"""Seeing models behind small protocols: pictures to vectors, masks and captions; they load when first used."""
