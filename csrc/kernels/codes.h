// What the codes and scales of a chunk (formats/quant.h) are: bytes for
// whole-number dot products, or floats.
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

// What is added to a scaled code of group i where zeros are not constant; not of ScaleKind::super.
inline F shift_at(const Quant& q, const std::byte* zeros, int64_t i, F scale) {
    switch (q.zeros) {
        case ZeroKind::u8:
            return zero() - scale * load_u8(reinterpret_cast<const uint8_t*>(zeros) + i * 16);
        case ZeroKind::f16:
            return zero() - scale * scale_at(zeros, true, i);
        case ZeroKind::f32:
            return zero() - scale * scale_at(zeros, false, i);
        case ZeroKind::shift:
            return scale_at(zeros, q.scales == ScaleKind::f16, i);
        case ZeroKind::constant:
            break;
    }
    return zero();
}

// Scales of `groups` groups to s, and to z what is added after scaling (nothing
// where zeros are constant): w = s * code
// + z, or s * (code - zero). Group g goes to s + g * ld.
inline void chunk_scales(const Quant& q, const ChunkLayout& at, const std::byte* chunk, int64_t groups, float* s,
                         float* z, int64_t ld) {
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
        if (q.zeros != ZeroKind::constant) store(z + g * ld, shift_at(q, zeros, g, scale));
    }
}

// No code needs all eight bits, unsigned.
constexpr bool is_small(CodeKind kind) {
    return kind != CodeKind::u8 && kind != CodeKind::iq4 && kind != CodeKind::e4m3;
}

// Where scales are whole numbers, minima are too with these codes, and there are none with others.
constexpr bool super_shift(CodeKind kind) {
    return kind == CodeKind::u2 || kind == CodeKind::u4 || kind == CodeKind::u5;
}

// Line `kLine` of a unit of codes: a byte each for the inputs 4 * kLine and on.
template <CodeKind kKind, int kLine>
inline Codes codes_of(const std::byte* unit) {
    const auto line = [&](int i) { return load_codes(unit + i * kLineBytes); };
    if constexpr (kKind == CodeKind::u8 || kKind == CodeKind::e4m3) {
        return line(kLine);
    } else if constexpr (kKind == CodeKind::u4) {
        return bits<4 * kLine, 4>(line(0));
    } else if constexpr (kKind == CodeKind::iq4) {
        return lookup(kIq4, bits<4 * kLine, 4>(line(0)));
    } else if constexpr (kKind == CodeKind::u2) {
        return bits<2 * kLine, 2>(line(0));
    } else if constexpr (kKind == CodeKind::u6) {
        return join(bits<kLine % 2 * 4, 4>(line(kLine / 2)), moved<2 * kLine, 2, 4>(line(2)));
    } else if constexpr (kKind == CodeKind::u5) {
        return join(bits<kLine % 2 * 4, 4>(line(kLine / 2)), moved<kLine, 1, 4>(line(4)));
    } else {
        return join(bits<kLine % 4 * 2, 2>(line(kLine / 4)), moved<kLine, 1, 2>(line(2)));
    }
}

template <CodeKind kKind, int kLine = 0>
inline void unpack_unit(const std::byte* unit, uint8_t* out) {
    store_codes(out + kLine * kLineBytes, codes_of<kKind, kLine>(unit));
    if constexpr (kLine + 1 < unit_inputs(kKind) / 4) unpack_unit<kKind, kLine + 1>(unit, out);
}
template <CodeKind kKind>
inline void unpack_units(const std::byte* codes, int64_t from, int64_t to, uint8_t* out) {
    constexpr int kUnit = unit_inputs(kKind), kBytes = unit_lines(kKind) * kLineBytes;
    for (int64_t i = from; i < to; i += kUnit, out += kUnit * 16) unpack_unit<kKind>(codes + i / kUnit * kBytes, out);
}

// Lines of a byte each for the inputs [from, to) of a chunk's codes; `from`
// begins a unit.
void unpack(CodeKind kind, const std::byte* codes, int64_t from, int64_t to, uint8_t* out) {
    switch (kind) {
        case CodeKind::u8:
        case CodeKind::e4m3:
            return unpack_units<CodeKind::u8>(codes, from, to, out);
        case CodeKind::u4:
            return unpack_units<CodeKind::u4>(codes, from, to, out);
        case CodeKind::iq4:
            return unpack_units<CodeKind::iq4>(codes, from, to, out);
        case CodeKind::u2:
            return unpack_units<CodeKind::u2>(codes, from, to, out);
        case CodeKind::u6:
            return unpack_units<CodeKind::u6>(codes, from, to, out);
        case CodeKind::u5:
            return unpack_units<CodeKind::u5>(codes, from, to, out);
        case CodeKind::u3:
            return unpack_units<CodeKind::u3>(codes, from, to, out);
    }
}

constexpr int kFloatInputs = 64;  // turned into floats at once, so that they stay in the first cache

// The weights [input][16] of the inputs [from, to) of a chunk whose first group
// is `first`, codes filled up counted in `from` and `to` (at most kFloatInputs
// apart, a multiple of that at the start) but left out. Returns how many.
inline int64_t expand(const Quant& q, const std::byte* codes, int64_t first, int64_t from, int64_t to, const float* s,
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
