#!/usr/bin/env python3
"""A training loop whose losses are the same each time: train.py FILE STEPS. It writes a line "STEP LOSS" for each."""
import os
import sys
import time

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
import torch

torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 256)).cuda()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
noise = torch.Generator(device="cuda").manual_seed(2)
with open(sys.argv[1], "a", buffering=1) as out:
    for step in range(int(sys.argv[2])):
        data = torch.randn(512, 256, device="cuda", generator=noise)
        loss = ((model(data) - data.roll(1, 1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out.write(f"{step} {loss.item().hex()}\n")
        time.sleep(0.01)
