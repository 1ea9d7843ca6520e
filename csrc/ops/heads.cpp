// Ops over heads: rotation, and keys and values into the cache.
#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock {
namespace {

void store_head(const Kernels& kernels, const KVLayer& cache, int64_t slot, int64_t head, const float* k,
                const float* v) {
    const int64_t row = slot % cache.block_size, rows = kv_tile_rows(cache.block_size), first = row / rows * rows;
    const int64_t at = slot / cache.block_size * cache.block_bytes + head * cache.head_bytes +
                       first / 16 * kv_group_bytes(cache.type, cache.head_dim);
    kernels.store(cache.type, k, v, cache.head_dim, static_cast<int>(row - first), static_cast<int>(rows),
                  cache.keys + at, cache.values + at);
}

}  // namespace

void qk_rope_store(const Kernels& kernels, const QkRopeStoreArgs& a, const Worker& worker) {
    alignas(64) float head_row[kHeadLimit];
    int64_t begin, end;
    worker.range(a.rows * (a.heads + a.kv_heads), begin, end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / (a.heads + a.kv_heads), head = i % (a.heads + a.kv_heads), kv = head - a.heads;
        const bool is_q = kv < 0;
        const float* x = is_q ? a.q.data + row * a.q.ld + head * a.head_dim : a.k.data + row * a.k.ld + kv * a.head_dim;
        float* y = is_q ? a.y + row * a.ldy + head * a.head_dim : head_row;
        const Norm& norm = is_q ? a.q_norm : a.k_norm;
        if (norm.kind != NormKind::none) {
            kernels.norm(norm, x, y, a.head_dim);
            x = y;
        }
        const float* cs = a.cs.data != nullptr ? a.cs.data + row * a.cs.ld : nullptr;
        kernels.rotate(x, cs, a.head_dim, cs != nullptr ? a.dim : 0, a.start, a.interleaved, y);
        if (!is_q) store_head(kernels, a.cache, a.slots[row], kv, y, a.v.data + row * a.v.ld + kv * a.head_dim);
    }
}

void rope(const Kernels& kernels, const RopeArgs& a, const Worker& worker) {
    int64_t begin, end;
    worker.range(a.rows * a.heads, begin, end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / a.heads, column = i % a.heads * a.head_dim;
        kernels.rotate(a.x.data + row * a.x.ld + column, a.cs.data + row * a.cs.ld, a.head_dim, a.dim, a.start,
                       a.interleaved, a.y + row * a.ldy + column);
    }
}

void store(const Kernels& kernels, const StoreArgs& a, const Worker& worker) {
    int64_t begin, end;
    worker.range(a.rows * a.cache.kv_heads, begin, end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / a.cache.kv_heads, head = i % a.cache.kv_heads, column = head * a.cache.head_dim;
        store_head(kernels, a.cache, a.slots[row], head, a.k.data + row * a.k.ld + column,
                   a.v.data + row * a.v.ld + column);
    }
}

}  // namespace penstock
