// Codes of 16 rows into lines of lanes; scales beside them.
#include "formats/pack.h"

#include <cstring>

namespace penstock {
namespace {

uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

// A word of each lane of a tile.
using V16 = uint32_t __attribute__((vector_size(64)));

// The bits `mask` (of every byte) of `count` words, `width` apart, from bit `shift` on.
inline void gather(V16& all, const uint32_t* words, int first, int count, int shift, uint32_t mask, int width) {
    V16 w;
    for (int i = 0; i < count; i++) {
        std::memcpy(&w, words + (first + i) * kTile, sizeof w);
        const V16 part = (w >> shift & mask) << (i * width);
        all = i == 0 ? part : all | part;
    }
}

void write_codes(CodeKind kind, const uint32_t* words, int64_t inputs, std::byte* out) {
    constexpr uint32_t kNibble = 0x0f0f0f0f, kCrumb = 0x03030303, kBit = 0x01010101;
    const int unit = unit_inputs(kind);
    if (unit == 4) {
        std::memcpy(out, words, static_cast<size_t>(inputs / 4) * kLineBytes);
        return;
    }
    const auto put = [&](int first, int count, int shift, uint32_t mask, int width) {
        V16 line;
        gather(line, words, first, count, shift, mask, width);
        std::memcpy(out, &line, kLineBytes);
        out += kLineBytes;
    };
    for (int64_t i = 0; i < inputs; i += unit, words += unit / 4 * kTile) {
        switch (kind) {
            case CodeKind::u8:
            case CodeKind::e4m3:
                break;
            case CodeKind::u4:
            case CodeKind::iq4:
                put(0, 2, 0, kNibble, 4);
                break;
            case CodeKind::u2:
                put(0, 4, 0, kCrumb, 2);
                break;
            case CodeKind::u6:
                put(0, 2, 0, kNibble, 4);
                put(2, 2, 0, kNibble, 4);
                put(0, 4, 4, kCrumb, 2);
                break;
            case CodeKind::u5:
                for (int j = 0; j < 8; j += 2) put(j, 2, 0, kNibble, 4);
                put(0, 8, 4, kBit, 1);
                break;
            case CodeKind::u3:
                put(0, 4, 0, kCrumb, 2);
                put(4, 4, 0, kCrumb, 2);
                put(0, 8, 2, kBit, 1);
                break;
        }
    }
}

// The low bytes of 16 numbers.
void write_numbers(std::byte* to, int bytes, const uint32_t* from) {
    if (bytes == 4) std::memcpy(to, from, kTile * 4);
    for (int i = 0; i < kTile && bytes == 2; i++) {
        const uint16_t half = static_cast<uint16_t>(from[i]);
        std::memcpy(to + 2 * i, &half, 2);
    }
    for (int i = 0; i < kTile && bytes == 1; i++) to[i] = static_cast<std::byte>(from[i]);
}

// Zeros in the lanes from `rows` on.
void clear_lanes(TileChunk& piece, int rows, int64_t word_count, int64_t groups) {
    for (int lane = rows; lane < kTile; lane++) {
        for (int64_t j = 0; j < word_count; j++) piece.words[j * kTile + lane] = 0;
        for (int64_t g = 0; g < groups; g++) piece.scales[g][lane] = piece.zeros[g][lane] = 0;
        piece.d[lane] = piece.m[lane] = 0;
    }
}

int zero_bytes(const Quant& q, int scale_bytes) {
    switch (q.zeros) {
        case ZeroKind::constant:
            return 0;
        case ZeroKind::u8:
            return 1;
        case ZeroKind::f16:
            return 2;
        case ZeroKind::f32:
            return 4;
        case ZeroKind::shift:
            return scale_bytes;
    }
    return 0;
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

void pack_quantised(const Quant& q, int64_t n, const ReadTile& read, std::byte* dst, int64_t tile0, int64_t tile1) {
    const ChunkLayout at(q);
    const int64_t bytes = quant_tile_bytes(q), count = q.groups();
    const bool super = q.scales == ScaleKind::super;
    const int scale_bytes = super ? 1 : q.scales == ScaleKind::f16 ? 2 : 4, of_zero = zero_bytes(q, scale_bytes);
    const int unit = unit_inputs(q.codes);
    // Whole units, and a line to begin on.
    std::vector<uint32_t> memory(static_cast<size_t>((q.per_chunk * q.padded() / 4 + unit / 4 + 1) * kTile));
    auto piece = std::make_unique<TileChunk>();
    piece->words = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / 4;
    for (int64_t tile = tile0; tile < tile1; tile++) {
        std::byte* chunk = dst + tile * bytes;
        const int64_t row = tile * kTile;
        const int rows = static_cast<int>(n - row < kTile ? n - row : kTile);
        for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
            const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk;
            const int64_t inputs = (groups - 1) * q.padded() + q.padded_of(g + groups - 1);
            const int64_t whole = (inputs + unit - 1) / unit * unit;
            read(row, rows, g, groups, *piece);
            std::memset(piece->words + inputs / 4 * kTile, 0, static_cast<size_t>(whole - inputs) / 4 * kLineBytes);
            if (rows < kTile) clear_lanes(*piece, rows, inputs / 4, groups);
            std::memset(chunk, 0, static_cast<size_t>(at.codes));
            if (super) std::memcpy(chunk, piece->d, sizeof piece->d);
            if (super && q.zeros == ZeroKind::shift) std::memcpy(chunk + 32, piece->m, sizeof piece->m);
            for (int64_t i = 0; i < groups; i++) {
                write_numbers(chunk + at.scales + i * kTile * scale_bytes, scale_bytes, piece->scales[i]);
                if (of_zero > 0) write_numbers(chunk + at.zeros + i * kTile * of_zero, of_zero, piece->zeros[i]);
            }
            write_codes(q.codes, piece->words, whole, chunk + at.codes);
        }
    }
}

}  // namespace penstock
