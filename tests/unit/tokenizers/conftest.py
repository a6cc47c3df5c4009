"""Every kind of tokenizer, saved and loaded as a checkpoint's is."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from evalgen.tokenization import load_tokenizer
from tests.unit.tokenizers.build import TOKENIZERS


@pytest.fixture(scope="session", params=TOKENIZERS)
def any_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    TOKENIZERS[request.param]().save_pretrained(directory)
    return load_tokenizer(str(directory))
