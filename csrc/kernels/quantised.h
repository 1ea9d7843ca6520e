// Dot products of panels of rows with tiles of quantised weights, piece by piece: what one panel has brought into the
// first cache serves the others. Each output takes its inputs in order, so neither the number of rows nor that of
// panels shows in the bits.
#pragma once
#include "kernels/float_dots.h"
#include "kernels/table.h"
#include "kernels/whole_steps.h"

namespace penstock {
namespace {

void whole_number_tile(const PanelsBlock& b, int tile) {
    clear_results(b, tile, 1);
    const Quant& q = b.weight->quant;
    const ChunkLayout at(q);
    const PieceKernels::Table& kernels = kPieceKernels.of(q);
    const int64_t groups = q.groups(), row_words = q.row_words(), part = q.part();
    const int64_t chunks = (groups + q.per_chunk - 1) / q.per_chunk;
    const int64_t whole = q.per_chunk * q.padded(), last = q.chunk_inputs((chunks - 1) * q.per_chunk);
    const std::byte* chunk = b.weight->data + (b.tile + tile) * b.weight->tile_bytes;
    PieceRun run = piece_run(b);
    int64_t words = 0;
    const auto piece = [&](int64_t inputs_words) {
        each_panel(b, tile, row_words, [&](const uint32_t* panel, int rows, float* to) {
            run.panel = panel + words * rows;
            run.y = to;
            kernels[rows](run);
        });
        words += inputs_words;
    };
    const auto parts_of = [&](int64_t inputs) {
        run.parts_last = (inputs + part - 1) / part;
        run.part_last = inputs - (run.parts_last - 1) * part;
    };
    if (whole <= kPieceInputs) {
        const int64_t at_once = kPieceInputs / whole;
        run.codes = at.codes;
        run.parts = (whole + part - 1) / part;
        run.part_end = whole - (run.parts - 1) * part;
        for (int64_t c = 0; c < chunks; c += at_once) {
            run.chunk = chunk + c * at.bytes;
            run.chunks = chunks - c < at_once ? chunks - c : at_once;
            const int64_t inputs = c + run.chunks == chunks ? last : whole, before = run.chunks - 1;
            parts_of(inputs);
            piece(before * q.panel_words(whole) + q.panel_words(inputs));
        }
        return;
    }
    run.chunks = 1;  // a group longer than a piece
    for (int64_t c = 0; c < chunks; c++, chunk += at.bytes) {
        const int64_t inputs = c + 1 == chunks ? last : whole;
        run.chunk = chunk;
        for (int64_t from = 0; from < inputs; from += kPieceInputs) {
            const int64_t n = inputs - from < kPieceInputs ? inputs - from : kPieceInputs;
            run.codes = at.codes + code_bytes(q.codes, from);
            parts_of(n);
            piece(q.panel_words(n));
        }
    }
}

// So many at a time.
void whole_number_tiles(const PanelsBlock& b, int from, int to, int at_once) {
    WholeSteps steps(b, at_once);
    if (!steps.there()) {
        for (int tile = from; tile < to; tile++) whole_number_tile(b, tile);
        return;
    }
    for (int tile = from; tile < to; tile += at_once) steps.run(tile);
}

// The scales of a chunk of `tiles` tiles side by side, [group][tile][16], and what is added after them.
inline void scales_of_tiles(const PanelsBlock& b, const ChunkLayout& at, const std::byte* chunk, int64_t groups,
                            int tiles, float* scales, float* shifts) {
    for (int t = 0; t < tiles; t++)
        chunk_scales(b.weight->quant, at, chunk + t * b.weight->tile_bytes, groups, scales + t * kTile,
                     shifts + t * kTile, tiles * kTile);
}

void float_tiles(const PanelsBlock& b, int first, int tiles) {
    const Quant& q = b.weight->quant;
    const ChunkLayout at(q);
    alignas(64) float scales[kChunkGroups * kMostTiles * kTile], shifts[kChunkGroups * kMostTiles * kTile];
    alignas(64) float weights[kMostTiles * kFloatInputs * kTile];
    const int64_t count = q.groups(), row_words = (q.inputs + 1) / 2 * 2, stride = b.weight->tile_bytes;
    const std::byte* chunk = b.weight->data + (b.tile + first) * stride;
    FloatRun run{};
    run.weights = weights;
    run.ldy = b.ldy;
    int64_t before = 0;
    for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
        const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk, inputs = q.chunk_inputs(g);
        scales_of_tiles(b, at, chunk, groups, tiles, scales, shifts);
        for (int64_t from = 0; from < inputs; from += kFloatInputs) {
            const int64_t to = from + kFloatInputs < inputs ? from + kFloatInputs : inputs;
            for (int t = 0; t < tiles; t++)
                run.n = expand(q, chunk + t * stride + at.codes, g, from, to, scales + t * kTile, shifts + t * kTile,
                               tiles * kTile, weights + t * kFloatInputs * kTile);
            each_panel(b, first, row_words, [&](const uint32_t* panel, int rows, float* to_y) {
                run.panel = panel + before * rows;
                run.y = to_y;
                kFloatKernels.by[rows][tiles](run);
            });
            before += run.n;
        }
    }
}

void quant_tiles(const PanelsBlock& b) {
    int rows = 0, most = 0;
    for (int p = 0; p < b.panels; p++) rows += b.rows[p], most = b.rows[p] > most ? b.rows[p] : most;
    if (b.act == Act::i8) {
        // While memory decides, one stream of it is faster than several (bytes, four and eight rows: by 9 %). A core
        // that does vectors by halves has time to load inputs anew for each tile: one is faster for any number of rows.
        const CodeKind codes = b.weight->quant.codes;
        const bool wide_codes = unit_lines(codes) * 8 > unit_inputs(codes);  // more than half a byte an input
        const int wide = !b.halves && rows > (wide_codes ? 8 : 3) ? kBlockTiles : 1;
        const int many = b.count / wide * wide;
        whole_number_tiles(b, 0, many, wide);
        if (many < b.count) whole_number_tiles(b, many, b.count, 1);
        return;
    }
    clear_results(b, 0, b.count);
    // Panels differ by a row at most: what suits the larger one is there for the
    // smaller one too, or two tiles are.
    int at_once = float_tiles_for(most);
    for (int p = 0; p < b.panels; p++)
        if (float_tiles_for(b.rows[p]) != at_once) at_once = kMostTiles < 2 || float_tiles_for(b.rows[p]) < 2 ? 1 : 1;
    for (int tile = 0; tile < b.count;) {
        const int left = b.count - tile, count = left >= at_once ? at_once : left >= 2 && at_once > 2 ? 2 : 1;
        float_tiles(b, tile, count);
        tile += count;
    }
}

void add_quantised(Kernels& k) {
    static_assert(kAccumulators * 16 <= kBlockLimit && kMostTiles * kMaxRows * kTile <= kBlockLimit);
    for (int rows = 1; rows <= kMaxRows; rows++) {
        k.quant_tiles_at_once[rows] = float_tiles_for(rows);
        k.byte_tiles_at_once[rows] = kBlockTiles;
    }
    k.quant_tiles = quant_tiles;
}

}  // namespace
}  // namespace penstock
