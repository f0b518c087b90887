"""What is known of classes of layers: the integers that must follow their tensors, heads, and what cannot be edited."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dnm.errors import GraphError

if TYPE_CHECKING:
    from dnm.graph import Group
    from dnm.recording import Recorder

# Attention that views its width as heads of the size of its input: class name -> (module of the class, name of the
# integer that counts heads, name of the projection whose first rows are as many as its columns).
HEADS = {
    "MultiheadAttention": ("torch.nn.modules.activation", "num_heads", "in_proj_weight"),
    "ShiftedWindowAttention": ("torchvision.models.swin_transformer", "num_heads", "qkv.weight"),
    "ShiftedWindowAttentionV2": ("torchvision.models.swin_transformer", "num_heads", "qkv.weight"),
    "RelativePositionalMultiHeadAttention": ("torchvision.models.maxvit", "n_heads", "to_qkv.weight"),
}


def modules(model: nn.Module) -> list[nn.Module]:
    """`model.modules()` from the outside in, without the names, which take most of the time on large models."""
    seen, found = {model}, [model]
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


def parents(model: nn.Module, child: nn.Module) -> list[nn.Module]:
    """The modules that hold a module under a name of theirs."""
    return [module for module in modules(model) if child in module._modules.values()]


def heads_of(module: nn.Module) -> tuple[str, str] | None:
    """Names of a module's count of heads and of its projection, if its class is one that ties heads to its width."""
    known = _known(type(module), "HEADS")
    return known[1:] if known else None


@functools.cache
def _known(kind: type, table: str) -> Any:
    """What a table of classes holds of a class or of one that it comes from; None where it holds nothing."""
    for base in kind.__mro__:
        known = {"HEADS": HEADS, "INTEGERS": INTEGERS}[table].get(base.__name__)
        if known and base.__module__ == known[0]:
            return known
    return None


def hooked(model: nn.Module) -> bool:
    """Whether code that is not the model's own runs with its forward pass."""
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules(model))


def tie(recorder: Recorder) -> None:
    """Ties the heads of attention layers to the width that they read, where the class's own code demands it."""
    for name, module in recorder.paths:
        known = heads_of(module)
        if known is None:
            continue
        state = recorder.by_name.get(f"{name}.{known[1]}" if name else known[1])
        if state is not None and 0 in state.labels and 1 in state.labels:
            recorder.link(state.labels[0][: len(state.labels[1])], state.labels[1])
            rates = [getattr(module, attribute, 0.0) for attribute in ("dropout", "attention_dropout")]
            if any(isinstance(rate, float) and rate > 0 for rate in rates):
                recorder.dropped.append(state.labels[0])


