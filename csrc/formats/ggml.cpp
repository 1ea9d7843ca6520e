// ggml's blocks as codes and scales. Layouts as ggml defines them (ggml-common.h, ggml-quants.c); pictures of each are
// in src/penstock/quant/ggml.py.
#include <cstring>
#include <stdexcept>

#include "formats/lanes.h"
#include "formats/pack.h"

namespace penstock {
namespace {

constexpr uint32_t kNibble = 0x0f0f0f0f, kCrumb = 0x03030303, kBit = 0x01010101, kSign = 0x80808080;

uint16_t half_at(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return h;
}

// All functions on blocks take those of four rows, and put words of codes into their lanes.

// Low nibbles of N words, then the high ones.
template <int N>
void nibbles(const Rows4& b, int64_t at, const Lanes4& out) {
    V4 w[N];
    words<N>(b, at, w);
    for (int j = 0; j < N; j++) out.put(j, w[j] & kNibble), out.put(N + j, w[j] >> 4 & kNibble);
}
// 64 bytes: 32 of them give 128 codes, their lowest bit pairs the first 32 of those.
void crumbs(const Rows4& b, int64_t at, V4* out) {
    V4 w[16];
    words<16>(b, at, w);
    for (int half = 0; half < 2; half++)
        for (int shift = 0; shift < 4; shift++)
            for (int j = 0; j < 8; j++) *out++ = w[half * 8 + j] >> (2 * shift) & kCrumb;
}
// The word j of 32 single bits, as the bits 4 of four codes.
V4 fifths(V4 bits, int j) {
    const V4 four = bits >> (4 * j) & 15;
    return ((four | four << 7 | four << 14 | four << 21) & kBit) << 4;
}

// One block of 32 each.
void q8_0(const Rows4& b, const Lanes4& out) {
    V4 w[8];
    words<8>(b, 2, w);
    for (int j = 0; j < 8; j++) out.put(j, w[j] ^ kSign);
}
void q4_0(const Rows4& b, const Lanes4& out) { nibbles<4>(b, 2, out); }
void q4_1(const Rows4& b, const Lanes4& out) { nibbles<4>(b, 4, out); }
void five(const Rows4& b, int64_t bits, const Lanes4& out) {
    V4 w[4];
    words<4>(b, bits + 4, w);
    const V4 top = word(b, bits);
    for (int j = 0; j < 4; j++) {
        out.put(j, (w[j] & kNibble) | fifths(top, j));
        out.put(4 + j, (w[j] >> 4 & kNibble) | fifths(top, 4 + j));
    }
}
void q5_0(const Rows4& b, const Lanes4& out) { five(b, 2, out); }
void q5_1(const Rows4& b, const Lanes4& out) { five(b, 4, out); }

// One block of 256 each.
void q2_k(const Rows4& b, const Lanes4& out) {
    V4 w[64];
    crumbs(b, 16, w);
    for (int j = 0; j < 64; j++) out.put(j, w[j]);
}
void q3_k(const Rows4& b, const Lanes4& out) {
    V4 w[64], third[8];
    crumbs(b, 32, w);
    words<8>(b, 0, third);
    for (int j = 0; j < 64; j++) out.put(j, w[j] | (third[j % 8] >> (j / 8) & kBit) << 2);
}
void q4_k(const Rows4& b, const Lanes4& out) {
    for (int i = 0; i < 4; i++) nibbles<8>(b, 16 + 32 * i, out + 16 * i);
}
void q5_k(const Rows4& b, const Lanes4& out) {
    V4 fifth[8], w[8];
    words<8>(b, 16, fifth);
    for (int i = 0; i < 4; i++) {
        words<8>(b, 48 + 32 * i, w);
        for (int j = 0; j < 8; j++) {
            out.put(16 * i + j, (w[j] & kNibble) | (fifth[j] >> (2 * i) & kBit) << 4);
            out.put(16 * i + 8 + j, (w[j] >> 4 & kNibble) | (fifth[j] >> (2 * i + 1) & kBit) << 4);
        }
    }
}
void q6_k(const Rows4& b, const Lanes4& out) {
    V4 top[64], w[16];
    crumbs(b, 128, top);
    for (int half = 0; half < 2; half++) {
        words<16>(b, 64 * half, w);
        for (int j = 0; j < 16; j++) {
            const int at = 32 * half + j;
            out.put(at, (w[j] & kNibble) | top[at] << 4);
            out.put(at + 16, (w[j] >> 4 & kNibble) | top[at + 16] << 4);
        }
    }
}
void iq4_xs(const Rows4& b, const Lanes4& out) {
    for (int i = 0; i < 8; i++) nibbles<4>(b, 8 + 16 * i, out + 8 * i);
}

// What scales one block of 256 of one row: d and m, and the scales (and minima) of its groups.
void scales_of_16(const uint8_t* b, int lane, TileChunk& out) {  // q2_k
    for (int i = 0; i < 16; i++) out.scales[i][lane] = b[i] & 15, out.zeros[i][lane] = b[i] >> 4;
    out.d[lane] = half_at(b + 80);
    out.m[lane] = half_at(b + 82);
}
void scales_q3_k(const uint8_t* b, int lane, TileChunk& out) {
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? b[96 + i] & 15 : b[96 + i - 8] >> 4;
        const int top = b[104 + i % 4] >> (2 * (i / 4)) & 3;
        out.scales[i][lane] = static_cast<uint32_t>((low | top << 4) - 32);
    }
    out.d[lane] = half_at(b + 108);
}
// 12 bytes: 8 scales and 8 minima of 6 bits. q4_k, q5_k.
void scales_of_8(const uint8_t* b, int lane, TileChunk& out) {
    out.d[lane] = half_at(b);
    out.m[lane] = half_at(b + 2);
    b += 4;
    for (int i = 0; i < 4; i++) {
        out.scales[i][lane] = b[i] & 63;
        out.zeros[i][lane] = b[4 + i] & 63;
        out.scales[4 + i][lane] = static_cast<uint32_t>((b[8 + i] & 15) | b[i] >> 6 << 4);
        out.zeros[4 + i][lane] = static_cast<uint32_t>(b[8 + i] >> 4 | b[4 + i] >> 6 << 4);
    }
}
void scales_q6_k(const uint8_t* b, int lane, TileChunk& out) {
    for (int i = 0; i < 16; i++) out.scales[i][lane] = b[192 + i];
    out.d[lane] = half_at(b + 208);
}
void scales_iq4_xs(const uint8_t* b, int lane, TileChunk& out) {
    out.d[lane] = half_at(b);
    const uint16_t high = half_at(b + 2);
    for (int i = 0; i < 8; i++)
        out.scales[i][lane] =
            static_cast<uint32_t>(((b[4 + i / 2] >> (4 * (i % 2)) & 15) | (high >> (2 * i) & 3) << 4) - 32);
}

struct Small {
    const char* name;
    int bytes;
    void (*read)(const Rows4& blocks, const Lanes4& out);
    CodeKind codes;
    bool shift;
    uint8_t zero;
};
constexpr Small kSmall[] = {
    {"q8_0", 34, q8_0, CodeKind::u8, false, 128}, {"q4_0", 18, q4_0, CodeKind::u4, false, 8},
    {"q4_1", 20, q4_1, CodeKind::u4, true, 0},    {"q5_0", 22, q5_0, CodeKind::u5, false, 16},
    {"q5_1", 24, q5_1, CodeKind::u5, true, 0},    {"iq4_nl", 18, q4_0, CodeKind::iq4, false, 127},
};

struct Large {
    const char* name;
    int bytes;
    void (*read)(const Rows4& blocks, const Lanes4& out);
    void (*scales)(const uint8_t* block, int lane, TileChunk& out);
    CodeKind codes;
    int group;
    bool shift;
    uint8_t zero;
};
constexpr Large kLarge[] = {
    {"q2_k", 84, q2_k, scales_of_16, CodeKind::u2, 16, true, 0},
    {"q3_k", 110, q3_k, scales_q3_k, CodeKind::u3, 16, false, 4},
    {"q4_k", 144, q4_k, scales_of_8, CodeKind::u4, 32, true, 0},
    {"q5_k", 176, q5_k, scales_of_8, CodeKind::u5, 32, true, 0},
    {"q6_k", 210, q6_k, scales_q6_k, CodeKind::u6, 16, false, 32},
    {"iq4_xs", 136, iq4_xs, scales_iq4_xs, CodeKind::iq4, 32, false, 127},
};

Quant quant_of(CodeKind codes, ScaleKind scales, bool shift, uint8_t zero, int group, int64_t k) {
    Quant q;
    q.codes = codes;
    q.scales = scales;
    q.zeros = shift ? ZeroKind::shift : ZeroKind::constant;
    q.zero = zero;
    q.group = group;
    q.per_chunk = kChunkInputs / group;
    q.inputs = k;
    return q;
}

void check(const BlockRows& r, int64_t elements, int64_t bytes) {
    if (r.n <= 0 || r.k <= 0 || r.k % elements != 0 || r.bytes != r.k / elements * bytes)
        throw std::invalid_argument(r.format + ": the rows are no whole number of blocks");
}

}  // namespace

