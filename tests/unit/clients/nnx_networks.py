"""Networks in Flax NNX as people publish them, each a small copy of its structure."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.pooling import max_pool


class JimmBlock(nnx.Module):
    """Attention that is never deterministic by itself, and dropout in a list."""

    def __init__(self, width, *, rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(
            2,
            width,
            dropout_rate=0.1,
            broadcast_dropout=False,
            decode=False,
            deterministic=False,
            rngs=rngs,
        )
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(width, 2 * width, rngs=rngs),
            functools.partial(jax.nn.gelu, approximate=False),
            nnx.Dropout(0.1, rngs=rngs),
            nnx.Linear(2 * width, width, rngs=rngs),
            nnx.Dropout(0.1, rngs=rngs),
        )

    def __call__(self, x):
        x = x + self.attn(self.norm1(x), mask=None)
        return x + self.mlp(self.norm2(x))


@nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
def scan_blocks(x, block):
    return block(x)


class JimmEncoder(nnx.Module):
    """jimm's: a class token, two blocks made by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, width, *, rngs):
        self.patches = nnx.Conv(
            1, width, (2, 2), strides=(2, 2), padding="VALID", rngs=rngs
        )
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width)))
        draw = nnx.initializers.truncated_normal(stddev=0.02)
        self.position_embeddings = nnx.Param(draw(rngs.params(), (1, 5, width)))
        self.position_ids = nnx.Param(jnp.arange(5.0).reshape(1, -1))  # used nowhere
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create_block(rngs):
            return JimmBlock(width, rngs=rngs)

        self.layers = create_block(rngs)
        self.ln_post = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, image):
        patches = self.patches(image)
        patches = patches.reshape(len(image), -1, patches.shape[-1])
        token = jnp.tile(self.cls_token[...], [len(image), 1, 1])
        x = jnp.concat([token, patches], axis=1) + self.position_embeddings[...]
        return self.ln_post(scan_blocks(self.dropout(x), self.layers))[:, 0]


class JimmViT(nnx.Module):
    """jimm's VisionTransformer: an encoder and a classifier that may be left out."""

    def __init__(self, num_classes=3, do_classification=True, *, rngs=None):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.do_classification = do_classification
        self.encoder = JimmEncoder(4, rngs=rngs)
        if do_classification:
            self.classifier = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, image):
        x = self.encoder(image)
        return self.classifier(x) if self.do_classification else x


class BonsaiEncoder(nnx.Module):
    def __init__(self, width, *, rngs):
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=width, dropout_rate=0.0, decode=False, rngs=rngs
        )
        self.linear1 = nnx.Linear(width, 2 * width, rngs=rngs)
        self.linear2 = nnx.Linear(2 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, deterministic=False)
        self.layernorm_before = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.layernorm_after = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)

    def __call__(self, hidden, head_mask=None, *, rngs):
        normed = self.layernorm_before(hidden)
        hidden = self.attention(normed, head_mask, rngs=rngs) + hidden
        update = self.linear2(jax.nn.gelu(self.linear1(self.layernorm_after(hidden))))
        return self.dropout(update, rngs=rngs) + hidden


class BonsaiViT(nnx.Module):
    """bonsai's ViT: `rngs` by name alone and without a default, dropout without."""

    def __init__(self, width=4, *, rngs):
        self.projection = nnx.Conv(1, width, (2, 2), strides=(2, 2), rngs=rngs)
        draw = jax.random.normal
        self.cls_token = nnx.Param(draw(rngs.params(), (1, 1, width)))
        self.pos_embeddings = nnx.Param(draw(rngs.params(), (1, 5, width)))
        self.dropout = nnx.Dropout(0.1, deterministic=False)
        self.layers = nnx.List([BonsaiEncoder(width, rngs=rngs)])
        self.ln = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.classifier = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x, *, rngs):
        x = self.projection(x)
        b, h, w, c = x.shape
        cls_tokens = jnp.tile(self.cls_token[...], (b, 1, 1))
        x = jnp.concatenate((cls_tokens, x.reshape(b, h * w, c)), axis=1)
        x = self.dropout(x + self.pos_embeddings[...], rngs=rngs)
        for layer in self.layers:
            x = layer(x, rngs=rngs)
        return self.classifier(self.ln(x)[:, 0, :])


def convolution(inputs, outputs, size, stride, padding, rngs):
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=stride,
        padding=padding,
        use_bias=False,
        rngs=rngs,
    )


def frozen_norm(width, rngs):
    return nnx.BatchNorm(width, use_running_average=True, rngs=rngs)


class Downsample(nnx.Module):
    def __init__(self, inputs, outputs, stride, *, rngs):
        self.conv = convolution(inputs, outputs, 1, stride, 0, rngs)
        self.bn = frozen_norm(outputs, rngs)

    def __call__(self, x):
        return self.bn(self.conv(x))