def integers(module: nn.Module, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The integers that a layer must have, given the shapes that its tensors had before.

    Args:
        module: a layer whose tensors have their new shapes.
        sizes: its own tensors' shapes before, by name, those of the projection of attention included.

    Returns:
        New values by attribute name; empty where the class has none.
    """
    found: dict[str, Any] = {}
    weight = module._parameters.get("weight")
    known = heads_of(module)
    if known is not None:
        old, new = sizes[known[1]][1], get(module, known[1]).shape[1]
        found[known[0]] = getattr(module, known[0]) * new // old
        for name in ("embed_dim", "kdim", "vdim", "feat_dim"):
            if getattr(module, name, None) == old:
                found[name] = new
        return found
    for name, (path, dimension) in _own_integers(module).items():
        found[name] = get(module, path).shape[dimension]
    if isinstance(module, nn.modules.batchnorm._NormBase) and weight is None and module.running_mean is not None:
        # Without weights its statistics stand for its width.
        return {"num_features": module.running_mean.shape[0]}
    if weight is None:
        return found
    if isinstance(module, _ConvTransposeNd):
        groups = module.groups if module.groups == 1 else module.groups * weight.shape[0] // sizes["weight"][0]
        return {"groups": groups, "in_channels": weight.shape[0], "out_channels": weight.shape[1] * groups}
    if isinstance(module, _ConvNd):
        groups = module.groups if module.groups == 1 else module.groups * weight.shape[0] // sizes["weight"][0]
        return {"groups": groups, "in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0]}
    if isinstance(module, nn.Linear):
        return {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    if isinstance(module, (nn.modules.batchnorm._NormBase,)):
        return {"num_features": weight.shape[0]}
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups
        if groups > 1:
            groups = groups * weight.shape[0] // sizes["weight"][0]
        return {"num_channels": weight.shape[0], "num_groups": groups}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    return found


# Integers that a module's own forward reads: class name -> (module of the class, attribute -> (tensor, dimension)).
INTEGERS = {
    "VisionTransformer": ("torchvision.models.vision_transformer", {"hidden_dim": ("conv_proj.weight", 0)}),
}


def _own_integers(module: nn.Module) -> dict[str, tuple[str, int]]:
    known = _known(type(module), "INTEGERS")
    return known[1] if known else {}


def get(module: nn.Module, path: str) -> Tensor:
    """A parameter or buffer by its dotted name; one of a layer that was wrapped, by the name that it had before too."""
    owner, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    assert isinstance(tensor, Tensor), f"{path} is neither a parameter nor a buffer"
    return tensor


def owners(model: nn.Module, tensors: Iterable[Tensor]) -> list[nn.Module]:
    """Modules whose integers depend on one of the tensors."""
    wanted = {id(tensor) for tensor in tensors}
    found = []
    for module in modules(model):
        known, own = heads_of(module), _own_integers(module)
        if known is None and not own and not module._parameters and not module._buffers:
            continue
        held = [*module._parameters.values(), *module._buffers.values()]
        if known is not None:
            held.append(get(module, known[1]))
        held += [get(module, path) for path, _ in own.values()]
        if any(id(tensor) in wanted for tensor in held):
            found.append(module)
    return found


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's own tensors, and of its projection where it is attention."""
    found = {
        name: tuple(tensor.shape)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }
    known = heads_of(module)
    if known is not None:
        found[known[1]] = tuple(get(module, known[1]).shape)
    return found


def follow(model: nn.Module, tensors: Iterable[Tensor], change: Callable[[], None]) -> Callable[[], None]:
    """Runs `change`, which gives tensors of the model new shapes, and lets the layers' integers follow.

    Returns:
        A function that puts the integers back.
    """
    modules = owners(model, tensors)
    before = [shapes(module) for module in modules]
    change()
    old: list[tuple[nn.Module, str, Any]] = []
    for module, sizes in zip(modules, before, strict=True):
        for name, value in integers(module, sizes).items():
            if getattr(module, name) != value:
                old.append((module, name, getattr(module, name)))
                setattr(module, name, value)

    def restore() -> None:
        for module, name, value in old:
            setattr(module, name, value)

    return restore


@contextlib.contextmanager
def widened(model: nn.Module, groups: Iterable[Group]) -> Iterator[None]:
    """Runs its block with the groups wider, in tensors of zeros that take no memory: for trying shapes only."""
    sizes: dict[str, list[int]] = {}
    for group in groups:
        for member in group.members:
            shape = sizes.setdefault(member.tensor, list(get(model, member.tensor).shape))
            added = group.width if group.uniform else 1
            shape[member.dimension] += added * member.repeat * len(member.starts)
    tensors = {name: get(model, name) for name in sizes}
    old = {name: tensor.data for name, tensor in tensors.items()}

    def put(values: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.data = values[name]

    def widen() -> None:
        put({name: torch.zeros((), dtype=t.dtype, device=t.device).expand(sizes[name]) for name, t in tensors.items()})

    restore = None
    try:
        restore = follow(model, tensors.values(), widen)
        yield
    finally:
        put(old)
        if restore is not None:
            restore()


def refuse_wrappers(model: nn.Module) -> None:
    """Refuses what wraps a model in a way that an edit could not reach.

    Raises:
        GraphError: the model is compiled, scripted, captured, or wrapped for parallel training.
    """
    for name, module in model.named_modules():
        where = name or "the model"
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise GraphError(f"{where} is a {kind.__name__}, whose code is fixed; edit the module it was made from")
        if kind.__name__ == "OptimizedModule":
            raise GraphError(
                f"{where} is compiled; edit the module inside it (`model._orig_mod`), then call torch.compile again"
            )
        if kind.__name__ in ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"):
            raise GraphError(
                f"{where} is a {kind.__name__}, which holds on to its parameters' shapes; edit `model.module` on every "
                "rank with the same edit, then wrap it anew"
            )
        if any(base.__name__ == "FSDPModule" for base in kind.__mro__):
            raise GraphError(
                f"{where} is sharded (fully_shard), so that its parameters are held in parts; edit the module before "
                "fully_shard is called on it"
            )
        if "forward" in vars(module):
            raise GraphError(
                f"{where} ({kind.__name__}) has a forward of its own in place of its class's, as a captured CUDA graph "
                "(torch.cuda.make_graphed_callables) leaves one, which would go on with the old tensors; take it away "
                "(`del module.forward`), edit, then capture anew"
            )


def unfuse(model: nn.Module, layer: nn.Module) -> Callable[[], None]:
    """Bars torch's encoder layers around `layer` from their fused path, which reads weights and never calls layers.

    Returns:
        A function that lets them take it again.
    """
    # Each of the two classes asks this attribute of its own whether it may.
    asked = {nn.TransformerEncoderLayer: "activation_relu_or_gelu", nn.TransformerEncoder: "use_nested_tensor"}
    kinds = tuple(asked)
    old = [
        (module, name, getattr(module, name))
        for module in modules(model)
        if isinstance(module, kinds)
        for kind, name in asked.items()
        if isinstance(module, kind) and any(inner is layer for inner in module.modules())
    ]
    for module, name, value in old:
        setattr(module, name, type(value)(0))

    def restore() -> None:
        for module, name, value in old:
            setattr(module, name, value)

    return restore
