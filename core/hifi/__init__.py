"""HiFi Tuner (Wang et al. 2023): step-wise subject embeddings, reference guidance, subject replacement."""
