"""Toffee: a subject's DINO tokens beside the text; refining, new views, generating, editing (Toffee, section 2)."""
