// The inner loops over quantised weights and quantised inputs in whole steps of usual groups: one tile meets the rows
// of a panel, so that memory is read as one stream, or tiles side by side meet a few rows, so that a word of inputs
// serves all tiles and a line of codes all rows. Other groups are dot_pieces.h's; both add up in the same order.
#pragma once
#include "kernels/dot_pieces.h"

namespace penstock {
namespace {

// Sums fill the registers together with their scaled totals.
constexpr int kBlockTiles = kAccumulators >= 24 ? 3 : 1;
constexpr int block_rows(int tiles) { return tiles > 1 ? 4 : kMaxRows; }

struct BlockRun {
    const Quant* quant;
    const std::byte* chunk;  // the first step's chunk of the first tile, and where in it
    int64_t scales, zeros, codes;
    int64_t tile_bytes;                  // to the next tile
    int64_t steps, to_scales, to_codes;  // and to the next step's
    int64_t parts, blocks;               // of a step, and of a part; a block is block_inputs()
    int64_t last_parts;                  // of the last step
    bool fresh;                          // y counts as zero
    const uint32_t* panel;
    int64_t panel_rows;      // words from one word of a row to the next
    const std::byte* early;  // memory that is fetched meanwhile: of each tile, which are so many bytes apart,
    int64_t early_stride;
    int64_t early_lines;  // so many lines with each block,
    bool early_far;       // into the second cache
    float* y;
    int64_t ldy;
};
using BlockKernel = void (*)(const BlockRun&);

constexpr int block_inputs(CodeKind kind) { return kind == CodeKind::u2 || kind == CodeKind::u6 ? 16 : 32; }
constexpr int parts_of_block(CodeKind kind) { return kind == CodeKind::u3 ? 2 : 1; }  // two groups share a unit

// kChains: each sum is kept in so many, of every other line, to be added up at the end; they are whole numbers.
template <CodeKind kKind, int T, int R, int kChains = 1>
struct Block {
    static constexpr int kSums = kChains * R * T;
    static constexpr int kUnit = unit_inputs(kKind), kUnits = block_inputs(kKind) / kUnit;
    static constexpr int kBytes = unit_lines(kKind) * kLineBytes;

    // Lines kLine .. kEnd of a unit; `a` moves on.
    template <int kLine, int kEnd>
    static inline __attribute__((always_inline)) void lines(I (&acc)[kSums], const std::byte* unit, int64_t tile_bytes,
                                                            const uint32_t*& a, int64_t panel_rows) {
        Codes w[T];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) w[t] = codes_of<kKind, kLine>(unit + t * tile_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if constexpr (T == 1) {
                I& sum = acc[kLine % kChains * R + r];
                sum = is_small(kKind) ? dot_small_word(sum, w[0], a + r) : dot_word(sum, w[0], a + r);
            } else {
                I x = broadcast_codes(a[r]);
                hold(x);
#pragma GCC unroll 4
                for (int t = 0; t < T; t++)
                    acc[r * T + t] =
                        is_small(kKind) ? dot_small(acc[r * T + t], w[t], x) : dot(acc[r * T + t], w[t], x);
            }
        }
        a += panel_rows;
        if constexpr (kLine + 1 < kEnd) lines<kLine + 1, kEnd>(acc, unit, tile_bytes, a, panel_rows);
    }
    template <int kCount = kUnits>
    static inline __attribute__((always_inline)) void units(I (&acc)[kSums], const std::byte* w, int64_t tile_bytes,
                                                            const uint32_t*& a, int64_t panel_rows) {
        lines<0, kUnit / 4>(acc, w, tile_bytes, a, panel_rows);
        if constexpr (kCount > 1) units<kCount - 1>(acc, w + kBytes, tile_bytes, a, panel_rows);
    }
};

struct EarlyTiles {
    const std::byte* at;
    int64_t lines, stride;
    bool far;

    explicit EarlyTiles(const BlockRun& b)
        : at(b.early), lines(b.early_lines), stride(b.early_stride), far(b.early_far) {}

    template <int T>
    inline __attribute__((always_inline)) void portion() {
        for (int64_t i = lines; i > 0; i--, at += kLineBytes) {
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) far ? prefetch(at + t * stride) : prefetch_near(at + t * stride);
        }
    }
};

// What the rows' totals of each step, times their scales, add up to: of one tile in registers, of several in memory.
template <int T, int R>
struct Results {
    float* const y;
    const int64_t ldy;
    F sums[T == 1 ? R : 1];

