// Products that a matrix unit adds up over all inputs, a block of 64 bytes at a time: of bf16, and of bytes where rows
// and weights have one scale each. Weights are read where they lie. Sums of bf16 are those of 32 inputs, even and odd
// ones apart (Intel's TDPBF16PS); whole numbers are exact. All rows of such weights are computed so.
#pragma once
#include "kernels/unit_weights.h"

namespace penstock {
namespace {

// Two panels, or the last one alone.
struct PanelPair {
    const uint32_t* panel[2];
    int rows[2];  // 0: there is no second
    float* y;     // of the first one's first row
};
// f(pair) for all of a block's panels.
template <class Function>
inline void each_pair(const PanelsBlock& b, int first_tile, int64_t row_words, Function f) {
    const uint32_t* panel = b.panel;
    float* y = b.y + first_tile * kTile;
    for (int p = 0; p < b.panels; p += 2) {
        const int rows = b.rows[p], more = p + 1 < b.panels ? b.rows[p + 1] : 0;
        f(PanelPair{{panel, panel + rows * row_words}, {rows, more}, y});
        panel += (rows + more) * row_words;
        y += (rows + more) * b.ldy;
    }
}

// Calls f.operator()<P, T>().
template <class Function>
inline void by_shape(int panels, int tiles, Function f) {
    if (panels == 2) {
        if (tiles == 2)
            f.template operator()<2, 2>();
        else
            f.template operator()<2, 1>();
    } else {
        if (tiles == 2)
            f.template operator()<1, 2>();
        else
            f.template operator()<1, 1>();
    }
}

// Tiles at once, of which each pair's turn comes for every piece of the inputs; and blocks of a piece: the panels' part
// of it stays in the second-level cache while the tiles go over it. (Shorter pieces, of which weights would stay in the
// first, lose more by keeping sums in memory in between: 12 blocks 2 to 17 % slower.)
constexpr int kBlockTilesAtOnce = 8;
constexpr int64_t kPieceBlocks = 40;
// Where one pair of panels has nothing to share, memory is read as two streams, so many blocks ahead.
constexpr int64_t kBlocksAhead = 4;

inline bool is_whole(const Matrix& m) { return m.format == Format::quantised && is_whole(m.quant); }

template <Product kKind>
class BlockProducts {
  public:
    BlockProducts(const PanelsBlock& b, Tiles& state) : b_(b), m_(*b.weight), state_(state) {
        const Act act = kBytes ? Act::i8 : Act::bf16;
        const int64_t lines = kBytes ? m_.quant.chunk_inputs(0) / 4 : (m_.k + 1) / 2;
        words_ = unit_row_words(m_, act);
        blocks_ = (lines + kLinesOfBlock - 1) / kLinesOfBlock;
        whole_ = lines / kLinesOfBlock;
        rest_ = lines - whole_ * kLinesOfBlock;
        if constexpr (kBytes) codes_ = ChunkLayout(m_.quant).codes;
    }

    void run() {
        const bool few = b_.panels <= 2;
        const int64_t piece = few ? blocks_ : kPieceBlocks;
        const int at_once = few ? kUnitTiles : b_.count;
        for (int first = 0; first < b_.count; first += at_once) {
            for (int64_t from = 0; from < blocks_; from += piece) {
                const int64_t to = from + piece < blocks_ ? from + piece : blocks_;
                for (int t = first; t < first + at_once && t < b_.count; t += kUnitTiles)
                    multiply_piece(t, from, to, few);
            }
        }
        if constexpr (kBytes)
            for (int t = 0; t < b_.count; t++) scale(t);
    }

  private:
    static constexpr bool kBytes = kKind != Product::bf16;
    static constexpr int64_t kLinesOfBlock = kTileBytes / kLineBytes;

    const PanelsBlock& b_;
    const Matrix& m_;
    Tiles& state_;
    int64_t words_ = 0, blocks_ = 0;
    int64_t whole_ = 0, rest_ = 0;  // blocks that have all their lines, and lines of the one that has not
    int64_t codes_ = 0;             // where they begin in a tile
    alignas(64) std::byte last_[2][kTileBytes] = {};  // that one, filled up with zeros

    const std::byte* tile(int t) const { return m_.data + (b_.tile + t) * m_.tile_bytes + codes_; }

    // The weights that come after a piece; those of a pair of tiles are a tile apart.
    const std::byte* next_piece(int t, int64_t from, int64_t to, bool few) const {
        const bool more = t + kUnitTiles < b_.count;
        if (few || (more && to == blocks_ && from == 0)) return more ? tile(t + kUnitTiles) : b_.next;
        if (more) return tile(t + kUnitTiles) + from * kTileBytes;
        return to < blocks_ ? tile(0) + to * kTileBytes : b_.next;
    }

