// ggml's blocks as codes and scales. Layouts as ggml defines them (ggml-common.h, ggml-quants.c); pictures of each are
// in src/penstock/quant/ggml.py.
#include <cstring>
#include <stdexcept>

#include "formats/pack.h"

namespace penstock {
namespace {

float half_at(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, bits = h & 0x7fff;
    if (bits >= 0x7c00) return __builtin_bit_cast(float, sign | 0x7f800000 | (bits & 0x3ff) << 13);
    const float small = static_cast<float>(bits) * 0x1p-24f;
    const uint32_t u = bits >= 0x400 ? (bits << 13) + (112u << 23) : __builtin_bit_cast(uint32_t, small);
    return __builtin_bit_cast(float, sign | u);
}

uint16_t raw_half(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return h;
}

// Low nibbles of n bytes, then the high ones.
void nibbles(const uint8_t* b, int n, uint8_t* out) {
    for (int i = 0; i < n; i++) out[i] = b[i] & 15, out[n + i] = b[i] >> 4;
}
// 64 bytes: 32 of them give 128 codes, their lowest bit pairs the first 32 of those.
void crumbs(const uint8_t* b, uint8_t* out) {
    for (int half = 0; half < 2; half++)
        for (int shift = 0; shift < 4; shift++)
            for (int i = 0; i < 32; i++) *out++ = b[half * 32 + i] >> (2 * shift) & 3;
}
void fifth_bits(const uint8_t* b, uint8_t* codes) {
    for (int i = 0; i < 32; i++) codes[i] = static_cast<uint8_t>(codes[i] | (b[i / 8] >> (i % 8) & 1) << 4);
}

// One block each: codes and a scale (and a shift) of a group of 32.
void q8_0(const uint8_t* b, uint8_t* codes, float& scale, float&) {
    scale = half_at(b);
    for (int i = 0; i < 32; i++) codes[i] = b[2 + i] ^ 128;
}
void q4_0(const uint8_t* b, uint8_t* codes, float& scale, float&) {
    scale = half_at(b);
    nibbles(b + 2, 16, codes);
}
void q4_1(const uint8_t* b, uint8_t* codes, float& scale, float& shift) {
    scale = half_at(b);
    shift = half_at(b + 2);
    nibbles(b + 4, 16, codes);
}
void q5_0(const uint8_t* b, uint8_t* codes, float& scale, float&) {
    scale = half_at(b);
    nibbles(b + 6, 16, codes);
    fifth_bits(b + 2, codes);
}
void q5_1(const uint8_t* b, uint8_t* codes, float& scale, float& shift) {
    scale = half_at(b);
    shift = half_at(b + 2);
    nibbles(b + 8, 16, codes);
    fifth_bits(b + 4, codes);
}

// One block of 256 each: codes, d and m, and the scales (and minima) of its groups.
void q2_k(const uint8_t* b, RowChunk& out) {
    for (int i = 0; i < 16; i++) out.scales[i] = b[i] & 15, out.zeros[i] = b[i] >> 4;
    crumbs(b + 16, out.codes);
    out.d = raw_half(b + 80);
    out.m = raw_half(b + 82);
}
void q3_k(const uint8_t* b, RowChunk& out) {
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? b[96 + i] & 15 : b[96 + i - 8] >> 4;
        const int top = b[104 + i % 4] >> (2 * (i / 4)) & 3;
        out.scales[i] = static_cast<float>((low | top << 4) - 32);
    }
    crumbs(b + 32, out.codes);
    for (int i = 0; i < 256; i++) out.codes[i] = static_cast<uint8_t>(out.codes[i] | (b[i % 32] >> (i / 32) & 1) << 2);
    out.d = raw_half(b + 108);
}
// 12 bytes: 8 scales and 8 minima of 6 bits.
void scales_k(const uint8_t* b, RowChunk& out) {
    for (int i = 0; i < 4; i++) {
        out.scales[i] = b[i] & 63;
        out.zeros[i] = b[4 + i] & 63;
        out.scales[4 + i] = static_cast<float>((b[8 + i] & 15) | b[i] >> 6 << 4);
        out.zeros[4 + i] = static_cast<float>((b[8 + i] >> 4) | b[4 + i] >> 6 << 4);
    }
}
void q4_k(const uint8_t* b, RowChunk& out) {
    out.d = raw_half(b);
    out.m = raw_half(b + 2);
    scales_k(b + 4, out);
    for (int i = 0; i < 4; i++) nibbles(b + 16 + 32 * i, 32, out.codes + 64 * i);
}
void q5_k(const uint8_t* b, RowChunk& out) {
    out.d = raw_half(b);
    out.m = raw_half(b + 2);
    scales_k(b + 4, out);
    for (int i = 0; i < 4; i++) nibbles(b + 48 + 32 * i, 32, out.codes + 64 * i);
    for (int i = 0; i < 256; i++)
        out.codes[i] = static_cast<uint8_t>(out.codes[i] | (b[16 + i % 32] >> (i / 32) & 1) << 4);
}
void q6_k(const uint8_t* b, RowChunk& out) {
    uint8_t top[256];
    crumbs(b + 128, top);
    for (int half = 0; half < 2; half++) nibbles(b + 64 * half, 64, out.codes + 128 * half);
    for (int i = 0; i < 256; i++) out.codes[i] = static_cast<uint8_t>(out.codes[i] | top[i] << 4);
    for (int i = 0; i < 16; i++) out.scales[i] = static_cast<int8_t>(b[192 + i]);
    out.d = raw_half(b + 208);
}
void iq4_xs(const uint8_t* b, RowChunk& out) {
    out.d = raw_half(b);
    const uint16_t high = raw_half(b + 2);
    for (int i = 0; i < 8; i++)
        out.scales[i] = static_cast<float>(((b[4 + i / 2] >> (4 * (i % 2)) & 15) | (high >> (2 * i) & 3) << 4) - 32);
    for (int i = 0; i < 8; i++) nibbles(b + 8 + 16 * i, 16, out.codes + 32 * i);
}

struct Small {
    const char* name;
    int bytes;
    void (*read)(const uint8_t*, uint8_t* codes, float& scale, float& shift);
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
    void (*read)(const uint8_t*, RowChunk& out);
    CodeKind codes;
    int group;
    bool shift;
    uint8_t zero;
};
constexpr Large kLarge[] = {
    {"q2_k", 84, q2_k, CodeKind::u2, 16, true, 0},    {"q3_k", 110, q3_k, CodeKind::u3, 16, false, 4},
    {"q4_k", 144, q4_k, CodeKind::u4, 32, true, 0},   {"q5_k", 176, q5_k, CodeKind::u5, 32, true, 0},
    {"q6_k", 210, q6_k, CodeKind::u6, 16, false, 32}, {"iq4_xs", 136, iq4_xs, CodeKind::iq4, 32, false, 127},
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
        const auto read = [r, &f](int64_t row, int64_t first, int64_t groups, RowChunk& out) {
            const uint8_t* b = r.blocks + row * r.ld + first * f.bytes;
            for (int64_t g = 0; g < groups; g++, b += f.bytes)
                f.read(b, out.codes + 32 * g, out.scales[g], out.zeros[g]);
        };
        return {quant_of(f.codes, ScaleKind::f16, f.shift, f.zero, 32, r.k), {}, read};
    }
    for (const Large& f : kLarge) {
        if (r.format != f.name) continue;
        check(r, 256, f.bytes);
        const auto read = [r, &f](int64_t row, int64_t first, int64_t, RowChunk& out) {
            f.read(r.blocks + row * r.ld + first * f.group / 256 * f.bytes, out);
        };
        return {quant_of(f.codes, ScaleKind::super, f.shift, f.zero, f.group, r.k), {}, read};
    }
    throw std::invalid_argument("no layout for blocks of the format '" + r.format + "'");
}

}  // namespace penstock
