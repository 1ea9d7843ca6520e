// What turns a quantised checkpoint's words into rows (formats/unpack.h), and finds the strings of an array.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>

#include "bind.h"
#include "formats/unpack.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {
namespace {

using Source = nb::ndarray<const int32_t, nb::ndim<2>, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Words words_of(const Source& source) {
    if ((source.shape(1) > 1 && source.stride(1) != 1) || source.stride(0) < 0) {
        throw nb::value_error("words must lie in rows, one after the other");
    }
    return {reinterpret_cast<const uint8_t*>(source.data()), static_cast<int64_t>(source.shape(0)),
            static_cast<int64_t>(source.shape(1)), source.stride(0) * 4};
}

void transpose(const Source& source, const Rows& out, uint32_t flip) {
    const Words words = words_of(source);
    if (out.shape(0) != source.shape(1) || out.shape(1) != 4 * source.shape(0)) {
        throw nb::value_error("the output must have a row of bytes for each column of words");
    }
    nb::gil_scoped_release release;
    transpose_words(words, flip, out.data(), words.rows * 4);
}

void awq(const Source& source, const Rows& out) {
    const Words words = words_of(source);
    if (words.rows % 2 != 0 || out.shape(0) != 8 * source.shape(1) || 2 * out.shape(1) != source.shape(0)) {
        throw nb::value_error("the output must have eight rows for each column of words, half a byte for each of them");
    }
    nb::gil_scoped_release release;
    unpack_awq(words, out.data(), words.rows / 2);
}

// A walk that no vector helps: each length says where the next one lies.
int64_t find_strings(const Bytes& raw, const Starts& starts) {
    const uint8_t* data = raw.data();
    const uint64_t size = raw.size();
    uint64_t at = 0;
    for (size_t i = 0; i < starts.size(); i++) {
        uint64_t length;
        if (size - at < sizeof length) return -1;
        std::memcpy(&length, data + at, sizeof length);
        if (length > size - at - sizeof length) return -1;
        starts.data()[i] = static_cast<int64_t>(at);
        at += sizeof length + length;
    }
    return static_cast<int64_t>(at);
}

}  // namespace

void bind_formats(nb::module_& m) {
    m.def("transpose_words", &transpose, "words"_a, "out"_a.noconvert(), "flip"_a = 0,
          "out [b, 4 a] bytes: word [i, j] of words [a, b] at row j, bytes 4 i on; each exclusive-or `flip`.");
    m.def("unpack_awq", &awq, "words"_a, "out"_a.noconvert(),
          "out [8 b, a / 2] bytes: the codes of AWQ's words [a, b], two inputs a byte, the first one low.");
    m.def("find_strings", &find_strings, "raw"_a, "starts"_a.noconvert(),
          "Where each of so many strings behind lengths of eight bytes begins in raw; returns where the last one ends, "
          "-1 if raw ends before.");
}

}  // namespace penstock
