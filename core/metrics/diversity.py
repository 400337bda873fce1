"""Similarity-weighted diversity, and how differently questions about pictures are answered (RetriBooru, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .similarity import matched

# The paper asks "about head orientation, facial expressions, body gestures, activities and so on"; the words are ours.
QUESTIONS = (
    "What is the pose of the person?",
    "Which way is the head turned?",
    "What is the expression of the face?",
    "What is the person doing?",
)


def swd(diversity: Tensor, similarity: Tensor) -> Tensor:
    """Similarity-weighted diversity of every generation, (N,): their mean is the paper's (RetriBooru, Eq. 1).

    It is the mean over references of the products. A product of means would let half of the pictures be likenesses and
    the other half follow their prompts.

    Args:
        diversity, similarity: of every generation with every reference, (N, M) each; (N, 1) of what knows none.

    Raises:
        ValueError: no generation, or two numbers of them.
    """
    sides = diversity, similarity
    if len(diversity) != len(similarity) or any(side.ndim != 2 or not side.numel() for side in sides):
        raise ValueError(
            f"diversity of shape {tuple(diversity.shape)} and similarity of shape {tuple(similarity.shape)}; "
            "give both for every generation and reference, (N, M)"
        )
    return (diversity.float() * similarity.float()).mean(1)


def vqa_diversity(
    generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]], embed: Callable[[list[str]], Tensor]
) -> Tensor:
    """How differently the same questions are answered about a generation and its reference, (N,): 1 - cosine.

    The paper says "cosine similarity" and marks higher as better; as its score falls where likeness rises, it is read
    as diversity **[ours]**. Each picture's answers are embedded as one text **[ours]**.

    Args:
        generated, references: N lists of answers to the same questions in the same order.
        embed: texts to vectors (B, D), as CLIP's text tower or any sentence encoder.

    Raises:
        ValueError: lists of different lengths.
    """
    if len(generated) != len(references) or {len(a) for a in generated} != {len(a) for a in references}:
        raise ValueError("answers: give the same questions' answers for every generation and its reference")
    ours, theirs = (embed([", ".join(answers) for answers in side]) for side in (generated, references))
    return 1 - matched(ours, theirs)
