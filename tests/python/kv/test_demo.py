"""python -m quashdb.kv on a small random model."""

import pytest
import tokenizers
import torch
import transformers

from quashdb.kv import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    words = {word: i for i, word in enumerate(["<unk>", *(f"w{i}" for i in range(63))])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return str(path)


def test_texts_speeds_and_bytes(folder, capsys):
    arguments = ["--model", folder, "--prompt", "w1 w2 w3 w4", "--repeat", "100", "--tokens", "8"]
    assert demo.main([*arguments, "--bits", "4", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [name.strip() for name in lines[0].split("|")] == ["uncompressed", "4 bits", "2.5 bits"]
    assert "400 tokens of prompt, 8 generated" in lines
    rows = {line[:14].strip(): line[14:].split() for line in lines[-3:]}
    held = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    # Float32 keys and values of 2 layers, 2 heads of 32; the last token is not stored.
    assert held["uncompressed"] == 407 * 2 * 2 * 2 * 32 * 4 // 1024
    assert held["4 bits"] < held["uncompressed"] / 1.8
    assert all(float(row[0]) > 0 for row in rows.values())


def test_too_few_tokens_to_pack(folder, capsys):
    arguments = ["--model", folder, "--prompt", "w1 w2 w3 w4", "--tokens", "8", "--bits", "4"]
    assert demo.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[-1] == "1.00x"
    assert lines[-1].startswith("Too few tokens for a packed page")


@pytest.mark.filterwarnings("error")
def test_nothing_deprecated_is_used(folder):
    assert demo.main(["--model", folder, "--prompt", "w1 w2 w3", "--tokens", "3"]) == 0


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(SystemExit, match="no model could be loaded from"):
        demo.main(["--model", str(tmp_path)])


@pytest.mark.parametrize("wrong", [["--tokens", "1"], ["--repeat", "0"], ["--bits", "5"], []])
def test_wrong_arguments(folder, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        demo.main([*(["--model", folder] if wrong else []), *wrong])
    assert error.value.code == 2
    assert "usage: python -m quashdb.kv" in capsys.readouterr().err
