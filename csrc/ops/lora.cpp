// lora: two products of few outputs and of few inputs. Rows that share an adapter go together in panels, so that its
// factors are read once for all of them; as in linear, each output is one accumulator over k in order, so company does
// not show in the bits.
#include <algorithm>
#include <cstring>

#include "ops/low_rank.h"

namespace penstock {
namespace {

template <class Tiles>
int64_t total_tiles(const LoraArgs& args, Tiles tiles) {
    int64_t total = 0;
    for (int64_t p = 0; p < args.rows.count; p++) total += args.factors[p] != nullptr ? tiles(*args.factors[p]) : 0;
    return total;
}

// Calls f(panel, first tile, last tile) for this worker's share (or all) of the tiles of all panels' matrices.
template <class Tiles, class Function>
void share(const LoraArgs& args, const Worker& worker, bool all, Tiles tiles, Function f) {
    const int64_t total = total_tiles(args, tiles);
    int64_t begin = 0, end = total, before = 0;
    if (!all) worker.range(total, begin, end);
    for (int64_t p = 0; p < args.rows.count; p++) {
        if (args.factors[p] == nullptr) continue;
        const int64_t count = tiles(*args.factors[p]);
        const int64_t from = std::max<int64_t>(begin - before, 0), to = std::min(end - before, count);
        if (from < to) f(p, from, to);
        before += count;
    }
}

// Where y and z are two: rows that get nothing.
void copy_others(const LoraArgs& args, const Worker& worker) {
    if (args.y.data == args.z) return;
    int64_t begin, end;
    worker.range(args.all_rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        bool adapted = false;
        for (int64_t p = 0; p < args.rows.count && !adapted; p++) {
            const LoraPanel& panel = args.rows.panels[p];
            adapted = args.factors[p] != nullptr && std::find(args.rows.rows + panel.begin, args.rows.rows + panel.end,
                                                              row) != args.rows.rows + panel.end;
        }
        if (!adapted) std::memcpy(args.z + row * args.ldz, args.y.data + row * args.y.ld, args.width * sizeof(float));
    }
}

}  // namespace

void lora(const Kernels& kernels, const LoraArgs& args, const Worker& worker) {
    copy_others(args, worker);
    const auto tiles_a = [](const LoraFactors& f) { return f.a.tiles; };
    const auto tiles_b = [](const LoraFactors& f) { return f.b.tiles; };
    // One tile is one worker's work: then each does it for itself, and none waits for another.
    const bool alone = total_tiles(args, tiles_a) <= 1;
    const int64_t ld = low_rank_tiles(args.rank) * kTile;
    uint32_t* panel = reinterpret_cast<uint32_t*>(worker.scratch);
    float* own = reinterpret_cast<float*>(worker.scratch + low_rank_panel_bytes(args.k, args.rank));
    const auto inner = [&](const LoraPanel& at, int64_t i) {
        return alone ? own + i * ld : reinterpret_cast<float*>(args.shared) + (at.begin + i) * ld;
    };
    share(args, worker, alone, tiles_a, [&](int64_t p, int64_t from, int64_t to) {
        const LoraPanel& at = args.rows.panels[p];
        const int32_t* rows = args.rows.rows + at.begin;
        low_rank_product(
            kernels, args.factors[p]->a, static_cast<int>(at.end - at.begin), from, to, panel,
            [&](int i) { return args.x.data + rows[i] * args.x.ld; },
            [&](int i, int64_t column, const float* y, int64_t width) {
                std::memcpy(inner(at, i) + column, y, width * sizeof(float));
            });
    });
    if (!alone) worker.barrier();
    share(args, worker, false, tiles_b, [&](int64_t p, int64_t from, int64_t to) {
        const LoraPanel& at = args.rows.panels[p];
        const int32_t* rows = args.rows.rows + at.begin;
        const float scale = args.factors[p]->scale;
        low_rank_product(
            kernels, args.factors[p]->b, static_cast<int>(at.end - at.begin), from, to, panel,
            [&](int i) { return inner(at, i); },
            [&](int i, int64_t column, const float* add, int64_t width) {
                const float* y = args.y.data + rows[i] * args.y.ld + column;
                float* z = args.z + rows[i] * args.ldz + column;
                for (int64_t j = 0; j < width; j++) z[j] = y[j] + scale * add[j];
            });
    });
}

int64_t lora_shared_bytes(int64_t rows, int64_t rank) { return rows * low_rank_tiles(rank) * kTile * 4; }

int64_t lora_scratch_bytes(int64_t k, int64_t rank) {
    return low_rank_panel_bytes(k, rank) + low_rank_tiles(rank) * kTile * kRowsLimit * 4;
}

}  // namespace penstock