    inline __attribute__((always_inline)) explicit Results(const BlockRun& b) : y(b.y), ldy(b.ldy) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if constexpr (T == 1) {
                sums[r] = b.fresh ? zero() : load(y + r * ldy);
            } else if (b.fresh) {
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) store(y + r * ldy + t * kTile, zero());
            }
        }
    }
    inline __attribute__((always_inline)) void add(const F (&totals)[R * T], const uint32_t* scales) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const F scale = set(__builtin_bit_cast(float, scales[r]));
            if constexpr (T == 1) {
                sums[r] = fma(totals[r], scale, sums[r]);
            } else {
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) {
                    float* to = y + r * ldy + t * kTile;
                    store(to, fma(totals[r * T + t], scale, load(to)));
                }
            }
        }
    }
    inline __attribute__((always_inline)) void end() const {
        if constexpr (T == 1) {
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) store(y + r * ldy, sums[r]);
        }
    }
};

// Scales are numbers; `kShift`: and so is what is added after them (zeros are not constant).
template <CodeKind kKind, int T, int R, bool kShift>
void block_plain(const BlockRun& b) {
    constexpr int kChains = T == 1 && R <= 2 ? 2 : 1;  // one or two rows wait for each product (q8_0: 2 % of a step)
    using B = Block<kKind, T, R, kChains>;
    const Quant& q = *b.quant;
    const bool half = q.scales == ScaleKind::f16;
    const int64_t tile_bytes = b.tile_bytes, panel_rows = T == 1 ? R : b.panel_rows, blocks = b.blocks;
    const int64_t to_part = half ? kTile * 2 : kTile * 4;
    EarlyTiles early(b);
    Results<T, R> results(b);
    const uint32_t* a = b.panel;
    const std::byte *scales = b.chunk + b.scales, *zeros = b.chunk + b.zeros, *codes = b.chunk + b.codes;
    for (int64_t step = b.steps; step > 0; step--) {
        const uint32_t* row_scales = a;
        F totals[R * T];
#pragma GCC unroll 16
        for (int i = 0; i < R * T; i++) totals[i] = zero();
        a += panel_rows;
        const std::byte *s = scales, *w = codes;
        const int64_t parts = step > 1 ? b.parts : b.last_parts;
        for (int64_t p = 0; p < parts; p++, s += to_part) {
            I acc[B::kSums];
            const uint32_t* sums = a;
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const I begin = set_i(kShift ? 0 : static_cast<int32_t>(sums[r]));
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) acc[r * T + t] = begin;
            }
#pragma GCC unroll 4
            for (int i = R * T; i < B::kSums; i++) acc[i] = set_i(0);
            a += panel_rows;
            for (int64_t i = blocks; i > 0; i--, w += B::kUnits * B::kBytes) {
                early.template portion<T>();
                B::units(acc, w, tile_bytes, a, panel_rows);
            }
#pragma GCC unroll 4
            for (int i = R * T; i < B::kSums; i++) acc[i - R * T] = acc[i - R * T] + acc[i];
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                const F scale = scale_at(s + t * tile_bytes, half, 0);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) totals[r * T + t] = fma(to_float(acc[r * T + t]), scale, totals[r * T + t]);
                if constexpr (kShift) {
                    const F shift = shift_at(q, zeros + t * tile_bytes, p, scale);
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++)
                        totals[r * T + t] =
                            fma(to_float(set_i(static_cast<int32_t>(sums[r]))), shift, totals[r * T + t]);
                }
            }
        }
        results.add(totals, row_scales);
        scales += b.to_scales;
        zeros += b.to_scales;
        codes += b.to_codes;
    }
    results.end();
}

// Takes off a step's minima, times the sums of its inputs. Minima of two parts meet two sums, which lie in the first
// one's word; `words` are the step's.
template <CodeKind kKind, int T, int R>
inline __attribute__((always_inline)) void subtract_minima(const BlockRun& b, const std::byte* chunk,
                                                           const uint32_t* words, int64_t parts, F (&totals)[R * T]) {
    constexpr int kPairWords = 2 * (1 + block_inputs(kKind) / 4);
    const int64_t tile_bytes = b.tile_bytes, panel_rows = b.panel_rows;
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        I minima[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) minima[r] = set_i(0);
        const std::byte* z = chunk + b.zeros + t * tile_bytes;
        const uint32_t* at = words;
        for (int64_t p = 0; p < parts; p += 2, z += 2 * kTile, at += kPairWords * panel_rows) {
            const I both = pair(load_u8_i(z), load_u8_i(z + kTile));
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) minima[r] = dot_pairs(minima[r], both, set_i(static_cast<int32_t>(at[r])));
        }
        const F m = scale_at(chunk + t * tile_bytes, true, 1);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) totals[r * T + t] = totals[r * T + t] - to_float(minima[r]) * m;
    }
}

