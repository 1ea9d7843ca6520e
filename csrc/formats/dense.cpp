// Plain numbers: f32 and f16 one k a line, bf16 two.
#include <cstring>

#include "formats/formats.h"
#include "formats/lanes.h"

namespace penstock {
namespace {

// Lines from inputs of `rows` rows, each of E bytes and `P` of one row side by side in a line.
template <int E, int P>
void pack_some(const std::byte* src, int rows, int64_t k, int64_t ld, std::byte* tile) {
    constexpr int64_t kLine = int64_t{kTile} * P * E;
    const int64_t lines = (k + 1) / 2 * 2 / P;
    std::memset(tile, 0, static_cast<size_t>(lines * kLine));
    // Rows are read in pieces that stay in the first cache while the lines of the piece are written.
    constexpr int64_t kPiece = 64;
    for (int64_t k0 = 0; k0 < k; k0 += kPiece) {
        const int64_t end = k0 + kPiece < k ? k0 + kPiece : k;
        for (int r = 0; r < rows; r++) {
            const std::byte* from = src + (r * ld + k0) * E;
            std::byte* to = tile + k0 / P * kLine + r * P * E;
            const int64_t whole = (end - k0) / P;
            for (int64_t i = 0; i < whole; i++) std::memcpy(to + i * kLine, from + i * P * E, P * E);
            if (P == 2 && (end - k0) % P != 0) std::memcpy(to + whole * kLine, from + whole * P * E, E);
        }
    }
}

// 16 whole rows; what is in words goes four rows at a time. The inputs that fill no word of four are left over.
template <int E, int P>
void pack_words(const std::byte* src, int, int64_t k, int64_t ld, std::byte* tile) {
    constexpr int kWord = 4 / E;  // inputs
    static_assert(P == kWord);
    const int64_t whole = k / (4 * kWord) * 4 * kWord;
    // Two lines of the cache of each row at once, so that the lines of the tile are complete before they leave it.
    constexpr int64_t kPiece = 32 * kWord;
    for (int64_t k0 = 0; k0 < whole; k0 += kPiece) {
        const int64_t end = k0 + kPiece < whole ? k0 + kPiece : whole;
        for (int quad = 0; quad < kQuads; quad++) {
            const Rows4 from = rows4(reinterpret_cast<const uint8_t*>(src), ld * E, 4 * quad, kTile);
            const Lanes4 to{reinterpret_cast<uint32_t*>(tile) + 4 * quad};
            V4 w[4];
            for (int64_t i = k0; i < end; i += 4 * kWord) {
                words<4>(from, i * E, w);
                for (int j = 0; j < 4; j++) to.put(i / kWord + j, w[j]);
            }
        }
    }
    if (whole < k) pack_some<E, P>(src + whole * E, kTile, k - whole, ld, tile + whole / P * kTile * P * E);
}

using V8 = uint16_t __attribute__((vector_size(16)));

// 16 whole rows of halves, one input a line.
void pack_halves(const std::byte* src, int, int64_t k, int64_t ld, std::byte* tile) {
    constexpr int64_t kPiece = 64, kLine = kTile * 2;
    const int64_t whole = k / 8 * 8;
    for (int64_t k0 = 0; k0 < whole; k0 += kPiece) {
        const int64_t end = k0 + kPiece < whole ? k0 + kPiece : whole;
        for (int first = 0; first < kTile; first += 8) {
            const uint8_t* rows = reinterpret_cast<const uint8_t*>(src);
            const Rows4 upper = rows4(rows, ld * 2, first, kTile), lower = rows4(rows, ld * 2, first + 4, kTile);
            V4 a[4], b[4];
            for (int64_t i = k0; i < end; i += 8) {
                words<4>(upper, i * 2, a);  // pairs of inputs
                words<4>(lower, i * 2, b);
                std::byte* to = tile + i * kLine + first * 2;
                for (int j = 0; j < 4; j++) {
                    const V8 x = reinterpret_cast<V8>(a[j]), y = reinterpret_cast<V8>(b[j]);
                    const V8 even = __builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
                    const V8 odd = __builtin_shufflevector(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
                    std::memcpy(to + 2 * j * kLine, &even, sizeof even);
                    std::memcpy(to + (2 * j + 1) * kLine, &odd, sizeof odd);
                }
            }
        }
    }
    if (whole < k) pack_some<2, 1>(src + whole * 2, kTile, k - whole, ld, tile + whole * kLine);
}

template <int E, int P>
void pack_dense(const std::byte* src, int rows, int64_t k, int64_t ld, std::byte* tile) {
    if (rows < kTile) return pack_some<E, P>(src, rows, k, ld, tile);
    if constexpr (E * P == 4)
        pack_words<E, P>(src, rows, k, ld, tile);
    else
        pack_halves(src, rows, k, ld, tile);
}

constexpr FormatTraits kTraits[] = {
    {"f32", 4, 1, 64, pack_dense<4, 1>},
    {"f16", 2, 1, 32, pack_dense<2, 1>},
    {"bf16", 2, 2, 64, pack_dense<2, 2>},
};

}  // namespace

const FormatTraits& traits(Format format) { return kTraits[static_cast<int>(format)]; }

int64_t tile_bytes(Format format, int64_t k) {
    const FormatTraits& t = traits(format);
    // An even k even where a line has one: a panel's word may be two inputs.
    return (k + 1) / 2 * 2 / t.line_inputs * t.line_bytes;
}

void pack_tiles(Format format, const void* src, int64_t n, int64_t k, int64_t ld, std::byte* dst, int64_t tile0,
                int64_t tile1) {
    const FormatTraits& t = traits(format);
    const std::byte* rows = static_cast<const std::byte*>(src);
    const int64_t bytes = tile_bytes(format, k);
    for (int64_t tile = tile0; tile < tile1; tile++) {
        const int64_t row = tile * kTile;
        const int count = static_cast<int>(n - row < kTile ? n - row : kTile);
        t.pack(rows + row * ld * t.element_bytes, count, k, ld, dst + tile * bytes);
    }
}

}  // namespace penstock
