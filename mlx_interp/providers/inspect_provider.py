"""Inspect's side: `mlx-interp/NAME` on its command line, and models made in Python.

One request at a time: a process holds one model. Chats go through the model's own template; a model without one reads
the messages' texts with an empty line between them. Tools are refused: what would be sent is text that nobody asked
this model to understand.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import (  # type: ignore[import-not-found]
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo  # type: ignore[import-not-found]

from mlx_interp.errors import ConfigError
from mlx_interp.providers.edited import Edited, cut, edited

NAME = "mlx-interp"
MAX_TOKENS = 256
"""New tokens where a task does not say."""


class EditedAPI(ModelAPI):  # type: ignore[misc]
    """A model under interventions, as Inspect asks it."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - the signature of Inspect's providers
        *,
        of: Edited | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.edited = of or edited(model_name, **options)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One greedy or sampled text. Raises ConfigError for tools."""
        if tools:
            raise ConfigError(f"{NAME}/{self.model_name} runs no tools: choose a task without them")
        prompt = self.prompt(input)
        (written,) = self.edited.model.generate(
            [prompt],
            interventions=self.edited.interventions,
            max_tokens=config.max_tokens or MAX_TOKENS,
            temperature=config.temperature or 0.0,
            top_p=1.0 if config.top_p is None else config.top_p,
            seed=config.seed or 0,
        )
        text = cut(written.text, config.stop_seqs or [])
        whole = written.finish_reason == "stop" or len(text) < len(written.text)
        output = ModelOutput.from_content(self.model_name, text, "stop" if whole else "max_tokens")
        asked, new = len(prompt), len(written.tokens)
        output.usage = ModelUsage(input_tokens=asked, output_tokens=new, total_tokens=asked + new)
        return output

    def prompt(self, messages: list[ChatMessage]) -> list[int]:
        """Tokens of the chat as the model's template writes it."""
        model = self.edited.model
        if not getattr(model.tokenizer, "chat_template", None):
            return model.prompt("\n\n".join(message.text for message in messages)).tokens
        turns = [{"role": message.role, "content": message.text} for message in messages]
        ids = model.tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
        return [int(token) for token in ids]

    def max_connections(self) -> int:
        """One: a second request would wait for the first."""
        return 1


@modelapi(name=NAME)  # type: ignore[untyped-decorator]
def mlx_interp() -> type[ModelAPI]:
    """What Inspect finds by the entry point."""
    return EditedAPI


def model_of(given: Edited) -> Model:
    """A model of Inspect from one that is loaded already."""
    return get_model(f"{NAME}/{given.model.name}", memoize=False, of=given)  # a name alone would be another model's
