"""A command's checkpoint is that of its model: stopped and resumed with it, refused with another."""

import pytest
from likeness.core import checkpoint, files
from likeness.training import loop


def is_refused(train, monkeypatch):
    """`train(watch)` is stopped, resumed and stopped, and refused once a weight of the model is another."""

    def stop(what, progress):
        raise loop.Cancelled

    for _ in range(2):  # its own is not refused
        with pytest.raises(loop.Cancelled):
            train(stop)
    load = checkpoint.load

    def other(*args, **kwargs):
        model = load(*args, **kwargs)
        next(model.denoiser.unet.parameters()).data += 1
        return model

    monkeypatch.setattr(checkpoint, "load", other)
    with pytest.raises(files.LearnedFileError, match="of a training with other settings, data or start"):
        train(stop)
