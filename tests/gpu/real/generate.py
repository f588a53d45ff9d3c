#!/usr/bin/env python3
"""Text generation by a small model of random weights, one token at a time with its cache: generate.py FILE TOKENS."""
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(1)
model = GPT2LMHeadModel(GPT2Config(n_layer=4, n_head=8, n_embd=512)).cuda().eval()
tokens = torch.randint(0, 50000, (1, 16), generator=torch.Generator().manual_seed(3)).cuda()
past = None
with open(sys.argv[1], "a", buffering=1) as out, torch.no_grad():
    for number in range(int(sys.argv[2])):
        answer = model(tokens, past_key_values=past, use_cache=True)
        past, tokens = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
        out.write(f"{number} {tokens.item()}\n")
        time.sleep(0.01)