class Bottleneck(nnx.Module):
    def __init__(self, inputs, width, stride, downsample=None, *, rngs):
        self.conv0 = convolution(inputs, width, 1, 1, 0, rngs)
        self.bn0 = frozen_norm(width, rngs)
        self.conv1 = convolution(width, width, 3, stride, 1, rngs)
        self.bn1 = frozen_norm(width, rngs)
        self.downsample = downsample

    def __call__(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        x = nnx.relu(self.bn0(self.conv0(x)))
        return nnx.relu(self.bn1(self.conv1(x)) + identity)


class BonsaiResNet(nnx.Module):
    """bonsai's ResNet: functions as attributes, blocks appended to an `nnx.List`."""

    def __init__(self, *, rngs):
        self.conv = convolution(1, 4, 3, 1, 1, rngs)
        self.bn = frozen_norm(4, rngs)
        padding: Any = ((1, 1), (1, 1))
        self.stem_pool = functools.partial(
            max_pool, window_shape=(3, 3), strides=(2, 2), padding=padding
        )
        self.blocks = nnx.List()
        down = Downsample(4, 6, 2, rngs=rngs)
        self.blocks.append(Bottleneck(4, 6, 2, down, rngs=rngs))
        self.blocks.append(Bottleneck(6, 6, 1, None, rngs=rngs))
        self.pool = functools.partial(lambda x: x.mean(axis=(1, 2)))
        self.fc = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem_pool(nnx.relu(self.bn(self.conv(x))))
        for block in self.blocks:
            x = block(x)
        return self.fc(self.pool(x))


@dataclasses.dataclass(frozen=True)
class MambaConfig:
    vocab_size: int = 7
    width: int = 4
    state_size: int = 3
    kernel_size: int = 2
    tie_word_embeddings: bool = False


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class MambaCache:
    """States of the recurrence and of the convolution, by layer."""

    ssm_states: list[Any]
    conv_states: list[Any]

    def tree_flatten(self):
        return (self.ssm_states, self.conv_states), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*map(list, children))


class RMSNorm(nnx.Module):
    def __init__(self, width):
        self.weight = nnx.Param(jnp.ones((width,)))

    def __call__(self, x, gate=None):
        x = x if gate is None else x * nnx.silu(gate)
        scale = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
        return x * scale * self.weight[:]


class MambaMixer(nnx.Module):
    """A state space with one scalar of decay, in its quadratic form."""

    def __init__(self, cfg, *, rngs):
        self.cfg = cfg
        width, states = cfg.width, cfg.state_size
        self.in_proj = nnx.Linear(
            width, 2 * width + 2 * states + 1, use_bias=False, rngs=rngs
        )
        mixed = width + 2 * states
        self.conv1d = nnx.Conv(
            mixed,
            mixed,
            kernel_size=(cfg.kernel_size,),
            padding=((0, 0),),
            feature_group_count=mixed,
            rngs=rngs,
        )
        self.dt_bias = nnx.Param(jnp.log(jnp.expm1(jnp.full((1,), 0.05))))
        self.A_log = nnx.Param(jax.random.uniform(rngs.params(), (1,), maxval=2.0))
        self.D = nnx.Param(jnp.ones((1,)))
        self.norm = RMSNorm(width)
        self.out_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, hidden):
        width, states = self.cfg.width, self.cfg.state_size
        z, mixed, dt = jnp.split(
            self.in_proj(hidden), [width, 2 * width + 2 * states], axis=-1
        )
        lead = self.cfg.kernel_size - 1
        padded = jnp.pad(mixed, ((0, 0), (lead, 0), (0, 0)))
        x, b, c = jnp.split(
            nnx.silu(self.conv1d(padded)), [width, width + states], axis=-1
        )
        dt = jax.nn.softplus(dt + self.dt_bias[:])[..., 0]
        total = jnp.cumsum(-jnp.exp(self.A_log[:]) * dt, axis=-1)
        between = total[:, :, None] - total[:, None, :]
        causal = jnp.tril(jnp.ones(between.shape[1:], dtype=bool))
        decay = jnp.exp(jnp.where(causal, between, -jnp.inf))
        y = jnp.einsum("bln,bsn,bls,bs,bsp->blp", c, b, decay, dt, x)
        state = jnp.einsum("bsn,bs,bs,bsp->bpn", b, decay[:, -1], dt, x)
        y = self.norm(y + self.D[:] * x, gate=z)
        return self.out_proj(y), padded[:, -lead:], state


class MambaBlock(nnx.Module):
    def __init__(self, cfg, *, rngs):
        self.norm, self.mixer = RMSNorm(cfg.width), MambaMixer(cfg, rngs=rngs)

    def __call__(self, x):
        update, *states = self.mixer(self.norm(x))
        return x + update, *states


class Mamba2(nnx.Module):
    """bonsai's Mamba2 for text, untied: a dictionary with logits, None and a cache."""

    def __init__(self, cfg=MambaConfig(), *, rngs):
        self.cfg = cfg
        self.embedder = nnx.Embed(cfg.vocab_size, cfg.width, rngs=rngs)
        self.layers = nnx.List([MambaBlock(cfg, rngs=rngs)])
        self.final_norm = RMSNorm(cfg.width)
        if not cfg.tie_word_embeddings:
            self.lm_head = nnx.Linear(
                cfg.width, cfg.vocab_size, use_bias=False, rngs=rngs
            )
        else:
            self.lm_head = None

    def __call__(self, input_ids, labels=None, cache=None):
        x, cache = self.embedder(input_ids), MambaCache([], [])
        for layer in self.layers:
            x, conv_state, ssm_state = layer(x)
            cache.conv_states.append(conv_state)
            cache.ssm_states.append(ssm_state)
        x, loss = self.final_norm(x), None
        table = self.embedder.embedding
        logits = x @ table[...].T if self.lm_head is None else self.lm_head(x)
        if labels is not None:
            loss = -jnp.take_along_axis(nnx.log_softmax(logits), labels[..., None], -1)
        return {"logits": logits, "loss": loss, "cache": cache}
