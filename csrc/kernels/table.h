// What one instruction set offers: plain functions over rows, tiles and cache groups, found through a table. Every
// function works within one thread on memory given to it; ops/ cuts the work and walks the tables.
#pragma once
#include <cstdint>

#include "formats/matrix.h"
#include "ops/ops.h"

namespace penstock {

constexpr int kFormats = 3, kActs = 2, kKVTypes = 4;
constexpr int kRowsLimit = 16;    // no panel has more rows
constexpr int kBlockLimit = 512;  // floats of the largest block of results: rows of a panel x tiles at once x 16

// Input rows are read from panels: [word of k][row of the panel], each word four bytes that one line of weights meets:
// a float, or two bf16 (four int8 and so on). `k` counts inputs rounded up to whole lines.
struct TileBlock {
    const std::byte* tiles;
    int64_t tile_bytes;
    int count;  // tiles, at most tiles_at_once(rows)
    const uint32_t* panel;
    int rows;
    int64_t k;
    float* y;  // [rows][ldy]
    int64_t ldy;
};
using TileKernel = void (*)(const TileBlock&);

// Tiles of a matrix against several panels, one behind the other: a quantised one, or any that a MatrixUnit takes.
// Panels of Act::f32 are as above, over the packed inputs; those of Act::i8 have for each step (formats/quant.h)
// [scale][row], and for each of its parts [sum][row] and words of four inputs [word][row].
struct PanelsBlock {
    const Matrix* weight;
    Act act;
    SumForm sums;
    int64_t tile;
    int count;
    const uint32_t* panel;
    const int* rows;  // [panels]
    int panels;       // at most kPanelsAtOnce
    float* y;         // [all rows][ldy]
    int64_t ldy;
    const std::byte* next;  // or null: the tiles that come after these, which are asked for early,
    int64_t next_stride;    // and bytes from one to the next
    bool halves;            // as Kernels says
};
constexpr int kPanelsAtOnce = 8;

// What follows the dot products, of n columns of some rows: y = residual + (c + bias); bias and residual may be null.
struct Finish {
    int64_t rows, n;
    const float* c;
    int64_t ldc;
    const float *bias, *residual;
    int64_t ld_residual;
    float* y;
    int64_t ldy;
};
// y = activation(g + bias_g) * (u + bias_u); y may be g.
struct FinishGated {
    int64_t rows, n;
    const float *g, *u;
    int64_t ldg, ldu;
    const float *bias_g, *bias_u;
    float* y;
    int64_t ldy;
};

// Query rows of one kv head over one partition of the cache. Words are what one line of the cache meets: a float, or
// two bf16 where the cache holds bf16.
struct AttendPanel {
    int rows;
    const uint32_t* q;     // [words of head_dim][rows], or those of a MatrixUnit; scaled, to base 2
    int64_t offset;        // of this kv head in a group's memory, bytes
    const int32_t* begin;  // [rows] cache rows seen: begin <= row < end, counted from the partition's first
    const int32_t* end;
    const float* slopes;    // [rows] or null: alibi, to base 2
    const float* distance;  // [rows] partition's first row - the query's row
    // Working memory
    float* scores;        // [rows][kSpanRows]
    uint32_t* weights;    // [rows][kSpanRows] words, those of bf16 in the first half
    float* masses;        // [rows][16]
    float (*shrink)[16];  // [kSpanRows / kStepRows]: at a step, what the rows' sums so far are worth
    uint32_t shrunk;      // at which steps that is not 1
    // Results
    float* y;  // [rows][ldy], sum of weighted values (not yet divided)
    int64_t ldy;
    float* peak;  // [rows] what weights are relative to; -infinity where nothing is seen (then y = 0)
    float* mass;  // [rows] sum of weights
};
// How panels go through one partition.
//   heads  for each block, head after head, its keys and then its values, a step at a time: two streams that go through
//          memory in its order, where a block's tile is a step
//   rows   a span's keys group by group, in each head after head, then its values: the order of memory for small blocks
//   beside panels of one head, a span's groups side by side in each: for some of many panels that find the partition in
//          a cache
enum class AttendOrder : uint8_t { heads, rows, beside };
struct AttendRun {
    int64_t head_dim;
    int groups;                      // groups of 16 cache rows in this partition
    int known;                       // of which memory may be fetched early: those after the partition too
    const std::byte* const* keys;    // [known] of the first kv head: the group's first line
    const std::byte* const* values;  // [known] the tile that the group is in
    int tile_rows;
    int block_groups;
    float softcap;  // 0: none; else scores are to base e before it
    AttendOrder order;
    bool ahead;           // panels beside each other are the first to read this partition: fetch memory early
    bool halves;          // as Kernels says
    int64_t group_bytes;  // keys of one group of one head, and values
    AttendPanel* panels;
    int count, head_panels;  // of all heads, and of each
};
constexpr int kHeadLimit = 512;  // largest head_dim
constexpr int kStepRows = 32;    // what weights are relative to may change after so many cache rows
constexpr int kPanelsBeside = 4;
constexpr int kSpanRows = 128;  // scores are kept for so many at once, at most

// What an instruction set that multiplies tiles of numbers (AMX) offers beside the rest. Its panels have blocks of 64
// bytes of each row: [block][row][16 words]. Act::i8: a step begins with a block of its own, and behind all blocks lie
// for each step [scale][row], then for each of its parts [sum][row] (unit_panels.h).
struct MatrixUnit {
    int rows = 0;  // of a panel, at most; 0: there is no such unit
    int (*tiles_at_once)(const Matrix&) = nullptr;
    // Whether it multiplies these weights with so many rows (together, not of a panel).
    bool (*takes)(const Matrix&, Act, SumForm, int64_t rows) = nullptr;
    // Whether it adds these bytes up over all inputs, for any number of rows.
    bool (*whole)(const Matrix&) = nullptr;
    int64_t (*row_words)(const Matrix&, Act) = nullptr;
    // As those of Kernels.
    void (*fill_panel)(const float* x, int64_t k, uint32_t* panel, int rows, int row) = nullptr;  // Act::bf16
    void (*quantise_row)(const Quant&, SumForm, const float* x, uint32_t* panel, int rows, int row) = nullptr;
    void (*products)(const PanelsBlock&) = nullptr;
    void (*leave)() = nullptr;  // after the last products of an op: a thread gives the unit up
};

constexpr int kUnitBlockLimit = 2048;  // floats of a panel's results

struct Kernels {
    const char* name;
    MatrixUnit unit;
    bool halves;                           // this CPU does the halves of a vector one after the other
    int panel_rows;                        // rows of a panel, at most
    int8_t tiles_at_once[kRowsLimit + 1];  // by rows
    int8_t attend_rows[kKVTypes];          // query rows of an AttendPanel, at most
    int8_t attend_rows_many[kKVTypes];     // and where many panels share a partition
    int8_t attend_beside[kKVTypes];        // of these panels, how many go through it beside each other
    bool attend_unit[kKVTypes];            // query rows are in blocks, as the MatrixUnit fills them

