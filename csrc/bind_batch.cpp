#include "bind_batch.h"

#include <string>

namespace nb = nanobind;

namespace penstock {

template <class T, int N>
const Arrays::Array& Arrays::take(nb::handle object, const char* name) {
    using Typed = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
    Typed typed;
    if (!nb::try_cast<Typed>(object.attr(name), typed)) {
        const std::string message = std::string(name) + " must be an array of " + std::to_string(N) + " dimension(s) and " +
                                    std::to_string(sizeof(T)) + "-byte numbers of its type in penstock.types";
        throw nb::type_error(message.c_str());
    }
    held_.emplace_back(typed);
    return held_.back();
}

Span<int32_t> Arrays::get_pairs(nb::handle object, const char* name) {
    if (object.attr(name).is_none()) return {};
    int64_t rows = 0, columns = 0;
    const int32_t* data = get_matrix<int32_t>(object, name, rows, columns);
    if (columns != 2) throw nb::type_error((std::string(name) + " must have two columns").c_str());
    return {data, rows * 2};
}

Batch read_batch(Arrays& arrays, nb::handle o) {
    Batch b;
    b.token_ids = arrays.get<int32_t>(o, "token_ids");
    b.positions = arrays.get_matrix<int32_t>(o, "positions", b.channels, b.position_columns);
    b.slots = arrays.get<int64_t>(o, "slots");
    b.query_start = arrays.get<int32_t>(o, "query_start");
    b.context_lens = arrays.get<int32_t>(o, "context_lens");
    b.block_tables = arrays.get_matrix<int32_t>(o, "block_tables", b.table_rows, b.table_ld);
    b.prompt_lens = arrays.get<int32_t>(o, "prompt_lens");
    b.logits_rows = arrays.get<int32_t>(o, "logits_rows");
    b.bidirectional = arrays.get_optional<int32_t>(o, "bidirectional");
    b.block_copies = arrays.get_pairs(o, "block_copies");
    return b;
}

SamplingBatch read_sampling(Arrays& arrays, nb::handle o) {
    SamplingBatch b;
    b.row = arrays.get<int32_t>(o, "row");
    b.target = arrays.get<int32_t>(o, "target");
    b.temperature = arrays.get<float>(o, "temperature");
    b.top_k = arrays.get<int32_t>(o, "top_k");
    b.top_p = arrays.get<float>(o, "top_p");
    b.min_p = arrays.get<float>(o, "min_p");
    b.repetition = arrays.get<float>(o, "repetition");
    b.presence = arrays.get<float>(o, "presence");
    b.frequency = arrays.get<float>(o, "frequency");
    b.seed = arrays.get<uint64_t>(o, "seed");
    b.draw = arrays.get<int64_t>(o, "draw");
    b.num_logprobs = arrays.get<int32_t>(o, "num_logprobs");
    b.history_start = arrays.get<int32_t>(o, "history_start");
    b.history_ids = arrays.get<int32_t>(o, "history_ids");
    b.history_counts = arrays.get<int32_t>(o, "history_counts");
    b.history_prompt = arrays.get<uint8_t>(o, "history_prompt");
    b.bias_start = arrays.get<int32_t>(o, "bias_start");
    b.bias_ids = arrays.get<int32_t>(o, "bias_ids");
    b.bias_values = arrays.get<float>(o, "bias_values");
    b.mask_row = arrays.get<int32_t>(o, "mask_row");
    b.masks = arrays.get_matrix<uint32_t>(o, "masks", b.mask_rows, b.mask_words);
    return b;
}

}  // namespace penstock
