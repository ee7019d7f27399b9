"""The part of an exported modelling file that is written for transformers: configuration, cache and forward pass.

It is kept as text: it imports transformers, which Wren itself never does.
"""

HEAD = '''"""A Wren model for transformers: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

The upper part is cut from the source of Wren {version} that trained this model; the lower part fits it to transformers.
B batch, T time, D model width, H heads, K head width, V vocabulary.
"""
'''

IMPORTS = """\
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast"""

TAIL = '''# -------- transformers

SETTINGS = {{
    {settings}
}}


def built(value):
    """The settings that config.json holds, as the classes they were."""
    if isinstance(value, list):
        return tuple(built(item) for item in value)
    if isinstance(value, dict):
        fields = {{key: built(item) for key, item in value.items() if key != "type"}}
        return SETTINGS[value["type"]](**fields)
    return value


class WrenConfig(PreTrainedConfig):
    """wren: the settings of the LM, as Wren's own config.json holds them."""

    model_type = "wren"

    def __init__(self, wren=None, **kwargs):
        self.wren = wren
        super().__init__(**kwargs)


class WrenCache:
    """What the model remembers of each row; it grows as rows do. seen: columns of the padded batch it has read."""

    is_compileable = False

    def __init__(self, state):
        self.state = state
        self.seen = 0
        self.room = None

    def get_seq_length(self, layer_idx=0):
        return self.seen

    def get_max_cache_shape(self, layer_idx=0):
        return -1

    def reorder_cache(self, beam_idx):
        self.state = self.state.select(beam_idx.to(self.state.lengths_B.device))

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats):
        rows = torch.arange(len(self.state.lengths_B), device=self.state.lengths_B.device)
        self.reorder_cache(rows.repeat_interleave(repeats))


class WrenForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = WrenConfig
    base_model_prefix = "lm"
    _tied_weights_keys = {{"lm.head.weight": "lm.embedding.weight"}}
    _no_split_modules = ["Block"]
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        self.lm = built(config.wren).build()
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def _init_weights(self, module):
        for name, buffer in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set:
                buffer.zero_()

    def get_input_embeddings(self):
        return self.lm.embedding

    def set_input_embeddings(self, value):
        self.lm.embedding = value

    def get_output_embeddings(self):
        return self.lm.head

    def set_output_embeddings(self, value):
        self.lm.head = value

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, use_cache=None, **kwargs
    ):
        if isinstance(past_key_values, WrenCache):
            input_ids = input_ids[:, past_key_values.seen :]
        else:
            past_key_values = None
        inputs = {{"input_ids": input_ids, "past_key_values": past_key_values, "attention_mask": attention_mask}}
        keep = kwargs.get("logits_to_keep")
        return {{**inputs, "use_cache": use_cache, **({{}} if keep is None else {{"logits_to_keep": keep}})}}

    def forward(
        self,
        input_ids,
        attention_mask=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **kwargs,
    ):
        """Logits (B, T, V). attention_mask: 0 for padding, at the left or at the right of each row."""
        cache = past_key_values if isinstance(past_key_values, WrenCache) else None
        if use_cache and cache is None:
            cache = self._new_cache(*input_ids.shape, input_ids.device)
        B, T = input_ids.shape
        index_BT, valid_B, tokens_BT = None, None, input_ids
        if attention_mask is not None and not bool(attention_mask[:, -T:].all()):
            index_BT, valid_B = _unpadded(attention_mask[:, -T:])
            tokens_BT = input_ids.gather(1, index_BT)
        if cache is not None:
            self._make_room(cache, T)
        hidden_BTD = self.lm.hidden(tokens_BT, valid_B=valid_B, state=None if cache is None else cache.state)
        if cache is not None:
            cache.seen += T
        if index_BT is not None:  # every column back to its place
            hidden_BTD = hidden_BTD.gather(1, index_BT.argsort(1)[:, :, None].expand_as(hidden_BTD))
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm.logits(hidden_BTD[:, kept])
        loss = None
        if labels is not None:
            targets = labels[:, 1:].flatten()
            loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), targets, ignore_index=-100)
        if return_dict is False:
            return tuple(x for x in (loss, logits_BTV, cache) if x is not None)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=cache)

    def _new_cache(self, batch_size, length, device):
        room = self._room(2 * length)
        cache = WrenCache(self.lm.new_state(batch_size, room, device=device, dtype=self.lm.embedding.weight.dtype))
        cache.room = room
        return cache

    def _room(self, length):
        positions = self.lm.config.learned_positions
        return max(64, length) if positions is None else min(max(64, length), positions)

    def _make_room(self, cache, length):
        """Moves the cache to a larger one where the next columns would not fit."""
        if cache.seen + length <= cache.room:
            return
        rows_B = torch.arange(len(cache.state.lengths_B), device=cache.state.lengths_B.device)
        grown = self._new_cache(len(rows_B), cache.seen + length, rows_B.device)
        grown.state.write(rows_B, cache.state)
        cache.state, cache.room = grown.state, grown.room


def _unpadded(mask_BT):
    """For every row an order of its columns with the padding last (B, T), and how many are none (B,)."""
    mask_BT = mask_BT.bool()
    T = mask_BT.shape[1]
    valid_B, first_B = mask_BT.sum(1), mask_BT.int().argmax(1)
    index_BT = (torch.arange(T, device=mask_BT.device) + first_B[:, None]) % T
    expected_BT = torch.arange(T, device=mask_BT.device) < valid_B[:, None]
    if not torch.equal(mask_BT.gather(1, index_BT), expected_BT):
        raise ValueError("attention_mask has a hole: padding may stand at the left or at the right of a row only")
    return index_BT, valid_B
'''