    TileKernel tiles[kFormats][kActs];
    // Row `row` of a panel of `rows` rows from k floats (the last line is filled up with zeros).
    void (*fill_panel)(Act, const float* x, int64_t k, uint32_t* panel, int rows, int row);
    // The same for Act::i8: x has the packed inputs in their order.
    void (*quantise_row)(const Quant&, SumForm, const float* x, uint32_t* panel, int rows, int row);
    void (*quant_tiles)(const PanelsBlock&);
    int8_t quant_tiles_at_once[kRowsLimit + 1];  // by rows, where inputs are floats
    int8_t byte_tiles_at_once[kRowsLimit + 1];   // and where they are bytes
    void (*finish)(const Finish&);
    void (*finish_gated)(Activation, const FinishGated&);

    void (*norm)(const Norm&, const float* x, float* y, int64_t n);
    void (*elementwise)(ElementwiseArgs::Kind, Activation, float factor, const float* a, const float* b, float* y,
                        int64_t n);
    // y = scale * elements [begin, end) of row `row` of a packed matrix
    void (*gather)(const Matrix&, int64_t row, int64_t begin, int64_t end, float scale, float* y);
    // One head: y = x with elements start .. start + dim rotated; y may be x.
    void (*rotate)(const float* x, const float* cs, int64_t head_dim, int64_t dim, int64_t start, bool interleaved,
                   float* y);
    // One head's key and value into row `row` of a cache tile of `rows` rows.
    void (*store)(KVType, const float* k, const float* v, int64_t head_dim, int row, int rows, std::byte* keys,
                  std::byte* values);

    void (*attend[kKVTypes])(const AttendRun&);
    // (y, peak, mass) of the rows so far, joined by those of one more partition.
    void (*merge)(float* y, float* peak, float* mass, const float* more, float more_peak, float more_mass,
                  int64_t head_dim);
    void (*divide)(const float* y, float mass, float* out, int64_t head_dim);
};

const Kernels& generic_kernels();
void add_generic_attention(Kernels&);
void add_generic_quantised(Kernels&);
#if defined(__x86_64__)
const Kernels& avx2_kernels();
void add_avx2_attention(Kernels&);
void add_avx2_quantised(Kernels&);
const Kernels& avx512_kernels();
void add_avx512_attention(Kernels&);
void add_avx512_quantised(Kernels&);
const Kernels& amx_kernels();
void add_amx_attention(Kernels&);
#endif

}  // namespace penstock
