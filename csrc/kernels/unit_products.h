// Products of panels and tiles of quantised weights on a matrix unit. Whole numbers are added up exactly, part by part,
// and scaled in the order of dot_blocks.h, so results have the bits of the kernels for few rows.
#pragma once
#include "kernels/unit_blocks.h"

namespace penstock {
namespace {

// How sums of whole numbers are scaled: part by part (of signed codes; of whole bytes, less their zero times the
// inputs; or with what is added after scaling), or all parts at once in two planes.
enum class Scaling { parts, byte_parts, shifted_parts, planes };

// Sums of a pair of panels that wait to be scaled and added up while the unit makes the next ones.
struct WaitingSums {
    alignas(64) int32_t sums[2][2][2][kTileRows * kTile];  // [part or plane][panel][tile][row][16]
    int panels = 0, tiles = 0;                             // 0: there are none
    int rows[2];
    const uint32_t* header[2];
    float* y[2];
    int64_t parts, part, count;  // of the step; from which on, so many at once
    bool usual = false;          // all rows, tiles and parts there can be
};

// kEach: parts at once, or planes.
template <Scaling kScaling, int kEach>
class ByteProducts {
  public:
    ByteProducts(const PanelsBlock& b, Tiles& state)
        : b_(b), q_(b.weight->quant), reader_(*b.weight), state_(state), ldy_(b.ldy), part_(q_.part()) {
        row_words_ = unit_row_words(*b.weight, Act::i8);
        blocks_ = unit_row(q_).block;
        bytes_ = kPlanes || part_ % 64 == 0 ? 64 : part_ % 32 == 0 ? 32 : 16;
    }

    void run(int first, int tiles) {
        const Matrix& m = *b_.weight;
        const std::byte* tile = m.data + (b_.tile + first) * m.tile_bytes;
        const ChunkLayout at(q_);
        const int64_t ahead = code_bytes(q_.codes, kStepInputs);
        each_unit_step(q_, [&](const UnitStep& s) {
            reader_.read(s, tile + s.chunk * at.bytes, tiles, ahead, weights_);
            each_pair(b_, first, row_words_, [&](const PanelPair& p) {
                state_.shape(p.rows[0], p.rows[1], bytes_);
                by_shape(p.rows[1] > 0 ? 2 : 1, tiles, [&]<int P, int T>() { step<P, T>(s, p); });
            });
            for (int i = 0; i < 4; i++) finish(waiting_[turn_ ^ 1], i);
            waiting_[turn_ ^ 1].panels = 0, waiting_[turn_ ^ 1].usual = false;
        });
    }

  private:
    static constexpr bool kPlanes = kScaling == Scaling::planes, kShift = kScaling == Scaling::shifted_parts;
    static constexpr bool kLess = kScaling == Scaling::byte_parts;
    static constexpr Product kProduct = kShift || kLess ? Product::unsigned_bytes : Product::bytes;

    const PanelsBlock& b_;
    const Quant& q_;
    const StepReader reader_;
    Tiles& state_;
    const int64_t ldy_, part_;
    int64_t row_words_ = 0, blocks_ = 0;
    int bytes_ = 64, turn_ = 0;
    WaitingSums waiting_[2];
    StepWeights weights_;
    alignas(64) float totals_[2][2][kTileRows * kTile];  // of the parts so far

