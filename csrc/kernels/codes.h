// What the codes and scales of a chunk (formats/quant.h) are: bytes for whole-number dot products, or floats.
#pragma once
#include "kernels/table.h"

namespace penstock {
namespace {

// The values of the iq4 types, plus 127.
alignas(16) constexpr uint8_t kIq4[16] = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};

inline F scale_at(const std::byte* p, bool half, int64_t i) {
    return half ? load_f16(reinterpret_cast<const uint16_t*>(p) + i * 16)
                : load(reinterpret_cast<const float*>(p) + i * 16);
}

// Scales of `groups` groups to s, and to z what is added after scaling (nothing where zeros are constant): w = s * code
// + z, or s * (code - zero). Group g goes to s + g * ld.
void chunk_scales(const Quant& q, const ChunkLayout& at, const std::byte* chunk, int64_t groups, float* s, float* z,
                  int64_t ld) {
    const std::byte *scales = chunk + at.scales, *zeros = chunk + at.zeros;
    const bool shift = q.zeros == ZeroKind::shift;
    if (q.scales == ScaleKind::super) {
        const F d = scale_at(chunk, true, 0);
        const F m = shift ? zero() - scale_at(chunk, true, 1) : zero();
        for (int64_t g = 0; g < groups; g++) {
            if (shift) {
                store(s + g * ld, d * load_u8(reinterpret_cast<const uint8_t*>(scales) + g * 16));
                store(z + g * ld, m * load_u8(reinterpret_cast<const uint8_t*>(zeros) + g * 16));
            } else {
                store(s + g * ld, d * load_i8(reinterpret_cast<const int8_t*>(scales) + g * 16));
            }
        }
        return;
    }
    const bool half = q.scales == ScaleKind::f16;
    const F factor = set(q.codes == CodeKind::e4m3 ? 256.0f : 1.0f);
    for (int64_t g = 0; g < groups; g++) {
        const F scale = scale_at(scales, half, g) * factor;
        store(s + g * ld, scale);
        if (q.zeros == ZeroKind::constant) continue;
        F off;
        if (shift) {
            off = scale_at(zeros, half, g);
        } else if (q.zeros == ZeroKind::u8) {
            off = zero() - scale * load_u8(reinterpret_cast<const uint8_t*>(zeros) + g * 16);
        } else {
            off = zero() - scale * scale_at(zeros, q.zeros == ZeroKind::f16, g);
        }
        store(z + g * ld, off);
    }
}

// Lines of a byte each for the inputs [from, to) of a chunk's codes; `from` begins a unit.
void unpack(CodeKind kind, const std::byte* codes, int64_t from, int64_t to, uint8_t* out) {
    const int unit = unit_inputs(kind);
    const std::byte* p = codes + from / unit * unit_lines(kind) * kLineBytes;
    const auto line = [&](int i) { return load_codes(p + i * kLineBytes); };
    const auto put = [&](int i, Codes c) { store_codes(out + i * kLineBytes, c); };
    for (int64_t i = from; i < to; i += unit, p += unit_lines(kind) * kLineBytes, out += unit / 4 * kLineBytes) {
        const Codes a = line(0);
        switch (kind) {
            case CodeKind::u8:
            case CodeKind::e4m3:
                put(0, a);
                break;
            case CodeKind::u4:
                put(0, bits<0, 4>(a));
                put(1, bits<4, 4>(a));
                break;
            case CodeKind::iq4:
                put(0, lookup(kIq4, bits<0, 4>(a)));
                put(1, lookup(kIq4, bits<4, 4>(a)));
                break;
            case CodeKind::u2:
                put(0, bits<0, 2>(a));
                put(1, bits<2, 2>(a));
                put(2, bits<4, 2>(a));
                put(3, bits<6, 2>(a));
                break;
            case CodeKind::u6: {
                const Codes b = line(1), top = line(2);
                put(0, join<4>(bits<0, 4>(a), bits<0, 2>(top)));
                put(1, join<4>(bits<4, 4>(a), bits<2, 2>(top)));
                put(2, join<4>(bits<0, 4>(b), bits<4, 2>(top)));
                put(3, join<4>(bits<4, 4>(b), bits<6, 2>(top)));
                break;
            }
            case CodeKind::u5: {
                const Codes b = line(1), c = line(2), d = line(3), top = line(4);
                put(0, join<4>(bits<0, 4>(a), bits<0, 1>(top)));
                put(1, join<4>(bits<4, 4>(a), bits<1, 1>(top)));
                put(2, join<4>(bits<0, 4>(b), bits<2, 1>(top)));
                put(3, join<4>(bits<4, 4>(b), bits<3, 1>(top)));
                put(4, join<4>(bits<0, 4>(c), bits<4, 1>(top)));
                put(5, join<4>(bits<4, 4>(c), bits<5, 1>(top)));
                put(6, join<4>(bits<0, 4>(d), bits<6, 1>(top)));
                put(7, join<4>(bits<4, 4>(d), bits<7, 1>(top)));
                break;
            }
            case CodeKind::u3: {
                const Codes b = line(1), top = line(2);
                put(0, join<2>(bits<0, 2>(a), bits<0, 1>(top)));
                put(1, join<2>(bits<2, 2>(a), bits<1, 1>(top)));
                put(2, join<2>(bits<4, 2>(a), bits<2, 1>(top)));
                put(3, join<2>(bits<6, 2>(a), bits<3, 1>(top)));
                put(4, join<2>(bits<0, 2>(b), bits<4, 1>(top)));
                put(5, join<2>(bits<2, 2>(b), bits<5, 1>(top)));
                put(6, join<2>(bits<4, 2>(b), bits<6, 1>(top)));
                put(7, join<2>(bits<6, 2>(b), bits<7, 1>(top)));
                break;
            }
        }
    }
}

constexpr int kFloatInputs = 64;  // turned into floats at once, so that they stay in the first cache

// The weights [input][16] of the inputs [from, to) of a chunk whose first group is `first`, codes filled up counted in
// `from` and `to` (at most kFloatInputs apart, a multiple of that at the start) but left out. Returns how many.
int64_t expand(const Quant& q, const std::byte* codes, int64_t first, int64_t from, int64_t to, const float* s,
               const float* z, int64_t ld, float* out) {
    alignas(64) uint8_t line[kFloatInputs * 16];
    unpack(q.codes, codes, from, to, line);
    const int64_t padded = q.padded();
    const F zero_point = set(q.zero);
    int64_t n = 0;
    for (int64_t i = from; i < to; i += 4) {
        const int64_t g = i / padded, left = q.inputs_of(first + g) - (i - g * padded);
        if (left <= 0) continue;
        const Codes c = load_codes(line + (i - from) * 16);
        F w[4];
        if (q.codes == CodeKind::e4m3)
            w[0] = e4m3<0>(c), w[1] = e4m3<1>(c), w[2] = e4m3<2>(c), w[3] = e4m3<3>(c);
        else
            w[0] = byte<0>(c), w[1] = byte<1>(c), w[2] = byte<2>(c), w[3] = byte<3>(c);
        const F scale = load(s + g * ld);
        for (int j = 0; j < (left < 4 ? left : 4); j++, n++) {
            const F x =
                q.zeros == ZeroKind::constant ? (w[j] - zero_point) * scale : fma(w[j], scale, load(z + g * ld));
            store(out + n * 16, x);
        }
    }
    return n;
}

}  // namespace
}  // namespace penstock
