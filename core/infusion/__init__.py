"""Infusion (Zeng et al. 2024): the untouched model says where, a tiny learned residual says what."""
