// Words of four rows side by side: what turns rows of a file into lanes of a tile. Vectors of 16 bytes, which every
// instruction set has; packing moves bytes and is bound by memory, not by these.
#pragma once
#include <cstdint>
#include <cstring>

#include "formats/matrix.h"

namespace penstock {
namespace {

using V4 = uint32_t __attribute__((vector_size(16)));
constexpr int kQuads = kTile / 4;

// The same place in each of four rows.
struct Rows4 {
    const uint8_t* row[4];

    Rows4 operator+(int64_t bytes) const { return {{row[0] + bytes, row[1] + bytes, row[2] + bytes, row[3] + bytes}}; }
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
inline V4 word(const Rows4& r, int64_t at) {
    return V4{load4(r.row[0] + at), load4(r.row[1] + at), load4(r.row[2] + at), load4(r.row[3] + at)};
}

// Words 0 .. 3 of four rows become four vectors, each with one word of all rows.
inline void transpose(V4 a, V4 b, V4 c, V4 d, V4* out) {
    const V4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const V4 ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(ef, gh, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(ef, gh, 2, 3, 6, 7);
}

// N words of each row from byte `at` on, N a multiple of four.
template <int N>
inline void words(const Rows4& r, int64_t at, V4* out) {
    static_assert(N % 4 == 0);
    for (int j = 0; j < N; j += 4)
        transpose(load16(r.row[0] + at + 4 * j), load16(r.row[1] + at + 4 * j), load16(r.row[2] + at + 4 * j),
                  load16(r.row[3] + at + 4 * j), out + j);
}

// Rows first .. first + 3 of those that lie `ld` bytes apart; for ones beyond `count`, the last.
inline Rows4 rows4(const uint8_t* data, int64_t ld, int first, int count) {
    Rows4 r;
    for (int i = 0; i < 4; i++) r.row[i] = data + (first + i < count ? first + i : count - 1) * ld;
    return r;
}

// Where four lanes of a tile's words go: word j of lane c lies at words[16 j + c].
struct Lanes4 {
    uint32_t* words;

    Lanes4 operator+(int64_t count) const { return {words + count * kTile}; }
    void put(int64_t j, V4 v) const { std::memcpy(words + j * kTile, &v, 16); }
};

}  // namespace
}  // namespace penstock
