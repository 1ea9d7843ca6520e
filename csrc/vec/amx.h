// Tiles of AMX: sixteen rows of 64 bytes in eight registers, beside what AVX-512 has. 0 to 3 are sums of two panels of
// inputs times two tiles of weights, 4 and 5 inputs, 6 and 7 weights. (Intel SDM vol. 1, ch. 18; the numbers of
// registers are parts of the instructions, so they are written out.)
#pragma once
#include <utility>

#include "vec/codes_avx512.h"

namespace penstock {
namespace {

constexpr int kTileRows = 16, kTileBytes = 1024;

// What the tiles hold from here on: so many rows of two panels, and bytes of each row that products go over.
class Tiles {
  public:
    ~Tiles() { release(); }

    // Tiles that hold something cost the system when it changes threads, and the core power.
    void release() {
        asm volatile("tilerelease");
        rows_a_ = -1;
    }

    void shape(int rows_a, int rows_b, int bytes) {
        if (rows_a == rows_a_ && rows_b == rows_b_ && bytes == bytes_) return;
        rows_a_ = rows_a, rows_b_ = rows_b, bytes_ = bytes;
        Config c;
        const auto set = [&](int tile, int rows, int columns) {
            c.rows[tile] = static_cast<uint8_t>(rows);
            c.columns[tile] = static_cast<uint16_t>(columns);
        };
        const int b = rows_b > 0 ? rows_b : rows_a;
        set(0, rows_a, 64), set(1, rows_a, 64), set(2, b, 64), set(3, b, 64);
        set(4, rows_a, bytes), set(5, b, bytes);
        set(6, bytes / 4, 64), set(7, bytes / 4, 64);
        take(c);
    }

    // Sums in 0 to 3, then inputs of whole blocks, of `bytes` of a block, and weights of both.
    void shape_tail(int rows, int bytes) {
        if (rows == rows_a_ && rows_b_ == kTail && bytes == bytes_) return;
        rows_a_ = rows, rows_b_ = kTail, bytes_ = bytes;
        Config c;
        for (int tile = 0; tile < 8; tile++) {
            c.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : tile == 6 ? kTileRows : bytes / 4);
            c.columns[tile] = static_cast<uint16_t>(tile == 5 ? bytes : 64);
        }
        take(c);
    }

  private:
    static constexpr int kTail = -2;
    struct alignas(64) Config {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t columns[16] = {};  // bytes
        uint8_t rows[16] = {};
    };
    static void take(const Config& c) { asm volatile("ldtilecfg %0" : : "m"(c)); }

    int rows_a_ = -1, rows_b_ = -1, bytes_ = -1;
};

enum class Product { bf16, bytes, unsigned_bytes };  // of weights

// Tiles by number. Memory is read only after what the source has written before, of which GCC 12's intrinsics know
// nothing.
template <int kNumber>
inline __attribute__((always_inline)) void load_tile(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kNumber) : "memory");
}
template <int kNumber>
inline __attribute__((always_inline)) void store_tile(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kNumber) : "memory");
}
template <int kNumber>
inline __attribute__((always_inline)) void clear_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kNumber));
}
template <Product kKind, int kSum, int kInput, int kWeight>
inline __attribute__((always_inline)) void add_product() {
    if constexpr (kKind == Product::bf16)
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kInput), "i"(kWeight));
    else if constexpr (kKind == Product::bytes)
        asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kInput), "i"(kWeight));
    else
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kInput), "i"(kWeight));
}
// f(std::integral_constant<int, t>) for t < N.
template <int N, class Function>
inline __attribute__((always_inline)) void each_tile(Function f) {
    [&]<int... t>(std::integer_sequence<int, t...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, t>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// One block of P panels times T tiles. Lines of both are 64 bytes apart.
template <Product kKind, int P, int T>
inline __attribute__((always_inline)) void multiply_block(const void* a0, const void* a1, const void* w0,
                                                          const void* w1) {
    load_tile<4>(a0, 64);
    load_tile<6>(w0, 64);
    add_product<kKind, 0, 4, 6>();
    if constexpr (T == 2) {
        load_tile<7>(w1, 64);
        add_product<kKind, 1, 4, 7>();
    }
    if constexpr (P == 2) {
        load_tile<5>(a1, 64);
        add_product<kKind, 2, 5, 6>();
        if constexpr (T == 2) add_product<kKind, 3, 5, 7>();
    }
}

// f(number of a sum's tile, its panel, its tile of weights) for P panels times T tiles.
template <int P, int T, class Function>
inline __attribute__((always_inline)) void each_sum(Function f) {
    each_tile<4>([&](auto n) __attribute__((always_inline)) {
        if constexpr (n / 2 < P && n % 2 < T) f(n, n / 2, n % 2);
    });
}
template <int P, int T>
inline __attribute__((always_inline)) void clear_sums() {
    each_sum<P, T>([](auto n, int, int) __attribute__((always_inline)) { clear_tile<n>(); });
}
// Sums to y0, y1 [row][stride bytes] of the panels, of the second tile `next` bytes behind those of the first.
template <int P, int T>
inline __attribute__((always_inline)) void store_sums(void* y0, void* y1, int64_t stride, int64_t next) {
    each_sum<P, T>([&](auto n, int panel, int tile) __attribute__((always_inline)) {
        store_tile<n>(static_cast<char*>(panel == 0 ? y0 : y1) + tile * next, stride);
    });
}
template <int P, int T>
inline __attribute__((always_inline)) void load_sums(const void* y0, const void* y1, int64_t stride, int64_t next) {
    each_sum<P, T>([&](auto n, int panel, int tile) __attribute__((always_inline)) {
        load_tile<n>(static_cast<const char*>(panel == 0 ? y0 : y1) + tile * next, stride);
    });
}

// Beside what all instruction sets have: x less the whole number below it, which is 0 for infinities, and
// a * 2^floor(x).
inline F above_floor(F x) { return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline F scale_floor(F a, F x) { return {_mm512_scalef_ps(a.v, x.v)}; }

// What is too small for a normal number is 0 from here on, as it is in products of tiles: to compute it costs the CPU
// some hundred cycles.
class FlushTiny {
  public:
    FlushTiny() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushTiny() { _mm_setcsr(before_); }
    FlushTiny(const FlushTiny&) = delete;
    FlushTiny& operator=(const FlushTiny&) = delete;

  private:
    unsigned before_;
};

}  // namespace
}  // namespace penstock
