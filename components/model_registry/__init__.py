"""The model registry: pushed versions, which of them are served, and by whom they are signed.

`Registry` is all of it that others use.
"""

from components.model_registry.config_map import SCHEME as CONFIG_MAP
from components.model_registry.config_map import is_config_map
from components.model_registry.configuration import place_of
from components.model_registry.registry import Registry, Version
from components.model_registry.serving import CANARY, STABLE, Serving
from components.model_registry.signing import Keys, SignatureError

__all__ = [
    "CANARY",
    "CONFIG_MAP",
    "STABLE",
    "Keys",
    "Registry",
    "Serving",
    "SignatureError",
    "Version",
    "is_config_map",
    "place_of",
]
