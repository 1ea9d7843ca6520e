#include "bind_batch.h"

#include <string>

namespace nb = nanobind;

namespace penstock {

template <class T, int N>
const Arrays::Array* Arrays::take(nb::handle object, const char* name, bool optional) {
    using Typed = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
    if (next_ == fields_.size()) fields_.emplace_back();
    Field& field = fields_[next_++];
    if (field.name != name) field = {name, nb::steal(PyUnicode_InternFromString(name)), {}, {}};
    nb::object source = nb::steal(PyObject_GetAttr(object.ptr(), field.key.ptr()));
    if (!source.is_valid()) throw nb::python_error();
    if (source.is(field.source)) return &field.array;
    if (optional && source.is_none()) return nullptr;
    Typed typed;
    const bool fits = nb::try_cast<Typed>(source, typed, false);
    if (!fits && !nb::try_cast<Typed>(source, typed)) {
        const std::string message = std::string(name) + " must be an array of " + std::to_string(N) +
                                    " dimension(s) and " + std::to_string(sizeof(T)) +
                                    "-byte numbers of its type in penstock.types";
        throw nb::type_error(message.c_str());
    }
    field.array = Array(typed);
    field.source = fits ? std::move(source) : nb::object();
    return &field.array;
}

Span<int32_t> Arrays::get_pairs(nb::handle object, const char* name) {
    int64_t rows = 0, columns = 0;
    const int32_t* data = get_matrix<int32_t>(object, name, rows, columns, true);
    if (data != nullptr && columns != 2) throw nb::type_error((std::string(name) + " must have two columns").c_str());
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
    b.adapters = arrays.get_optional<int32_t>(o, "adapters");
    b.embeds = arrays.get_matrix<float>(o, "embeds", b.embed_rows, b.embed_width, true);
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
    b.typical_p = arrays.get<float>(o, "typical_p");
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

namespace {

template <class T>
T* place_as(nb::handle output, const char* name, const std::vector<int64_t>& shape) {
    using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
    nb::object attr = output.attr(name);
    if (attr.is_none()) return nullptr;
    Out array;
    bool ok = nb::try_cast<Out>(attr, array, false) && array.ndim() == shape.size();
    for (size_t i = 0; ok && i < shape.size(); i++) ok = static_cast<int64_t>(array.shape(i)) == shape[i];
    if (!ok) throw nb::type_error((std::string("the output ") + name + " has another shape or type").c_str());
    return array.data();  // `output` keeps it alive
}

}  // namespace

float* place(nb::handle output, const char* name, std::vector<int64_t> shape) {
    return place_as<float>(output, name, shape);
}

SampleOutput read_sample_output(nb::handle output, int64_t n) {
    SampleOutput out;
    out.token_ids = place_as<int32_t>(output, "token_ids", {n});
    out.invalid = place_as<uint8_t>(output, "invalid", {n});
    if (out.token_ids == nullptr || out.invalid == nullptr)
        throw nb::type_error("token_ids and invalid must be arrays");
    out.logprobs = place_as<float>(output, "logprobs", {n});
    if (out.logprobs == nullptr) return out;
    out.top = nb::cast<int64_t>(output.attr("top_ids").attr("shape")[1]);
    out.ranks = place_as<int32_t>(output, "ranks", {n});
    out.top_ids = place_as<int32_t>(output, "top_ids", {n, out.top});
    out.top_logprobs = place_as<float>(output, "top_logprobs", {n, out.top});
    if (out.ranks == nullptr || out.top_ids == nullptr || out.top_logprobs == nullptr) {
        throw nb::type_error("ranks, top_ids and top_logprobs must be arrays when logprobs is");
    }
    return out;
}

}  // namespace penstock
