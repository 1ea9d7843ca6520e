// Executor: what is loaded once. Also what the machine has, and the sampler alone for tests of its meaning.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "bind.h"
#include "cpus.h"
#include "executor.h"
#include "kernels/table.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {
namespace {

using Source = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

KVType kv_type(const std::string& name) {
    if (name == "f32") return KVType::f32;
    if (name == "f16") return KVType::f16;
    if (name == "bf16") return KVType::bf16;
    if (name == "i8") return KVType::i8;
    throw nb::value_error(("unknown KV type '" + name + "': f32, f16 or bf16").c_str());
}

Format format_of(const std::string& name) {
    if (name == "f32") return Format::f32;
    if (name == "f16") return Format::f16;
    if (name == "bf16") return Format::bf16;
    throw nb::value_error(("unknown weight format '" + name + "': f32, f16 or bf16").c_str());
}

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Slots = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void set_lora(Executor& e, int slot, int target, const Floats& a, const Floats& b, float scale) {
    const int64_t r = static_cast<int64_t>(a.shape(0)), k = static_cast<int64_t>(a.shape(1));
    const int64_t n = static_cast<int64_t>(b.shape(0));
    if (static_cast<int64_t>(b.shape(1)) != r) throw nb::value_error("an adapter's factors must share their rank");
    nb::gil_scoped_release release;
    e.set_lora(slot, target, a.data(), b.data(), n, k, r, scale);
}

void write_kv(Executor& e, int layer, const Slots& slots, const Floats& k, const Floats& v) {
    const KVLayer& cache = e.layer(layer);
    const size_t width = static_cast<size_t>(cache.kv_heads * cache.head_dim);
    for (const Floats* rows : {&k, &v}) {
        if (rows->shape(0) != slots.shape(0) || rows->shape(1) != width) {
            throw nb::value_error("cache rows must be one for each slot, kv_heads * head_dim wide");
        }
    }
    nb::gil_scoped_release release;
    e.write_kv(layer, {slots.data(), static_cast<int64_t>(slots.shape(0))}, k.data(), v.data());
}

// Checks that rows are what the core takes them for; their distance in elements.
int64_t row_stride(Format f, const Source& src) {
    const size_t width = f == Format::f32 ? 4 : 2;
    if (src.itemsize() != width || src.stride(1) != 1 || src.stride(0) < 0 ||
        reinterpret_cast<uintptr_t>(src.data()) % width != 0) {
        throw nb::type_error("a matrix must have contiguous rows of its format's own numbers");
    }
    return src.shape(0) == 1 ? static_cast<int64_t>(src.shape(1)) : src.stride(0);
}

int add_matrix(Executor& e, const std::string& format, const Source& src) {
    const Format f = format_of(format);
    const int64_t n = static_cast<int64_t>(src.shape(0)), k = static_cast<int64_t>(src.shape(1));
    const int64_t ld = row_stride(f, src);
    const void* data = src.data();
    nb::gil_scoped_release release;
    return e.add_matrix(f, data, n, k, ld);
}

int add_rounded(Executor& e, const std::string& format, const Source& src, int bits, int64_t group) {
    const Format f = format_of(format);
    const int64_t n = static_cast<int64_t>(src.shape(0)), k = static_cast<int64_t>(src.shape(1));
    const PlainRows rows{f, n, k, src.data(), row_stride(f, src), bits, group};
    nb::gil_scoped_release release;
    return e.add_rounded(rows);
}

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Index = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Codes with scales; see formats/pack.h.
int add_codes(Executor& e, const std::string& format, const Bytes& codes, const Floats& scales,
              const std::optional<Floats>& zeros, int64_t group, const std::optional<Index>& g_idx, bool one_scale) {
    CodedRows rows{};
    rows.format = format;
    rows.n = static_cast<int64_t>(codes.shape(0));
    rows.codes_ld = static_cast<int64_t>(codes.shape(1));
    rows.k = rows.codes_ld * (format == "int4" ? 2 : 1);
    rows.group = group;
    if (group <= 0 || group > rows.k) throw nb::value_error("a group of inputs must lie in a row");
    const size_t groups = static_cast<size_t>((rows.k + group - 1) / group);
    for (const Floats* floats : {&scales, zeros ? &*zeros : &scales}) {
        if (floats->shape(0) != codes.shape(0) || floats->shape(1) != groups) {
            throw nb::value_error("scales and zeros must be one for each row and group");
        }
    }
    if (g_idx && static_cast<int64_t>(g_idx->shape(0)) != rows.k) throw nb::value_error("g_idx must name every input");
    rows.codes = codes.data();
    rows.scales = scales.data();
    rows.zeros = zeros ? zeros->data() : nullptr;
    rows.scales_ld = rows.zeros_ld = static_cast<int64_t>(groups);
    rows.g_idx = g_idx ? g_idx->data() : nullptr;
    rows.one_scale = one_scale;
    nb::gil_scoped_release release;
    return e.add_quantised(coded_source(rows, e.pack_math()), rows.n, rows.k);
}

// AWQ's and GPTQ's words and float16 scales as the file has them; see formats/pack.h.
int add_words(Executor& e, const std::string& layout, const Source& words, const std::optional<Source>& zeros,
              const Source& scales, int64_t group, int plus) {
    if (layout != "awq" && layout != "gptq") throw nb::value_error("words are of awq or gptq");
    const bool awq = layout == "awq";
    WordRows rows{};
    rows.layout = awq ? WordLayout::awq : WordLayout::gptq;
    rows.n = static_cast<int64_t>(words.shape(1)) * (awq ? 8 : 1);
    rows.k = static_cast<int64_t>(words.shape(0)) * (awq ? 1 : 8);
    rows.group = group;
    rows.plus = plus;
    if (group <= 0 || rows.k % group != 0) throw nb::value_error("groups of inputs must fill a row");
    const auto data = [&](const Source& array, size_t width, int64_t columns, int64_t& stride) {
        if (array.itemsize() != width || array.stride(1) != 1 || array.stride(0) < 0 ||
            static_cast<int64_t>(array.shape(1)) != columns)
            throw nb::type_error("words and scales must have contiguous rows of 32 and 16 bits, one for all outputs");
        stride = array.stride(0) * static_cast<int64_t>(width);
        return static_cast<const uint8_t*>(array.data());
    };
    rows.words = data(words, 4, awq ? rows.n / 8 : rows.n, rows.stride);
    rows.scales = data(scales, 2, rows.n, rows.scales_stride);
    if (zeros) rows.zeros = data(*zeros, 4, rows.n / 8, rows.zeros_stride);
    for (const Source* array : {&scales, zeros ? &*zeros : &scales})
        if (static_cast<int64_t>(array->shape(0)) != rows.k / group)
            throw nb::value_error("scales and zeros must be one for each group");
    nb::gil_scoped_release release;
    return e.add_quantised(word_source(rows, e.pack_math()), rows.n, rows.k);
}

int add_blocks(Executor& e, const std::string& format, const Bytes& blocks, int64_t k) {
    const int64_t n = static_cast<int64_t>(blocks.shape(0)), bytes = static_cast<int64_t>(blocks.shape(1));
    const BlockRows rows{format, n, k, blocks.data(), bytes, bytes};
    nb::gil_scoped_release release;
    return e.add_quantised(block_source(rows, e.pack_math()), n, k);
}

}  // namespace

