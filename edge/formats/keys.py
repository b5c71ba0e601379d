"""Metadata key names of a model file, and nothing else.

``{arch}`` stands for the value of ``general.architecture``. The names and meanings are the
public interface of the file format: converter and runtime share this module.
"""

from __future__ import annotations

ARCHITECTURE = "general.architecture"
NAME = "general.name"

CONTEXT_LENGTH = "{arch}.context_length"
HIDDEN_SIZE = "{arch}.embedding_length"
NUM_LAYERS = "{arch}.block_count"
FEED_FORWARD_SIZE = "{arch}.feed_forward_length"
NUM_HEADS = "{arch}.attention.head_count"
NUM_KV_HEADS = "{arch}.attention.head_count_kv"
HEAD_DIM = "{arch}.attention.key_length"
VALUE_DIM = "{arch}.attention.value_length"
CAUSAL = "{arch}.attention.causal"
RMS_NORM_EPS = "{arch}.attention.layer_norm_rms_epsilon"
ROPE_THETA = "{arch}.rope.freq_base"
ROPE_SCALING = "{arch}.rope.scaling.type"
ROPE_FACTOR = "{arch}.rope.scaling.factor"
ROPE_MAGNITUDE = "{arch}.rope.scaling.attn_factor"  # times what YaRN has of itself
ROPE_ORIGINAL_LENGTH = "{arch}.rope.scaling.original_context_length"
YARN_BETA_FAST = "{arch}.rope.scaling.yarn_beta_fast"
YARN_BETA_SLOW = "{arch}.rope.scaling.yarn_beta_slow"
QUERY_SCALE = "{arch}.attention.temperature_scale"
QUERY_SCALE_LENGTH = "{arch}.attention.temperature_length"
ROPE_DIMS = "{arch}.rope.dimension_count"
VOCAB_SIZE = "{arch}.vocab_size"
# Of layers that are mixtures of experts, with llama.cpp's names and numbers.
NUM_EXPERTS = "{arch}.expert_count"
NUM_USED_EXPERTS = "{arch}.expert_used_count"  # by a row
EXPERT_SIZE = "{arch}.expert_feed_forward_length"
NUM_SHARED_EXPERTS = "{arch}.expert_shared_count"
SHARED_EXPERT_SIZE = "{arch}.expert_shared_feed_forward_length"  # of all of them together
NUM_DENSE_LAYERS = "{arch}.leading_dense_block_count"
EXPERT_SCORES = "{arch}.expert_gating_func"
EXPERTS_RENORMALISE = "{arch}.expert_weights_norm"
EXPERT_SCALE = "{arch}.expert_weights_scale"
NUM_EXPERT_GROUPS = "{arch}.expert_group_count"
NUM_USED_EXPERT_GROUPS = "{arch}.expert_group_used_count"
EXPERT_BIAS_COUNTS = "edge.expert_bias_counts"  # weights are of score and bias, not of the score

NOISE = "diffusion.noise"
ATTENTION = "diffusion.attention"
CANVAS = "diffusion.canvas"
CANVAS_LENGTH = "diffusion.canvas_length"
BLOCK_LENGTH = "diffusion.block_length"
BLOCK_ALIGN = "diffusion.block_align"
SUB_BLOCK_LENGTH = "diffusion.sub_block_length"
SHIFT_LOGITS = "diffusion.shift_logits"
SAMPLER = "diffusion.sampler"
STEPS_PER_BLOCK = "diffusion.steps_per_block"
THRESHOLD = "diffusion.threshold"
EDIT_THRESHOLD = "diffusion.edit_threshold"
POST_EDIT_STEPS = "diffusion.post_edit_steps"
FACTOR = "diffusion.factor"
ENTROPY_BOUND = "diffusion.entropy_bound"
RANK = "diffusion.rank"
EOS_IDS = "diffusion.eos_ids"

TASK = "edge.task"
GATE_RANK = "edge.gate.rank"  # most ranks of what masked rows get on top of the weights
NUM_TOKENS = "edge.num_tokens"  # ids that mean something; rows beyond are padding
# Of the tensors in our own types (groups.py): arrays with an element for each.
TENSOR_NAMES = "edge.tensor.names"
TENSOR_COLS = "edge.tensor.cols"
TENSOR_GROUP_SIZE = "edge.tensor.group_size"
TENSOR_HAS_MINIMA = "edge.tensor.has_minima"
BF16_ACTIVATIONS = "edge.activations.bf16"  # names of matrices that take no int8 inputs
SOURCE_SHA256 = "edge.source.sha256"
ADAPTER_SHA256 = "edge.source.adapter_sha256"  # of a low-rank adapter that was merged
GATE_SHA256 = "edge.source.gated_adapter_sha256"  # of what masked rows run with
SOURCE_ARCHITECTURE = "edge.source.architecture"
CONVERSION_TYPE = "edge.conversion.type"
CONVERSION_REVISION = "edge.conversion.revision"

TOKENIZER_JSON = "tokenizer.huggingface.json"
TOKENIZER_MODEL = "tokenizer.ggml.model"
MASK_TOKEN_ID = "tokenizer.ggml.mask_token_id"
EOS_TOKEN_ID = "tokenizer.ggml.eos_token_id"
BOS_TOKEN_ID = "tokenizer.ggml.bos_token_id"
PADDING_TOKEN_ID = "tokenizer.ggml.padding_token_id"
CHAT_TEMPLATE = "tokenizer.chat_template"
TOKENIZER_PRE = "tokenizer.ggml.pre"
TOKENIZER_TOKENS = "tokenizer.ggml.tokens"
TOKENIZER_TOKEN_TYPES = "tokenizer.ggml.token_type"
TOKENIZER_MERGES = "tokenizer.ggml.merges"
ADD_BOS_TOKEN = "tokenizer.ggml.add_bos_token"
ADD_EOS_TOKEN = "tokenizer.ggml.add_eos_token"
