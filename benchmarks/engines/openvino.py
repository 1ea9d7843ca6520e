"""OpenVINO GenAI's continuous batching; the model is converted once by optimum-intel and kept beside the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Requests = list[tuple[list[int], int]]


class Engine:
    def __init__(self, spec: dict[str, Any]) -> None:
        folder = converted(spec)
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        self.np, self.ov, self.genai, self.version = np, ov, genai, genai.__version__
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = spec["context"]
        scheduler.max_num_seqs = spec["streams"]
        scheduler.enable_prefix_caching = False
        self.pipe = genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": spec["threads"]}
        )
        self.weight_bytes = (folder / "openvino_model.bin").stat().st_size

    def run(self, requests: Requests) -> int:
        configs = []
        for _, count in requests:
            config = self.genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
            configs.append(config)
        inputs = [self.ov.Tensor(self.np.array([ids], self.np.int64)) for ids, _ in requests]
        return sum(len(result.m_generation_ids[0]) for result in self.pipe.generate(inputs, configs))


def converted(spec: dict[str, Any]) -> Path:
    return Path(f"{spec['model']}-openvino-{spec['format']}")


def prepare(spec: dict[str, Any]) -> None:
    """Convert the checkpoint, weights only, as optimum-intel does it by default; int4 in groups of 128, with an int8
    embedding and head."""
    folder = converted(spec)
    if (folder / "openvino_model.xml").exists():
        return
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", spec["model"],
               "--task", "text-generation-with-past", "--weight-format", spec["format"]]  # fmt: skip
    if spec["format"] == "int4":
        command += ["--group-size", "128"]
    done = subprocess.run([*command, str(folder)], check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(f"optimum-cli export openvino stopped with exit code {done.returncode}; its log says why")
