// Plain numbers: f32 and f16 one k a line, bf16 two.
#include <cstring>

#include "formats/formats.h"
#include "formats/pack.h"

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

// 16 whole rows; the inputs that fill no vector are left over.
template <int E, int P>
void pack_dense(const PackMath& math, const std::byte* src, int rows, int64_t k, int64_t ld, std::byte* tile) {
    const int64_t whole = rows < kTile ? 0 : k / 16 * 16;
    if (whole > 0) {
        const TilePlaces from(reinterpret_cast<const uint8_t*>(src), ld * E, kTile);
        math.plain(from.row, E, P, whole, tile);
    }
    if (whole < k) pack_some<E, P>(src + whole * E, rows, k - whole, ld, tile + whole * kTile * E);
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
                int64_t tile1, const PackMath& math) {
    const FormatTraits& t = traits(format);
    const std::byte* rows = static_cast<const std::byte*>(src);
    const int64_t bytes = tile_bytes(format, k);
    for (int64_t tile = tile0; tile < tile1; tile++) {
        const int64_t row = tile * kTile;
        const int count = static_cast<int>(n - row < kTile ? n - row : kTile);
        t.pack(math, rows + row * ld * t.element_bytes, count, k, ld, dst + tile * bytes);
    }
}

}  // namespace penstock
