// linear: input rows are prepared once (norm, rounding) into panels that all workers read; then every worker goes over
// its own tiles of weights, or over its own tiles and panels when there are many rows.
#include <algorithm>

#include "kernels/table.h"
#include "ops/ops.h"
#include "prefetch.h"

namespace penstock {
namespace {

// Up to so many floats every worker prepares all rows for itself, which costs less than meeting the others.
constexpr int64_t kAlone = 8192;
// Panels that are gone over for each group of tiles. They are read in order, which the third-level cache keeps up with;
// with fewer of them the weights are read from memory more often (8192 inputs, 512 rows: 5 to 9 % slower with a
// quarter).
constexpr int64_t kCachedPanels = 1536 << 10;
// A matrix unit is too fast for that: they stay in the second-level cache.
constexpr int64_t kCachedByUnit = 640 << 10;

int64_t even(int64_t k) { return (k + 1) / 2 * 2; }
int64_t row_words(Act act, int64_t k) { return act == Act::bf16 ? even(k) / 2 : even(k); }
int64_t row_words(const Matrix& m, Act act) {
    if (m.format != Format::quantised) return row_words(act, m.k);
    return act == Act::i8 ? m.quant.row_words() : row_words(act, m.quant.inputs);
}
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The same with room for what a matrix unit wants: whole blocks, and headers of their own.
int64_t most_row_words(const Matrix& m, Act act) {
    constexpr int64_t kBlock = 16;
    int64_t words = row_words(m, act);
    if (m.format == Format::quantised && act == Act::i8) {
        const int64_t chunks = ceil_div(m.quant.groups(), m.quant.per_chunk);
        words += ceil_div(m.quant.per_chunk * m.quant.padded(), kStepInputs) * chunks * kBlock;  // steps
    }
    return ceil_div(words, kBlock) * kBlock + kBlock;
}

// Any weight of so many inputs that is not quantised.
Matrix plain_inputs(int64_t k) { return {Format::f32, kTile, k, 1, 0, nullptr}; }

// Weights that a worker takes at once: long enough for memory to come in its stride, short enough to wait for.
constexpr int64_t kPieceBytes = 96 << 10;
// Smaller matrices are in a cache, or soon will be.
constexpr int64_t kLarge = 512 << 10;
bool large(const Matrix& m) { return m.tiles * m.tile_bytes >= kLarge; }

// Memory that is asked for while something else is done: of a worker's first tile while inputs are prepared, and of the
// tile that comes next where two matrices take turns, since each turn would begin with waiting.
constexpr int64_t kFetchFirst = 12 << 10, kFetchNext = 2 << 10;
constexpr int64_t kFetchRows = 32;  // with more rows memory does not decide

void fetch(const Matrix& m, int64_t tile, int64_t bytes) {
    if (tile >= m.tiles || !large(m)) return;
    const std::byte* from = m.data + tile * m.tile_bytes;
    const int64_t n = std::min(bytes, (m.tiles - tile) * m.tile_bytes);
    for (int64_t i = 0; i < n; i += 64) prefetch_line(from + i);
}

// Floats that a row passes through before it is in a panel: after a norm, and in the order of its groups.
int64_t buffer_floats(const Matrix& m) {
    const bool sorted = m.format == Format::quantised && m.quant.order != nullptr;
    return even(m.k) + (sorted ? (m.quant.inputs + 15) / 16 * 16 : 0);
}

struct Span {
    int64_t begin, end;
};
Span share(int64_t n, int64_t i, int64_t count) { return {n * i / count, n * (i + 1) / count}; }

struct Linear {
    const Kernels& kernels;
    const LinearArgs& args;
    const Quant* quant;  // of quantised weights, which agree in what their inputs are
    SumForm sums = SumForm::ready;
    const MatrixUnit* unit;  // null: this is not for one
    int64_t panels, words;
    const uint32_t* prepared = nullptr;

