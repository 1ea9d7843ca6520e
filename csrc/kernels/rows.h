// Ops that go over one row or one head: norm, elementwise, gather, rotate, store.
#pragma once
#include "kernels/bytes.h"
#include "kernels/math.h"
#include "kernels/quantised_rows.h"
#include "kernels/table.h"

namespace penstock {
namespace {

inline int tail(int64_t n, int64_t i) { return static_cast<int>(n - i < 16 ? n - i : 16); }

// Sum of f(i, lanes, count) over a row, by sixteen running sums whose order depends on the width only.
template <class Term>
inline float row_sum(int64_t n, Term term) {
    F s[4] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) s[j] = s[j] + term(i + 16 * j, 16);
    for (int j = 0; i < n; i += 16, j++) s[j] = s[j] + term(i, tail(n, i));
    return sum((s[0] + s[1]) + (s[2] + s[3]));
}

void norm(const Norm& norm, const float* x, float* y, int64_t n) {
    const float width = static_cast<float>(n);
    float mean = 0;
    if (norm.kind == NormKind::layer) mean = row_sum(n, [=](int64_t i, int m) { return load(x + i, m); }) / width;
    const F center = set(mean);
    const float square = row_sum(n, [=](int64_t i, int m) {
        const F v = select(lanes(0, m), load(x + i, m) - center, zero());
        return v * v;
    });
    const F inverse = set(1.0f / __builtin_sqrtf(square / width + norm.eps));
    for (int64_t i = 0; i < n; i += 16) {
        const int m = tail(n, i);
        F v = (load(x + i, m) - center) * inverse;
        if (norm.weight != nullptr) {
            const F w = load(norm.weight + i, m);
            v = v * (norm.plus_one ? set(1) + w : w);
        }
        if (norm.bias != nullptr) v = v + load(norm.bias + i, m);
        store(y + i, v, m);
    }
}

template <class Function>
inline void map(const float* a, float* y, int64_t n, Function f) {
    for (int64_t i = 0; i < n; i += 16) {
        const int m = tail(n, i);
        store(y + i, f(load(a + i, m), i, m), m);
    }
}

void elementwise(ElementwiseArgs::Kind kind, Activation act, float factor, const float* a, const float* b, float* y,
                 int64_t n) {
    using Kind = ElementwiseArgs::Kind;
    const F f = set(factor);
    switch (kind) {
        case Kind::add:
            return map(a, y, n, [=](F x, int64_t i, int m) { return x + load(b + i, m); });
        case Kind::scale:
            return map(a, y, n, [=](F x, int64_t, int) { return x * f; });
        case Kind::gated:
            return map(a, y, n, [=](F x, int64_t i, int m) { return activate(act, x) * load(b + i, m); });
        case Kind::activation:
            return map(a, y, n, [=](F x, int64_t, int) { return activate(act, x); });
        case Kind::softcap:
            return map(a, y, n, [=](F x, int64_t, int) { return f * tanh(x / f); });
        case Kind::gate: {
            const F g = sigmoid(set(*b));
            return map(a, y, n, [=](F x, int64_t, int) { return x * g; });
        }
    }
}

void gather(const Matrix& m, int64_t row, int64_t begin, int64_t end, float scale, float* y) {
    if (m.format == Format::quantised) return gather_quantised(m, row, begin, end, scale, y);
    const std::byte* tile = m.data + row / kTile * m.tile_bytes;
    const int64_t lane = row % kTile;
    uint16_t half[16] = {};
    for (int64_t i = begin; i < end; i += 16) {
        const int n = tail(end, i);
        F v;
        if (m.format == Format::f32) {
            float all[16] = {};
            for (int j = 0; j < n; j++) std::memcpy(all + j, tile + ((i + j) * kTile + lane) * 4, 4);
            v = load(all);
        } else if (m.format == Format::f16) {
            for (int j = 0; j < n; j++) std::memcpy(half + j, tile + ((i + j) * kTile + lane) * 2, 2);
            v = load_f16(half);
        } else {
            uint32_t wide[16] = {};
            for (int j = 0; j < n; j++)
                std::memcpy(wide + j, tile + (((i + j) / 2 * kTile + lane) * 2 + (i + j) % 2) * 2, 2);
            v = load_pairs(wide).even;
        }
        store(y + (i - begin), v * set(scale), n);
    }
}

void rotate(const float* x, const float* cs, int64_t head_dim, int64_t dim, int64_t start, bool interleaved, float* y) {
    if (y != x) std::memcpy(y, x, static_cast<size_t>(head_dim) * 4);
    y += start;
    const int64_t half = dim / 2;
    if (interleaved) {
        for (int64_t i = 0; i < half; i++) {
            const float a = y[2 * i], b = y[2 * i + 1], c = cs[i], s = cs[half + i];
            y[2 * i] = a * c - b * s;
            y[2 * i + 1] = b * c + a * s;
        }
        return;
    }
    for (int64_t i = 0; i < half; i += 16) {
        const int m = tail(half, i);
        const F a = load(y + i, m), b = load(y + half + i, m), c = load(cs + i, m), s = load(cs + half + i, m);
        store(y + i, a * c - b * s, m);
        store(y + half + i, b * c + a * s, m);
    }
}

// The bytes of n numbers and their scale. to: room for 15 more.
inline float to_bytes(const float* x, int64_t n, int8_t* to) {
    const float most = largest(x, n);
    round_to_bytes(x, n, n, set(most > 0 ? 127.0f / most : 0.0f), to);
    return most / 127.0f;
}
// Where elements d ... (of one chunk) of row `row` of a tile's values lie, rows in units of `unit`.
inline int64_t value_place(int64_t head_dim, int64_t d, int row, int rows, int unit) {
    const int64_t chunk = d / kValueChunk * kValueChunk,
                  width = head_dim - chunk < kValueChunk ? head_dim - chunk : kValueChunk;
    return chunk * rows + (row / unit * width + d - chunk) * unit + row % unit;
}

void store_head_bytes(const float* k, const float* v, int64_t head_dim, int row, int rows, std::byte* keys,
                      std::byte* values) {
    int8_t bytes[kHeadLimit + 16];
    float scale = to_bytes(k, head_dim, bytes);
    std::memcpy(keys + row * 4, &scale, 4);
    std::memset(bytes + head_dim, 0, 4);
    for (int64_t d = 0; d < head_dim; d += 4) {
        uint32_t word;
        std::memcpy(&word, bytes + d, 4);
        word ^= 0x80808080;  // plus 128
        std::memcpy(keys + rows * 4 + (d * rows + row * 4), &word, 4);
    }
    scale = to_bytes(v, head_dim, bytes);
    std::memcpy(values + row * 4, &scale, 4);
    for (int64_t d = 0; d < head_dim; d += kValueChunk)
        std::memcpy(values + rows * 4 + value_place(head_dim, d, row, rows, 1), bytes + d,
                    static_cast<size_t>(head_dim - d < kValueChunk ? head_dim - d : kValueChunk));
}

// As KVLayer says (ops/ops.h).
void store_head(KVType type, const float* k, const float* v, int64_t head_dim, int row, int rows, std::byte* keys,
                std::byte* values) {
    if (type == KVType::i8) return store_head_bytes(k, v, head_dim, row, rows, keys, values);
    uint16_t half[16];
    for (int64_t d = 0; d < head_dim; d += 16) {
        const int n = tail(head_dim, d);
        std::byte* to =
            values + value_place(head_dim, d, row, rows, type == KVType::bf16 ? 2 : 1) * (type == KVType::f32 ? 4 : 2);
        if (type == KVType::f32) {
            for (int j = 0; j < n; j++) std::memcpy(keys + ((d + j) * rows + row) * 4, k + d + j, 4);
            std::memcpy(to, v + d, static_cast<size_t>(n) * 4);
        } else if (type == KVType::f16) {
            store_f16(half, load(k + d, n), n);
            for (int j = 0; j < n; j++) std::memcpy(keys + ((d + j) * rows + row) * 2, half + j, 2);
            store_f16(reinterpret_cast<uint16_t*>(to), load(v + d, n), n);
        } else {
            store_bf16(half, load(k + d, n), n);
            for (int j = 0; j < n; j += 2) std::memcpy(keys + ((d + j) * rows + row * 2) * 2, half + j, 4);
            store_bf16(half, load(v + d, n), n);
            for (int j = 0; j < n; j++) std::memcpy(to + j * 4, half + j, 2);
        }
    }
}

}  // namespace
}  // namespace penstock
