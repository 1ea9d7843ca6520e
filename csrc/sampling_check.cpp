#include <cmath>
#include <stdexcept>
#include <string>

#include "sampler.h"

namespace penstock {
namespace {

[[noreturn]] void bad(const std::string& what) { throw std::invalid_argument("bad sampling batch: " + what); }

template <class T>
void size_is(const char* name, const Span<T>& span, int64_t want) {
    if (span.size != want)
        bad(std::string(name) + " has " + std::to_string(span.size) + " entries, not " + std::to_string(want));
}

template <class T>
void within(const char* name, const Span<T>& span, double low, double high) {
    for (const T value : span) {
        if (!(value >= low && value <= high)) {
            bad(std::string(name) + " " + std::to_string(value) + " is not from " + std::to_string(low) + " to " +
                std::to_string(high));
        }
    }
}

void starts(const char* name, const Span<int32_t>& start, int64_t entries, int64_t total) {
    size_is(name, start, entries + 1);
    bool ok = start[0] == 0 && start[entries] == total;
    for (int64_t i = 0; i < entries; i++) ok &= start[i] <= start[i + 1];
    if (!ok) bad(std::string(name) + " must rise from 0 to " + std::to_string(total));
}

}  // namespace

void check_sampling(const SamplingBatch& b, int64_t rows, int64_t vocab, const SampleOutput& out) {
    const int64_t n = b.size();
    size_is("target", b.target, n);
    size_is("temperature", b.temperature, n);
    size_is("top_k", b.top_k, n);
    size_is("top_p", b.top_p, n);
    size_is("min_p", b.min_p, n);
    size_is("typical_p", b.typical_p, n);
    size_is("repetition", b.repetition, n);
    size_is("presence", b.presence, n);
    size_is("frequency", b.frequency, n);
    size_is("seed", b.seed, n);
    size_is("draw", b.draw, n);
    size_is("num_logprobs", b.num_logprobs, n);
    size_is("mask_row", b.mask_row, n);
    within("row", b.row, 0, static_cast<double>(rows) - 1);
    within("target", b.target, -1, static_cast<double>(vocab) - 1);
    within("temperature", b.temperature, 0, 1e6);
    within("top_k", b.top_k, 0, INT32_MAX);
    within("top_p", b.top_p, 0, 1);
    within("min_p", b.min_p, 0, 1);
    within("typical_p", b.typical_p, 0, 1);
    within("repetition", b.repetition, 1e-6, 1e6);
    within("presence", b.presence, -1e6, 1e6);
    within("frequency", b.frequency, -1e6, 1e6);
    within("num_logprobs", b.num_logprobs, -1, out.logprobs == nullptr ? -1 : static_cast<double>(out.top));
    starts("history_start", b.history_start, n, b.history_ids.size);
    size_is("history_counts", b.history_counts, b.history_ids.size);
    size_is("history_prompt", b.history_prompt, b.history_ids.size);
    within("history_ids", b.history_ids, 0, static_cast<double>(vocab) - 1);
    within("history_counts", b.history_counts, 0, INT32_MAX);
    starts("bias_start", b.bias_start, n, b.bias_ids.size);
    size_is("bias_values", b.bias_values, b.bias_ids.size);
    within("bias_ids", b.bias_ids, 0, static_cast<double>(vocab) - 1);
    within("mask_row", b.mask_row, -1, static_cast<double>(b.mask_rows) - 1);
    if (b.mask_rows > 0 && b.mask_words < (vocab + 31) / 32) {
        bad("masks have " + std::to_string(b.mask_words) + " words a row, a vocabulary of " + std::to_string(vocab) +
            " needs " + std::to_string((vocab + 31) / 32));
    }
}

}  // namespace penstock