void bind_executor(nb::module_& m) {
    m.def("default_threads", &default_threads, "Physical cores this process may use, within the cgroup's CPU quota.");
    m.def("possible_isas", &possible_isas, "Instruction sets this CPU can run, best last.");
    m.def(
        "resolve_isa",
        [](const std::string& isa) {
            const IsaChoice choice = resolve_isa(isa);
            if (choice.kernels == nullptr) throw std::invalid_argument(choice.error);
            return choice.kernels->name;
        },
        "isa"_a,
        "The instruction set that an executor takes for this wish: empty or auto for PENSTOCK_ISA, else the best.");

    nb::class_<Executor> c(m, "Executor", "Team, packed weights and KV cache; see csrc/executor.h.");
    c.def(
        "__init__",
        [](Executor* self, int64_t max_tokens, int64_t max_seqs, int64_t max_logits_rows, int64_t max_context,
           int64_t num_blocks, int64_t block_size, const std::string& kv_dtype, const std::string& isa, int threads,
           bool pin) {
            new (self) Executor(Options{{max_tokens, max_seqs, max_logits_rows, max_context, num_blocks, block_size},
                                        kv_type(kv_dtype),
                                        isa,
                                        threads,
                                        pin});
        },
        nb::kw_only(), "max_tokens"_a, "max_seqs"_a, "max_logits_rows"_a, "max_context"_a, "num_blocks"_a,
        "block_size"_a, "kv_dtype"_a, "isa"_a = "", "threads"_a = 0, "pin"_a = false);
    c.def("add_matrix", &add_matrix, "format"_a, "source"_a);
    c.def("add_rounded", &add_rounded, "format"_a, "source"_a, "bits"_a, "group"_a);
    c.def("add_codes", &add_codes, "format"_a, "codes"_a, "scales"_a, "zeros"_a.none(), "group"_a, "g_idx"_a.none(),
          "one_scale"_a);
    c.def("add_words", &add_words, "layout"_a, "words"_a, "zeros"_a.none(), "scales"_a, "group"_a, "plus"_a);
    c.def("add_blocks", &add_blocks, "format"_a, "blocks"_a, "k"_a);
    c.def(
        "add_vector",
        [](Executor& e, nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> v) {
            return e.add_vector(v.data(), static_cast<int64_t>(v.shape(0)));
        },
        "source"_a);
    c.def("set_lora", &set_lora, "slot"_a, "target"_a, "a"_a, "b"_a, "scale"_a);
    c.def("clear_adapter", &Executor::clear_adapter, "slot"_a);
    c.def("write_kv", &write_kv, "layer"_a, "slots"_a, "k"_a, "v"_a);
    c.def("add_layer", &Executor::add_layer, "kv_heads"_a, "head_dim"_a);
    c.def_prop_ro("isa", &Executor::isa);
    c.def_prop_ro("threads", &Executor::threads);
    c.def_prop_ro("weight_bytes", &Executor::weight_bytes);
    c.def_prop_ro("kv_reserved", &Executor::kv_reserved);
    c.def_prop_ro("kv_used", &Executor::kv_used);
    c.def_prop_ro("kv_resident", &Executor::kv_resident);
}

}  // namespace penstock
