"""Numbers: a list that makes the node after it run once for each."""

import pytest

from .client import ComfyError
from .graphs import demo_subject, node


def test_a_list_of_numbers_runs_what_gets_it_once_for_each(server):
    graph = demo_subject(background="snow")
    graph["5"] = node("LikenessNumbers", numbers="1, 2.4")
    graph["1"]["inputs"]["count"] = ["5", 1]
    assert len(server.images(server.run(graph))) == 2 * (1 + 2)  # pictures and masks
    graph["5"]["inputs"]["numbers"] = "1, two"
    with pytest.raises(ComfyError, match="'two' is no number"):
        server.run(graph)
