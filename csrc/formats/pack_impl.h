// Rows of plain numbers, of codes and of blocks into lines of lanes; scales beside them. The width of a vector decides
// only how many rows go at once.
#pragma once
#include "formats/block_lanes.h"
#include "formats/lanes.h"
#include "formats/pack.h"
#include "formats/pack_math.h"

namespace penstock {
namespace {

// Lines of whole words of the rows.
template <int E>
inline void plain_words(const Rows& rows, int64_t whole, const Lanes& to) {
    constexpr int kWord = 4 / E;  // inputs
    V w[16];
    int64_t i = 0;
    for (; i + 16 * kWord <= whole; i += 16 * kWord) {  // a line of the cache of each row
        words<16>(rows, i * E, w);
        for (int j = 0; j < 16; j++) to.put(i / kWord + j, w[j]);
    }
    for (; i < whole; i += 4 * kWord) {
        words<4>(rows, i * E, w);
        for (int j = 0; j < 4; j++) to.put(i / kWord + j, w[j]);
    }
}

// Lines of halves, one input each.
inline void plain_halves(const Rows& rows, int64_t whole, std::byte* to) {
    using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
    for (int64_t i = 0; i < whole; i += 8) {
        V w[4];  // pairs of inputs
        words<4>(rows, i * 2, w);
        for (int j = 0; j < 4; j++) {
            const Halves even = __builtin_convertvector(w[j] & 0xffff, Halves);
            const Halves odd = __builtin_convertvector(w[j] >> 16, Halves);
            std::memcpy(to + (i + 2 * j) * kTile * 2, &even, sizeof even);
            std::memcpy(to + (i + 2 * j + 1) * kTile * 2, &odd, sizeof odd);
        }
    }
}

void pack_plain(TileRows rows, int size, int together, int64_t whole, std::byte* tile) {
    for (int lane = 0; lane < kTile; lane += kLanes) {
        const Rows from = some_rows(rows, lane);
        const Lanes to{reinterpret_cast<uint32_t*>(tile) + lane};
        if (size == 4)
            plain_words<4>(from, whole, to);
        else if (together == 2)
            plain_words<2>(from, whole, to);
        else
            plain_halves(from, whole, tile + lane * 2);
    }
}

// Four bytes of which each is a nibble of the low half of x.
inline V spread(V x) {
    x = (x | x << 8) & 0x00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f;
}

// Whole pieces of n codes; how many they are.
inline int64_t whole_bytes(const Rows& from, int64_t at, int64_t n, uint32_t flip, const Lanes& to) {
    V w[4];
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        words<4>(from, at + i, w);
        for (int j = 0; j < 4; j++) to.put(i / 4 + j, w[j] ^ flip);
    }
    for (; i + 4 <= n; i += 4) to.put(i / 4, word(from, at + i) ^ flip);
    return i;
}
inline int64_t whole_nibbles(const Rows& from, int64_t at, int64_t n, const Lanes& to) {
    V w[4];
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        words<4>(from, at + i / 2, w);
        for (int j = 0; j < 4; j++) {
            to.put(i / 4 + 2 * j, spread(w[j] & 0xffff));
            to.put(i / 4 + 2 * j + 1, spread(w[j] >> 16));
        }
    }
    for (; i + 8 <= n; i += 8) {
        w[0] = word(from, at + i / 2);
        to.put(i / 4, spread(w[0] & 0xffff));
        to.put(i / 4 + 1, spread(w[0] >> 16));
    }
    return i;
}

