"""Language and speech: families of transformers in tiny configurations, with random weights."""
import torch
import transformers as t

from common import Logits, entry

TOKENS = 37
SIZES = dict(
    vocab_size=TOKENS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=24, tie_word_embeddings=False,
)


def tokens(names=("input_ids",), batch=2, length=6):
    inputs = {"input_ids": torch.randint(3, TOKENS, (batch, length))}
    if "attention_mask" in names:
        inputs["attention_mask"] = torch.ones(batch, length, dtype=torch.int64)
        inputs["attention_mask"][-1, -2:] = 0
    if "token_type_ids" in names:
        inputs["token_type_ids"] = torch.randint(0, 2, (batch, length))
    if "decoder_input_ids" in names:
        inputs["decoder_input_ids"] = torch.randint(3, TOKENS, (batch, length - 1))
    return inputs


def text(model, names=("input_ids", "attention_mask"), output="logits"):
    model.config._attn_implementation = "eager"
    model.config.use_cache = False
    inputs = tokens(names)
    return Logits(model, list(inputs), output), inputs


def bert():
    return text(t.BertForSequenceClassification(t.BertConfig(**SIZES)), ("input_ids", "attention_mask", "token_type_ids"))


entry("bert", "BERT")(bert)
entry("bert-dynamo", "BERT", exporter="dynamo", opset=20)(bert)
entry("bert-half", "BERT", half=True)(bert)
entry("bert-fused", "BERT", optimise="transformers")(bert)
entry("bert-fused-extended", "BERT", optimise="extended")(bert)
entry("bert-external", "BERT", external=True)(bert)


@entry("roberta", "RoBERTa")
def _():
    return text(t.RobertaForMaskedLM(t.RobertaConfig(**SIZES, type_vocab_size=1)))


@entry("distilbert", "DistilBERT")
def _():
    cfg = t.DistilBertConfig(
        vocab_size=TOKENS, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=24
    )
    return text(t.DistilBertForSequenceClassification(cfg))


@entry("deberta", "DeBERTa", dynamic=False)
def _():
    cfg = t.DebertaV2Config(
        **SIZES, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
        norm_rel_ebd="layer_norm",
    )
    return text(t.DebertaV2ForSequenceClassification(cfg))


@entry("electra", "ELECTRA", opset=14)
def _():
    return text(t.ElectraForSequenceClassification(t.ElectraConfig(**SIZES, embedding_size=8)))


@entry("albert", "ALBERT", opset=16)
def _():
    return text(t.AlbertForSequenceClassification(t.AlbertConfig(**SIZES, embedding_size=8)))


@entry("gpt2", "GPT-2")
def _():
    cfg = t.GPT2Config(vocab_size=TOKENS, tie_word_embeddings=False, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    return text(t.GPT2LMHeadModel(cfg))


@entry("gpt2-dynamo", "GPT-2", exporter="dynamo", opset=18)
def _():
    cfg = t.GPT2Config(vocab_size=TOKENS, tie_word_embeddings=False, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    return text(t.GPT2LMHeadModel(cfg))


@entry("llama", "LLaMA", exporter="dynamo", opset=20)
def _():
    return text(t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_key_value_heads=1)))


@entry("llama-torchscript", "LLaMA", dynamic=False)
def _():
    return text(t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_key_value_heads=1)))


@entry("mistral", "LLaMA", exporter="dynamo", opset=21)
def _():
    return text(t.MistralForCausalLM(t.MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=4)))


@entry("t5", "T5")
def _():
    cfg = t.T5Config(vocab_size=TOKENS, tie_word_embeddings=False, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return text(t.T5ForConditionalGeneration(cfg), ("input_ids", "attention_mask", "decoder_input_ids"))


@entry("t5-dynamo", "T5", exporter="dynamo", opset=18)
def _():
    cfg = t.T5Config(
        vocab_size=TOKENS, tie_word_embeddings=False, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return text(t.T5ForConditionalGeneration(cfg), ("input_ids", "attention_mask", "decoder_input_ids"))


@entry("whisper", "Whisper", exporter="dynamo", opset=18)
def _():
    cfg = t.WhisperConfig(
        vocab_size=TOKENS, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=12,
        max_target_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )
    model = t.WhisperForConditionalGeneration(cfg)
    model.config._attn_implementation = "eager"
    model.config.use_cache = False
    inputs = {"input_features": torch.randn(2, 8, 24), "decoder_input_ids": torch.randint(3, TOKENS, (2, 5))}
    return Logits(model, list(inputs)), inputs


@entry("wav2vec2", "Wav2Vec2")
def _():
    cfg = t.Wav2Vec2Config(
        vocab_size=TOKENS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    model = t.Wav2Vec2ForCTC(cfg)
    model.config._attn_implementation = "eager"
    return Logits(model, ["input_values"]), {"input_values": torch.randn(2, 200)}


@entry("clip", "CLIP")
def _():
    cfg = t.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = t.CLIPVisionModel(cfg)
    model.config._attn_implementation = "eager"
    return Logits(model, ["pixel_values"], "last_hidden_state"), {"pixel_values": torch.randn(2, 3, 16, 16)}
