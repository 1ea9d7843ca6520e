// ggml's blocks as words of codes and numbers that scale them, for as many rows side by side as a vector has words.
// Layouts as ggml defines them (ggml-common.h, ggml-quants.c); pictures of each are in src/penstock/quant/ggml.py.
#pragma once
#include "formats/lanes.h"
#include "formats/pack.h"

namespace penstock {
namespace {

constexpr uint32_t kNibble = 0x0f0f0f0f, kCrumb = 0x03030303, kBit = 0x01010101, kSign = 0x80808080;

// All functions on blocks take rows and the byte where a block begins, and put words of codes into their lanes.

// Low nibbles of N words, then the high ones.
template <int N>
inline void nibbles(const Rows& b, int64_t at, const Lanes& out) {
    V w[N];
    words<N>(b, at, w);
    for (int j = 0; j < N; j++) out.put(j, w[j] & kNibble), out.put(N + j, w[j] >> 4 & kNibble);
}
// 64 bytes: 32 of them give 128 codes, their lowest bit pairs the first 32 of those.
inline void crumbs(const Rows& b, int64_t at, V* out) {
    V w[16];
    words<16>(b, at, w);
    for (int half = 0; half < 2; half++)
        for (int shift = 0; shift < 4; shift++)
            for (int j = 0; j < 8; j++) *out++ = w[half * 8 + j] >> (2 * shift) & kCrumb;
}
// The word j of 32 single bits, as the bits 4 of four codes.
inline V fifths(const V& bits, int j) {
    const V four = bits >> (4 * j) & 15;
    return ((four | four << 7 | four << 14 | four << 21) & kBit) << 4;
}

// One block of 32 each.
inline void q8_0(const Rows& b, int64_t at, const Lanes& out) {
    V w[8];
    words<8>(b, at + 2, w);
    for (int j = 0; j < 8; j++) out.put(j, w[j] ^ kSign);
}
inline void five(const Rows& b, int64_t bits, const Lanes& out) {
    V w[4];
    words<4>(b, bits + 4, w);
    const V top = word(b, bits);
    for (int j = 0; j < 4; j++) {
        out.put(j, (w[j] & kNibble) | fifths(top, j));
        out.put(4 + j, (w[j] >> 4 & kNibble) | fifths(top, 4 + j));
    }
}

// One block of 256 each.
inline void q2_k(const Rows& b, const Lanes& out) {
    V w[64];
    crumbs(b, 16, w);
    for (int j = 0; j < 64; j++) out.put(j, w[j]);
}
inline void q3_k(const Rows& b, const Lanes& out) {
    V w[64], third[8];
    crumbs(b, 32, w);
    words<8>(b, 0, third);
    for (int j = 0; j < 64; j++) out.put(j, w[j] | (third[j % 8] >> (j / 8) & kBit) << 2);
}
inline void q4_k(const Rows& b, const Lanes& out) {
    for (int i = 0; i < 4; i++) nibbles<8>(b, 16 + 32 * i, out + 16 * i);
}
inline void q5_k(const Rows& b, const Lanes& out) {
    V fifth[8], w[8];
    words<8>(b, 16, fifth);
    for (int i = 0; i < 4; i++) {
        words<8>(b, 48 + 32 * i, w);
        for (int j = 0; j < 8; j++) {
            out.put(16 * i + j, (w[j] & kNibble) | (fifth[j] >> (2 * i) & kBit) << 4);
            out.put(16 * i + 8 + j, (w[j] >> 4 & kNibble) | (fifth[j] >> (2 * i + 1) & kBit) << 4);
        }
    }
}
inline void q6_k(const Rows& b, const Lanes& out) {
    V top[64], w[16];
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
inline void iq4_xs(const Rows& b, const Lanes& out) {
    for (int i = 0; i < 8; i++) nibbles<4>(b, 8 + 16 * i, out + 8 * i);
}

// What scales the lanes of a tile from `lane` on: numbers of groups, and halves of the block.
struct Numbers {
    TileChunk& to;
    int lane;

    void scale(int group, const V& v) const { std::memcpy(to.scales[group] + lane, &v, sizeof v); }
    void zero(int group, const V& v) const { std::memcpy(to.zeros[group] + lane, &v, sizeof v); }
    // The half at byte `at` of every row.
    static void halves(const Rows& b, int64_t at, uint16_t* to) {
        for (int i = 0; i < kLanes; i++) std::memcpy(to + i, b.row[i] + at, 2);
    }
    void d(const Rows& b, int64_t at) const { halves(b, at, to.d + lane); }
    void m(const Rows& b, int64_t at) const { halves(b, at, to.m + lane); }
};

// One block of 256 each.
inline void scales_q2_k(const Rows& b, const Numbers& out) {
    V w[4];
    words<4>(b, 0, w);
    for (int i = 0; i < 16; i++) {
        const V both = w[i / 4] >> (8 * (i % 4));
        out.scale(i, both & 15);
        out.zero(i, both >> 4 & 15);
    }
    out.d(b, 80);
    out.m(b, 82);
}
inline void scales_q3_k(const Rows& b, const Numbers& out) {
    const V low[2] = {word(b, 96), word(b, 100)}, top = word(b, 104);
    for (int i = 0; i < 16; i++) {
        const V four = low[i % 8 / 4] >> (8 * (i % 4) + 4 * (i / 8)) & 15;
        const V two = top >> (8 * (i % 4) + 2 * (i / 4)) & 3;
        out.scale(i, (four | two << 4) - 32);
    }
    out.d(b, 108);
}
// 12 bytes: 8 scales and 8 minima of 6 bits. q4_k, q5_k.
inline void scales_of_8(const Rows& b, const Numbers& out) {
    out.d(b, 0);
    out.m(b, 2);
    V w[4];  // the halves above, too
    words<4>(b, 0, w);
    for (int i = 0; i < 4; i++) {
        const V scale = w[1] >> (8 * i), minimum = w[2] >> (8 * i), rest = w[3] >> (8 * i);
        out.scale(i, scale & 63);
        out.zero(i, minimum & 63);
        out.scale(4 + i, (rest & 15) | (scale >> 6 & 3) << 4);
        out.zero(4 + i, (rest >> 4 & 15) | (minimum >> 6 & 3) << 4);
    }
}
inline void scales_q6_k(const Rows& b, const Numbers& out) {
    V w[4];
    words<4>(b, 192, w);
    for (int i = 0; i < 16; i++) out.scale(i, w[i / 4] >> (8 * (i % 4)) & 255);
    out.d(b, 208);
}
inline void scales_iq4_xs(const Rows& b, const Numbers& out) {
    out.d(b, 0);
    const V high = word(b, 0) >> 16, low = word(b, 4);
    for (int i = 0; i < 8; i++) out.scale(i, ((low >> (4 * i) & 15) | (high >> (2 * i) & 3) << 4) - 32);
}

// `groups` blocks of 32, with a half before them, or two.
template <int bytes, bool shift, class Read>
inline void small_blocks(TileRows rows, int64_t groups, TileChunk& out, Read read) {
    for (int lane = 0; lane < kTile; lane += kLanes) {
        const Rows b = some_rows(rows, lane);
        for (int64_t g = 0; g < groups; g++) {
            read(b, g * bytes, Lanes{out.words + lane} + 8 * g);
            for (int i = 0; i < kLanes; i++) {
                uint16_t half;
                std::memcpy(&half, b.row[i] + g * bytes, 2);
                out.scales[g][lane + i] = half;
                if (shift) std::memcpy(&half, b.row[i] + g * bytes + 2, 2);
                if (shift) out.zeros[g][lane + i] = half;
            }
        }
    }
}

template <class Read, class Scales>
inline void large_block(TileRows rows, TileChunk& out, Read read, Scales scales) {
    for (int lane = 0; lane < kTile; lane += kLanes) {
        const Rows b = some_rows(rows, lane);
        read(b, Lanes{out.words + lane});
        scales(b, Numbers{out, lane});
    }
}

void read_blocks(BlockKind kind, TileRows rows, int64_t groups, TileChunk& out) {
    switch (kind) {
        case BlockKind::q8_0:
            return small_blocks<34, false>(rows, groups, out, q8_0);
        case BlockKind::q4_0:
            return small_blocks<18, false>(
                rows, groups, out, [](const Rows& b, int64_t at, const Lanes& to) { nibbles<4>(b, at + 2, to); });
        case BlockKind::q4_1:
            return small_blocks<20, true>(
                rows, groups, out, [](const Rows& b, int64_t at, const Lanes& to) { nibbles<4>(b, at + 4, to); });
        case BlockKind::q5_0:
            return small_blocks<22, false>(rows, groups, out,
                                           [](const Rows& b, int64_t at, const Lanes& to) { five(b, at + 2, to); });
        case BlockKind::q5_1:
            return small_blocks<24, true>(rows, groups, out,
                                          [](const Rows& b, int64_t at, const Lanes& to) { five(b, at + 4, to); });
        case BlockKind::q2_k:
            return large_block(rows, out, q2_k, scales_q2_k);
        case BlockKind::q3_k:
            return large_block(rows, out, q3_k, scales_q3_k);
        case BlockKind::q4_k:
            return large_block(rows, out, q4_k, scales_of_8);
        case BlockKind::q5_k:
            return large_block(rows, out, q5_k, scales_of_8);
        case BlockKind::q6_k:
            return large_block(rows, out, q6_k, scales_q6_k);
        case BlockKind::iq4_xs:
            return large_block(rows, out, iq4_xs, scales_iq4_xs);
    }
}

}  // namespace
}  // namespace penstock
