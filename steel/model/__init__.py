"""The model: `SteelForCausalLM`, its configuration, and how to build, save and import it."""

from transformers import AutoConfig, AutoModelForCausalLM

from .build import build, decoder_layers, initialize, steel_config
from .configuration import SteelConfig
from .modeling import SteelForCausalLM

AutoConfig.register(SteelConfig.model_type, SteelConfig, exist_ok=True)
AutoModelForCausalLM.register(SteelConfig, SteelForCausalLM, exist_ok=True)
