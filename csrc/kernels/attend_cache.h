// What the attention of one kind of cache is made of: scores of query rows against groups of keys, and weighted sums of
// values, each with one accumulator per result that goes upwards over its terms. So neither the rows nor the groups
// that are worked on side by side show in the bits.
#pragma once
#include <cstring>

#include "kernels/math.h"
#include "kernels/step.h"
#include "kernels/table.h"

namespace penstock {
namespace {

constexpr int kStepGroups = kStepRows / 16;

// Groups in flight for so many query rows: what the registers hold, and divides a step.
constexpr int attend_tiles(int rows) {
    const int n = kAccumulators / rows;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
}
// Vectors of a value row in flight, at most: whole rows where that can be, since memory comes fastest in its order
// (measured for rows of 128 bf16: halves of rows 13 GB/s, whole rows 32). And query rows for so many vectors.
constexpr int kValueTiles = kAccumulators >= 16 ? 8 : kAccumulators >= 6 ? 2 : 1;
constexpr int value_rows(int tiles) { return tiles == 8 ? 2 : kAccumulators / tiles; }

// Values lie in units of kRows rows: [16 / kRows][head_dim][kRows]; a line of them is 16 elements of a unit.
template <KVType>
struct Cache;

template <>
struct Cache<KVType::f32> {
    using Keys = Step<Format::f32, Act::f32>;
    static constexpr int kRows = 1, kBytes = 4;  // of one element of a unit
    using Line = F;
    static Line load(const std::byte* p) { return penstock::load(reinterpret_cast<const float*>(p)); }
    static Line load(const std::byte* p, int n) { return penstock::load(reinterpret_cast<const float*>(p), n); }
};
template <>
struct Cache<KVType::f16> {
    using Keys = Step<Format::f16, Act::f32>;
    static constexpr int kRows = 1, kBytes = 2;
    using Line = F;
    static Line load(const std::byte* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
    static Line load(const std::byte* p, int n) { return load_f16(reinterpret_cast<const uint16_t*>(p), n); }
};
template <>
struct Cache<KVType::bf16> {
    using Keys = Step<Format::bf16, Act::bf16>;
    static constexpr int kRows = 2, kBytes = 4;
    using Line = penstock::Line;
    static Line load(const std::byte* p) { return load_line(reinterpret_cast<const uint32_t*>(p)); }
    static Line load(const std::byte* p, int n) { return load_line(reinterpret_cast<const uint32_t*>(p), n); }
};

template <>
struct Cache<KVType::i8> {
    static constexpr int kRows = 1, kBytes = 1;
    using Line = F;
    static Line load(const std::byte* p) { return load_i8(reinterpret_cast<const int8_t*>(p)); }
    static Line load(const std::byte* p, int n) {
        int8_t some[16] = {};
        std::memcpy(some, p, static_cast<size_t>(n));
        return load_i8(some);
    }
};
// Of a group, before its rows: their scales.
constexpr int cache_head(KVType type) { return type == KVType::i8 ? 64 : 0; }

template <KVType type>
inline F add_weighted(F acc, const typename Cache<type>::Line& line, uint32_t weight) {
    if constexpr (type == KVType::bf16)
        return dot(acc, line, broadcast_line(weight));
    else
        return fma(set(__builtin_bit_cast(float, weight)), line, acc);
}

// Scores of R query rows and T groups, to scores + r * kStepRows + t * 16: lanes are cache rows.
template <KVType type, int R, int T>
inline void score_groups(int64_t head_dim, const uint32_t* q, const std::byte* const* keys, float* scores) {
    using S = typename Cache<type>::Keys;
    static_assert(S::kWords == 1);
    const std::byte* w[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) w[t] = keys[t];
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = zero();
    const int64_t bytes = head_dim / S::kInputs * S::kBytes;
    for (int64_t i = 0; i < bytes; i += S::kBytes, q += R) {
        typename S::Weights line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) line[t] = S::load(w[t] + i);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const auto x = S::word(q[r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = S::template add<0>(acc[r][t], line[t], x);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(scores + r * kStepRows + t * 16, acc[r][t]);
}

// The same of bytes; q as fill_panel makes it.
template <int R, int T>
inline void score_bytes(int64_t head_dim, const uint32_t* q, const std::byte* const* keys, float* scores) {
    const std::byte* w[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) w[t] = keys[t] + cache_head(KVType::i8);
    I acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = set_i(static_cast<int32_t>(q[R + r]));
    const uint32_t* a = q + 2 * R;
    for (int64_t i = 0; i < head_dim * 16; i += 64, a += R) {
        Codes line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) line[t] = load_codes(w[t] + i);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const Codes x = broadcast_codes(a[r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = dot(acc[r][t], line[t], x);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) {
        const F scale = load(reinterpret_cast<const float*>(keys[t]));
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            store(scores + r * kStepRows + t * 16,
                  to_float(acc[r][t]) * (scale * set(__builtin_bit_cast(float, q[r]))));
    }
}

// What a sum of values goes over: rows begin <= row < end of a step, of which group g lies at values[g].
struct ValueRows {
    const std::byte* const* values;
    int begin, end;
};

// y[r] = y[r] * scale[r] + sum of weight[r][row] * value[row], for T x 16 elements from d on (n, where kTail).
template <KVType type, int R, int T, bool kTail>
inline void add_values(int64_t head_dim, const ValueRows& v, const uint32_t* weights, const float* scale, float* y,
                       int64_t ldy, int64_t d, int n) {
    using C = Cache<type>;
    constexpr int kUnits = 16 / C::kRows;  // of a group
    F acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
            acc[r][t] = load(y + r * ldy + d + t * 16);
            if (scale != nullptr) acc[r][t] = acc[r][t] * set(scale[r]);
        }
    const auto add = [&](int unit, auto part) {
        const auto place = static_cast<unsigned>(unit);
        const std::byte* p = v.values[place / kUnits] + cache_head(type) + (place % kUnits * head_dim + d) * C::kBytes;
        typename C::Line line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) line[t] = part(kTail ? C::load(p, n) : C::load(p + t * 16 * C::kBytes));
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            uint32_t weight;
            std::memcpy(&weight, weights + r * kStepRows + unit, 4);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = add_weighted<type>(acc[r][t], line[t], weight);
        }
    };
    const auto all = [](const typename C::Line& line) { return line; };
    int unit = v.begin / C::kRows;
    const int last = v.end / C::kRows;
    if constexpr (C::kRows == 2) {  // what lies beside the rows seen may be anything
        if (v.begin % 2 != 0) add(unit++, [](const auto& line) { return odd_only(line); });
    }
    for (; unit < last; unit++) add(unit, all);
    if constexpr (C::kRows == 2) {
        if (v.end % 2 != 0) add(last, [](const auto& line) { return even_only(line); });
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(y + r * ldy + d + t * 16, acc[r][t]);
}

// The same for any number of rows, in portions that the registers hold.
template <KVType type, int R, int T, bool kTail = false>
inline void add_rows(int64_t head_dim, const ValueRows& v, const uint32_t* weights, const float* scale, float* y,
                     int64_t ldy, int64_t d, int n = 16) {
    constexpr int kMost = value_rows(T), kPortions = (R + kMost - 1) / kMost, kNow = (R + kPortions - 1) / kPortions;
    add_values<type, kNow, T, kTail>(head_dim, v, weights, scale, y, ldy, d, n);
    if constexpr (R > kNow)
        add_rows<type, R - kNow, T, kTail>(head_dim, v, weights + kNow * kStepRows,
                                           scale == nullptr ? nullptr : scale + kNow, y + kNow * ldy, ldy, d, n);
}

template <KVType type, int R>
void add_head(int64_t head_dim, const ValueRows& v, const uint32_t* weights, const float* scale, float* y,
              int64_t ldy) {
    int64_t d = 0;
    for (; d + 16 * kValueTiles <= head_dim; d += 16 * kValueTiles)
        add_rows<type, R, kValueTiles>(head_dim, v, weights, scale, y, ldy, d);
    if constexpr (kValueTiles > 4) {
        if (d + 64 <= head_dim) add_rows<type, R, 4>(head_dim, v, weights, scale, y, ldy, d), d += 64;
    }
    if constexpr (kValueTiles > 1)
        for (; d + 16 <= head_dim; d += 16) add_rows<type, R, 1>(head_dim, v, weights, scale, y, ldy, d);
    if (d < head_dim)
        add_rows<type, R, 1, true>(head_dim, v, weights, scale, y, ldy, d, static_cast<int>(head_dim - d));
}

// Whether the values of rows begin <= row < end are all numbers.
template <KVType type>
bool all_finite(int64_t head_dim, const std::byte* const* values, int begin, int end) {
    if constexpr (type == KVType::i8) return true;
    using C = Cache<type>;
    F nothing = zero();  // x - x is 0 for a number, NaN for the rest
    for (int row = begin; row < end; row++) {
        const std::byte* p = values[row / 16] + row % 16 / C::kRows * head_dim * C::kBytes;
        for (int64_t d = 0; d < head_dim; d += 16) {
            const int n = static_cast<int>(head_dim - d < 16 ? head_dim - d : 16);
            if constexpr (C::kRows == 2) {
                const Pairs pair = load_pairs(reinterpret_cast<const uint32_t*>(p + d * C::kBytes), n);
                const F v = row % 2 != 0 ? pair.odd : pair.even;
                nothing = nothing + (v - v);
            } else {
                const F v = C::load(p + d * C::kBytes, n);
                nothing = nothing + (v - v);
            }
        }
    }
    return sum(nothing) == 0;
}

}  // namespace
}  // namespace penstock
