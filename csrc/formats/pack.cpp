// Codes of 16 rows into lines of lanes; scales beside them.
#include "formats/pack.h"

#include <cstring>

namespace penstock {
namespace {

uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

// Zeros in the lanes from `rows` on.
void clear_lanes(TileChunk& piece, int rows, int64_t word_count, int64_t groups) {
    for (int lane = rows; lane < kTile; lane++) {
        for (int64_t j = 0; j < word_count; j++) piece.words[j * kTile + lane] = 0;
        for (int64_t g = 0; g < groups; g++) piece.scales[g][lane] = piece.zeros[g][lane] = 0;
        piece.d[lane] = piece.m[lane] = 0;
    }
}

}  // namespace

bool is_half(float x) {
    const uint32_t u = bits_of(x), a = u & 0x7fffffff;
    if (a == 0) return true;
    if (a < 0x38800000) {  // below 2^-14: multiples of 2^-24
        const float scaled = __builtin_fabsf(x) * 16777216.0f;
        return scaled >= 1 && scaled == static_cast<float>(static_cast<int>(scaled));
    }
    return a < 0x47800000 && (a & 0x1fff) == 0;
}

uint16_t to_half(float x) {
    const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a >= 0x7f800000) return static_cast<uint16_t>(sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (a < 0x38800000)
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(static_cast<int>(__builtin_fabsf(x) * 16777216.0f)));
    return static_cast<uint16_t>(sign | ((a - (112u << 23)) >> 13));
}

void pack_quantised(const Quant& q, int64_t n, const ReadTile& read, std::byte* dst, int64_t tile0, int64_t tile1,
                    const PackMath& math, int together) {
    const ChunkLayout at(q);
    const int64_t bytes = quant_tile_bytes(q), count = q.groups();
    const int unit = unit_inputs(q.codes);
    // Whole units, and a line to begin on.
    std::vector<uint32_t> memory(static_cast<size_t>((q.per_chunk * q.padded() / 4 + unit / 4 + 1) * kTile));
    auto piece = std::make_unique<TileChunk>();
    piece->words = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / 4;
    const auto one = [&](int64_t tile, int64_t g) {
        const int64_t row = tile * kTile;
        const int rows = static_cast<int>(n - row < kTile ? n - row : kTile);
        const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk;
        const int64_t inputs = (groups - 1) * q.padded() + q.padded_of(g + groups - 1);
        const int64_t whole = (inputs + unit - 1) / unit * unit;
        read(row, rows, g, groups, *piece);
        std::memset(piece->words + inputs / 4 * kTile, 0, static_cast<size_t>(whole - inputs) / 4 * kLineBytes);
        if (rows < kTile) clear_lanes(*piece, rows, inputs / 4, groups);
        math.chunk(q, at, *piece, groups, whole, dst + tile * bytes + g / q.per_chunk * at.bytes);
    };
    for (int64_t first = tile0; first < tile1; first += together) {
        const int64_t end = first + together < tile1 ? first + together : tile1;
        for (int64_t g = 0; g < count; g += q.per_chunk)
            for (int64_t tile = first; tile < end; tile++) one(tile, g);
    }
}

}  // namespace penstock
