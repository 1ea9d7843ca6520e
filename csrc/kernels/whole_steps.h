// A block of quantised tiles for the kernels of dot_blocks.h, step by step: what one block of rows has brought into the
// first cache serves the others, and memory that comes next is asked for meanwhile.
#pragma once
#include "kernels/dot_blocks.h"

namespace penstock {
namespace {

// f(panel, rows, results) for all panels of a block.
template <class Function>
inline void each_panel(const PanelsBlock& b, int first_tile, int64_t row_words, Function f) {
    const uint32_t* panel = b.panel;
    float* to = b.y + first_tile * kTile;
    for (int p = 0; p < b.panels; p++) {
        const int rows = b.rows[p];
        f(panel, rows, to);
        panel += rows * row_words;
        to += rows * b.ldy;
    }
}

void clear_results(const PanelsBlock& b, int first_tile, int tiles) {
    int rows = 0;
    for (int p = 0; p < b.panels; p++) rows += b.rows[p];
    for (int r = 0; r < rows; r++)
        for (int t = first_tile; t < first_tile + tiles; t++) store(b.y + r * b.ldy + t * kTile, zero());
}

PieceRun piece_run(const PanelsBlock& b) {
    const Quant& q = b.weight->quant;
    const ChunkLayout at(q);
    PieceRun run{};
    run.quant = &q;
    run.sums = b.sums;
    run.ldy = b.ldy;
    run.bytes = at.bytes;
    run.scales = at.scales;
    run.zeros = at.zeros;
    run.one_group = q.per_chunk == 1;
    run.part = q.part();
    run.in_step = q.parts_in_step();
    return run;
}

// One step of a tile, whatever its length, for all panels; the panels' words for it begin at `words`.
void ragged_step(const PanelsBlock& b, int tile, const std::byte* chunk, int64_t codes, int64_t inputs, int64_t words) {
    const Quant& q = b.weight->quant;
    PieceRun run = piece_run(b);
    run.chunk = chunk;
    run.chunks = 1;
    run.codes = codes;
    run.parts_last = (inputs + run.part - 1) / run.part;
    run.part_last = inputs - (run.parts_last - 1) * run.part;
    each_panel(b, tile, q.row_words(), [&](const uint32_t* panel, int rows, float* to) {
        run.panel = panel + words * rows;
        run.y = to;
        kPieceKernels.of(q)[rows](run);
    });
}

// Memory is asked for so much earlier than it is needed, where one tile is read at a time; and where a core does
// vectors by halves (Zen 4), into the second cache: the first one waits for few lines at once.
constexpr int64_t kAheadBytes = 4096, kAheadFar = 8192;
// Where several blocks of rows meet a tile there, they go through so much of it one after the other, and the same of
// what comes next is asked for meanwhile: both stay in the second cache, which keeps up with the products.
constexpr int64_t kPieceFar = 128 << 10;
// Up to so many rows such a core waits for memory alone, which by itself it fetches better than when asked, but for
// groups whose scales and zeros are apart.
constexpr int patient_rows(const Quant& q) {
    return q.scales == ScaleKind::super ? 2 : q.codes == CodeKind::u8 ? 4 : 0;
}

class WholeSteps {
  public:
    // So many tiles side by side.
    WholeSteps(const PanelsBlock& b, int tiles)
        : b_(b), q_(b.weight->quant), at_(q_), tiles_(tiles), block_(block_inputs(q_.codes)), part_(q_.part()) {
        const int64_t groups = q_.groups();
        chunks_ = (groups + q_.per_chunk - 1) / q_.per_chunk;
        last_ = q_.chunk_inputs((chunks_ - 1) * q_.per_chunk);
        whole_ = q_.per_chunk * q_.padded();
        row_words_ = q_.row_words();
        is_long_ = whole_ > kStepInputs;
        step_bytes_ = is_long_ ? code_bytes(q_.codes, kStepInputs) : at_.bytes;
        run_.quant = &q_;
        run_.scales = at_.scales;
        run_.zeros = at_.zeros;
        run_.tile_bytes = b.weight->tile_bytes;
        run_.ldy = b.ldy;
        run_.to_codes = step_bytes_;
        run_.to_scales = is_long_ ? 0 : step_bytes_;
        run_.early_far = b.halves;
        cut_rows();
        const int64_t ahead = !b.halves ? kAheadBytes : blocks_of_rows_ == 1 ? kAheadFar : kPieceFar;
        ahead_ = tiles > 1 ? 1 : (ahead + step_bytes_ - 1) / step_bytes_;
        patient_ = b.halves && b.panels == 1 && b.rows[0] <= patient_rows(q_);
    }

    // Whether there are kernels for it.
    bool there() const {
        if (q_.scales != ScaleKind::super && q_.part() % block_ != 0) return false;
        for (int i = 0; i < blocks_of_rows_; i++)
            if (rows_[i].kernel == nullptr) return false;
        return true;
    }

    // The tiles from `first` on.
    void run(int first) {
        begin(first);
        const std::byte* chunk = b_.weight->data + (b_.tile + first) * run_.tile_bytes;
        if (!is_long_) {
            const int64_t parts = whole_ / part_;
            const bool even = last_ == whole_ || last_ % (part_ * parts_of_block(q_.codes)) == 0;
            const int64_t full = even ? chunks_ : chunks_ - 1;
            steps(chunk, at_.codes, full, {parts, part_, even && last_ != whole_ ? last_ / part_ : parts}, even);
            if (!even) last_step(chunk + full * at_.bytes, at_.codes, last_);
            return;
        }
        for (int64_t c = 0; c < chunks_; c++, chunk += at_.bytes) {
            const int64_t inputs = c + 1 == chunks_ ? last_ : whole_, full = inputs / kStepInputs;
            const int64_t rest = inputs - full * kStepInputs;
            steps(chunk, at_.codes, full, {1, kStepInputs, 1}, c + 1 == chunks_ && rest == 0);
            if (rest > 0) last_step(chunk, at_.codes + code_bytes(q_.codes, full * kStepInputs), rest);
        }
    }