    // A step of a pair: all of it in two planes, or two short parts or a long one at once.
    template <int P, int T>
    void step(const UnitStep& s, const PanelPair& p) {
        const int64_t parts = kPlanes ? 2 : s.parts;
        for (int64_t part = 0; part < parts; part += kEach) {
            const int64_t count = part + kEach < parts ? kEach : parts - part;
            const int64_t from = kPlanes ? 0 : part * part_, rest = s.inputs - from;
            const bool whole = bytes_ == 64;
            const int64_t inputs = kPlanes || rest < part_ ? rest : part_;
            const int64_t blocks = whole ? blocks_of(inputs) : (inputs + bytes_ - 1) / bytes_;
            WaitingSums& next = waiting_[turn_];
            next.count = count;
            constexpr int kUsual = P == 2 && T == 2 ? kEach : 0;  // written out
            if (kUsual > 0 && (kPlanes || kEach == 1) && whole && blocks == 4 && count == kEach)
                multiply_parts<P, T, 4, kUsual>(s, p, from, 4);
            else if (kUsual == 1 && whole && blocks == 2)
                multiply_parts<P, T, 2, kUsual>(s, p, from, 2);
            else if (kUsual == 2 && !kPlanes && blocks == 1 && count == 2)
                multiply_parts<P, T, 1, kUsual>(s, p, from, 1);
            else
                multiply_parts<P, T, 0, 0>(s, p, from, blocks);
            next.panels = P, next.tiles = T;
            next.parts = s.parts, next.part = part;
            next.usual = P == 2 && T == 2 && count == kEach && p.rows[1] == kTileRows;
            for (int n = 0; n < P; n++) {
                next.rows[n] = p.rows[n];
                next.header[n] = p.panel[n] + (blocks_ * kBlockWords + s.header) * p.rows[n];
                next.y[n] = p.y + (n == 1 ? p.rows[0] * ldy_ : 0);
            }
            turn_ ^= 1;
        }
    }

    // kCount parts (or planes) of kBlocks blocks; 0, 0: as many as there are. Between products, a quarter at a time,
    // what waits is added up. The unit is kept busy by few instructions in between rather than by anything else, so
    // usual numbers are written out.
    template <int P, int T, int kBlocks, int kCount>
    void multiply_parts(const UnitStep& s, const PanelPair& p, int64_t from, int64_t blocks) {
        WaitingSums& next = waiting_[turn_];
        const WaitingSums& before = waiting_[turn_ ^ 1];
        const int64_t step0 = p.rows[0] * kBlockWords, step1 = p.rows[1] * kBlockWords;
        const int64_t count = kCount > 0 ? kCount : next.count;
        constexpr int kAll = kBlocks * kCount;
        constexpr int64_t kEven = kBlocks > 1 ? 64 : 0;  // bytes of each of several blocks
        const int64_t bytes = kEven > 0 ? kEven : bytes_;
#pragma GCC unroll 2
        for (int64_t i = 0; i < count; i++) {
            const int64_t k = kPlanes ? 0 : from + i * part_, block = s.block + k / 64, in = k % 64 / 4;
            const uint32_t *a0 = p.panel[0] + block * step0 + in, *a1 = p.panel[1] + block * step1 + in;
            const uint8_t *w0 = weights_.at[kPlanes ? i : 0][0] + k * kTile,
                          *w1 = weights_.at[kPlanes ? i : 0][1] + k * kTile;
            const int64_t left = kCount > 0 ? kBlocks : (s.inputs - k + bytes - 1) / bytes;
            const int64_t n = kCount > 0 ? kBlocks : blocks < left ? blocks : left;
            clear_sums<P, T>();
#pragma GCC unroll 4
            for (int64_t b = 0; b < n; b++) {
                multiply_block<kProduct, P, T>(a0, a1, w0 + b * bytes * kTile, w1 + b * bytes * kTile);
                if (bytes == 64)
                    a0 += step0, a1 += step1;
                else
                    next_piece(k + (b + 1) * bytes, step0, step1, bytes, a0, a1);
                if constexpr (kAll == 4) {
                    finish(before, static_cast<int>(b));
                } else if constexpr (kAll == 2) {
                    finish(before, static_cast<int>(2 * (i + b)));
                    finish(before, static_cast<int>(2 * (i + b) + 1));
                } else if constexpr (kAll == 8) {
                    if (b % 2 == 1) finish(before, static_cast<int>(2 * i + b / 2));
                }
            }
            store_sums<P, T>(next.sums[i][0][0], next.sums[i][1][0], kTile * 4, kTileBytes);
        }
        if constexpr (kAll == 0)
            for (int i = 0; i < 4; i++) finish(before, i);
    }
    // Pieces shorter than a block.
    static void next_piece(int64_t k, int64_t step0, int64_t step1, int64_t bytes, const uint32_t*& a0,
                           const uint32_t*& a1) {
        const bool ends = k % 64 == 0;
        a0 += bytes / 4 + (ends ? step0 - kBlockWords : 0);
        a1 += bytes / 4 + (ends ? step1 - kBlockWords : 0);
    }

