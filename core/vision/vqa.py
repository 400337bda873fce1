"""Visual question answering by name or folder: InstructBLIP (Dai et al. 2023) and BLIP (Li et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pretrained import Pretrained

BATCH = 8


class _Answers(Pretrained):
    """Asks one question of a batch of pictures after the other; arguments and errors are Pretrained's.

    Args:
        length: most tokens of an answer.
    """

    def __init__(self, name: str | Path, *, length: int = 20, **where: Any):
        super().__init__(name, **where)
        self.length = length

    @torch.no_grad()
    def __call__(self, images: Tensor, questions: Sequence[str]) -> list[list[str]]:
        """Each picture's (B, 3, H, W) in 0..1 answers, one a question, the same each time: see `protocols.VQA`.

        Raises:
            ValueError: not pictures, or a question without words.
        """
        empty = [question for question in questions if not question.strip()]
        if empty:
            raise ValueError("questions: one is empty; ask something, as in 'what color is the clothing?'")
        columns = [[answer for chunk in images.split(BATCH) for answer in self._ask(chunk, q)] for q in questions]
        return [[column[i] for column in columns] for i in range(len(images))]

    def _ask(self, images: Tensor, question: str) -> list[str]:
        inputs = self.inputs(images, text=[self._prompt(question)] * len(images))
        tokens = self.model.generate(**inputs, max_new_tokens=self.length, do_sample=False)
        asked = inputs["input_ids"]
        if tokens.shape[1] >= asked.shape[1] and torch.equal(tokens[:, : asked.shape[1]], asked):
            tokens = tokens[:, asked.shape[1] :]  # some language models repeat the question
        return [" ".join(a.split()) for a in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _prompt(self, question: str) -> str:
        return question

    def _check_kind(self) -> None:
        super()._check_kind()
        from transformers import PretrainedConfig

        # a captioner of the same kind would load, with an answering part of random weights
        classes = PretrainedConfig.get_config_dict(self.name)[0].get("architectures") or [self.model_class]
        if self.model_class not in classes:
            raise ValueError(f"{self.name} is a {classes[0]}, which answers no questions; a {self.what} is needed here")


class InstructBlip(_Answers):
    """An InstructBLIP of transformers, such as "Salesforce/instructblip-vicuna-7b", which RetriBooru's authors asked.

    Args:
        prompt: what is said to the model, {} being the question; InstructBLIP's own words for short answers.
    """

    what = "InstructBLIP"
    kinds = ("instructblip",)
    model_class, processor_class = "InstructBlipForConditionalGeneration", "InstructBlipProcessor"

    def __init__(self, name: str | Path, *, prompt: str = "Question: {} Short answer:", **where: Any):
        super().__init__(name, **where)
        self.prompt = prompt

    def _prompt(self, question: str) -> str:
        return self.prompt.replace("{}", question)


class BlipVqa(_Answers):
    """A BLIP that was trained on questions, such as "Salesforce/blip-vqa-base": smaller, answers of a word or two."""

    what = "BLIP for questions"
    kinds = ("blip",)
    model_class, processor_class = "BlipForQuestionAnswering", "BlipProcessor"
