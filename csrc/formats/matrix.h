// A packed weight matrix [n, k] and how its numbers lie in memory.
//
// Layout of all formats: tiles of 16 output rows (columns of y). A tile holds its k in order, in lines of 64 bytes or
// less:
//   f32   one k a line:   16 x f32              f16  one k: 16 x f16 (32 bytes)
//   bf16  two k a line:   16 x (bf16, bf16)     quantised  codes and scales: quant.h
// n and k are padded with zeros to whole tiles and lines. So one stream is read once, in order, whatever the ISA.
#pragma once
#include <cstddef>
#include <cstdint>

#include "formats/quant.h"

namespace penstock {

constexpr int kTile = 16;

enum class Format : uint8_t { f32, f16, bf16, quantised };
// What a linear's input rows are turned into before the dot products.
enum class Act : uint8_t { f32, bf16, i8 };

struct Matrix {
    Format format;
    int64_t n;           // output rows
    int64_t k;           // inputs
    int64_t tiles;       // ceil(n / 16)
    int64_t tile_bytes;  // distance between tiles
    const std::byte* data;
    Quant quant{};  // of Format::quantised
};

// `count` tiles of a matrix from tile `first`: the output rows 16 * first and on.
inline Matrix part_of(Matrix m, int64_t first, int64_t count) {
    m.n = m.n - first * kTile < count * kTile ? m.n - first * kTile : count * kTile;
    m.tiles = count;
    m.data += first * m.tile_bytes;
    return m;
}

// Bytes of one tile / of the whole packed matrix, of plain numbers.
int64_t tile_bytes(Format format, int64_t k);
inline int64_t matrix_bytes(Format format, int64_t n, int64_t k) {
    return (n + kTile - 1) / kTile * tile_bytes(format, k);
}

}  // namespace penstock
