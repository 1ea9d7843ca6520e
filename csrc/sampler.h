// From rows of logits to tokens. The reference meaning is executors/sampling.py; the order is
//   logit_bias -> penalties -> mask -> temperature -> top_k -> top_p -> min_p -> typical_p -> one draw.
// An entry is computed by one worker from its own row and parameters alone.
#pragma once
#include <cstdint>

#include "batch.h"
#include "sampler_math.h"
#include "worker.h"

namespace penstock {

// penstock.types.SamplingBatch: N entries.
struct SamplingBatch {
    Span<int32_t> row, target;
    Span<float> temperature;
    Span<int32_t> top_k;
    Span<float> top_p, min_p, typical_p, repetition, presence, frequency;
    Span<uint64_t> seed;
    Span<int64_t> draw;
    Span<int32_t> num_logprobs;
    Span<int32_t> history_start, history_ids, history_counts;
    Span<uint8_t> history_prompt;
    Span<int32_t> bias_start, bias_ids;
    Span<float> bias_values;
    Span<int32_t> mask_row;
    const uint32_t* masks = nullptr;  // [mask_rows, mask_words]
    int64_t mask_rows = 0, mask_words = 0;

    int64_t size() const { return row.size; }
};

// penstock.types.StepOutput; the four of logprobs are null when no entry asks, `top` is K.
struct SampleOutput {
    int32_t* token_ids = nullptr;
    uint8_t* invalid = nullptr;
    float* logprobs = nullptr;
    int32_t* ranks = nullptr;
    int32_t* top_ids = nullptr;
    float* top_logprobs = nullptr;
    int64_t top = 0;
};

// Throws std::invalid_argument, saying what is out of range.
void check_sampling(const SamplingBatch& batch, int64_t rows, int64_t vocab, const SampleOutput& out);

// Scratch of one worker.
int64_t sampler_scratch_bytes(int64_t vocab);

// Called by all workers, each with its own scratch in `worker.scratch`. logits [rows, vocab] with stride ld.
void sample(const SamplerMath& math, const SamplingBatch& batch, const float* logits, int64_t ld, int64_t vocab,
            const SampleOutput& out, const Worker& worker);

}  // namespace penstock
