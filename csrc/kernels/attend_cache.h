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

constexpr int kStepGroups = kStepRows / 16, kSpanGroups = kSpanRows / 16, kSpanSteps = kSpanRows / kStepRows;

// Groups in flight for so many query rows: what the registers hold, and divides a span.
constexpr int attend_tiles(int rows) {
    const int n = kAccumulators / rows;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
}
// Vectors of a value row in flight, at most: those of a chunk, where the registers hold them for some query rows.
constexpr int kValueTiles = kAccumulators >= 16 ? kValueChunk / 16 : kAccumulators >= 6 ? 2 : 1;
constexpr int value_rows(int tiles) { return kAccumulators / tiles; }

// A line of values is 16 elements of a unit of kRows rows.
template <KVType>
struct Cache;

struct FloatLines {
    using Line = F;
    static F word(uint32_t x) { return set(__builtin_bit_cast(float, x)); }
    static F add(F acc, F line, F word) { return fma(line, word, acc); }
};

template <>
struct Cache<KVType::f32> : FloatLines {
    using Keys = Step<Format::f32, Act::f32>;
    static constexpr int kRows = 1, kBytes = 4;  // of one element of a unit
    static Line load(const std::byte* p) { return penstock::load(reinterpret_cast<const float*>(p)); }
    static Line load(const std::byte* p, int n) { return penstock::load(reinterpret_cast<const float*>(p), n); }
};
template <>
struct Cache<KVType::f16> : FloatLines {
    using Keys = Step<Format::f16, Act::f32>;
    static constexpr int kRows = 1, kBytes = 2;
    static Line load(const std::byte* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
    static Line load(const std::byte* p, int n) { return load_f16(reinterpret_cast<const uint16_t*>(p), n); }
};
template <>
struct Cache<KVType::bf16> {
    using Keys = Step<Format::bf16, Act::bf16>;
    static constexpr int kRows = 2, kBytes = 4;
    using Line = penstock::Line;
    static Line word(uint32_t x) { return broadcast_line(x); }
    static F add(F acc, const Line& line, const Line& word) { return dot(acc, line, word); }
    static Line load(const std::byte* p) { return load_line(reinterpret_cast<const uint32_t*>(p)); }
    static Line load(const std::byte* p, int n) { return load_line(reinterpret_cast<const uint32_t*>(p), n); }
};

template <>
struct Cache<KVType::i8> : FloatLines {
    static constexpr int kRows = 1, kBytes = 1;
    static Line load(const std::byte* p) { return load_i8(reinterpret_cast<const int8_t*>(p)); }
    static Line load(const std::byte* p, int n) {
        int8_t some[16] = {};
        std::memcpy(some, p, static_cast<size_t>(n));
        return load_i8(some);
    }
};
// Before the elements of so many rows: their scales.
constexpr int64_t cache_head(KVType type, int rows) { return type == KVType::i8 ? rows * 4 : 0; }

// Memory that is asked for line by line while as much is used: so many bytes after that, or none.
struct Ahead {
    int64_t bytes = 0;
    bool far = false;  // into the second cache (with two Zen 4 cores heads of 64 read 32 instead of 25 GB/s of 37)
};
template <int T, int kStride>
inline void fetch_ahead(const std::byte* p, Ahead ahead) {
    if (ahead.bytes == 0) return;
#pragma GCC unroll 16
    for (int at = 0; at < T * kStride; at += kStride < 64 ? 64 : kStride)
        ahead.far ? prefetch(p + at + ahead.bytes) : prefetch_near(p + at + ahead.bytes);
}

// Scores of R query rows and T groups, to scores + r * kSpanRows + t * 16: lanes are cache rows. A group's lines lie
// one in `every`. ahead: from these keys, of one tile, to those that come next.
template <KVType type, int R, int T>
inline void score_groups(int64_t head_dim, int every, const uint32_t* q, const std::byte* const* keys, Ahead ahead,
                         float* scores) {
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
    static_assert(S::kBytes == kv_line_bytes(type));
    const int64_t step = every * S::kBytes, bytes = head_dim / S::kInputs * step;
    for (int64_t i = 0; i < bytes; i += step, q += R) {
        fetch_ahead<T, kv_line_bytes(type)>(w[0] + i, ahead);
        typename S::Weights line[T];
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) line[t] = S::load(w[t] + i);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if constexpr (T <= 2) {  // memory is what is waited for
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[r][t] = add_word(acc[r][t], line[t], q + r);
                continue;
            }
            const auto x = S::word(q[r]);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = S::template add<0>(acc[r][t], line[t], x);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(scores + r * kSpanRows + t * 16, acc[r][t]);
}

// The same of bytes; q as fill_panel makes it.
template <int R, int T>
inline void score_bytes(int64_t head_dim, int every, const uint32_t* q, const std::byte* const* keys, Ahead ahead,
                        float* scores) {
    const std::byte* w[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) w[t] = keys[t] + cache_head(KVType::i8, 16 * every);
    I acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = set_i(static_cast<int32_t>(q[R + r]));
    const uint32_t* a = q + 2 * R;
    for (int64_t i = 0; i < head_dim * 16 * every; i += 64 * every, a += R) {
        fetch_ahead<T, kv_line_bytes(KVType::i8)>(w[0] + i, ahead);
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
            store(scores + r * kSpanRows + t * 16,
                  to_float(acc[r][t]) * (scale * set(__builtin_bit_cast(float, q[r]))));
    }
}

// What a sum of values goes over: rows begin <= row < end of a span, of which group g is in the tile at
// values[g] + offset.
struct ValueRows {
    const std::byte* const* values;
    int64_t offset;
    int tile, begin, end;
    Ahead ahead;  // from these values to those that come next
};
// Of it elements chunk ... chunk + width of a head.
struct ValueChunk {
    int64_t chunk, width;
};

// What of a line counts: beside the rows seen may be anything.
struct BothRows {
    static constexpr bool kEven = true, kOdd = true;
    template <class L>
    L operator()(const L& line) const {
        return line;
    }
};
struct EvenRow {
    static constexpr bool kEven = true, kOdd = false;
    Line operator()(const Line& line) const { return even_only(line); }
};
struct OddRow {
    static constexpr bool kEven = false, kOdd = true;
    Line operator()(const Line& line) const { return odd_only(line); }
};

// Calls f(unit of the span, its elements of the chunk, what of them counts) for all units.
template <KVType type, class Function>
inline void for_units(const ValueRows& v, const ValueChunk& c, Function f) {
    using C = Cache<type>;
    constexpr int kUnit = C::kRows;
    for (int row = v.begin; row < v.end;) {
        const int in = row & (v.tile - 1), left = v.tile - in, rows = v.end - row < left ? v.end - row : left;
        const std::byte* p = v.values[row / 16] + v.offset + cache_head(type, v.tile) +
                             (c.chunk * v.tile + in / kUnit * c.width * kUnit) * (C::kBytes / kUnit);
        const int64_t step = c.width * C::kBytes;
        int unit = row / kUnit;
        const int last = (row + rows) / kUnit;
        if constexpr (kUnit == 2) {
            if (row % 2 != 0) f(unit++, p, OddRow{}), p += step;
        }
        for (; unit < last; unit++, p += step) f(unit, p, BothRows{});
        row += rows;
        if constexpr (kUnit == 2) {
            if (row % 2 != 0) f(last, p, EvenRow{});
        }
    }
}

// y[r] = y[r] * scale[r] + sum of weight[r][row] * value[row], for T x 16 elements from d on (n, where kTail) of a
// chunk. Each line meets all query rows before the next is loaded: memory is asked for at an even pace.
template <KVType type, int R, int T, bool kTail>
inline void add_values(const ValueRows& v, const ValueChunk& c, const uint32_t* weights, const float* scale, float* y,
                       int64_t ldy, int64_t d, int n) {
    using C = Cache<type>;
    F acc[R][T];
    y += c.chunk + d;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[r][t] = load(y + r * ldy + t * 16);
    if (scale != nullptr) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[r][t] = acc[r][t] * set(scale[r]);
    }
    for_units<type>(v, c, [&](int unit, const std::byte* p, auto part) {
        p += d * C::kBytes;
        fetch_ahead<T, 16 * C::kBytes>(p, v.ahead);
        if constexpr (R * T >= 16 && !kTail) {  // computing is waited for: a word in a register serves all lines
            typename C::Line lines[T];
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) lines[t] = part(C::load(p + t * 16 * C::kBytes));
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const auto word = C::word(weights[r * kSpanRows + unit]);
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[r][t] = C::add(acc[r][t], lines[t], word);
            }
            return;
        }
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) {
            const typename C::Line line = part(kTail ? C::load(p, n) : C::load(p + t * 16 * C::kBytes));
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) acc[r][t] = add_word(acc[r][t], line, weights + r * kSpanRows + unit);
        }
    });
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) store(y + r * ldy + t * 16, acc[r][t]);
}

