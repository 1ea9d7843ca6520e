// What the tests of ops share: checks, random numbers, exact-sized aligned memory, a team of threads.
#pragma once
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "formats/pack.h"
#include "isa.h"
#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock::test {

#define CHECK(condition, ...)                                                   \
    do {                                                                        \
        if (!(condition)) {                                                     \
            std::fprintf(stderr, "%s:%d: %s:", __FILE__, __LINE__, #condition); \
            std::fprintf(stderr, " " __VA_ARGS__);                              \
            std::fprintf(stderr, "\n");                                         \
            std::exit(1);                                                       \
        }                                                                       \
    } while (0)

// A build that watches memory, arithmetic or threads is some fifty times slower: the same kinds of cases, fewer of
// them.
#ifdef PENSTOCK_SANITIZED
constexpr bool kWatched = true;
#else
constexpr bool kWatched = false;
#endif

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252ull) {}
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }
    int64_t below(int64_t n) { return static_cast<int64_t>(next() >> 11) % n; }
    float uniform(float lo, float hi) { return lo + (hi - lo) * static_cast<float>(next() >> 40) * 0x1p-24f; }

  private:
    uint64_t state_;
};

// n items, 64-byte aligned, ending where the allocation ends, so that a sanitizer sees the first byte too far.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t n, T fill = T{})
        : n_(n), data_(new (std::align_val_t{64}) T[static_cast<size_t>(n)], Free{}) {
        std::fill(data_.get(), data_.get() + n, fill);
    }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    int64_t size() const { return n_; }
    T& operator[](int64_t i) { return data_.get()[i]; }
    const T& operator[](int64_t i) const { return data_.get()[i]; }

  private:
    struct Free {
        void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    int64_t n_;
    std::unique_ptr<T[], Free> data_;
};

inline Buffer<float> random_floats(int64_t n, uint64_t seed, float lo = -1, float hi = 1) {
    Buffer<float> b(n);
    Random random(seed);
    for (int64_t i = 0; i < n; i++) b[i] = random.uniform(lo, hi);
    return b;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
    return std::memcmp(a, b, static_cast<size_t>(n) * 4) == 0;
}

// Runs fn(worker) on `count` threads with private scratch of that size.
inline void on_team(int count, int64_t scratch_bytes, const std::function<void(const Worker&)>& fn) {
    std::barrier<> meet(count);
    const auto tickets = std::make_unique<Tickets[]>(static_cast<size_t>(count));
    const auto work = [&](int id) {
        Buffer<std::byte> scratch(scratch_bytes);
        Worker w{};
        w.id = id;
        w.count = count;
        w.scratch = scratch.data();
        w.scratch_bytes = static_cast<size_t>(scratch_bytes);
        w.barrier_fn = [](void* team) { static_cast<std::barrier<>*>(team)->arrive_and_wait(); };
        w.team = &meet;
        w.tickets = tickets.get();
        fn(w);
    };
    std::vector<std::thread> others;
    for (int id = 1; id < count; id++) others.emplace_back(work, id);
    work(0);
    for (std::thread& t : others) t.join();
}

inline float bf16_round(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&x, &u, 4);
    return x;
}
inline uint16_t to_bf16(float x) {
    x = bf16_round(x);
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return static_cast<uint16_t>(u >> 16);
}
// Of a number that f16_round gave.
inline uint16_t to_f16(float x) {
    if (x == 0) return 0;
    int e;
    const float m = std::frexp(std::fabs(x), &e);
    return static_cast<uint16_t>((x < 0 ? 0x8000 : 0) | (e + 14) << 10 | (static_cast<int>(m * 2048) & 0x3ff));
}
// Towards zero, to 11 bits; what would be subnormal becomes 0. |x| < 65536.
inline float f16_round(float x) {
    if (std::fabs(x) < 0x1p-14f) return 0;
    int e;
    const float m = std::frexp(x, &e);
    return std::ldexp(std::trunc(m * 2048), e - 11);
}

// f(kernels) for every instruction set of this CPU.
inline void for_all_isas(const std::function<void(const Kernels&)>& f) {
    for (const std::string& name : possible_isas()) {
        const IsaChoice choice = resolve_isa(name);
        CHECK(choice.kernels != nullptr, "%s", choice.error.c_str());
        f(*choice.kernels);
    }
}

// And as other CPUs of that instruction set would have it.
inline void for_all_cores(const std::function<void(const Kernels&)>& f) {
    for_all_isas([&](const Kernels& kernels) {
        Kernels other = kernels;
        other.halves = !kernels.halves;
        f(kernels);
        f(other);
    });
}

// A random matrix in a format: its values as they are after rounding, and packed.
struct Weights {
    Buffer<float> values;
    Buffer<std::byte> packed;
    Matrix matrix;
};

inline Weights random_weights(Format format, int64_t n, int64_t k, uint64_t seed) {
    Weights w{random_floats(n * k, seed), Buffer<std::byte>(matrix_bytes(format, n, k), std::byte{0xff}), {}};
    const int64_t tiles = (n + kTile - 1) / kTile, cut = tiles / 2;
    Buffer<uint16_t> half(n * k);
    for (int64_t i = 0; i < n * k; i++) {
        float& x = w.values[i];
        if (format == Format::bf16) x = bf16_round(x), half[i] = to_bf16(x);
        if (format == Format::f16) x = f16_round(x), half[i] = to_f16(x);
    }
    const void* source = format == Format::f32 ? static_cast<const void*>(w.values.data()) : half.data();
    pack_tiles(format, source, n, k, k, w.packed.data(), 0, cut);
    pack_tiles(format, source, n, k, k, w.packed.data(), cut, tiles);
    w.matrix = Matrix{format, n, k, tiles, tile_bytes(format, k), w.packed.data()};
    return w;
}

inline const char* format_name(Format f) { return f == Format::f32 ? "f32" : f == Format::f16 ? "f16" : "bf16"; }

}  // namespace penstock::test