    Linear(const Kernels& k, const LinearArgs& a)
        : kernels(k),
          args(a),
          quant(a.part[0].weight.format == Format::quantised ? &a.part[0].weight.quant : nullptr),
          unit(k.unit.rows > 0 ? &k.unit : nullptr) {
        for (int i = 1; quant != nullptr && i < a.parts; i++)
            if (!quant->same_sums(a.part[i].weight.quant)) sums = SumForm::plain;
        for (int i = 0; unit != nullptr && i < a.parts; i++)
            if (!unit->takes(a.part[i].weight, a.act, sums, a.rows) ||
                unit->whole(a.part[i].weight) != unit->whole(a.part[0].weight))
                unit = nullptr;
        panels = ceil_div(a.rows, unit != nullptr ? unit->rows : k.panel_rows);
        words = unit != nullptr ? unit->row_words(a.part[0].weight, a.act) : row_words(a.part[0].weight, a.act);
    }

    int tiles_at_once(int64_t rows) const {
        if (unit != nullptr) return unit->tiles_at_once(args.part[0].weight);
        if (quant == nullptr) return kernels.tiles_at_once[rows];
        return (args.act == Act::i8 ? kernels.byte_tiles_at_once : kernels.quant_tiles_at_once)[rows];
    }
    Span panel_rows(int64_t p) const {
        if (unit != nullptr) return {p * unit->rows, std::min(args.rows, (p + 1) * unit->rows)};
        return share(args.rows, p, panels);
    }

    void prepare_row(int64_t row, uint32_t* panel, int rows, int in_panel, float* buffer) const {
        const float* x = args.x.data + row * args.x.ld;
        if (args.norm.kind != NormKind::none) {
            kernels.norm(args.norm, x, buffer, args.k);
            x = buffer;
        }
        int64_t k = args.k;
        if (quant != nullptr && quant->order != nullptr) {
            float* sorted = buffer + even(args.k);
            k = quant->inputs;
            for (int64_t i = 0; i < k; i++) sorted[i] = quant->order[i] < 0 ? 0.0f : x[quant->order[i]];
            x = sorted;
        }
        if (args.act == Act::i8)
            (unit != nullptr ? unit->quantise_row : kernels.quantise_row)(*quant, sums, x, panel, rows, in_panel);
        else if (unit != nullptr)
            unit->fill_panel(x, k, panel, rows, in_panel);
        else
            kernels.fill_panel(args.act, x, k, panel, rows, in_panel);
    }
    void prepare_panel(int64_t p, uint32_t* panels_begin, float* buffer) const {
        const Span rows = panel_rows(p);
        const int count = static_cast<int>(rows.end - rows.begin);
        for (int i = 0; i < count; i++)
            prepare_row(rows.begin + i, panels_begin + rows.begin * words, count, i, buffer);
    }

    void prepare(const Worker& worker) {
        float* buffer = reinterpret_cast<float*>(worker.scratch);
        if (args.rows == 1 && args.norm.kind == NormKind::none && args.act == Act::f32 && args.k % 2 == 0 &&
            (quant == nullptr || quant->order == nullptr)) {
            prepared = reinterpret_cast<const uint32_t*>(args.x.data);
            return;
        }
        if (panels == 1 && (args.rows * std::max(args.k, words) <= kAlone || args.rows == 1)) {
            uint32_t* own = reinterpret_cast<uint32_t*>(buffer + ceil_div(buffer_floats(args.part[0].weight), 16) * 16);
            prepare_panel(0, own, buffer);
            prepared = own;
            return;
        }
        uint32_t* shared = reinterpret_cast<uint32_t*>(args.shared);
        if (panels == 1) {
            const Span rows = share(args.rows, worker.id, worker.count);
            for (int64_t row = rows.begin; row < rows.end; row++)
                prepare_row(row, shared, static_cast<int>(args.rows), static_cast<int>(row), buffer);
        } else {
            const Span own = share(panels, worker.id, worker.count);
            for (int64_t p = own.begin; p < own.end; p++) prepare_panel(p, shared, buffer);
        }
        worker.barrier();
        prepared = shared;
    }

    void dot(const Matrix& w, int64_t tile, int count, Span rows, float* y) const {
        TileBlock block;
        block.tiles = w.data + tile * w.tile_bytes;
        block.tile_bytes = w.tile_bytes;
        block.count = count;
        block.panel = prepared + rows.begin * words;
        block.rows = static_cast<int>(rows.end - rows.begin);
        block.k = even(args.k);
        block.y = y;
        block.ldy = int64_t{count} * kTile;
        kernels.tiles[static_cast<int>(w.format)][static_cast<int>(args.act)](block);
    }