// The same for any number of rows, in portions that the registers hold.
template <KVType type, int R, int T, bool kTail = false>
inline void add_rows(const ValueRows& v, const ValueChunk& c, const uint32_t* weights, const float* scale, float* y,
                     int64_t ldy, int64_t d, int n = 16) {
    constexpr int kMost = value_rows(T), kPortions = (R + kMost - 1) / kMost, kNow = (R + kPortions - 1) / kPortions;
    add_values<type, kNow, T, kTail>(v, c, weights, scale, y, ldy, d, n);
    if constexpr (R > kNow)
        add_rows<type, R - kNow, T, kTail>(v, c, weights + kNow * kSpanRows, scale == nullptr ? nullptr : scale + kNow,
                                           y + kNow * ldy, ldy, d, n);
}

template <KVType type, int R>
void add_head(int64_t head_dim, const ValueRows& v, const uint32_t* weights, const float* scale, float* y,
              int64_t ldy) {
    for (ValueChunk c{0, kValueChunk}; c.chunk < head_dim; c.chunk += kValueChunk) {
        c.width = head_dim - c.chunk < kValueChunk ? head_dim - c.chunk : kValueChunk;
        int64_t d = 0;
        for (; d + 16 * kValueTiles <= c.width; d += 16 * kValueTiles)
            add_rows<type, R, kValueTiles>(v, c, weights, scale, y, ldy, d);
        if constexpr (kValueTiles > 1)
            for (; d + 16 <= c.width; d += 16) add_rows<type, R, 1>(v, c, weights, scale, y, ldy, d);
        if (d < c.width) add_rows<type, R, 1, true>(v, c, weights, scale, y, ldy, d, static_cast<int>(c.width - d));
    }
}