// Scales are whole numbers times one of the chunk, which is a step.
template <CodeKind kKind, int T, int R>
void block_super(const BlockRun& b) {
    using B = Block<kKind, T, R>;
    constexpr bool kShift = super_shift(kKind);
    constexpr int kParts = parts_of_block(kKind);
    const int64_t tile_bytes = b.tile_bytes, panel_rows = T == 1 ? R : b.panel_rows;
    EarlyTiles early(b);
    Results<T, R> results(b);
    const uint32_t* a = b.panel;
    const std::byte* chunk = b.chunk;
    for (int64_t step = b.steps; step > 0; step--, chunk += b.to_codes) {
        const uint32_t *row_scales = a, *words = a + panel_rows;
        const int64_t parts = step > 1 ? b.parts : b.last_parts;
        I sums[R * T];
#pragma GCC unroll 16
        for (int i = 0; i < R * T; i++) sums[i] = set_i(0);
        a += panel_rows;
        const std::byte *s = chunk + b.scales, *w = chunk + b.codes;
        const auto part = [&](auto products) __attribute__((always_inline)) {
            I acc[R * T];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const I begin = set_i(kShift ? 0 : static_cast<int32_t>(a[r]));
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) acc[r * T + t] = begin;
            }
            a += panel_rows;
            products(acc);
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                const I scale = kShift ? load_u8_i(s + t * tile_bytes) : load_i8_i(s + t * tile_bytes);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) sums[r * T + t] = sums[r * T + t] + acc[r * T + t] * scale;
            }
            s += kTile;
        };
        for (int64_t p = 0; p < parts; p += kParts, w += B::kUnits * B::kBytes) {
            early.template portion<T>();
            if constexpr (kParts == 2) {
                part([&](I(&acc)[R* T]) __attribute__((always_inline)) {
                    B::template lines<0, 4>(acc, w, tile_bytes, a, panel_rows);
                });
                part([&](I(&acc)[R* T]) __attribute__((always_inline)) {
                    B::template lines<4, 8>(acc, w, tile_bytes, a, panel_rows);
                });
            } else {
                part([&](I(&acc)[R* T])
                         __attribute__((always_inline)) { B::units(acc, w, tile_bytes, a, panel_rows); });
            }
        }
        F totals[R * T];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            const F d = scale_at(chunk + t * tile_bytes, true, 0);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) totals[r * T + t] = to_float(sums[r * T + t]) * d;
        }
        if constexpr (kShift) subtract_minima<kKind, T, R>(b, chunk, words, parts, totals);
        results.add(totals, row_scales);
    }
    results.end();
}

// The kernels by tiles (one, or kBlockTiles) and rows.
struct BlockKernels {
    using Table = BlockKernel[2][kMaxRows + 1];
    struct Kind {
        Table constant = {}, shift = {}, super = {};
    };
    Kind u8, u4, u5, iq4, u2, u3, u6;

    template <int T, int R, int kLeast>
    constexpr void fill() {
        constexpr int i = T > 1 ? 1 : 0;
        u8.constant[i][R] = block_plain<CodeKind::u8, T, R, false>,
        u8.shift[i][R] = block_plain<CodeKind::u8, T, R, true>;
        u4.constant[i][R] = block_plain<CodeKind::u4, T, R, false>,
        u4.shift[i][R] = block_plain<CodeKind::u4, T, R, true>;
        u5.constant[i][R] = block_plain<CodeKind::u5, T, R, false>,
        u5.shift[i][R] = block_plain<CodeKind::u5, T, R, true>;
        iq4.constant[i][R] = block_plain<CodeKind::iq4, T, R, false>;
        u4.super[i][R] = block_super<CodeKind::u4, T, R>;
        u5.super[i][R] = block_super<CodeKind::u5, T, R>;
        iq4.super[i][R] = block_super<CodeKind::iq4, T, R>;
        u2.super[i][R] = block_super<CodeKind::u2, T, R>;
        u3.super[i][R] = block_super<CodeKind::u3, T, R>;
        u6.super[i][R] = block_super<CodeKind::u6, T, R>;
        if constexpr (R > kLeast) fill<T, R - 1, kLeast>();
    }
    constexpr BlockKernels() {
        fill<1, block_rows(1), 1>();
        if constexpr (kBlockTiles > 1) fill<kBlockTiles, block_rows(kBlockTiles), 2>();
    }
    const Kind* of(CodeKind kind) const {
        switch (kind) {
            case CodeKind::u8:
                return &u8;
            case CodeKind::u4:
                return &u4;
            case CodeKind::u5:
                return &u5;
            case CodeKind::iq4:
                return &iq4;
            case CodeKind::u2:
                return &u2;
            case CodeKind::u3:
                return &u3;
            case CodeKind::u6:
                return &u6;
            case CodeKind::e4m3:  // meets floats only
                break;
        }
        return nullptr;
    }
    // Null where there is none.
    BlockKernel of(const Quant& q, SumForm sums, int tiles, int rows) const {
        const Kind* kind = of(q.codes);
        const bool constant = q.zeros == ZeroKind::constant, super = q.scales == ScaleKind::super;
        if (kind == nullptr || ((constant || super) && sums != SumForm::ready)) return nullptr;
        return (super ? kind->super : constant ? kind->constant : kind->shift)[tiles > 1 ? 1 : 0][rows];
    }
};
constexpr BlockKernels kBlockKernels;

}  // namespace
}  // namespace penstock