    // The same for the panels from `first` on, which have these rows together: of quantised weights, or on a matrix
    // unit.
    void dot_panels(const Matrix& w, int64_t tile, int count, int64_t first, Span rows, float* y, const Matrix& next,
                    int64_t next_tile) const {
        PanelsBlock block{};
        int each[kPanelsAtOnce];
        block.weight = &w;
        block.act = args.act;
        block.sums = sums;
        block.halves = kernels.halves;
        block.tile = tile;
        block.count = count;
        block.panel = prepared + rows.begin * words;
        block.rows = each;
        for (int64_t p = first, row = rows.begin; row < rows.end; p++, block.panels++) {
            const Span own = panel_rows(p);
            each[block.panels] = static_cast<int>(own.end - own.begin);
            row = own.end;
        }
        block.y = y;
        block.ldy = int64_t{count} * kTile;
        if (next_tile + count <= next.tiles && large(next)) {
            block.next = next.data + next_tile * next.tile_bytes;
            block.next_stride = next.tile_bytes;
        }
        (unit != nullptr ? unit->products : kernels.quant_tiles)(block);
    }

    // Whether kernels take several panels at once.
    bool several() const { return quant != nullptr || unit != nullptr; }

    // Tiles tile .. tile + count of `part` for one panel of rows, or for the panels from `first` on; and what follows
    // the dot products.
    template <int kLimit>
    void block(const LinearPart& part, int64_t tile, int count, int64_t first, Span rows) const {
        alignas(64) float y[kLimit];
        alignas(64) float up[kLimit];
        const bool gated = args.activation != Activation::none;
        const LinearPart& other = args.part[1];
        const auto products = [&](const Matrix& w, float* to, const Matrix& next, int64_t next_tile) {
            if (several()) {
                dot_panels(w, tile, count, first, rows, to, next, next_tile);
            } else {
                if (gated && args.rows <= kFetchRows) fetch(next, next_tile, kFetchNext);
                dot(w, tile, count, rows, to);
            }
        };
        const int64_t column = tile * kTile, width = std::min(int64_t{count} * kTile, part.weight.n - column);
        if (args.rows > kFetchRows) fetch_results(part, column, width, rows);
        if (gated) products(part.weight, y, other.weight, tile);
        products(gated ? other.weight : part.weight, gated ? up : y, part.weight, tile + count);
        const float* bias = part.bias != nullptr ? part.bias + column : nullptr;
        const int64_t many = rows.end - rows.begin, ld = int64_t{count} * kTile;
        float* to = part.y + rows.begin * part.ldy + column;
        if (gated) {
            const float* bias_up = other.bias != nullptr ? other.bias + column : nullptr;
            kernels.finish_gated(args.activation, {many, width, y, up, ld, ld, bias, bias_up, to, part.ldy});
        } else {
            const Rows& r = args.residual;
            const float* residual = r.data != nullptr ? r.data + rows.begin * r.ld + column : nullptr;
            kernels.finish({many, width, y, ld, bias, residual, r.ld, to, part.ldy});
        }
    }

    // Where results go, and what is added to them: each row's lie in lines of their own.
    void fetch_results(const LinearPart& part, int64_t column, int64_t width, Span rows) const {
        for (int64_t row = rows.begin; row < rows.end; row++) {
            const float *to = part.y + row * part.ldy + column, *residual = args.residual.data;
            if (residual != nullptr) residual += row * args.residual.ld + column;
            for (int64_t i = 0; i < width; i += kTile) {
                prefetch_line(to + i);
                if (residual != nullptr) prefetch_line(residual + i);
            }
        }
    }

    // The worker's first tiles, early.
    void fetch_first(int64_t tile) const {
        if (args.rows > kFetchRows) return;
        const int parts = args.activation != Activation::none ? 1 : args.parts;
        int64_t before = 0;
        for (int i = 0; i < parts && before <= tile; before += args.part[i].weight.tiles, i++)
            fetch(args.part[i].weight, tile - before, kFetchFirst);
    }