// Whether the values of some rows are all numbers.
template <KVType type>
bool all_finite(int64_t head_dim, const ValueRows& v) {
    if constexpr (type == KVType::i8) return true;
    using C = Cache<type>;
    F nothing = zero();  // x - x is 0 for a number, NaN for the rest
    for (ValueChunk c{0, kValueChunk}; c.chunk < head_dim; c.chunk += kValueChunk) {
        c.width = head_dim - c.chunk < kValueChunk ? head_dim - c.chunk : kValueChunk;
        for_units<type>(v, c, [&](int, const std::byte* p, auto part) {
            for (int64_t d = 0; d < c.width; d += 16) {
                const int n = static_cast<int>(c.width - d < 16 ? c.width - d : 16);
                if constexpr (type == KVType::bf16) {
                    const Pairs pair = load_pairs(reinterpret_cast<const uint32_t*>(p + d * C::kBytes), n);
                    if constexpr (part.kEven) nothing = nothing + (pair.even - pair.even);
                    if constexpr (part.kOdd) nothing = nothing + (pair.odd - pair.odd);
                } else {
                    const F x = part(C::load(p + d * C::kBytes, n));
                    nothing = nothing + (x - x);
                }
            }
        });
    }
    return sum(nothing) == 0;
}

}  // namespace
}  // namespace penstock