void read_codes(bool packed, uint8_t flip, TileRows rows, int64_t k, int64_t n, int64_t padded, uint32_t* words) {
    const auto code = [&](const uint8_t* row, int64_t at) -> uint32_t {
        if (packed) return at % 2 == 0 ? row[at / 2] & 15 : row[at / 2] >> 4;
        return row[at] ^ flip;
    };
    for (int lane = 0; lane < kTile; lane += kLanes) {
        const Rows from = some_rows(rows, lane);
        const Lanes to{words + lane};
        int64_t done = 0;
        if (!packed) done = whole_bytes(from, k, n, flip * 0x01010101u, to);
        if (packed && k % 2 == 0) done = whole_nibbles(from, k / 2, n, to);
        // The rest one by one (`done` is a multiple of four), then zeros.
        for (int r = 0; r < kLanes && done < padded; r++)
            for (int64_t i = done; i < padded; i += 4) {
                uint32_t w = 0;
                for (int64_t j = i; j < i + 4 && j < n; j++) w |= code(from.row[r], k + j) << (8 * (j - i));
                to.words[i / 4 * kTile + r] = w;
            }
    }
}

// Four inputs of 16 outputs: of each input two words, whose nibbles are the outputs 0 2 4 6 1 3 5 7.
inline void four_of_awq(const uint8_t* at, int64_t stride, uint32_t* out) {
    using B16 = uint8_t __attribute__((vector_size(16)));
    constexpr auto kBytes = std::make_integer_sequence<int, 16>();
    const auto byte_zip = []<int... I>(const B16& a, const B16& b, std::integer_sequence<int, I...>) {
        return __builtin_shufflevector(a, b, (I / 2 + I % 2 * 16)...);
    };
    uint64_t w[4];
    for (int i = 0; i < 4; i++) std::memcpy(&w[i], at + i * stride, 8);
    constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
    V4 lanes[2][2];  // [even or odd nibbles][first or second word]: outputs 0 4 1 5, or 2 6 3 7
    for (int odd = 0; odd < 2; odd++) {
        B16 input[4];
        for (int i = 0; i < 4; i++) {
            const uint64_t half[2] = {w[i] >> (4 * odd) & kLow, 0};
            std::memcpy(&input[i], half, 16);
        }
        using H8 = uint16_t __attribute__((vector_size(16)));
        const H8 ab = reinterpret_cast<H8>(byte_zip(input[0], input[1], kBytes));
        const H8 cd = reinterpret_cast<H8>(byte_zip(input[2], input[3], kBytes));
        lanes[odd][0] = reinterpret_cast<V4>(__builtin_shufflevector(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11));
        lanes[odd][1] = reinterpret_cast<V4>(__builtin_shufflevector(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15));
    }
    for (int word = 0; word < 2; word++) {
        const V4 &even = lanes[0][word], &odd = lanes[1][word];
        const V4 low = __builtin_shufflevector(even, odd, 0, 2, 4, 6),
                 high = __builtin_shufflevector(even, odd, 1, 3, 5, 7);
        std::memcpy(out + 8 * word, &low, 16);
        std::memcpy(out + 8 * word + 4, &high, 16);
    }
}

void read_words(WordLayout layout, const uint8_t* words, int64_t stride, int64_t k, int64_t n, uint32_t* out) {
    if (layout == WordLayout::awq) {
        for (int64_t i = 0; i < n; i += 4) four_of_awq(words + (k + i) * stride, stride, out + i / 4 * kTile);
        return;
    }
    for (int64_t i = 0; i < n; i += 8)
        for (int lane = 0; lane < kTile; lane += kLanes) {
            V w;
            std::memcpy(&w, words + (k + i) / 8 * stride + 4 * lane, sizeof w);
            const Lanes to{out + i / 4 * kTile + lane};
            to.put(0, spread(w & 0xffff));
            to.put(1, spread(w >> 16));
        }
}

// A word of each lane of a tile.
using V16 = uint32_t __attribute__((vector_size(64)));

// A line: the bits `mask` (of every byte) of `count` words, `width` apart, from bit `shift` on.
template <int count, int shift, uint32_t mask, int width>
inline void put_line(const uint32_t* words, std::byte*& out) {
    V16 w, all{};
    for (int i = 0; i < count; i++) {
        std::memcpy(&w, words + i * kTile, sizeof w);
        all |= (w >> shift & mask) << (i * width);
    }
    std::memcpy(out, &all, kLineBytes);
    out += kLineBytes;
}