    void multiply_piece(int t, int64_t from, int64_t to, bool few) {
        const int tiles = b_.count - t < kUnitTiles ? b_.count - t : kUnitTiles;
        const std::byte *w0 = tile(t), *w1 = tile(t + tiles - 1), *next = next_piece(t, from, to, few);
        if (to > whole_) {
            std::memcpy(last_[0], w0 + whole_ * kTileBytes, static_cast<size_t>(rest_ * kLineBytes));
            std::memcpy(last_[1], w1 + whole_ * kTileBytes, static_cast<size_t>(rest_ * kLineBytes));
        }
        // Every pair of panels asks for its share of what comes next.
        const int64_t pairs = (b_.panels + 1) / 2,
                      lines = next == nullptr || few ? 0 : (kLinesOfBlock + pairs - 1) / pairs;
        const int64_t share = lines * kLineBytes * (to - from);
        each_pair(b_, t, words_, [&](const PanelPair& p) {
            state_.shape(p.rows[0], p.rows[1], 64);
            by_shape(p.rows[1] > 0 ? 2 : 1, tiles, [&]<int P, int T>() {
                if (few)
                    multiply_stream<P, T>(p, w0, w1, next);
                else
                    multiply_pair<P, T>(p, w0, w1, from, to, next, lines);
            });
            if (!few && next != nullptr) next += share;
        });
    }

    template <int P, int T>
    void multiply_pair(const PanelPair& p, const std::byte* w0, const std::byte* w1, int64_t from, int64_t to,
                       const std::byte* next, int64_t lines) const {
        float *y0 = p.y, *y1 = p.y + p.rows[0] * b_.ldy;
        const int64_t ldy = b_.ldy * 4;
        if (from == 0)
            clear_sums<P, T>();
        else
            load_sums<P, T>(y0, y1, ldy, kTile * 4);
        const int64_t step0 = p.rows[0] * kBlockWords, step1 = p.rows[1] * kBlockWords;
        const uint32_t *a0 = p.panel[0] + from * step0, *a1 = p.panel[1] + from * step1;
        const int64_t end = to < whole_ ? to : whole_;
        for (int64_t i = from; i < end; i++, a0 += step0, a1 += step1) {
            for (int64_t j = 0; j < lines; j++, next += kLineBytes) {
                prefetch(next);
                if constexpr (T == 2) prefetch(next + m_.tile_bytes);
            }
            multiply_block<kKind, P, T>(a0, a1, w0 + i * kTileBytes, w1 + i * kTileBytes);
        }
        if (end < to) multiply_block<kKind, P, T>(a0, a1, last_[0], last_[1]);
        store_sums<P, T>(y0, y1, ldy, kTile * 4);
    }

    // All inputs of a pair that is alone.
    template <int P, int T>
    void multiply_stream(const PanelPair& p, const std::byte* w0, const std::byte* w1, const std::byte* next) const {
        const int64_t step0 = p.rows[0] * kBlockWords, step1 = p.rows[1] * kBlockWords;
        const uint32_t *a0 = p.panel[0], *a1 = p.panel[1];
        clear_sums<P, T>();
        for (int64_t i = 0; i < whole_; i++, a0 += step0, a1 += step1) {
            const std::byte* early = i + kBlocksAhead < whole_ ? w0 + (i + kBlocksAhead) * kTileBytes
                                     : next != nullptr         ? next + (i + kBlocksAhead - whole_) * kTileBytes
                                                               : w0;
#pragma GCC unroll 16
            for (int64_t j = 0; j < kLinesOfBlock; j++) {
                prefetch_near(early + j * kLineBytes);
                if constexpr (T == 2) prefetch_near(early + m_.tile_bytes + j * kLineBytes);
            }
            multiply_block<kKind, P, T>(a0, a1, w0 + i * kTileBytes, w1 + i * kTileBytes);
        }
        if (whole_ < blocks_) multiply_block<kKind, P, T>(a0, a1, last_[0], last_[1]);
        store_sums<P, T>(p.y, p.y + p.rows[0] * b_.ldy, b_.ldy * 4, kTile * 4);
    }

    // Whole numbers to results, less what makes the codes unsigned.
    void scale(int t) const {
        const Quant& q = m_.quant;
        const F weights = scale_at(m_.data + (b_.tile + t) * m_.tile_bytes, q.scales == ScaleKind::f16, 0);
        const I zero = set_i(-static_cast<int32_t>(q.zero));
        const uint32_t* panel = b_.panel;
        float* y = b_.y + t * kTile;
        for (int p = 0; p < b_.panels; p++) {
            const int rows = b_.rows[p];
            const uint32_t* header = panel + blocks_ * kBlockWords * rows;
            for (int r = 0; r < rows; r++, y += b_.ldy) {
                const I sum = load_codes(y) + zero * set_i(static_cast<int32_t>(header[rows + r]));
                store(y, to_float(sum) * weights * set(__builtin_bit_cast(float, header[r])));
            }
            panel += rows * words_;
        }
    }
};

}  // namespace
}  // namespace penstock
