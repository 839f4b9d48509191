"""Fitted policies for other systems: plain NumPy, ONNX, LiteLLM and vLLM Semantic Router."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy

if TYPE_CHECKING:
    from defer.export.litellm_strategy import DeferRoutingStrategy, litellm_router
    from defer.export.numpy_file import to_numpy
    from defer.export.onnx_graph import to_onnx
    from defer.export.runtime import NumpyPolicy
    from defer.export.semantic_router import SemanticRouterConfig, semantic_router_config

__all__ = [
    "DeferRoutingStrategy",
    "NumpyPolicy",
    "SemanticRouterConfig",
    "litellm_router",
    "semantic_router_config",
    "to_numpy",
    "to_onnx",
]

__getattr__, _, _ = _lazy.attach(
    __name__,
    submod_attrs={
        "litellm_strategy": ["DeferRoutingStrategy", "litellm_router"],
        "numpy_file": ["to_numpy"],
        "onnx_graph": ["to_onnx"],
        "runtime": ["NumpyPolicy"],
        "semantic_router": ["SemanticRouterConfig", "semantic_router_config"],
    },
)


def __dir__() -> list[str]:
    return list(__all__)
