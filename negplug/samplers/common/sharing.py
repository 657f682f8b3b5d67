"""Equal memories inside one sampler are one memory: written once, saved once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from negplug.contract.sampler import NegativeSampler
from negplug.samplers.common.remembering import RememberingSampler

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


def share_memories(sampler: NegativeSampler) -> None:
    """Replace each memory inside ``sampler`` by the first that equals it; save it once."""
    known: list[RememberingSampler] = []
    for module in list(sampler.modules()):
        # Not named_children(): it leaves out the second name of one module.
        for name, child in list(module._modules.items()):
            if not isinstance(child, RememberingSampler) or len(list(child.all_samplers())) > 1:
                continue
            same = next((other for other in known if _equal(child, other)), None)
            if same is None:
                known.append(child)
            else:
                setattr(module, name, same)
    sampler.register_state_dict_post_hook(_save_once)  # type: ignore[no-untyped-call]


def fit_again(sampler: NegativeSampler, site: LossSite | None) -> None:
    """Let all inside take from the host what they lack, a shared memory before its readers."""
    for part in reversed(list(sampler.all_samplers())):
        if part is not sampler:
            part.fit_host(site)


def _save_once(
    sampler: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Let all names of a shared memory hold one object, which a checkpoint stores once."""
    saved: dict[nn.Module, Any] = {}
    for name, module in sampler.named_modules(remove_duplicate=False):
        key = f"{prefix}{name}._extra_state"
        if key in state:
            state[key] = saved.setdefault(module, state[key])


def _equal(one: RememberingSampler, other: RememberingSampler) -> bool:
    return (
        type(one) is type(other)
        and one.settings() == other.settings()
        and one.gather == other.gather
    )
