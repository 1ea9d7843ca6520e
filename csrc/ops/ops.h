// The ops of the native executor: plain structs of pointers and sizes, one function each. No allocation, no exceptions:
// the executor has checked shapes when the program was built. All activations are f32 rows with a stride (`ld`,
// elements). An element of a result is computed by one worker in an order that depends on nothing but the shapes of the
// op, never on the number of rows, of workers, or of other sequences.
#pragma once
#include <cstdint>

#include "formats/matrix.h"
#include "worker.h"

namespace penstock {

struct Kernels;  // kernels/table.h: this ISA's functions

enum class NormKind : uint8_t { none, rms, layer };
enum class Activation : uint8_t { none, silu, gelu, gelu_tanh, relu };
enum class KVType : uint8_t { f32, f16, bf16, i8 };

// Bytes of 16 cache rows of a head: their keys, or their values (KVLayer).
constexpr int64_t kv_group_bytes(KVType type, int64_t head_dim) {
    if (type == KVType::i8) return 64 + 16 * ((head_dim + 3) / 4 * 4);
    return head_dim * 16 * (type == KVType::f32 ? 4 : 2);
}

// Of 16 rows of a tile, the bytes of keys that lie together.
constexpr int64_t kv_line_bytes(KVType type) { return type == KVType::f16 ? 32 : 64; }
constexpr int64_t kv_tile_rows(int64_t block_size) { return block_size % 32 == 0 ? 32 : 16; }
constexpr int64_t kValueChunk = 64;  // elements of a cached value that lie together

struct Norm {
    NormKind kind = NormKind::none;
    bool plus_one = false;
    float eps = 0;
    const float* weight = nullptr;  // may be null
    const float* bias = nullptr;    // may be null
};

struct Rows {
    const float* data;
    int64_t ld;
};

struct EmbedArgs {
    const int32_t* ids;
    int64_t rows;
    Matrix table;  // packed; gathered row by row (tied embeddings share the head's tiles)
    float scale;
    float* y;
    int64_t ldy;
};
void embed(const Kernels&, const EmbedArgs&, const Worker&);

struct NormArgs {
    Norm norm;
    int64_t rows, width, group;  // group 0: the whole row
    Rows x;
    float* y;
    int64_t ldy;
};
void norm(const Kernels&, const NormArgs&, const Worker&);

// y_i = act(norm(x)) W_i^T + b_i for `parts` matrices over one input, one pass and one barrier.
//   activation != none (2 parts of equal shape): y_0 = activation(y_0) * y_1, nothing stored for part 1.
//   residual (1 part): y_0 = residual + y_0; residual may be the same memory as y.
struct LinearPart {
    Matrix weight;
    const float* bias;  // [n] or null
    float* y;
    int64_t ldy;
};
constexpr int kMaxParts = 4;
struct LinearArgs {
    Norm norm;  // kind none: x is used as it is
    Act act;
    Activation activation = Activation::none;
    Rows x;
    int64_t rows, k;
    int parts;
    LinearPart part[kMaxParts];
    Rows residual{nullptr, 0};
    std::byte* shared;  // scratch of all workers for the prepared input, linear_shared_bytes(max rows, k)
};
void linear(const Kernels&, const LinearArgs&, const Worker&);
int64_t linear_shared_bytes(Act act, int64_t rows, int64_t k);
int64_t linear_scratch_bytes(Act act, int64_t k);  // private, of each worker
// The same for any weight; parts of one linear agree in format, and quantised ones in all that concerns their inputs
// (Quant::same_inputs).
int64_t linear_shared_bytes(const Matrix& m, Act act, int64_t rows);
int64_t linear_scratch_bytes(const Matrix& m, Act act);

// cs[row] = [cos(0..dim/2) | sin(0..dim/2)] * scale of float(position) * inv_freq.
// length rules (models/rope.py): the token's n (qwen_ntk: prompt length, else max(prompt length, position + 1)) picks
// or changes inv_freq.
enum class LengthRule : uint8_t { none, dynamic, longrope, qwen_ntk };
struct AnglesArgs {
    const int32_t* positions;  // [rows] of one channel
    const int32_t* lengths;    // [rows] n of each token (models/rope.py); used by length rules only
    int64_t rows, dim;
    const float* inv_freq;       // [dim / 2]
    const float* inv_freq_long;  // [dim / 2], longrope beyond `original`
    float scale, scale_long;
    LengthRule rule;
    float theta, factor;
    int64_t original;
    float* y;  // [rows, dim]
    int64_t ldy;
};
void angles(const Kernels&, const AnglesArgs&, const Worker&);

// z = y + scale * B (A x) for rows of sequences with an adapter; the others' rows are y bit for bit.
struct LoraFactors {
    Matrix a{}, b{};  // f32 [r, k], [n, r]; no data: the adapter leaves this weight alone
    float scale = 0;
};
// The factors of one adapter, by the number that a weight has as a target.
struct LoraTable {
    const LoraFactors* const* factors = nullptr;
    int64_t count = 0;
    // Null where the adapter leaves the weight alone; -1 is no weight.
    const LoraFactors* find(int target) const { return target < 0 || target >= count ? nullptr : factors[target]; }
};
// The step's rows that have an adapter, in panels of rows that share one.
struct LoraPanel {
    int slot;
    int64_t begin, end;  // in LoraRows::rows
};
struct LoraRows {
    const int32_t* rows;
    const LoraPanel* panels;
    int64_t count;
};
struct LoraArgs {
    LoraRows rows;
    const LoraFactors* const* factors;  // of each panel; null: nothing to add
    int64_t all_rows, width;            // of y and z
    Rows x, y;
    float* z;  // may be y
    int64_t ldz;
    int64_t k, rank;    // rank: the largest of any adapter here
    std::byte* shared;  // lora_shared_bytes(most rows, rank)
};
void lora(const Kernels&, const LoraArgs&, const Worker&);
int64_t lora_shared_bytes(int64_t rows, int64_t rank);
int64_t lora_scratch_bytes(int64_t k, int64_t rank);  // private, of each worker

// One layer's cache. A block of `block_size` (a multiple of 16) rows holds, for each kv head, tiles of 32 rows (16
// where that does not divide the block):
//   keys    [head_dim / e][tile][e]                    e = 1 (f32, f16) or 2 (bf16): the rows are lanes of dot products
//   values  [chunk of 64 elements][tile / e][64][e]    the last chunk may be narrower
// so that sums for all rows, or of a chunk, as many as the registers hold, read memory in its order. i8: a tile begins
// with the f32 scales of its rows, then keys [head_dim / 4][tile][4] plus 128, filled up with nothing.
struct KVLayer {
    KVType type;
    int64_t kv_heads, head_dim, block_size;
    std::byte* keys;
    std::byte* values;
    int64_t head_bytes;   // one kv head of one block
    int64_t block_bytes;  // all kv heads of one block = kv_heads * head_bytes
};

// Optional norm per head of q and k, rotation of both, k and v into the cache. y = rotated q (may alias q).
struct QkRopeStoreArgs {
    int64_t rows, heads, kv_heads, head_dim;
    Rows q, k, v;
    Rows cs;  // null data: no rotation
    int64_t dim, start;
    bool interleaved;
    Norm q_norm, k_norm;  // over head_dim
    const int64_t* slots;
    KVLayer cache;
    float* y;
    int64_t ldy;
};
void qk_rope_store(const Kernels&, const QkRopeStoreArgs&, const Worker&);
struct RopeArgs {
    int64_t rows, heads, head_dim, dim, start;
    bool interleaved;
    Rows x, cs;
    float* y;
    int64_t ldy;
};
void rope(const Kernels&, const RopeArgs&, const Worker&);
struct StoreArgs {
    int64_t rows;
    Rows k, v;
    const int64_t* slots;
    KVLayer cache;
};
void store(const Kernels&, const StoreArgs&, const Worker&);

// Causal attention of S sequences' new rows over their cached rows (the new ones are the last and already stored).
// Reduction order: cache rows upwards, in steps of 32 (kernels/attend_weights.h), in fixed partitions of
// kPartition rows whose partial results are merged in order: the split over workers never shows in the bits.
constexpr int64_t kPartition = 512;
struct AttentionArgs {
    int64_t seqs, heads, kv_heads, head_dim;
    const int32_t* query_start;   // [seqs + 1]
    const int32_t* context_lens;  // [seqs]
    const int32_t* block_tables;  // [seqs, table_ld]
    int64_t table_ld;
    const int32_t* bidirectional;  // [seqs] or null: cache rows before this boundary see each other
    const int32_t* positions;      // [tokens], for log_n
    float scale, softcap;          // softcap 0: none
    int64_t window;                // 0: none
    int64_t log_n;                 // 0: none
    const float* alibi;            // [heads] slopes or null: score += slope * (key row - query row)
    Rows q;
    KVLayer cache;
    float* y;
    int64_t ldy;
    std::byte* shared;  // scratch of all workers, 64-byte aligned: partial results of what is split between workers
};
void attention(const Kernels&, const AttentionArgs&, const Worker&);
int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim);  // private, of each worker
int64_t attention_shared_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t max_context, int workers);

struct ElementwiseArgs {
    enum class Kind : uint8_t { add, scale, gated, activation, gate, softcap } kind;
    Activation activation;
    float factor;
    int64_t rows, width;
    Rows a, b;  // gate: b has width 1
    float* y;
    int64_t ldy;
};
void elementwise(const Kernels&, const ElementwiseArgs&, const Worker&);

struct SelectArgs {
    const int32_t* index;
    int64_t rows, width;
    Rows x;
    float* y;
    int64_t ldy;
};
void select(const Kernels&, const SelectArgs&, const Worker&);

}  // namespace penstock