QuantSource block_source(const BlockRows& r) {
    for (const Small& f : kSmall) {
        if (r.format != f.name) continue;
        check(r, 32, f.bytes);
        const auto read = [r, &f](int64_t row, int rows, int64_t first, int64_t groups, TileChunk& out) {
            const uint8_t* blocks = r.blocks + row * r.ld + first * f.bytes;
            for (int quad = 0; quad < kQuads; quad++) {
                Rows4 b = rows4(blocks, r.ld, 4 * quad, rows);
                for (int64_t g = 0; g < groups; g++, b = b + f.bytes) {
                    f.read(b, Lanes4{out.words + 4 * quad} + 8 * g);
                    for (int i = 0; i < 4; i++) {  // no shift in the file: these are codes, and not looked at
                        out.scales[g][4 * quad + i] = half_at(b.row[i]);
                        out.zeros[g][4 * quad + i] = half_at(b.row[i] + 2);
                    }
                }
            }
        };
        return {quant_of(f.codes, ScaleKind::f16, f.shift, f.zero, 32, r.k), {}, read};
    }
    for (const Large& f : kLarge) {
        if (r.format != f.name) continue;
        check(r, 256, f.bytes);
        const auto read = [r, &f](int64_t row, int rows, int64_t first, int64_t, TileChunk& out) {
            const uint8_t* blocks = r.blocks + row * r.ld + first * f.group / 256 * f.bytes;
            for (int quad = 0; quad < kQuads; quad++) {
                const Rows4 b = rows4(blocks, r.ld, 4 * quad, rows);
                f.read(b, Lanes4{out.words + 4 * quad});
                for (int i = 0; i < 4; i++) f.scales(b.row[i], 4 * quad + i, out);
            }
        };
        return {quant_of(f.codes, ScaleKind::super, f.shift, f.zero, f.group, r.k), {}, read};
    }
    throw std::invalid_argument("no layout for blocks of the format '" + r.format + "'");
}

}  // namespace penstock