void write_codes(CodeKind kind, const uint32_t* words, int64_t inputs, std::byte* out) {
    constexpr uint32_t kLow = 0x0f0f0f0f, kPair = 0x03030303, kOne = 0x01010101;
    switch (kind) {
        case CodeKind::u8:
        case CodeKind::e4m3:
            std::memcpy(out, words, static_cast<size_t>(inputs / 4) * kLineBytes);
            break;
        case CodeKind::u4:
        case CodeKind::iq4:
            for (int64_t i = 0; i < inputs; i += 8, words += 2 * kTile) put_line<2, 0, kLow, 4>(words, out);
            break;
        case CodeKind::u2:
            for (int64_t i = 0; i < inputs; i += 16, words += 4 * kTile) put_line<4, 0, kPair, 2>(words, out);
            break;
        case CodeKind::u6:
            for (int64_t i = 0; i < inputs; i += 16, words += 4 * kTile) {
                put_line<2, 0, kLow, 4>(words, out);
                put_line<2, 0, kLow, 4>(words + 2 * kTile, out);
                put_line<4, 4, kPair, 2>(words, out);
            }
            break;
        case CodeKind::u5:
            for (int64_t i = 0; i < inputs; i += 32, words += 8 * kTile) {
                for (int j = 0; j < 8; j += 2) put_line<2, 0, kLow, 4>(words + j * kTile, out);
                put_line<8, 4, kOne, 1>(words, out);
            }
            break;
        case CodeKind::u3:
            for (int64_t i = 0; i < inputs; i += 32, words += 8 * kTile) {
                put_line<4, 0, kPair, 2>(words, out);
                put_line<4, 0, kPair, 2>(words + 4 * kTile, out);
                put_line<8, 2, kOne, 1>(words, out);
            }
            break;
    }
}

// The low bytes of 16 numbers.
inline void write_numbers(std::byte* to, int64_t bytes, const uint32_t* from) {
    using Bytes = uint8_t __attribute__((vector_size(kTile)));
    using Halves = uint16_t __attribute__((vector_size(2 * kTile)));
    V16 v;
    std::memcpy(&v, from, sizeof v);
    if (bytes == 4) std::memcpy(to, &v, sizeof v);
    if (bytes == 2) {
        const Halves halves = __builtin_convertvector(v, Halves);
        std::memcpy(to, &halves, sizeof halves);
    }
    if (bytes == 1) {
        const Bytes low = __builtin_convertvector(v, Bytes);
        std::memcpy(to, &low, sizeof low);
    }
}

void write_chunk(const Quant& q, const ChunkLayout& at, const TileChunk& piece, int64_t groups, int64_t inputs,
                 std::byte* chunk) {
    const bool super = q.scales == ScaleKind::super;
    const int64_t scale = (at.zeros - at.scales) / (q.per_chunk * kTile);
    int64_t zero = 0;
    if (q.zeros == ZeroKind::shift) zero = scale;
    if (q.zeros == ZeroKind::u8) zero = 1;
    if (q.zeros == ZeroKind::f16) zero = 2;
    if (q.zeros == ZeroKind::f32) zero = 4;
    std::memset(chunk, 0, static_cast<size_t>(at.codes));
    if (super) std::memcpy(chunk, piece.d, sizeof piece.d);
    if (super && q.zeros == ZeroKind::shift) std::memcpy(chunk + 32, piece.m, sizeof piece.m);
    for (int64_t i = 0; i < groups; i++) {
        write_numbers(chunk + at.scales + i * kTile * scale, scale, piece.scales[i]);
        if (zero > 0) write_numbers(chunk + at.zeros + i * kTile * zero, zero, piece.zeros[i]);
    }
    write_codes(q.codes, piece.words, inputs, chunk + at.codes);
}

}  // namespace
}  // namespace penstock

#define PENSTOCK_PACK_MATH {pack_plain, read_blocks, read_codes, read_words, write_chunk}