    // Tiles that a worker takes at once.
    int64_t piece() const {
        const int64_t rows = ceil_div(args.rows, panels);
        const int64_t least = tiles_at_once(rows);
        const int64_t bytes = args.part[0].weight.tile_bytes * (args.activation != Activation::none ? 2 : 1);
        return ceil_div(ceil_div(kPieceBytes, bytes), least) * least;
    }

    // Tiles (counted over all parts) x panels.
    void run(Span tiles, Span own_panels) const {
        const int64_t most_rows = ceil_div(args.rows, panels);
        const int at_once = tiles_at_once(most_rows);
        const int64_t cached = unit != nullptr ? kCachedByUnit : kCachedPanels;
        const int64_t chunk = std::max<int64_t>(unit != nullptr ? kPanelsAtOnce : 1, cached / (most_rows * words * 4));
        const int parts = args.activation != Activation::none ? 1 : args.parts;
        for (int64_t from = own_panels.begin; from < own_panels.end; from += chunk) {
            const int64_t to = std::min(own_panels.end, from + chunk);
            int64_t before = 0;
            for (int i = 0; i < parts; before += args.part[i].weight.tiles, i++) {
                const LinearPart& part = args.part[i];
                const int64_t end = std::min(tiles.end - before, part.weight.tiles);
                for (int64_t tile = std::max<int64_t>(tiles.begin - before, 0); tile < end; tile += at_once) {
                    const int count = static_cast<int>(std::min<int64_t>(at_once, end - tile));
                    if (!several()) {
                        for (int64_t p = from; p < to; p++) block<kBlockLimit>(part, tile, count, p, panel_rows(p));
                        continue;
                    }
                    for (int64_t p = from; p < to; p += kPanelsAtOnce) {
                        const int64_t last = std::min(to, p + kPanelsAtOnce) - 1;
                        const Span rows{panel_rows(p).begin, panel_rows(last).end};
                        if (unit != nullptr)
                            block<kPanelsAtOnce * kUnitBlockLimit>(part, tile, count, p, rows);
                        else
                            block<kPanelsAtOnce * kBlockLimit>(part, tile, count, p, rows);
                    }
                }
            }
        }
    }
};

// Workers as a grid of so many along the panels, the others along the tiles: the largest share is smallest, and of
// equal ones that which reads each weight by the fewest workers.
int panel_workers(int64_t panels, int64_t tiles, int count) {
    int best = 1;
    int64_t least = INT64_MAX;
    for (int p = 1; p <= count && p <= panels; p++) {
        if (count % p != 0) continue;
        const int64_t largest = ceil_div(panels, p) * ceil_div(tiles, count / p);
        if (largest < least) best = p, least = largest;
    }
    return best;
}

}  // namespace

void linear(const Kernels& kernels, const LinearArgs& args, const Worker& worker) {
    if (args.rows == 0) return;
    Linear op(kernels, args);
    int64_t tiles = 0;
    for (int i = 0; i < (args.activation != Activation::none ? 1 : args.parts); i++) tiles += args.part[i].weight.tiles;
    op.fetch_first(share(tiles, worker.id, worker.count).begin);
    op.prepare(worker);
    const int along = panel_workers(op.panels, tiles, worker.count);
    if (along == 1 && large(args.part[0].weight)) {
        worker.share_out(tiles, op.piece(), [&](int64_t begin, int64_t end) { op.run({begin, end}, {0, op.panels}); });
    } else {
        op.run(share(tiles, worker.id / along, worker.count / along), share(op.panels, worker.id % along, along));
    }
    if (op.unit != nullptr) op.unit->leave();
}

int64_t linear_shared_bytes(const Matrix& m, Act act, int64_t rows) { return rows * most_row_words(m, act) * 4; }

int64_t linear_scratch_bytes(const Matrix& m, Act act) {
    return (buffer_floats(m) + 16) * 4 + std::max(kAlone + kRowsLimit, most_row_words(m, act)) * 4;
}

int64_t linear_shared_bytes(Act act, int64_t rows, int64_t k) {
    return linear_shared_bytes(plain_inputs(k), act, rows);
}

int64_t linear_scratch_bytes(Act act, int64_t k) { return linear_scratch_bytes(plain_inputs(k), act); }

}  // namespace penstock
