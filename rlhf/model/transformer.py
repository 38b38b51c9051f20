"""The Llama transformer: RMSNorm, rotary grouped-query attention, SwiGLU; no biases, no dropout.

This is the model that learns, over whole sequences; rlhf/model/cached.py runs it token by token.
Module names are those of Hugging Face's LlamaModel, so a state dict needs no translation.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.model.attention import Attention, AttentionInputs
from rlhf.model.config import ModelConfig
from rlhf.model.documents import documents_layout, rows_layout, rows_read, take_rows
from rlhf.model.linear import Linear
from rlhf.model.norm import RMSNorm
from rlhf.model.rope import rope_frequencies, rope_tables
from rlhf.model.swiglu import swiglu


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.ffn_dim)
        self.up_proj = Linear(config.dim, config.ffn_dim)
        self.down_proj = Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, dim] → [N, dim]."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    """Pre-normalised attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, shared: AttentionInputs, rows: Tensor | None = None) -> Tensor:
        """[N, dim] → [N, dim], or where rows [M] are given only those: [M, dim]."""
        x = take_rows(x, rows) + self.self_attn(self.input_layernorm(x), shared, rows)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids to final hidden states; heads stand in rlhf/model/heads.py."""

    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.recompute_activations = False
        """Whether training keeps only the input of each block and computes the rest again."""
        frequencies = rope_frequencies(config.head_dim, config.rope_base, config.rope_scaling)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Transformer":
        """As of any module, but the frequencies stay float32: rounded, far tokens turn wrongly."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        config = self.config
        frequencies = rope_frequencies(config.head_dim, config.rope_base, config.rope_scaling)
        self.frequencies = frequencies.to(self.frequencies.device)
        return self

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of whole sequences.

        Args:
            tokens: [B, T] ids; right padding needs no mask, causality hides it.
            documents: [B, T] document numbers where several documents share a row, −1 for padding;
                each document then sees only itself and its positions start at 0.
            branches: [B, T] 0 for a prompt, 1 and 2 for two responses that follow it in the row
                without seeing each other; needs `documents`.
            wanted: [B, T] True where the result is read; None for everywhere. Behind the attention
                of the last layer nothing else is computed.

        Returns:
            [B, T, dim] after the final norm; nothing of use at padding and what is not wanted.
        """
        if documents is None:
            layout = rows_layout(len(tokens), tokens.shape[1], tokens.device)
        else:
            # Not looked at without need: ZeRO-3 would gather the weight on this rank alone.
            dtype = torch.float32 if branches is None else self.embed_tokens.weight.dtype
            layout = documents_layout(documents, branches, dtype)
        cos, sin = rope_tables(layout.positions[:, None], self.frequencies)
        shared = AttentionInputs(cos, sin, layout)
        real = tokens.flatten() if layout.places is None else tokens.flatten()[layout.places]
        x = self.embed_tokens(real)
        recompute = self.recompute_activations and torch.is_grad_enabled()
        rows = None if wanted is None else rows_read(layout, wanted)
        for layer in self.layers:
            inputs = x, shared, rows if layer is self.layers[-1] else None
            x = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
        x = self.norm(x)
        places = layout.places
        if rows is not None:
            places = rows if places is None else places[rows]
        if places is not None:
            x = x.new_zeros(tokens.numel(), x.shape[1]).index_copy(0, places, x)
        return x.view(*tokens.shape, x.shape[1])
