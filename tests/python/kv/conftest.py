"""Models made on the spot: nothing is downloaded."""

import importlib.util
import os
import pathlib
import sys

import hypothesis
import pytest

# As ../conftest.py, which pytest leaves out if it is given this folder alone.
if "QUASHDB_LIBRARY" in os.environ:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "bindings" / "python"))
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")

# Test modules skip where torch or the library is missing. Where both are there,
# a package that cannot be imported is an error and not a reason to skip.
if "QUASHKV_LIBRARY" in os.environ and importlib.util.find_spec("torch") is not None:
    import quashdb.kv  # noqa: F401


def _model(kind="llama", **options):
    import torch
    import transformers

    torch.manual_seed(0)
    name = {"llama": "Llama", "mistral": "Mistral", "gemma2": "Gemma2", "gpt_oss": "GptOss"}[kind]
    sizes = {
        "vocab_size": 199,
        "hidden_size": 128,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
        # Sharp attention, so that a wrong cache changes the text.
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{name}Config")(**{**sizes, **options})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.fixture(scope="session")
def make_model():
    return _model


@pytest.fixture
def model():
    return _model()