    // A quarter of what waits: of one panel and tile.
    inline __attribute__((always_inline)) void finish(const WaitingSums& w, int quarter) {
        const int n = quarter / 2, t = quarter % 2;
        if (!w.usual) return finish_any(w, n, t);
        if constexpr (kPlanes)
            add_planes<kTileRows>(w, n, t);
        else
            add_parts<kEach, kTileRows>(w, n, t);
    }
    __attribute__((noinline)) void finish_any(const WaitingSums& w, int n, int t) {
        if (n >= w.panels || t >= w.tiles) return;
        if constexpr (kPlanes)
            add_planes<0>(w, n, t);
        else
            w.count == 2 ? add_parts<2, 0>(w, n, t) : add_parts<1, 0>(w, n, t);
    }
    template <int kCount, int kRows>
    inline __attribute__((always_inline)) void add_parts(const WaitingSums& w, int n, int t) {
        const bool last = w.part + w.count == w.parts;
        if (w.part == 0)
            last ? add_some<true, true, kCount, kRows>(w, n, t) : add_some<true, false, kCount, kRows>(w, n, t);
        else
            last ? add_some<false, true, kCount, kRows>(w, n, t) : add_some<false, false, kCount, kRows>(w, n, t);
    }
    template <bool kFirst, bool kLast, int kCount, int kRows>
    inline __attribute__((always_inline)) void add_some(const WaitingSums& w, int n, int t) {
        const int rows = kRows > 0 ? kRows : w.rows[n];
        const int64_t ldy = ldy_;
        const int32_t* sums = w.sums[0][n][t];
        const uint32_t *scale = w.header[n], *inputs = scale + (1 + w.part) * rows;
        float *totals = totals_[n][t], *y = w.y[n] + t * kTile;
        F scales[kCount], shifts[kCount];
#pragma GCC unroll 2
        for (int i = 0; i < kCount; i++) {
            scales[i] = load(weights_.scales[t][w.part + i]);
            if constexpr (kShift) shifts[i] = load(weights_.shifts[t][w.part + i]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            F total = kFirst ? zero() : load(totals + r * kTile);
#pragma GCC unroll 2
            for (int i = 0; i < kCount; i++) {
                const F input = set(__builtin_bit_cast(float, inputs[i * rows + r]));
                F sum = to_float(load_codes(sums + (i * 4 * kTileRows + r) * kTile));
                if constexpr (kLess) sum = sum - input;  // whole numbers below 2^24
                total = fma(sum, scales[i], total);
                if constexpr (kShift) total = fma(input, shifts[i], total);
            }
            if constexpr (kLast)
                store(y, fma(total, set(__builtin_bit_cast(float, scale[r])), load(y))), y += ldy;
            else
                store(totals + r * kTile, total);
        }
    }
    template <int kRows>
    inline __attribute__((always_inline)) void add_planes(const WaitingSums& w, int n, int t) {
        const int rows = kRows > 0 ? kRows : w.rows[n];
        const int64_t ldy = ldy_, pairs = q_.whole_minima() ? (w.parts + 1) / 2 : 0;
        const int32_t *low = w.sums[0][n][t], *high = w.sums[1][n][t];
        const uint32_t *scale = w.header[n], *inputs = scale + rows;
        const F d = load(weights_.scales[t][0]), m = load(weights_.shifts[t][0]);
        float* y = w.y[n] + t * kTile;
        I minima[kTileRows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) minima[r] = set_i(0);
        for (int64_t i = 0; i < pairs; i++) {
            const I both = load_codes(weights_.minima[t][i]);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) minima[r] = dot_pairs_word(minima[r], both, inputs + 2 * i * rows + r);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++, y += ldy) {
            F total =
                to_float(load_codes(low + r * kTile) + I{_mm512_slli_epi32(load_codes(high + r * kTile).v, 7)}) * d;
            if (pairs > 0) total = total - to_float(minima[r]) * m;
            store(y, fma(total, set(__builtin_bit_cast(float, scale[r])), load(y)));
        }
    }
    static inline I dot_pairs_word(I acc, I a, const uint32_t* word) {
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(a.v), "m"(*word));
        return acc;
    }
};

template <Scaling kScaling, int kEach>
void byte_products(const PanelsBlock& b, Tiles& state) {
    ByteProducts<kScaling, kEach> products(b, state);
    for (int tile = 0; tile < b.count; tile += kUnitTiles)
        products.run(tile, b.count - tile < kUnitTiles ? b.count - tile : kUnitTiles);
}

// A thread's tiles keep their shape from products to products: to set it takes 120 ns.
Tiles& own_tiles() {
    static thread_local Tiles tiles;
    return tiles;
}

void unit_products(const PanelsBlock& b) {
    Tiles& state = own_tiles();
    if (b.act == Act::bf16) {
        BlockProducts<Product::bf16>(b, state).run();
        return;
    }
    if (is_whole(*b.weight)) {
        BlockProducts<Product::unsigned_bytes>(b, state).run();
        return;
    }
    const Quant& q = b.weight->quant;
    int rows = 0;
    for (int p = 0; p < b.panels; p++) rows += b.rows[p];
    for (int r = 0; r < rows; r++) std::memset(b.y + r * b.ldy, 0, static_cast<size_t>(b.count) * kTile * 4);
    const bool constant = q.zeros == ZeroKind::constant, long_parts = q.part() > 64;
    if (q.scales == ScaleKind::super)
        byte_products<Scaling::planes, 2>(b, state);
    else if (constant && q.codes == CodeKind::u8)
        (long_parts ? byte_products<Scaling::byte_parts, 1> : byte_products<Scaling::byte_parts, 2>)(b, state);
    else if (constant)
        (long_parts ? byte_products<Scaling::parts, 1> : byte_products<Scaling::parts, 2>)(b, state);
    else
        (long_parts ? byte_products<Scaling::shifted_parts, 1> : byte_products<Scaling::shifted_parts, 2>)(b, state);
}

// Rows from which the unit is faster than what AVX-512 does: the more so, the more inputs share a scale and the fewer
// bytes they take.
int64_t least_unit_rows(const Quant& q) {
    if (q.scales == ScaleKind::super) return 24;
    if (q.codes == CodeKind::u8) return q.part() >= 128 ? 40 : 96;
    return q.part() >= 128 ? 9 : 24;
}

bool unit_takes(const Matrix& m, Act act, SumForm sums, int64_t rows) {
    if (act == Act::bf16) return m.format == Format::bf16;
    if (act != Act::i8 || m.format != Format::quantised) return false;
    if (is_whole(m)) return true;
    const Quant& q = m.quant;
    return q.codes != CodeKind::e4m3 && sums == SumForm::ready && q.part() % 16 == 0 && rows >= least_unit_rows(q);
}

void add_unit(Kernels& k) {
    static_assert(kTileRows <= kRowsLimit && kTileRows * kBlockTilesAtOnce * kTile <= kUnitBlockLimit);
    k.unit.rows = kTileRows;
    k.unit.tiles_at_once = [](const Matrix& m) {
        return is_whole(m) || m.format == Format::bf16 ? kBlockTilesAtOnce : kUnitTiles;
    };
    k.unit.whole = is_whole;
    k.unit.takes = unit_takes;
    k.unit.row_words = unit_row_words;
    k.unit.fill_panel = unit_fill;
    k.unit.quantise_row = unit_quantise;
    k.unit.products = unit_products;
    k.unit.leave = [] { own_tiles().release(); };
}

}  // namespace
}  // namespace penstock
