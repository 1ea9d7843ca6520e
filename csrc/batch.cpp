#include "batch.h"

#include <stdexcept>
#include <string>

namespace penstock {
namespace {

[[noreturn]] void bad(const std::string& what) { throw std::invalid_argument("bad batch: " + what); }

void size_is(const char* name, int64_t size, int64_t want) {
    if (size != want) bad(std::string(name) + " has " + std::to_string(size) + " entries, not " + std::to_string(want));
}

void at_most(const char* name, int64_t size, int64_t most) {
    if (size > most) bad(std::to_string(size) + " " + name + ", the limit is " + std::to_string(most));
}

template <class T>
void all_below(const char* name, Span<T> values, int64_t bound) {
    bool ok = true;  // one comparison each, no early exit: the compiler makes vectors of it
    using U = std::make_unsigned_t<T>;
    for (const T value : values) ok &= static_cast<U>(value) < static_cast<uint64_t>(bound);
    if (ok) return;
    for (int64_t i = 0; i < values.size; i++) {
        if (values[i] < 0 || values[i] >= bound) {
            bad(std::string(name) + "[" + std::to_string(i) + "] = " + std::to_string(values[i]) +
                " is not from 0 to " + std::to_string(bound - 1));
        }
    }
}

void check_sequences(const Batch& b, const Limits& limits) {
    const int64_t seqs = b.seqs();
    size_is("query_start", b.query_start.size, seqs + 1);
    size_is("prompt_lens", b.prompt_lens.size, seqs);
    size_is("block_tables", b.table_rows, seqs);
    if (b.query_start[0] != 0 || b.query_start[seqs] != b.tokens()) {
        bad("query_start must run from 0 to the number of tokens, " + std::to_string(b.tokens()));
    }
    all_below("prompt_lens", b.prompt_lens, int64_t{1} << 31);
    if (b.bidirectional.data != nullptr) size_is("bidirectional", b.bidirectional.size, seqs);
    if (b.adapters.data != nullptr) size_is("adapters", b.adapters.size, seqs);
    for (int64_t s = 0; s < seqs; s++) {
        const std::string where = "sequence " + std::to_string(s);
        const int64_t queries = static_cast<int64_t>(b.query_start[s + 1]) - b.query_start[s];
        const int64_t context = b.context_lens[s];
        if (queries < 1) bad("query_start must rise: " + where + " has no tokens");
        if (context < queries || context > limits.max_context) {
            bad(where + " has context_lens " + std::to_string(context) + ", which must be from its " +
                std::to_string(queries) + " new tokens to max_context " + std::to_string(limits.max_context));
        }
        const int64_t blocks = (context + limits.block_size - 1) / limits.block_size;
        if (blocks > b.table_ld)
            bad(where + " needs " + std::to_string(blocks) + " blocks, its block table is shorter");
        all_below("block_tables", Span<int32_t>{b.block_tables + s * b.table_ld, blocks}, limits.num_blocks);
        if (b.bidirectional.data != nullptr && (b.bidirectional[s] < 0 || b.bidirectional[s] > context)) {
            bad(where + " has a bidirectional boundary outside its context");
        }
    }
}

}  // namespace

void check_batch(const Batch& b, const Limits& limits, const BatchNeeds& needs) {
    const int64_t tokens = b.tokens();
    if (tokens < 1 || b.seqs() < 1) bad("no tokens");
    at_most("tokens", tokens, limits.max_tokens);
    at_most("sequences", b.seqs(), limits.max_seqs);
    at_most("rows of logits", b.rows(), limits.max_logits_rows);
    all_below("token_ids", b.token_ids, needs.vocab);
    size_is("positions", b.position_columns, tokens);
    if (b.channels < needs.channels || b.channels > kMaxChannels) {
        bad("positions has " + std::to_string(b.channels) + " channels, the model reads " +
            std::to_string(needs.channels));
    }
    for (int64_t c = 0; c < b.channels; c++) {
        const int64_t bound = needs.positions_below[c] > 0 ? needs.positions_below[c] : int64_t{1} << 31;
        all_below("positions", Span<int32_t>{b.positions + c * tokens, tokens}, bound);
    }
    size_is("slots", b.slots.size, tokens);
    all_below("slots", b.slots, limits.num_blocks * limits.block_size);
    all_below("logits_rows", b.logits_rows, tokens);
    if (b.embeds != nullptr) size_is("embeds", b.embed_rows, tokens);
    if (b.block_copies.size % 2 != 0) bad("block_copies must be pairs");
    all_below("block_copies", b.block_copies, limits.num_blocks);
    check_sequences(b, limits);
}

}  // namespace penstock
