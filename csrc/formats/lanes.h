// Words of several rows side by side: what turns rows of a file into lanes of a tile. As many rows at once as a vector
// of the instruction set has words; a tile's 16 rows are taken in turns.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "formats/matrix.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors of 64 bytes pass between inlined functions of one file only

namespace penstock {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kTurns = kTile / kLanes;

// A word of each of kLanes rows.
using V = uint32_t __attribute__((vector_size(4 * kLanes)));
using V4 = uint32_t __attribute__((vector_size(16)));

// The same place in each of the rows.
struct Rows {
    const uint8_t* row[kLanes];
};

inline V4 load16(const uint8_t* p) {
    V4 v;
    std::memcpy(&v, p, 16);
    return v;
}
inline uint32_t load4(const uint8_t* p) {
    uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}

template <class A, int... I>
inline auto joined(const A& a, const A& b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, I...);
}
// 16 bytes of `count` rows: first, first + 4, first + 8 ..., one after the other.
template <int count>
inline auto load16_of(const Rows& r, int first, int64_t at) {
    if constexpr (count == 1)
        return load16(r.row[first] + at);
    else
        return joined(load16_of<count / 2>(r, first, at), load16_of<count / 2>(r, first + 2 * count, at),
                      std::make_integer_sequence<int, 4 * count>());
}
// The word at `at` of each row.
inline V word(const Rows& r, int64_t at) {
    alignas(sizeof(V)) uint32_t each[kLanes];
    for (int i = 0; i < kLanes; i++) each[i] = load4(r.row[i] + at);
    V v;
    std::memcpy(&v, each, sizeof v);
    return v;
}

// Within every 16 bytes: words `from` and `from` + 1 of a and b in turns; a's two words from `from` on, then b's.
template <int from, int... I>
inline V zip(const V& a, const V& b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + from + I % 4 / 2 + I % 2 * kLanes)...);
}
template <int from, int... I>
inline V pair(const V& a, const V& b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + from + I % 2 + I % 4 / 2 * kLanes)...);
}

// N words of each row from byte `at` on, N a multiple of four: N vectors, each with one word of all rows.
template <int N>
inline void words(const Rows& r, int64_t at, V* out) {
    static_assert(N % 4 == 0);
    constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
    for (int j = 0; j < N; j += 4) {
        const V a = load16_of<kLanes / 4>(r, 0, at + 4 * j), b = load16_of<kLanes / 4>(r, 1, at + 4 * j);
        const V c = load16_of<kLanes / 4>(r, 2, at + 4 * j), d = load16_of<kLanes / 4>(r, 3, at + 4 * j);
        const V ab = zip<0>(a, b, kAll), cd = zip<0>(c, d, kAll), ef = zip<2>(a, b, kAll), gh = zip<2>(c, d, kAll);
        out[j] = pair<0>(ab, cd, kAll);
        out[j + 1] = pair<2>(ab, cd, kAll);
        out[j + 2] = pair<0>(ef, gh, kAll);
        out[j + 3] = pair<2>(ef, gh, kAll);
    }
}

// kLanes rows from `first` on.
inline Rows some_rows(const uint8_t* const* rows, int first) {
    Rows r;
    for (int i = 0; i < kLanes; i++) r.row[i] = rows[first + i];
    return r;
}

// Where the lanes of a tile's words go: word j of lane c lies at words[16 j + c].
struct Lanes {
    uint32_t* words;

    Lanes operator+(int64_t count) const { return {words + count * kTile}; }
    void put(int64_t j, const V& v) const { std::memcpy(words + j * kTile, &v, sizeof v); }
};

}  // namespace
}  // namespace penstock
