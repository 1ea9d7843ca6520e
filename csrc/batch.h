// One step's data as plain pointers, and the check that no index in it can reach outside anything.
#pragma once
#include <cstdint>

namespace penstock {

// What the executor can hold; see Limits in executors/base.py.
struct Limits {
    int64_t max_tokens = 0;
    int64_t max_seqs = 0;
    int64_t max_logits_rows = 0;
    int64_t max_context = 0;
    int64_t num_blocks = 0;
    int64_t block_size = 0;
};

template <class T>
struct Span {
    const T* data = nullptr;
    int64_t size = 0;
    const T& operator[](int64_t i) const { return data[i]; }
    const T* begin() const { return data; }
    const T* end() const { return data + size; }
};

// penstock.types.Batch. Optional arrays have null data.
struct Batch {
    Span<int32_t> token_ids;  // [tokens]
    const int32_t* positions = nullptr;
    int64_t channels = 0, position_columns = 0;  // positions [channels, position_columns]
    Span<int64_t> slots;                         // [tokens]
    Span<int32_t> query_start;                   // [seqs + 1]
    Span<int32_t> context_lens;                  // [seqs]
    const int32_t* block_tables = nullptr;
    int64_t table_rows = 0, table_ld = 0;  // block_tables [table_rows, table_ld]
    Span<int32_t> prompt_lens;             // [seqs]
    Span<int32_t> logits_rows;             // [rows]
    Span<int32_t> bidirectional;           // [seqs] or null
    Span<int32_t> block_copies;            // [copies * 2] or null
    Span<int32_t> adapters;                // [seqs] or null: adapter slot, 0 none
    const float* embeds = nullptr;         // [tokens, embed_width] or null: instead of embedded ids
    int64_t embed_rows = 0, embed_width = 0;

    int64_t tokens() const { return token_ids.size; }
    int64_t seqs() const { return context_lens.size; }
    int64_t rows() const { return logits_rows.size; }
};

// What a program asks of a batch beyond the limits.
struct BatchNeeds {
    int64_t vocab = INT64_MAX;        // token ids are below this
    int64_t channels = 1;             // position channels that ops read
    int64_t positions_below[8] = {};  // per channel: bound of embed_positions, 0 none
};

constexpr int64_t kMaxChannels = 8;

// Throws std::invalid_argument, saying what is out of range.
void check_batch(const Batch& batch, const Limits& limits, const BatchNeeds& needs);

}  // namespace penstock