  private:
    const PanelsBlock& b_;
    const Quant& q_;
    const ChunkLayout at_;
    const int tiles_;
    const int64_t block_, part_;
    int first_ = 0;
    int64_t chunks_ = 0, last_ = 0;  // of a tile, and inputs of the last one
    int64_t whole_ = 0, row_words_ = 0, step_bytes_ = 0;
    int64_t ahead_ = 0;     // steps
    bool is_long_ = false;  // a group has several steps
    bool patient_ = false;  // nothing is asked for but the first lines of what comes next, if that lies elsewhere
    const std::byte* next_ = nullptr;
    int64_t next_stride_ = 0;
    int64_t words_ = 0;  // of a row, gone over
    BlockRun run_{};
    // Panels cut into what the kernels take.
    struct Rows {
        BlockKernel kernel;
        const uint32_t* panel;  // from its first row on
        int64_t panel_rows;     // of the whole panel
        float* y;               // of the first tile
    };
    static constexpr int kCuts = (kMaxRows + block_rows(kBlockTiles) - 1) / block_rows(kBlockTiles);
    Rows rows_[kPanelsAtOnce * kCuts];
    int blocks_of_rows_ = 0;

    void cut_rows() {
        const uint32_t* panel = b_.panel;
        float* y = b_.y;
        const int most = block_rows(tiles_);
        for (int p = 0; p < b_.panels; p++) {
            const int rows = b_.rows[p], cuts = (rows + most - 1) / most;
            for (int i = 0, from = 0; i < cuts; i++) {
                const int to = rows * (i + 1) / cuts;
                rows_[blocks_of_rows_++] = {kBlockKernels.of(q_, b_.sums, tiles_, to - from), panel + from, rows, y};
                y += (to - from) * b_.ldy;
                from = to;
            }
            panel += rows * row_words_;
        }
    }

    void begin(int first) {
        const int64_t tile_bytes = run_.tile_bytes;
        const bool ends = first + tiles_ == b_.count;
        const std::byte* beyond = b_.weight->data + (b_.tile + first + tiles_) * tile_bytes;
        first_ = first;
        next_ = ends ? b_.next : beyond;
        next_stride_ = ends ? b_.next_stride : tile_bytes;
        if (patient_ && next_ == beyond) next_ = nullptr;
        words_ = 0;
        run_.fresh = true;
    }

    // What steps consist of: so many parts of so many inputs, the last one of fewer.
    struct Parts {
        int64_t count, inputs, last;
    };

    // `count` steps, piece by piece where several blocks of rows shall find a piece in a cache.
    void steps(const std::byte* chunk, int64_t codes, int64_t count, Parts parts, bool last) {
        for (int64_t s = 0; s < count;) {
            const int64_t left = count - s;
            const int64_t n = left <= ahead_ ? left : blocks_of_rows_ == 1 ? left - ahead_ : ahead_;
            const Parts own{parts.count, parts.inputs, n == left ? parts.last : parts.count};
            if (is_long_)
                piece(chunk, codes + s * step_bytes_, n, own, last && n == left);
            else
                piece(chunk + s * step_bytes_, codes, n, own, last && n == left);
            s += n;
        }
    }

    // Meanwhile memory is asked for that comes `ahead_` steps later, or after the last of them what comes next.
    void piece(const std::byte* chunk, int64_t codes, int64_t count, Parts parts, bool last) {
        const int64_t blocks = ((count - 1) * parts.count + parts.last) * parts.inputs / block_;
        const int64_t lines = (count * step_bytes_ / kLineBytes + blocks_of_rows_ - 1) / blocks_of_rows_;
        const std::byte* early = last ? next_ : patient_ ? nullptr : chunk + codes + ahead_ * step_bytes_;
        run_.chunk = chunk;
        run_.codes = codes;
        run_.steps = count;
        run_.parts = parts.count;
        run_.last_parts = parts.last;
        run_.blocks = parts.inputs / block_;
        run_.early_lines = early == nullptr ? 0 : patient_ ? 1 : (lines + blocks - 1) / blocks;
        run_.early_stride = last ? next_stride_ : run_.tile_bytes;
        run_.early = early;
        const int64_t fetched = run_.early_lines * blocks * kLineBytes;
        for (int i = 0; i < blocks_of_rows_; i++, run_.early += fetched) {
            const Rows& r = rows_[i];
            run_.panel = r.panel + words_ * r.panel_rows;
            run_.panel_rows = r.panel_rows;
            run_.y = r.y + first_ * kTile;
            r.kernel(run_);
        }
        run_.fresh = false;
        words_ += (count - 1) * q_.panel_words(parts.count * parts.inputs) + q_.panel_words(parts.last * parts.inputs);
    }

    // The last step of a group or of all, where it is not like the others.
    void last_step(const std::byte* chunk, int64_t codes, int64_t inputs) {
        if (inputs < part_ && inputs % block_ == 0) return piece(chunk, codes, 1, {1, inputs, 1}, true);
        if (run_.fresh) clear_results(b_, first_, tiles_);
        run_.fresh = false;
        for (int t = 0; t < tiles_; t++)
            ragged_step(b_, first_ + t, chunk + t * run_.tile_bytes, codes, inputs, words_);
        words_ += q_.panel_words(inputs);
    }
};

}  // namespace
}  // namespace penstock
