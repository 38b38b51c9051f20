"""A language model and a scalar model on the same transformer; names are Hugging Face's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.model.config import ModelConfig
from rlhf.model.linear import Linear
from rlhf.model.logprobs import TokenLogprobs, predicting, token_logprobs
from rlhf.model.transformer import Transformer


class LanguageModel(nn.Module):
    """LlamaForCausalLM: the transformer and a next-token head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.lm_head = Linear(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        documents: Tensor | None = None,
        *,
        temperature: float = 1.0,
        with_entropy: bool = False,
    ) -> TokenLogprobs:
        """Log-probabilities of the marked tokens; see `token_logprobs`.

        Everything happens inside `forward`, because ZeRO-3 gathers weights around it.
        """
        hidden = self.model(tokens, documents, wanted=predicting(mask))
        return token_logprobs(
            hidden, self.lm_head, tokens, mask, temperature=temperature, with_entropy=with_entropy
        )


class ScalarHead(nn.Linear):
    """A product in float32 whatever the weights: in bf16 a score of 3 comes in steps of 1/64."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → [..., 1]."""
        return F.linear(x.float(), self.weight.float())


class ScalarModel(nn.Module):
    """LlamaForSequenceClassification with one label: a reward model or a critic."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.score = ScalarHead(config.dim)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[B, T] one float32 value per token: what the sequence up to it is worth.

        See `Transformer` for the arguments; only values that are wanted are of use.
        """
        return self.score(self.model(tokens, documents, branches, wanted)).squeeze(-1)


def score_at_last(values: Tensor, lengths: Tensor) -> Tensor:
    """[B] the value at the last real token of right-padded sequences with [B] lengths."""
    rows = torch.arange(values.shape[0], device=values.device)
    return values[rows, lengths - 1]
